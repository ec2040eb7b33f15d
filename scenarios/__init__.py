"""What each deployed pattern must do, driven with real messages. The same code runs on AWS."""
