"""A faster clock for SQS, so that retries of a minute can be watched in seconds.

Not a fault of MiniStack (1.5.33): the template's visibility timeouts, delays and deduplication window
stay as they ship to AWS, and the module that keeps them asks a clock that runs SANDBOX_CLOCK times
faster from the moment the server starts. Only services.sqs sees it.
"""

import os
import time
from types import SimpleNamespace

from ministack.services import sqs

PATCHES = ("services.sqs.time",)


def close() -> None:
    """Give services.sqs its own time.time()."""
    factor, start = float(os.environ["SANDBOX_CLOCK"]), time.time()
    sqs.time = SimpleNamespace(
        time=lambda: start + (time.time() - start) * factor, sleep=time.sleep
    )
