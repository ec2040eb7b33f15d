"""What waits, and what stops it."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from sandbox.states import times
from sandbox.states.task import StatesError


@pytest.mark.parametrize(
    "stamp",
    [
        "2016-03-14T01:59:00Z",
        "2016-03-14T01:59:00.0000000Z",
        "2016-03-14T01:59:00.00Z",
        "2016-03-14T02:59:00.000+01:00",
    ],
)
def test_a_timestamp_has_seconds_and_a_zone(stamp: str) -> None:
    assert times.moment(stamp) == datetime(2016, 3, 14, 1, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    "stamp",
    [
        "2016-03-14T01:59:00", "2016-03-14T01:59:00.000", "2016-03-14T01:59Z", "2016-03-14",
        "2016-03-14 01:59:00Z", "2016-03-14t01:59:00z", "2016-13-14T01:59:00Z", "date", "", 0, None,
    ],
)  # fmt: skip
def test_nothing_else_is_one(stamp: object) -> None:
    assert times.moment(stamp) is None


def test_a_moment_that_has_passed_is_now() -> None:
    now = datetime.now(UTC)
    assert times.seconds_until(now - timedelta(hours=1)) == 0
    assert 3590 < times.seconds_until(now + timedelta(hours=1)) <= 3600


def test_waits_are_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFN_WAIT_SCALE", "0")
    began = time.monotonic()
    times.Life().sleep(3600)
    assert time.monotonic() - began < 1
    for nonsense in ("", "fast"):
        monkeypatch.setenv("SFN_WAIT_SCALE", nonsense)
        assert times.scale() == 1


def test_what_lives_in_another_ends_with_it_and_not_the_other_way_round() -> None:
    outer = times.Life()
    one, two = times.Life(outer), times.Life(outer)
    one.end()
    assert one.ended.is_set() and not (two.ended.is_set() or outer.ended.is_set())
    outer.end()
    assert two.ended.is_set() and times.Life(outer).ended.is_set()
    with pytest.raises(times.Over):
        outer.check()


def test_an_end_wakes_what_sleeps() -> None:
    life = times.Life()
    threading.Timer(0.05, life.end).start()
    with pytest.raises(times.Over):
        life.sleep(60)


def test_work_comes_to_its_result_or_its_error() -> None:
    assert times.Life().finish(lambda: 7, None) == 7
    with pytest.raises(StatesError, match="Boom"):
        times.Life().finish(lambda: (_ for _ in ()).throw(StatesError("Boom")), 5)


def test_work_that_takes_too_long_is_left_alone() -> None:
    free = threading.Event()
    with pytest.raises(StatesError) as raised:
        times.Life().finish(free.wait, 0.05)
    assert (raised.value.error, raised.value.cause) == ("States.Timeout", None)
    free.set()


def test_work_is_left_alone_once_its_life_ends() -> None:
    life, free = times.Life(), threading.Event()
    threading.Timer(0.05, life.end).start()
    with pytest.raises(times.Over):
        life.finish(free.wait, None)
    free.set()
