"""Dead letters that nobody is told of."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import UNKNOWN, Finding, Rule, World


class DeadLetterQueueWithoutAlarm(Rule):
    """A dead-letter queue is only as good as who looks into it."""

    id = "W9602"
    shortdesc = "Set an alarm on the depth of the dead-letter queue, or nobody knows what failed."
    description = (
        "The metric is ApproximateNumberOfMessagesVisible: NumberOfMessagesSent does not count"
        " what SQS itself moves there. An alarm on ApproximateAgeOfOldestMessage is as good, and"
        " so is a metric expression over either."
    )
    source_url = (
        "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/"
        "dead-letter-queues-alarms-cloudwatch.html"
    )
    tags = ["sqs", "cloudwatch"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each queue that takes dead letters."""
        watched = world.watched_queues
        if UNKNOWN in watched:  # an alarm may watch any of them
            return
        for logical_id in world.dead_letter_queues:
            if logical_id not in watched:
                yield (
                    world.resources[logical_id].path(),
                    f"Set an alarm on ApproximateNumberOfMessagesVisible of {logical_id}: nobody"
                    " knows what failed.",
                )
