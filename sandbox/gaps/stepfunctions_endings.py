"""An execution ends once: when its time is up, when somebody stops it, or by itself.

Seen in MiniStack 1.5.33: TimeoutSeconds of a state machine is ignored; and an execution that was
stopped goes on behind its back: it retries, calls and publishes, and can end as FAILED after all.
Here the timeout ends it as TIMED_OUT, and after any end nothing more happens. A call that is in
flight at that moment is finished by the function, as on AWS.
"""

import contextvars
import json
import threading

from ministack.core.responses import now_iso
from ministack.services import stepfunctions

PATCHES = (
    "services.stepfunctions._executions",
    "services.stepfunctions._state_machines",
    "services.stepfunctions._run_execution",
    "services.stepfunctions._add_event",
    "services.stepfunctions._fail_execution",
    "services.stepfunctions._emit_execution_status_event",
)


class Ended(BaseException):
    """Leaves the interpreter, past every `except Exception`: the execution is over."""


def close() -> None:
    """Watch the time of every execution, and refuse events after its end."""
    run, add_event, fail = (
        stepfunctions._run_execution,
        stepfunctions._add_event,
        stepfunctions._fail_execution,
    )

    def run_until_the_end(arn: str) -> None:
        watch = deadline(arn)
        try:
            run(arn)
        except Ended:
            pass
        finally:
            if watch:
                watch.cancel()

    def add_event_while_running(execution: dict, event_type: str, details: dict | None = None):
        if execution.get("status", "RUNNING") != "RUNNING" and not event_type.startswith("Exec"):
            raise Ended
        return add_event(execution, event_type, details)

    def fail_once(execution: dict, error: str, cause: str) -> None:
        if execution["status"] == "RUNNING":
            fail(execution, error, cause)

    stepfunctions._run_execution = run_until_the_end
    stepfunctions._add_event = add_event_while_running
    stepfunctions._fail_execution = fail_once


def deadline(arn: str) -> threading.Timer | None:
    """A running timer for an execution whose state machine has a timeout."""
    execution = stepfunctions._executions.get(arn) or {}
    machine = stepfunctions._state_machines.get(execution.get("stateMachineArn")) or {}
    try:
        seconds = json.loads(machine["definition"])["TimeoutSeconds"]
    except (KeyError, ValueError):
        return None
    # The timer's thread must know the account and Region, which are context variables.
    timer = threading.Timer(seconds, contextvars.copy_context().run, (time_out, execution))
    timer.daemon = True
    timer.start()
    return timer


def time_out(execution: dict) -> None:
    """End an execution that still runs as TIMED_OUT."""
    if execution["status"] != "RUNNING":
        return
    execution.update(status="TIMED_OUT", error="States.Timeout", stopDate=now_iso())
    stepfunctions._add_event(
        execution,
        "ExecutionTimedOut",
        {"executionTimedOutEventDetails": {"error": "States.Timeout"}},
    )
    stepfunctions._emit_execution_status_event(execution)
