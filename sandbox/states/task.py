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
    .waitForTaskToken. timeout, heartbeat: seconds, or None. ended: set once the attempt is over,
    however (its timeout, the end of the execution, a sister branch that failed); what was begun is
    then stopped. tell: adds an event to the history, by its type and its details as
    GetExecutionHistory has them: ("TaskStarted", {"resource": "invoke", "resourceType": "lambda"}).

    Who performs it tells what happens until the end: TaskScheduled, TaskStarted, TaskSubmitted,
    LambdaFunctionScheduled, ActivityStarted and so on, with payloads as JSON text. The interpreter
    tells the end (...Succeeded, ...Failed, ...TimedOut, under the name of what was scheduled) and,
    if nothing was scheduled, none. The interpreter minds `timeout`; who performs it minds
    `heartbeat`, and both for an activity, whose clocks start when a worker takes it. A missed one
    is StatesError("States.Timeout") without a cause.
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
