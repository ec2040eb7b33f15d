"""What goes wrong in a definition's own expressions, and not in the tasks that it calls."""

import json
from typing import Any

from .task import StatesError


class Fault(StatesError):
    """A field of a state comes to nothing usable.

    AWS's cause begins with the state's name and the event that entered it; the interpreter puts
    them there. field: the JSONata field that failed, as AWS names it ("Output/total"), or "".
    """

    def __init__(self, error: str, cause: str, field: str = "") -> None:
        super().__init__(error, cause)
        self.field = field


def runtime(cause: str) -> Fault:
    """The fault of a JSONPath state, which nothing catches."""
    return Fault("States.Runtime", cause)


def text(value: Any) -> str:
    """A value as the JSON text that AWS's causes and payloads show: no spaces, no escapes."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class Entry(dict[str, Any]):
    """An entry of an object that a Map iterates over: its Key and its Value."""


def entries(value: dict[str, Any]) -> list[Entry]:
    """What a Map makes of an object. Newer than the recordings, but observed (floci#1588)."""
    return [Entry(Key=key, Value=one) for key, one in value.items()]
