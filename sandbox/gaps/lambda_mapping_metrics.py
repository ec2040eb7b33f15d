"""Metrics of a function that an event source mapping invokes for a queue.

Seen in MiniStack 1.5.33: AWS/Lambda metrics are published for calls of the Invoke API only. A
function that dies on a batch of its queue has no error, and the alarm on its errors stays at rest.
"""

import time
from contextvars import ContextVar
from typing import Any

from ministack.services import lambda_svc

PATCHES = (
    "services.lambda_svc._run_sqs_batch",
    "services.lambda_svc._execute_function",
    "services.lambda_svc._emit_lambda_metrics",
)

_by_mapping = ContextVar("by_mapping", default=False)


def close() -> None:
    """Publish the metrics of each batch's invocation, which nothing else does."""
    run, execute = lambda_svc._run_sqs_batch, lambda_svc._execute_function

    def batch(*arguments: Any) -> None:
        token = _by_mapping.set(True)
        try:
            run(*arguments)
        finally:
            _by_mapping.reset(token)

    def invocation(func: dict, event: dict) -> dict:
        if not _by_mapping.get():
            return execute(func, event)
        token, began = _by_mapping.set(False), time.time()  # it calls itself in another scope
        try:
            result = execute(func, event)
        finally:
            _by_mapping.reset(token)
        if not result.get("throttle"):  # which MiniStack counts itself
            lambda_svc._emit_lambda_metrics(
                (func.get("config") or func)["FunctionName"],
                duration_ms=(time.time() - began) * 1000,
                error=bool(result.get("error")),
                throttle=False,
            )
        return result

    lambda_svc._run_sqs_batch, lambda_svc._execute_function = batch, invocation
