"""A function's role must go on letting Lambda consume the queue of a mapping.

On AWS Lambda receives and deletes with that role: without the one permission the messages stay in
the queue, without the other they come back though the function has succeeded. Seen in MiniStack
1.5.33: nobody asks. Here the role is asked before each batch is received and before it is deleted.
"""

import logging
from contextvars import ContextVar
from typing import Any

import roles
from ministack.services import lambda_svc, sqs

PATCHES = (
    *roles.NEEDS,
    "services.lambda_svc._run_sqs_batch",
    "services.lambda_svc._sqs_esm_concurrency",
    "services.sqs._delete_messages_for_esm",
)

logger = logging.getLogger("gaps.lambda_mapping_role")
_may_delete = ContextVar("may_delete", default=True)


def close() -> None:
    """Ask the role each time."""
    at_once, run = lambda_svc._sqs_esm_concurrency, lambda_svc._run_sqs_batch
    delete = sqs._delete_messages_for_esm

    def allowed_at_once(mapping: dict, function: dict, config: dict, *queue: Any) -> int:
        if not may("ReceiveMessage", mapping, config):
            return 0
        return at_once(mapping, function, config, *queue)

    def run_asking(mapping: dict, function: dict, *batch: Any) -> None:
        token = _may_delete.set(may("DeleteMessage", mapping, function["config"]))
        try:
            run(mapping, function, *batch)
        finally:
            _may_delete.reset(token)

    def delete_asking(url: str, handles: set[str]) -> None:
        if _may_delete.get():
            delete(url, handles)
        else:
            logger.warning("Lambda may not delete %d messages from %s", len(handles), url)

    lambda_svc._sqs_esm_concurrency, lambda_svc._run_sqs_batch = allowed_at_once, run_asking
    sqs._delete_messages_for_esm = delete_asking


def may(action: str, mapping: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether a function's role may do this to the queue of a mapping."""
    queue = mapping["EventSourceArn"]
    return roles.allows(config["Role"], "lambda.amazonaws.com", f"sqs:{action}", queue)
