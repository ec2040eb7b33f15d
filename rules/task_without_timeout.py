"""A task that may wait for ever."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, states


class TaskWithoutTimeout(Rule):
    """A lost answer holds a Standard execution for up to a year."""

    id = "E9402"
    shortdesc = "Give the task or its whole state machine TimeoutSeconds, or it may wait for ever."
    description = (
        "A task has no timeout of its own: if the answer is lost, a Standard execution stays open"
        " for up to a year. Express executions end after five minutes, so they need none."
    )
    source_url = "https://docs.aws.amazon.com/step-functions/latest/dg/sfn-stuck-execution.html"
    tags = ["stepfunctions"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each Task of each Standard state machine that has no timeout as a whole."""
        for machine, definition in world.state_machines:
            kind = machine["StateMachineType"]
            if "TimeoutSeconds" in definition or kind not in (None, "STANDARD"):
                continue
            for state in states(definition):
                # One that waits for somebody has a rule of its own, E9403.
                if state.is_task and not state.waits and not state.has("TimeoutSeconds"):
                    yield (
                        machine.path(),
                        f"Give {machine.id} or its state {state.name} TimeoutSeconds: if an answer"
                        " is lost, the execution stays open for up to a year.",
                    )
