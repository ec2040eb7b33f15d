"""Which retrier and which catcher an error finds, and how long a retry waits."""

from __future__ import annotations

import random
from typing import Any

# Nothing catches or retries it, not even by its name (recorded).
UNCATCHABLE = "States.Runtime"


def matches(names: list[str], error: str | None) -> bool:
    """Whether an error is among those that a retrier or catcher names."""
    if error == UNCATCHABLE:
        return False
    return (
        error in names
        or "States.ALL" in names
        or ("States.TaskFailed" in names and error != "States.Timeout")
        # A missed heartbeat is States.Timeout; the other name is for catching it alone.
    )


def find(handlers: list[dict[str, Any]], error: str | None) -> int | None:
    """The number of the first retrier or catcher that matches."""
    return next((at for at, one in enumerate(handlers) if matches(one["ErrorEquals"], error)), None)


class Retries:
    """The retries of one state: each retrier counts its own."""

    def __init__(self, retriers: list[dict[str, Any]]) -> None:
        self._retriers, self._done = retriers, [0] * len(retriers)

    @property
    def count(self) -> int:
        """How often the state was tried again."""
        return sum(self._done)

    def wait_for(self, error: str | None) -> float | None:
        """Seconds until the next attempt; None if there is none any more."""
        at = find(self._retriers, error)
        if at is None or self._done[at] >= self._retriers[at].get("MaxAttempts", 3):
            return None
        self._done[at] += 1
        return pause(self._retriers[at], self._done[at])


def pause(retrier: dict[str, Any], retry: int) -> float:
    """Seconds before a retry; the first one is 1. AWS's defaults: 1 s, doubled each time."""
    wait = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2.0) ** (retry - 1)
    wait = min(wait, retrier.get("MaxDelaySeconds", wait))
    return random.uniform(0, wait) if retrier.get("JitterStrategy") == "FULL" else wait
