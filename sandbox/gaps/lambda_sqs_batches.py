"""The batch size and the batching window of an event source mapping on a standard queue.

On AWS a batch of up to 10,000 messages is gathered for at most the window, and comes at once when
it is full. Seen in MiniStack 1.5.33: a batch ends at ten messages and the window is ignored. Here
both hold for mappings that have a window. What a mapping's filters drop is no part of a batch.
Windows are in the wall clock's time, as the functions are. That a batch also ends at 6 MB is not
counted.
"""

import time

from gaps import lambda_event_filters
from ministack.services import lambda_svc, sqs

PATCHES = (
    *lambda_event_filters.PATCHES,
    "services.sqs._receive_messages_for_esm",
    "services.sqs._queues_lock",
    "services.sqs._get_q",
    "services.sqs._expire_retained",
    "services.sqs._dlq_sweep",
    "services.sqs._collect_msgs",
    "services.lambda_svc._esms",
)


def close() -> None:
    """Wait for a full batch, but no longer than the window."""
    at_once = sqs._receive_messages_for_esm
    began: dict[str, float] = {}  # when the first message of a batch was there, by queue

    def gather(url: str, wanted: int) -> list[dict]:
        queue = sqs._get_q(url)
        mappings = _mappings(queue)
        window = max(
            (mapping["MaximumBatchingWindowInSeconds"] or 0 for mapping in mappings), default=0
        )
        if queue["is_fifo"] or not window:
            return at_once(url, wanted)
        with sqs._queues_lock:
            sqs._expire_retained(queue)
            sqs._dlq_sweep(queue)
            now = sqs.time.time()
            visible = [one for one in queue["messages"] if one.get("visible_at", 0) <= now]
            for message in visible:
                if not any(lambda_event_filters.takes(mapping, message) for mapping in mappings):
                    queue["messages"].remove(message)
            there = sum(one.get("visible_at", 0) <= now for one in queue["messages"])
            if not there:
                began.pop(url, None)
                return []
            first = began.setdefault(url, time.monotonic())
            if there < wanted and time.monotonic() - first < window:
                return []
            del began[url]
            timeout = int(queue["attributes"].get("VisibilityTimeout", "30"))
            return sqs._collect_msgs(queue, min(wanted, 10_000), timeout)

    sqs._receive_messages_for_esm = gather


def _mappings(queue: dict) -> list[dict]:
    """The mappings on a queue; a window of theirs in seconds is a number."""
    arn = queue["attributes"].get("QueueArn")
    everywhere = list(lambda_svc._esms._data.values())
    return [mapping for mapping in everywhere if mapping.get("EventSourceArn") == arn]
