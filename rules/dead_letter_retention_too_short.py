"""How long people have to look at what failed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import RETENTION, Finding, Rule, World, number


class DeadLetterRetentionTooShort(Rule):
    """Fourteen days is the longest that SQS keeps a message."""

    id = "W9105"
    shortdesc = (
        "Keep dead letters for 14 days, the longest that SQS does, so that somebody can look."
    )
    description = (
        "What lies in a dead-letter queue waits for a person. The option `days` says how long that"
        " is at least."
    )
    source_url = (
        "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/"
        "setting-up-dead-letter-queue-retention.html"
    )
    tags = ["sqs"]

    options: ClassVar = {"days": {"type": "integer", "default": 14}}

    def check(self, world: World) -> Iterator[Finding]:
        """Each queue that takes dead letters."""
        for logical_id in world.dead_letter_queues:
            dead = world.resources[logical_id]
            kept = number(dead["MessageRetentionPeriod"], RETENTION)
            if kept is not None and kept < self.config["days"] * 86400:
                yield (
                    dead.path("MessageRetentionPeriod"),
                    f"Raise the retention of {dead.id} from {kept / 86400:g} to"
                    f" {self.config['days']} days: dead letters wait for a person.",
                )
