"""State machines run as Step Functions runs them: sandbox/states instead of MiniStack's own.

Seen in MiniStack 1.5.33: a path that is not there is null and the execution succeeds; a Map over
something that is no array iterates over it; variables of JSONPath states are null; comparisons by
...Path are false; heartbeats, TimeoutSecondsPath and the machine's timeout do not fire; no payload
is too large; MaxDelaySeconds and jitter are ignored; a stopped execution goes on behind its back;
Express executions are told to EventBridge. Here AWS's own rules hold, and AWS's words where they
were recorded. A call that is in flight when its execution ends is finished by the function, as on
AWS; nothing is called afterwards.
"""

import contextvars
import json
import logging
import threading
from typing import Any

from ministack.core.responses import json_response
from ministack.services import stepfunctions
from states import history, interpreter, scope, times
from states.faults import text
from states.task import StatesError, Task

PATCHES = (
    "services.stepfunctions._executions",
    "services.stepfunctions._state_machines",
    "services.stepfunctions._state_machine_versions",
    "services.stepfunctions._run_execution",
    "services.stepfunctions._stop_execution",
    "services.stepfunctions._emit_execution_status_event",
)

EXPRESS = 300  # seconds that an Express execution lasts at most (developer guide)

_lives: dict[str, times.Life] = {}
_ending = threading.Lock()
_log = logging.getLogger("states")


def close() -> None:
    """Run every execution by our interpreter, and stop it by ours."""
    emit, stop = stepfunctions._emit_execution_status_event, stepfunctions._stop_execution

    def emit_unless_express(execution: dict[str, Any]) -> None:
        machine = stepfunctions._state_machines.get(execution["stateMachineArn"]) or {}
        if machine.get("type") == "EXPRESS":
            execution["sync"] = True  # then MiniStack tells EventBridge nothing
        emit(execution)

    def stop_at_once(data: dict[str, Any]) -> Any:
        execution = stepfunctions._executions.get(data.get("executionArn"))
        if not execution or execution["status"] != "RUNNING":
            return stop(data)
        end(execution, "ABORTED", 0, StatesError(data.get("error"), data.get("cause")))
        return json_response({"stopDate": execution["stopDate"]})

    stepfunctions._emit_execution_status_event = emit_unless_express
    stepfunctions._stop_execution = stop_at_once
    stepfunctions._run_execution = run


def run(arn: str) -> None:
    """Run an execution to its end: of the version that it was started for, if it was for one."""
    execution = stepfunctions._executions.get(arn)
    if execution and execution["status"] == "RUNNING":
        machine = stepfunctions._state_machines[execution["stateMachineArn"]]
        version = stepfunctions._state_machine_versions.get(execution.get("stateMachineVersionArn"))
        if version:
            machine = machine | {name: version[name] for name in ("definition", "roleArn")}
        run_to_the_end(execution, machine, json.loads(machine["definition"]))


def run_to_the_end(
    execution: dict[str, Any],
    machine: dict[str, Any],
    definition: dict[str, Any],
    outer: times.Life | None = None,
) -> None:
    """Run an execution, which may live in another, until it has ended in some way."""
    arn, given = execution["executionArn"], json.loads(execution["input"])
    life = _lives[arn] = times.Life(outer)

    def check() -> None:
        if execution["status"] != "RUNNING":
            raise times.Over

    started = execution["events"][0]
    started["previousEventId"] = 0
    started["executionStartedEventDetails"]["inputDetails"] = {"truncated": False}
    trail = history.Trail(history.History(execution["events"], times.now, check))
    branch = interpreter.Branch(
        _execution(execution, machine, definition),
        definition,
        _context(execution, machine, given),
        scope.Scope(),
        trail,
        life,
    )
    watch = _deadline(execution, machine, definition, trail)
    try:
        end(execution, "SUCCEEDED", trail, output=text(branch.run(given)))
    except StatesError as failed:
        end(execution, "FAILED", trail, failed)
    except times.Over:
        end(execution, "ABORTED", 0)  # its parent is over
    except Exception as problem:
        _log.exception("The interpreter failed in %s", arn)
        failed = StatesError("States.Runtime", f"The sandbox failed: {problem!r}")
        end(execution, "FAILED", trail, failed)
    finally:
        life.end()
        _lives.pop(arn, None)
        if watch:
            watch.cancel()


def end(
    execution: dict[str, Any],
    status: str,
    after: history.Trail | int,
    failed: StatesError | None = None,
    output: str | None = None,
) -> None:
    """End an execution, unless it has ended; nothing of it happens afterwards.

    after: the trail or the id of the event that the last one follows.
    """
    with _ending:
        if execution["status"] != "RUNNING":
            return
        failure = history.failure(failed.error, failed.cause) if failed else {}
        execution.update(failure, status=status, output=output, stopDate=times.now())
    if life := _lives.get(execution["executionArn"]):
        life.end()
    kind = "TimedOut" if status == "TIMED_OUT" else status.capitalize()
    history.History(execution["events"], times.now, lambda: None).close(
        f"Execution{kind}",
        failure if output is None else {"output": output},
        after if isinstance(after, int) else after.previous,
    )
    if "mapRunArn" not in execution:
        stepfunctions._emit_execution_status_event(execution)


def _execution(
    execution: dict[str, Any], machine: dict[str, Any], definition: dict[str, Any]
) -> interpreter.Execution:
    return interpreter.Execution(
        arn=execution["executionArn"],
        name=execution["name"],
        role=machine["roleArn"],
        express=machine["type"] == "EXPRESS",
        language=definition.get("QueryLanguage", "JSONPath"),
        perform=perform,
        distribute=lambda visit, processor: distribute(execution, visit, processor),
    )


def _context(execution: dict[str, Any], machine: dict[str, Any], given: Any) -> dict[str, Any]:
    """The context object ($$), but for the state."""
    return {
        "Execution": {
            "Id": execution["executionArn"],
            "Input": given,
            "StartTime": execution["startDate"],
            "Name": execution["name"],
            "RoleArn": machine["roleArn"],
            "RedriveCount": 0,
        },
        "StateMachine": {"Id": machine["stateMachineArn"], "Name": machine["name"]},
    }


def _deadline(
    execution: dict[str, Any],
    machine: dict[str, Any],
    definition: dict[str, Any],
    trail: history.Trail,
) -> threading.Timer | None:
    """A running timer for an execution that may take only so long."""
    seconds = definition.get("TimeoutSeconds")
    if machine["type"] == "EXPRESS":
        seconds = min(seconds or EXPRESS, EXPRESS)
    if seconds is None:
        return None
    # The timer's thread must know the account and Region, which are context variables.
    arguments = (end, execution, "TIMED_OUT", trail)
    timer = threading.Timer(seconds, contextvars.copy_context().run, arguments)
    timer.daemon = True
    timer.start()
    return timer


def perform(_task: Task) -> Any:
    """Do one attempt of a task: the gap stepfunctions_tasks puts its own here."""
    raise StatesError("States.Runtime", "The sandbox performs no tasks")


def distribute(*_: Any) -> Any:
    """Run a Map in distributed mode: the gap stepfunctions_map_runs puts its own here."""
    raise StatesError("States.Runtime", "The sandbox runs no Map in distributed mode")
