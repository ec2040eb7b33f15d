"""An Express execution leaves nothing but its logs."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import UNKNOWN, Finding, Rule, World, at, missing


class ExpressWithoutLogs(Rule):
    """Express keeps no history and sends no status events (FACTS 2)."""

    id = "E9405"
    shortdesc = "Log what the Express workflow does: its executions leave no other trace."
    description = (
        "Step Functions keeps no history of Express executions, and they send no status events to"
        " EventBridge: what CloudWatch Logs does not hold is gone."
    )
    source_url = "https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html"
    tags = ["stepfunctions"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each Express state machine."""
        for machine in world.of("AWS::StepFunctions::StateMachine"):
            logging = machine["LoggingConfiguration"]
            level = at(logging, "Level")
            off = missing(logging) or level in (None, "OFF") or missing(at(logging, "Destinations"))
            if machine["StateMachineType"] == "EXPRESS" and level is not UNKNOWN and off:
                yield (
                    machine.path("LoggingConfiguration"),
                    f"Give {machine.id} a LoggingConfiguration with Level ALL or ERROR and a log"
                    " group: Express executions leave no other trace.",
                )
