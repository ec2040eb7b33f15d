"""A task whose first failure ends the execution."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, states


class TaskWithoutRetryOrCatch(Rule):
    """Every service call fails now and then."""

    id = "W9401"
    shortdesc = "Give the task a Retry or a Catch: one transient error ends the whole execution."
    description = (
        "A Task state without Retry and Catch ends the execution at its first error, also at"
        " throttling. A Parallel or Map state around it that retries or catches is enough."
    )
    source_url = "https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html"
    tags = ["stepfunctions"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each Task of each state machine."""
        for machine, definition in world.state_machines:
            for state in states(definition):
                if state.is_task and not state.handled and not state.has("Retry", "Catch"):
                    yield (
                        machine.path(),
                        f"Give the state {state.name} of {machine.id} a Retry or a Catch: one"
                        " transient error ends the execution.",
                    )
