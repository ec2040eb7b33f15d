"""When a function is called again, and what is written of it."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import async_records


@pytest.mark.parametrize(
    ("failures", "age", "settings", "then"),
    [
        (1, 0, {}, (60, "")),
        (2, 61, {}, (120, "")),
        (3, 200, {}, (0, "RetriesExhausted")),
        (1, 0, {"MaximumRetryAttempts": 0}, (0, "RetriesExhausted")),
        (2, 61, {"MaximumRetryAttempts": "1"}, (0, "RetriesExhausted")),
        (1, 0.1, {"MaximumEventAgeInSeconds": 60}, (0, "EventAgeExceeded")),
        (1, 0.1, {"MaximumEventAgeInSeconds": 61}, (60, "")),
    ],
)
def test_events_are_tried_as_often_and_as_long_as_their_settings_say(
    failures: int, age: float, settings: dict[str, Any], then: tuple[float, str]
) -> None:
    assert async_records.plan(failures, False, age, settings) == then


def test_throttled_events_are_tried_for_six_hours() -> None:
    assert async_records.plan(0, True, 21_000, {})[0] > 0
    assert async_records.plan(0, True, 21_600, {}) == (0, "EventAgeExceeded")


def test_dead_letters_say_why() -> None:
    failed = {"body": {"errorMessage": "x" * 2000, "errorType": "ValueError"}}
    said = async_records.attributes("request", failed)
    assert said["ErrorCode"] == {"DataType": "Number", "StringValue": "200"}
    assert said["ErrorMessage"]["StringValue"] == "x" * 1024
    assert async_records.attributes("request", None)["ErrorCode"]["StringValue"] == "429"
