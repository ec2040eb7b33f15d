"""What the interpreter of state machines and what performs their tasks say to each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class StatesError(Exception):
    """A state failed: the error name that Retry and Catch match, and the cause.

    Either may be None, as when a worker or a child gave none.
    """

    def __init__(self, error: str | None, cause: str | None = None) -> None:
        super().__init__(f"{error}: {cause}")
        self.error, self.cause = error, cause


@dataclass
class Task:
    """One attempt of a Task state.

    resource: as in the definition. arguments: what Parameters or Arguments came to. role: the
    ARN of the state machine's role. execution: the execution's ARN; name: its name. token: for
    .waitForTaskToken. timeout, heartbeat: seconds, or None. ended: set once the execution is over,
    however; what was begun is then stopped. tell: adds an event to the history, by its type and
    its details as GetExecutionHistory has them.
    """

    resource: str
    arguments: Any
    role: str
    execution: str
    name: str
    express: bool
    token: str | None
    timeout: float | None
    heartbeat: float | None
    ended: threading.Event = field(repr=False)
    tell: Callable[[str, dict[str, Any]], None] = field(repr=False)
