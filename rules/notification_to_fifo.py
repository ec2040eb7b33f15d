"""S3 cannot notify a FIFO queue or topic."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, truth


class NotificationToFifo(Rule):
    """S3 events are not ordered, and S3 gives no message group."""

    id = "E9302"
    shortdesc = "Notify a standard queue or topic: S3 cannot send its events to a FIFO one."
    description = (
        "S3 refuses a FIFO queue or topic as a target of event notifications. For order, go by the"
        " sequencer in the event, or send through EventBridge to a FIFO queue."
    )
    source_url = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/EventNotifications.html"
    tags = ["s3", "sqs", "sns"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each notification to a queue or topic of the template."""
        for one, path, rule in world.notifications:
            target = world.find(rule.target, "AWS::SQS::Queue", "AWS::SNS::Topic")
            if target and truth(target["FifoQueue"] or target["FifoTopic"]):
                yield (
                    path,
                    f"Notify a standard queue or topic from {one.id}: {target.id} is FIFO, and S3"
                    " refuses it.",
                )
