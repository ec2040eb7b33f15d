"""MaxDelaySeconds and JitterStrategy of a retrier.

Seen in MiniStack 1.5.33: both are ignored, each wait is IntervalSeconds times BackoffRate to the
power of the retries so far. Here the wait stops growing at MaxDelaySeconds, and with FULL jitter it
is any time from none to that.
"""

import random

from ministack.services import stepfunctions

PATCHES = ("services.stepfunctions._find_matching_retrier",)


def close() -> None:
    """Hand out each retrier with its next wait already worked out."""
    stock = stepfunctions._find_matching_retrier

    def find(retriers: list, error: str, retry_counts: dict) -> tuple:
        retrier, index = stock(retriers, error, retry_counts)
        if retrier is None:
            return retrier, index
        growth = retrier.get("BackoffRate", 2.0) ** retry_counts.get(index, 0)
        wait = retrier.get("IntervalSeconds", 1) * growth
        wait = min(wait, retrier.get("MaxDelaySeconds", wait))
        if retrier.get("JitterStrategy") == "FULL":
            wait = random.uniform(0, wait)
        return {**retrier, "IntervalSeconds": wait, "BackoffRate": 1}, index

    stepfunctions._find_matching_retrier = find
