"""The events of an execution."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.states import history, times
from sandbox.states.history import History, Trail, assigned, failure
from sandbox.states.task import StatesError


def began() -> tuple[list[dict[str, Any]], times.Life, Trail]:
    events: list[dict[str, Any]] = [{"id": 1, "type": "ExecutionStarted"}]
    life = times.Life()
    return events, life, Trail(History(events, lambda: "now", life.check))


def test_events_follow_each_other() -> None:
    events, _, trail = began()
    assert trail.tell("PassStateEntered", {"name": "A", "input": "{}"}) == 2
    assert trail.tell("PassStateExited", {"name": "A", "output": "{}"}) == 3
    assert events[1:] == [
        {
            "id": 2,
            "previousEventId": 0,
            "timestamp": "now",
            "type": "PassStateEntered",
            "stateEnteredEventDetails": {
                "name": "A",
                "input": "{}",
                "inputDetails": {"truncated": False},
            },
        },
        {
            "id": 3,
            "previousEventId": 2,
            "timestamp": "now",
            "type": "PassStateExited",
            "stateExitedEventDetails": {
                "name": "A",
                "output": "{}",
                "outputDetails": {"truncated": False},
            },
        },
    ]


def test_a_branch_goes_on_from_where_it_left() -> None:
    events, _, trail = began()
    trail.tell("ParallelStateStarted", {})
    one, two = trail.fork(), trail.fork()
    for branch in (one, two, one):
        branch.tell("TaskStarted", {"resource": "invoke"})
    assert [event["previousEventId"] for event in events[1:]] == [0, 2, 2, 3]
    assert "parallelStateStartedEventDetails" not in events[1]


def test_nothing_follows_the_end_of_an_iteration() -> None:
    events, _, trail = began()
    trail.tell("PassStateExited", {"name": "A", "output": "1"})
    trail.tell("MapIterationSucceeded", {"name": "M", "index": 0}, follows=False)
    trail.tell("MapIterationStarted", {"name": "M", "index": 1})
    assert [event["previousEventId"] for event in events[1:]] == [0, 2, 2]


def test_nothing_is_told_after_the_end() -> None:
    events, life, trail = began()
    life.end()
    with pytest.raises(times.Over):
        trail.tell("TaskStarted", {})
    assert len(events) == 1


def test_a_history_has_room_for_its_end_only() -> None:
    events, _, trail = began()
    events *= history.MOST - 2
    assert trail.tell("TaskStarted", {}) == history.MOST - 1
    with pytest.raises(StatesError) as raised:
        trail.tell("TaskStarted", {})
    assert (raised.value.error, raised.value.cause) == (
        "States.Runtime",
        "The execution reached the maximum number of history events (25000).",
    )
    assert trail.history.close("ExecutionFailed", {}, 0) == 25_000


def test_what_is_not_known_of_a_failure_is_not_told() -> None:
    assert failure("States.Timeout", None) == {"error": "States.Timeout"}
    assert failure(None, None) == {}
    assert failure("", "because") == {"error": "", "cause": "because"}


def test_variables_are_told_as_json() -> None:
    assert assigned({"a": None, "b": "text", "c": [1, {"d": True}]}) == {
        "a": "null",
        "b": '"text"',
        "c": '[1,{"d":true}]',
    }
