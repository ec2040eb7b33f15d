"""The metrics that Step Functions publishes about each state machine.

Seen in MiniStack 1.5.33: AWS/States is empty, so an alarm on failed executions never moves. Here
each start and each end of an execution is counted when it happens (AWS: in the same minute).
ExecutionThrottled stays empty: nothing is throttled here.
"""

from ministack.services import cloudwatch, stepfunctions

PATCHES = (
    "services.stepfunctions._emit_execution_status_event",
    "services.cloudwatch.record_metric",
)

METRICS = {
    "RUNNING": "ExecutionsStarted",
    "SUCCEEDED": "ExecutionsSucceeded",
    "FAILED": "ExecutionsFailed",
    "TIMED_OUT": "ExecutionsTimedOut",
    "ABORTED": "ExecutionsAborted",
}


def close() -> None:
    """Count where MiniStack tells EventBridge."""
    stock = stepfunctions._emit_execution_status_event

    def emit(execution: dict) -> None:
        cloudwatch.record_metric(
            "AWS/States",
            METRICS[execution["status"]],
            1,
            "Count",
            {"StateMachineArn": execution["stateMachineArn"]},
        )
        stock(execution)

    stepfunctions._emit_execution_status_event = emit
