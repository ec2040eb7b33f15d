"""Step Functions as AWS runs it: what a state machine's definition means, state by state."""
