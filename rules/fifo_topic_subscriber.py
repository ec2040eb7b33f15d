"""What a FIFO topic can deliver to, and what a standard topic cannot."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import UNKNOWN, Finding, Rule, World, truth


class FifoTopicSubscriber(Rule):
    """FIFO topics deliver to SQS only; standard topics not to FIFO queues."""

    id = "E9202"
    shortdesc = "Subscribe only SQS queues to a FIFO topic, and FIFO queues only to FIFO topics."
    description = (
        "A FIFO topic delivers to SQS queues, standard or FIFO, and to nothing else: put a queue"
        " between it and a function. A standard topic cannot deliver to a FIFO queue. SNS refuses"
        " both, and only when the stack is deployed."
    )
    source_url = "https://docs.aws.amazon.com/sns/latest/dg/fifo-topic-message-delivery.html"
    tags = ["sns", "sqs"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each subscription to a topic of the template."""
        for one, path, settings, arn in world.subscriptions:
            topic, protocol = world.find(arn, "AWS::SNS::Topic"), settings.get("Protocol")
            if topic is None or topic["FifoTopic"] is UNKNOWN or not isinstance(protocol, str):
                continue
            queue = world.find(settings.get("Endpoint"), "AWS::SQS::Queue")
            if truth(topic["FifoTopic"]) and protocol != "sqs":
                yield (
                    [*path, "Protocol"],
                    f"Put an SQS queue between the FIFO topic {topic.id} and the {protocol}"
                    f" subscriber {one.id}: FIFO topics deliver to SQS only.",
                )
            elif not truth(topic["FifoTopic"]) and queue and truth(queue["FifoQueue"]):
                yield (
                    [*path, "Endpoint"],
                    f"Make {topic.id} a FIFO topic or {queue.id} a standard queue: a standard topic"
                    " cannot deliver to a FIFO queue.",
                )
