"""A FIFO queue's dead-letter queue is FIFO, a standard queue's is standard."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import UNKNOWN, Finding, Rule, World, truth


class DeadLetterQueueOfAnotherType(Rule):
    """SQS refuses a dead-letter queue of the other type."""

    id = "E9103"
    shortdesc = (
        "Make the dead-letter queue the same type as its source: FIFO for FIFO, else standard."
    )
    description = (
        "SQS refuses a redrive policy between a FIFO and a standard queue, and only when the stack"
        " is deployed."
    )
    source_url = (
        "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/"
        "sqs-dead-letter-queues.html"
    )
    tags = ["sqs"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each redrive policy between two queues of the template."""
        for queue, dead in world.redrives:
            if UNKNOWN in (queue["FifoQueue"], dead["FifoQueue"]):
                continue
            fifo = bool(truth(queue["FifoQueue"]))
            if fifo != bool(truth(dead["FifoQueue"])):
                kind = "a FIFO" if fifo else "a standard"
                yield (
                    dead.path("FifoQueue"),
                    f"Make {dead.id} {kind} queue like {queue.id}, whose dead-letter queue it is.",
                )
