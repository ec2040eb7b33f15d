"""A faster clock for SQS, so that retries of a minute can be watched in seconds.

Not a fault of MiniStack (1.5.33): the template's visibility timeouts, delays and deduplication
windows stay as they ship, and the module that keeps them asks a clock that runs SANDBOX_CLOCK
times faster from the moment the server starts. Only services.sqs sees it. Event source mappings
look for messages that have become visible again once a second, which would now be long: they are
woken ten times as often while a queue holds messages.
"""

import os
import threading
import time
from types import SimpleNamespace

from ministack.core import concurrency
from ministack.services import sqs

PATCHES = ("services.sqs.time", "services.sqs._queues", "core.concurrency.esm_wake")


def close() -> None:
    """Give services.sqs its own time.time(), and event source mappings its pace."""
    factor, start = float(os.environ["SANDBOX_CLOCK"]), time.time()
    sqs.time = SimpleNamespace(
        time=lambda: start + (time.time() - start) * factor, sleep=time.sleep
    )
    threading.Thread(target=_wake_mappings, daemon=True, name="gap-sqs-clock").start()


def _wake_mappings() -> None:
    while True:
        time.sleep(0.1)
        if any(queue["messages"] for queue in list(sqs._queues._data.values())):
            concurrency.esm_wake.set()
