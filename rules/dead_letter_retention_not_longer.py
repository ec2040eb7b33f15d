"""A dead letter keeps the age it had, so its queue keeps messages longer than the source."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import RETENTION, Finding, Rule, World, number


class DeadLetterRetentionNotLonger(Rule):
    """A moved message keeps its first enqueue time (FACTS: retention)."""

    id = "E9104"
    shortdesc = "Keep messages in the dead-letter queue longer than in its source queue."
    description = (
        "In a standard queue a message that is moved keeps the time at which it was first sent: if"
        " the dead-letter queue's retention is not longer than its source's, a message may expire"
        " as soon as it arrives, and nobody sees it. Retention is 4 days where nothing is said."
    )
    source_url = (
        "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/"
        "setting-up-dead-letter-queue-retention.html"
    )
    tags = ["sqs"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each pair of queues of the template."""
        for queue, dead in world.redrives:
            kept = number(queue["MessageRetentionPeriod"], RETENTION)
            parked = number(dead["MessageRetentionPeriod"], RETENTION)
            if kept is not None and parked is not None and parked <= kept:
                yield (
                    dead.path("MessageRetentionPeriod"),
                    f"Raise the retention of {dead.id} above the {kept / 86400:g} days of"
                    f" {queue.id}: a dead letter keeps the age it had there.",
                )
