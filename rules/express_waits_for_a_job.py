"""What an Express workflow cannot do."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, states


class ExpressWaitsForAJob(Rule):
    """Express knows neither .sync nor callbacks nor activities (FACTS 4)."""

    id = "E9404"
    shortdesc = "Make the state machine Standard: Express has no .sync, callback or activity."
    description = (
        "Express workflows call services and go on. Run a job (`.sync`), wait for a callback"
        " (`.waitForTaskToken`) and activities need a Standard workflow; Step Functions refuses"
        " the definition, and only when the stack is deployed."
    )
    source_url = "https://docs.aws.amazon.com/step-functions/latest/dg/choosing-workflow-type.html"
    tags = ["stepfunctions"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each Task of each Express state machine."""
        for machine, definition in world.state_machines:
            if machine["StateMachineType"] != "EXPRESS":
                continue
            for state in states(definition):
                if state.waits or re.search(r"\.sync(:\d+)?$", state.resource):
                    yield (
                        machine.path(),
                        f"Make {machine.id} Standard, or let its state {state.name} only call:"
                        " Express has no .sync, callback or activity.",
                    )
