"""A task that waits for somebody who may never answer."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, states


class CallbackWithoutTimeout(Rule):
    """A callback or an activity whose worker dies is not noticed otherwise."""

    id = "E9403"
    shortdesc = "Give a task that waits for a callback or an activity a heartbeat or a timeout."
    description = (
        "`.waitForTaskToken` and activities wait for somebody outside. If that one dies or loses"
        " the token, only HeartbeatSeconds or TimeoutSeconds of the task lets a Retry or a Catch"
        " take over; the timeout of the whole machine just ends the execution."
    )
    source_url = "https://docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html"
    tags = ["stepfunctions"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each callback and activity task of each state machine."""
        for machine, definition in world.state_machines:
            for state in states(definition):
                if state.waits and not state.has("TimeoutSeconds", "HeartbeatSeconds"):
                    yield (
                        machine.path(),
                        f"Give the state {state.name} of {machine.id} HeartbeatSeconds or"
                        " TimeoutSeconds: whom it waits for may never answer.",
                    )
