"""All that waits: states, retries, timeouts, and what stops them.

Waits of states and retries are scaled as SFN_WAIT_SCALE says (0 skips them); timeouts are not.
"""

from __future__ import annotations

import contextvars
import os
import queue
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from .task import StatesError

_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
# The longest that AWS waits for anything: the year of a standard execution.
YEAR = 31_536_000


class Over(BaseException):
    """Leaves the interpreter past every `except Exception`: the execution or branch is over."""


def moment(stamp: Any) -> datetime | None:
    """The moment that a timestamp of the States Language means; None if it is none.

    It needs a date, a capital T, seconds, and a zone.
    """
    if not (isinstance(stamp, str) and _TIMESTAMP.fullmatch(stamp)):
        return None
    try:
        return datetime.fromisoformat(stamp)
    except ValueError:
        return None


def now() -> str:
    """This moment in milliseconds, as AWS writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def seconds_until(instant: datetime) -> float:
    """How far away a moment is; 0 if it has passed."""
    return max(0.0, (instant - datetime.now(UTC)).total_seconds())


class Life:
    """What lives until it is ended: an execution, a branch of it, an attempt of a task.

    Whatever lives in it ends with it.
    """

    def __init__(self, outer: Life | None = None) -> None:
        self.ended = threading.Event()
        self._at_end: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._outer = outer
        if outer:
            outer.at_end(self.end)

    def at_end(self, act: Callable[[], None]) -> None:
        """Call this once it ends, or now if it has."""
        with self._lock:
            if not self.ended.is_set():
                self._at_end.append(act)
                return
        act()

    def end(self) -> None:
        """End it with all that lives in it."""
        with self._lock:
            self.ended.set()
            acts, self._at_end = self._at_end, []
        if self._outer:
            self._outer.forget(self.end)
        for act in acts:
            act()

    def forget(self, act: Callable[[], None]) -> None:
        """Do not call this at the end."""
        with self._lock:
            if act in self._at_end:
                self._at_end.remove(act)

    def check(self) -> None:
        """Over if it has ended."""
        if self.ended.is_set():
            raise Over

    def sleep(self, seconds: float) -> None:
        """Wait as a state or a retry does. Over if it ends meanwhile."""
        if self.ended.wait(min(seconds, YEAR) * scale()):
            raise Over

    def finish(self, work: Callable[[], Any], seconds: float | None) -> Any:
        """The result of work in a thread of its own, which is left alone once nobody waits for it.

        seconds: States.Timeout after them. Over if the life ends first.
        """
        outcomes: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                outcomes.put((work(), None))
            except BaseException as problem:
                outcomes.put((None, problem))

        def leave() -> None:
            outcomes.put((None, Over()))

        self.at_end(leave)
        start(run)
        try:
            result, problem = outcomes.get(timeout=seconds)
        except queue.Empty:
            raise StatesError("States.Timeout") from None
        finally:
            self.forget(leave)
        if problem:
            raise problem
        return result


def start(work: Callable[[], None]) -> threading.Thread:
    """Run in a thread that knows what this one does of account and Region: context variables."""
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    return thread


def scale() -> float:
    """What waits are multiplied with."""
    try:
        return max(0.0, float(os.environ.get("SFN_WAIT_SCALE", "1")))
    except ValueError:
        return 1.0
