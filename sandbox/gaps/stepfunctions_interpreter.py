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
import time
from typing import Any

from ministack.core.responses import json_response, new_uuid
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
    "services.stepfunctions._invoke_resource",
    "services.stepfunctions._activities",
    "services.stepfunctions._activity_tasks",
    "services.stepfunctions._task_tokens",
    "services.stepfunctions._ExecutionError",
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


def perform(task: Task) -> Any:
    """Do one attempt of a task by MiniStack's own integrations."""
    given, times_out = text(task.arguments), {}
    for name, seconds in (("timeout", task.timeout), ("heartbeat", task.heartbeat)):
        if seconds:
            times_out[f"{name}InSeconds"] = int(seconds)
    if ":activity:" in task.resource:
        return _activity(task, times_out | {"resource": task.resource, "input": given})
    if not task.resource.startswith("arn:aws:states:::"):
        scheduled = {"resource": task.resource, "input": given}
        task.tell("LambdaFunctionScheduled", times_out | scheduled)
        task.tell("LambdaFunctionStarted", {})
        return _call(task.resource, task.arguments)
    parts = task.resource.removeprefix("arn:aws:states:::").split(":")
    words = 2 if parts[0] == "aws-sdk" else 1
    about = {"resourceType": ":".join(parts[:words]), "resource": ":".join(parts[words:])}
    region = task.execution.split(":")[3]
    task.tell("TaskScheduled", about | times_out | {"region": region, "parameters": given})
    task.tell("TaskStarted", about)
    if not task.token:
        return _call(task.resource, task.arguments)
    waiting = stepfunctions._task_tokens[task.token] = _waiting()
    try:
        submitted = _call(task.resource.removesuffix(".waitForTaskToken"), task.arguments)
        task.tell("TaskSubmitted", about | {"output": text(submitted)})
        return _answer(task, waiting)
    finally:
        stepfunctions._task_tokens.pop(task.token, None)


def _call(resource: str, arguments: Any) -> Any:
    try:
        return stepfunctions._invoke_resource(resource, arguments)
    except stepfunctions._ExecutionError as error:
        raise StatesError(error.error, error.cause) from None


def _activity(task: Task, scheduled: dict[str, Any]) -> Any:
    """Wait for a worker, whose clocks start when it takes the task, and for its answer."""
    if task.resource not in stepfunctions._activities:
        raise StatesError("States.Runtime", f"The activity {task.resource} does not exist.")
    task.tell("ActivityScheduled", scheduled)
    token, tasks = new_uuid(), stepfunctions._activity_tasks[task.resource]
    waiting = stepfunctions._task_tokens[token] = _waiting()
    offered = {"taskToken": token, "input": scheduled["input"]}
    tasks.append(offered)
    try:
        while offered in tasks:
            if task.ended.wait(0.05):
                tasks.remove(offered)
                raise times.Over
        task.tell("ActivityStarted", {})
        return _answer(task, waiting, task.timeout)
    finally:
        stepfunctions._task_tokens.pop(token, None)


def _waiting() -> dict[str, Any]:
    """What MiniStack's SendTask... finds by a token."""
    return {"event": threading.Event(), "result": None, "error": None, "heartbeat": None}


def _answer(task: Task, waiting: dict[str, Any], timeout: float | None = None) -> Any:
    """What is sent for a token, in time and with heartbeats."""
    began = beaten = time.monotonic()
    last = None
    while not waiting["event"].wait(0.05):
        if task.ended.is_set():
            raise times.Over
        if waiting["heartbeat"] != last:
            last, beaten = waiting["heartbeat"], time.monotonic()
        late = task.heartbeat and time.monotonic() - beaten > task.heartbeat
        if late or (timeout and time.monotonic() - began > timeout):
            raise StatesError("States.Timeout")
    if failed := waiting["error"]:
        raise StatesError(failed.get("Error"), failed.get("Cause"))
    return json.loads(waiting["result"])


def distribute(*_: Any) -> Any:
    """Run a Map in distributed mode: the gap stepfunctions_map_runs puts its own here."""
    raise StatesError("States.Runtime", "The sandbox runs no Map in distributed mode")
