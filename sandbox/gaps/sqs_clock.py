"""A faster clock for SQS, so that retries of a minute can be watched in seconds.

Not a fault of MiniStack (1.5.33): the template's visibility timeouts, delays and deduplication
windows stay as they ship, and the module that keeps them asks a clock that runs SANDBOX_CLOCK
times faster from the moment the server starts. Only services.sqs sees it. What SNS, S3 and
EventBridge put into a queue carries the wall clock's time: it would look hours old, and be past its
retention within hours of the start. So it is stamped anew. Event source mappings look for messages
that have become visible again once a second, which would now be long: they are woken ten times as
often while a queue holds messages.

Functions are no faster. On AWS a visibility timeout of six times the function's timeout never ends
while the function works; here a cold call would often outlive it, and good messages would come back
while they are in work. So a message stays invisible while a mapping's function works on it, and its
visibility timeout ends when it would have or, if that is past, when the function is done.
"""

import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ministack.core import concurrency
from ministack.services import lambda_svc, sqs

PATCHES = (
    "services.sqs.time",
    "services.sqs._queues",
    "services.sqs._ensure_msg_fields",
    "services.sqs._queues_lock",
    "services.lambda_svc._run_sqs_batch",
    "core.concurrency.esm_wake",
)
LONGEST = 15 * 60  # seconds that a function may work


def close() -> None:
    """Give services.sqs its own time.time(), and event source mappings its pace."""
    factor, start = float(os.environ["SANDBOX_CLOCK"]), time.time()

    def faster(now: float) -> float:
        return start + (now - start) * factor

    sqs.time = SimpleNamespace(time=lambda: faster(time.time()), sleep=time.sleep)
    sqs._ensure_msg_fields = _stamp_then(sqs._ensure_msg_fields, faster)
    lambda_svc._run_sqs_batch = _hold_while(lambda_svc._run_sqs_batch, factor)
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


def _hold_while(run: Callable[..., None], factor: float) -> Callable[..., None]:
    """Run a batch; its messages do not become visible meanwhile, unless the function says so."""

    def held(esm: dict, function: dict, event: dict, batch: list[dict], *queue: Any) -> None:
        with sqs._queues_lock:
            due = [message["visible_at"] for message in batch]
            hold = sqs.time.time() + LONGEST * factor
            for message in batch:
                message["visible_at"] = hold
        try:
            run(esm, function, event, batch, *queue)
        finally:
            with sqs._queues_lock:
                for message, visible_at in zip(batch, due, strict=True):
                    if message["visible_at"] == hold:
                        message["visible_at"] = visible_at

    return held


def _wake_mappings() -> None:
    while True:
        time.sleep(0.1)
        if any(queue["messages"] for queue in list(sqs._queues._data.values())):
            concurrency.esm_wake.set()
