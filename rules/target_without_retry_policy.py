"""How long an event is worth delivering."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, missing


class TargetWithoutRetryPolicy(Rule):
    """The default is 185 attempts over 24 hours, which is seldom what is meant."""

    id = "W9502"
    shortdesc = "Say in the EventBridge target's RetryPolicy how long an event is worth delivering."
    description = (
        "Without a RetryPolicy an event is tried up to 185 times over 24 hours: an hour-old alert"
        " or a day-old order may do harm. State what fits the event."
    )
    source_url = (
        "https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-retry-policy.html"
    )
    tags = ["events"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each target of a rule or schedule."""
        for one, path, target in world.event_targets:
            if missing(target.get("RetryPolicy")):
                yield (
                    [*path, "RetryPolicy"],
                    f"Give target {target.get('Id', 1)} of {one.id} a RetryPolicy: else an event is"
                    " tried for 24 hours, however old it has become.",
                )
