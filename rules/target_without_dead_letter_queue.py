"""An event that its target never got."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, missing


class TargetWithoutDeadLetterQueue(Rule):
    """EventBridge drops what it could not deliver."""

    id = "W9501"
    shortdesc = "Give the EventBridge target a dead-letter queue: undelivered events are dropped."
    description = (
        "When retries are used up, or at once when the target refuses, EventBridge and EventBridge"
        " Scheduler drop the event unless the target has a DeadLetterConfig."
    )
    source_url = "https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html"
    tags = ["events"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each target of a rule or schedule."""
        for one, path, target in world.event_targets:
            if missing(target.get("DeadLetterConfig")):
                yield (
                    [*path, "DeadLetterConfig"],
                    f"Give target {target.get('Id', 1)} of {one.id} a DeadLetterConfig: events that"
                    " cannot be delivered are dropped.",
                )
