"""The batch size and the batching window of an event source mapping on a queue.

On AWS a batch of up to 10,000 messages of a standard queue is gathered for at most the window, and
comes at once when it is full: at its size, or at the 6 MB that a function may be told. Seen in
MiniStack 1.5.33: a batch ends at ten messages only, and the window is ignored. What a mapping's
filters drop is no part of a batch. Windows are in the wall clock's time, as the functions are.
"""

import json
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

LARGEST = 6_291_456  # bytes that a function may be told
RECORD = 1_000  # bytes of a record without its body, about


def close() -> None:
    """Wait for a full batch, but no longer than the window."""
    at_once = sqs._receive_messages_for_esm
    began: dict[str, float] = {}  # when the first message of a batch was there, by queue

    def gather(url: str, wanted: int) -> list[dict]:
        queue = sqs._get_q(url)
        mappings = _mappings(queue)
        window = max(
            (float(one["MaximumBatchingWindowInSeconds"] or 0) for one in mappings), default=0
        )
        if queue["is_fifo"] or not window:
            with sqs._queues_lock:
                fitting = _fitting(_visible(queue)[: int(wanted)])
            return at_once(url, fitting or 1)
        with sqs._queues_lock:
            sqs._expire_retained(queue)
            sqs._dlq_sweep(queue)
            for message in _visible(queue):
                if not any(lambda_event_filters.takes(mapping, message) for mapping in mappings):
                    queue["messages"].remove(message)
            there = _visible(queue)
            if not there:
                began.pop(url, None)
                return []
            first = began.setdefault(url, time.monotonic())
            fitting = _fitting(there[: int(wanted)])
            is_full = fitting == int(wanted) or fitting < len(there)
            if not is_full and time.monotonic() - first < window:
                return []
            del began[url]
            timeout = int(queue["attributes"].get("VisibilityTimeout", "30"))
            return sqs._collect_msgs(queue, fitting, timeout)

    sqs._receive_messages_for_esm = gather


def _visible(queue: dict) -> list[dict]:
    """What may be received now."""
    now = sqs.time.time()
    return [one for one in queue["messages"] if one.get("visible_at", 0) <= now]


def _fitting(messages: list[dict]) -> int:
    """How many of these, the first at least, a function may be told at once."""
    size = 0
    for count, message in enumerate(messages):
        size += len(json.dumps(message["body"])) + RECORD
        if size > LARGEST and count:
            return count
    return len(messages)


def _mappings(queue: dict) -> list[dict]:
    """The mappings on a queue."""
    arn = queue["attributes"].get("QueueArn")
    everywhere = list(lambda_svc._esms._data.values())
    return [mapping for mapping in everywhere if mapping.get("EventSourceArn") == arn]
