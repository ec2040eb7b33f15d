"""The events of an execution as GetExecutionHistory has them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .faults import text
from .task import StatesError

MOST = 25_000  # events of an execution, with the one that ends it (developer guide, quotas)
_WITHOUT_DETAILS = {"LambdaFunctionStarted", "ParallelStateStarted"}


class History:
    """All events of one execution, in the order in which they happened.

    events: where they go. now: tells the time. check: raises times.Over when nothing may happen
    any more.
    """

    def __init__(
        self, events: list[dict[str, Any]], now: Callable[[], str], check: Callable[[], None]
    ) -> None:
        self._events, self._now, self._check = events, now, check
        self._lock = threading.Lock()

    def tell(self, kind: str, details: dict[str, Any] | None, previous: int) -> int:
        """Add an event that follows another; its id."""
        with self._lock:
            self._check()
            if len(self._events) >= MOST - 1:
                raise StatesError(
                    "States.Runtime",
                    f"The execution reached the maximum number of history events ({MOST}).",
                )
            return self.close(kind, details, previous)

    def close(self, kind: str, details: dict[str, Any] | None, previous: int) -> int:
        """Add the last event, when no other is taken any more."""
        event = {
            "id": len(self._events) + 1,
            "previousEventId": previous,
            "timestamp": self._now(),
            "type": kind,
        }
        if details is not None and kind not in _WITHOUT_DETAILS:
            event[_key(kind)] = _complete(details)
        self._events.append(event)
        return event["id"]


class Trail:
    """The events of one branch, each of which follows the one before it there."""

    def __init__(self, history: History, previous: int = 0) -> None:
        self.history, self.previous = history, previous

    def tell(self, kind: str, details: dict[str, Any] | None = None, follows: bool = True) -> int:
        """Add an event; its id.

        Without `follows` the next one points past it, as AWS has it for the end of an iteration,
        a Map and a Parallel state.
        """
        told = self.history.tell(kind, details, self.previous)
        if follows:
            self.previous = told
        return told

    def fork(self) -> Trail:
        """The trail of a branch that begins here."""
        return Trail(self.history, self.previous)


def failure(error: str | None, cause: str | None) -> dict[str, str]:
    """The details of a failure: what is not known is not there."""
    return {
        name: value for name, value in (("error", error), ("cause", cause)) if value is not None
    }


def assigned(variables: dict[str, Any]) -> dict[str, str]:
    """Variables as an event shows them: each as JSON text."""
    return {name: text(value) for name, value in variables.items()}


def _key(kind: str) -> str:
    for ending in ("StateEntered", "StateExited"):
        if kind.endswith(ending):
            return f"s{ending[1:]}EventDetails"
    return f"{kind[0].lower()}{kind[1:]}EventDetails"


def _complete(details: dict[str, Any]) -> dict[str, Any]:
    """Say of each payload that it is whole."""
    shown = {"input": "inputDetails", "output": "outputDetails"}
    shown["assignedVariables"] = "assignedVariablesDetails"
    return details | {
        flag: {"truncated": False}
        for name, flag in shown.items()
        if name in details and flag not in details
    }
