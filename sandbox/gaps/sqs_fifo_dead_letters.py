"""A FIFO dead-letter queue knows a message by its id, whatever its deduplication id was.

SQS puts the id of the message in the place of its deduplication id when it moves it, so that two
dead letters cannot pass for one. Seen in MiniStack 1.5.33: the deduplication id stays.
"""

import json
from typing import Any

from ministack.services import sqs

PATCHES = ("services.sqs._dlq_sweep", "services.sqs._queue_by_arn")


def close() -> None:
    """Change the deduplication ids of what was moved."""
    sweep = sqs._dlq_sweep

    def sweep_and_rename(queue: dict[str, Any]) -> None:
        before = len(queue["messages"])
        sweep(queue)
        if queue["is_fifo"] and len(queue["messages"]) < before:
            policy = json.loads(queue["attributes"]["RedrivePolicy"])
            for message in sqs._queue_by_arn(policy["deadLetterTargetArn"])["messages"]:
                if "DeadLetterQueueSourceArn" in message["sys"]:
                    message["dedup_id"] = message["id"]

    sqs._dlq_sweep = sweep_and_rename
