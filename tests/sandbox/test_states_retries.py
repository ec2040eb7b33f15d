"""Which retrier and catcher an error finds, and how long a retry waits."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.states import retries


@pytest.mark.parametrize(
    ("names", "error", "found"),
    [
        (["Custom"], "Custom", True),
        (["Custom"], "Other", False),
        (["Other", "Custom"], "Custom", True),
        (["States.ALL"], "Custom", True),
        (["States.ALL"], "States.Timeout", True),
        (["States.ALL"], "States.DataLimitExceeded", True),
        (["States.ALL"], None, True),
        (["States.ALL"], "States.Runtime", False),
        (["States.Runtime"], "States.Runtime", False),
        (["States.TaskFailed"], "Custom", True),
        (["States.TaskFailed"], "States.Timeout", False),
        (["States.TaskFailed", "States.Timeout"], "States.Timeout", True),
        (["States.QueryEvaluationError"], "States.QueryEvaluationError", True),
        (["States.HeartbeatTimeout"], "States.Timeout", False),
    ],
)
def test_what_a_name_matches(names: list[str], error: str | None, found: bool) -> None:
    assert retries.matches(names, error) is found
    handlers = [{"ErrorEquals": ["Never"]}, {"ErrorEquals": names}]
    assert retries.find(handlers, error) == (1 if found else None)


@pytest.mark.parametrize(
    ("retrier", "waits"),
    [
        ({}, [1, 2, 4]),
        ({"IntervalSeconds": 3, "BackoffRate": 1.5}, [3, 4.5, 6.75]),
        ({"IntervalSeconds": 5, "BackoffRate": 1, "MaxAttempts": 2}, [5, 5]),
        ({"BackoffRate": 60, "MaxDelaySeconds": 30, "MaxAttempts": 4}, [1, 30, 30, 30]),
        ({"MaxAttempts": 0}, []),
    ],
)
def test_the_waits_of_a_retrier(retrier: dict[str, Any], waits: list[float]) -> None:
    done = retries.Retries([{"ErrorEquals": ["States.ALL"], **retrier}])
    assert [done.wait_for("Custom") for _ in waits] == waits
    assert done.wait_for("Custom") is None and done.count == len(waits)


def test_each_retrier_counts_its_own_and_the_first_that_matches_decides() -> None:
    once = {"ErrorEquals": ["A"], "MaxAttempts": 1, "IntervalSeconds": 7}
    done = retries.Retries([once, {"ErrorEquals": ["States.ALL"], "MaxAttempts": 2}])
    assert [done.wait_for(error) for error in ("A", "B", "A", "B", "B")] == [7, 1, None, 2, None]
    assert done.count == 3


def test_full_jitter_is_anything_up_to_the_wait() -> None:
    retrier = {"IntervalSeconds": 8, "MaxDelaySeconds": 10, "JitterStrategy": "FULL"}
    waits = [retries.pause(retrier, 2) for _ in range(200)]
    assert 0 <= min(waits) < 2 and 8 < max(waits) <= 10
