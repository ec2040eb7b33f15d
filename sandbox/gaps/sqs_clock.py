"""A faster clock for SQS, so that retries of a minute can be watched in seconds.

Not a fault of MiniStack (1.5.33): the template's visibility timeouts, delays and deduplication
windows stay as they ship, and the module that keeps them asks a clock that runs SANDBOX_CLOCK
times faster from the moment the server starts. Only services.sqs sees it. What SNS, S3 and
EventBridge put into a queue carries the wall clock's time: it would look hours old, and be past its
retention within hours of the start. So it is stamped anew. Event source mappings look for messages
that have become visible again once a second, which would now be long: they are woken ten times as
often while a queue holds messages.
"""

import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

from ministack.core import concurrency
from ministack.services import sqs

PATCHES = (
    "services.sqs.time",
    "services.sqs._queues",
    "services.sqs._ensure_msg_fields",
    "core.concurrency.esm_wake",
)


def close() -> None:
    """Give services.sqs its own time.time(), and event source mappings its pace."""
    factor, start = float(os.environ["SANDBOX_CLOCK"]), time.time()

    def faster(now: float) -> float:
        return start + (now - start) * factor

    sqs.time = SimpleNamespace(time=lambda: faster(time.time()), sleep=time.sleep)
    sqs._ensure_msg_fields = _stamp_then(sqs._ensure_msg_fields, faster)
    threading.Thread(target=_wake_mappings, daemon=True, name="gap-sqs-clock").start()


def _stamp_then(
    complete: Callable[[dict], None], faster: Callable[[float], float]
) -> Callable[[dict], None]:
    """Complete a message; one without system attributes comes from another service."""

    def stamped(message: dict) -> None:
        if "sys" not in message and "sent_at" in message:
            sent = message["sent_at"]
            delay = message.get("visible_at", sent) - sent
            message["sent_at"] = faster(sent)
            message["visible_at"] = message["sent_at"] + delay
        complete(message)

    return stamped


def _wake_mappings() -> None:
    while True:
        time.sleep(0.1)
        if any(queue["messages"] for queue in list(sqs._queues._data.values())):
            concurrency.esm_wake.set()
