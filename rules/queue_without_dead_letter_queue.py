"""A queue whose failing messages have nowhere to go."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, missing


class QueueWithoutDeadLetterQueue(Rule):
    """Without a dead-letter queue a poison message comes back until it expires, and is lost."""

    id = "E9102"
    shortdesc = (
        "Give the queue a dead-letter queue, or its poison messages come back till they expire."
    )
    description = (
        "A message that cannot be processed is received again and again and then deleted when its"
        " retention ends. A queue that is itself a dead-letter queue needs none: one that a"
        " resource of the template names as such, that has a redrive allow policy, or whose id or"
        " name matches the option `dead_letter_names`."
    )
    source_url = (
        "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/"
        "sqs-dead-letter-queues.html"
    )
    tags = ["sqs"]

    options: ClassVar = {
        "dead_letter_names": {"type": "string", "default": r"(?i)dlq|dead.?letter"}
    }

    def check(self, world: World) -> Iterator[Finding]:
        """Each queue that is not a dead-letter queue."""
        for queue in world.of("AWS::SQS::Queue"):
            names = f"{queue.id} {queue['QueueName']}"
            if (
                missing(queue["RedrivePolicy"])
                and missing(queue["RedriveAllowPolicy"])
                and queue.id not in world.dead_letter_queues
                and not re.search(self.config["dead_letter_names"], names)
            ):
                yield (
                    queue.path("RedrivePolicy"),
                    f"Give {queue.id} a RedrivePolicy with a dead-letter queue: what fails there"
                    " comes back until it expires, and is lost.",
                )
