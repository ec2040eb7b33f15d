"""The class of the exception that a Python function raises, and a worker that outlives it.

Seen in MiniStack 1.5.33: whatever a function raises is reported as Runtime.HandlerError without a
stack trace, so that Retry and Catch of a workflow cannot tell a declined card from a payment
service that is down; and the worker is ended, so that every failed call costs a cold start. Here
the worker reports class, message and stack trace as Lambda does, and stays.
"""

from ministack.core import lambda_runtime
from ministack.services import lambda_svc

PATCHES = (
    "core.lambda_runtime._PYTHON_WORKER_SCRIPT",
    "services.lambda_svc._execute_function_warm",
)

RAISED = "gaps.lambda_errors"
STOCK = '{"status": "error", "error": str(e), "trace": traceback.format_exc()}'
OURS = (
    '{"status": "ok", "result": {"' + RAISED + '": {"errorMessage": str(e),'
    ' "errorType": type(e).__name__, "requestId": context.aws_request_id,'
    ' "stackTrace": traceback.format_tb(e.__traceback__)[1:], "log": traceback.format_exc()}}}'
)


def close() -> None:
    """Let the worker answer with what was raised, and turn that answer into a failed call."""
    if lambda_runtime._PYTHON_WORKER_SCRIPT.count(STOCK) != 1:
        raise SystemExit("MiniStack's Python worker reports errors in another way: lambda_errors")
    lambda_runtime._PYTHON_WORKER_SCRIPT = lambda_runtime._PYTHON_WORKER_SCRIPT.replace(STOCK, OURS)
    stock = lambda_svc._execute_function_warm

    def execute(func: dict, event: dict, request_id: str) -> dict:
        result = stock(func, event, request_id)
        body = result.get("body")
        if not (isinstance(body, dict) and RAISED in body):
            return result
        error = body[RAISED]
        log = "\n".join(filter(None, [result.get("log", ""), error.pop("log")]))
        return {"body": error, "error": True, "log": log}

    lambda_svc._execute_function_warm = execute
