"""What SNS puts into a FIFO queue is a FIFO message like any other there.

Seen in MiniStack 1.5.33: SNS appends to a queue by itself, beside SendMessage. In a FIFO queue its
messages have no sequence number and are not deduplicated against what the queue has already got;
and one that comes just while a function's batch is deleted can be lost.
"""

from typing import Any

from ministack.services import sns, sqs

PATCHES = (
    "services.sns._deliver_to_sqs",
    "services.sqs._queue_by_arn",
    "services.sqs._queues_lock",
    "services.sqs._prune_dedup",
    "services.sqs._DEDUP_WINDOW_S",
)


def close() -> None:
    """Let SNS deliver while nobody deletes, and make FIFO messages whole."""
    deliver = sns._deliver_to_sqs

    def deliver_whole(endpoint: str, *arguments: Any, **named: Any) -> None:
        with sqs._queues_lock:
            deliver(endpoint, *arguments, **named)
            queue = sqs._queue_by_arn(endpoint)
            if queue and queue["is_fifo"]:
                for message in [one for one in queue["messages"] if not one["seq"]]:
                    if not _enter(queue, message):
                        queue["messages"].remove(message)

    sns._deliver_to_sqs = deliver_whole


def _enter(queue: dict, message: dict) -> bool:
    """Number a message; False if the queue has had it within the deduplication window."""
    key = message["dedup_id"]
    if queue["attributes"].get("DeduplicationScope") == "messageGroup":
        key = f"{message['group_id']}:{key}"
    sqs._prune_dedup(queue)
    if key in queue["dedup_cache"]:
        return False
    queue["fifo_seq"] += 1
    message.update(dedup_cache_key=key, seq=str(queue["fifo_seq"]).zfill(20))
    queue["dedup_cache"][key] = {
        "expire": sqs.time.time() + sqs._DEDUP_WINDOW_S,
        "id": message["id"],
        "md5": message["md5_body"],
        "md5a": message["md5_attrs"],
        "seq": message["seq"],
    }
    return True
