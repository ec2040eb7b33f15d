"""What becomes of a queue's batch once its function has answered, and its metrics.

Seen in MiniStack 1.5.33: an entry of batchItemFailures that is empty, null, of another message or
under a wrong key is passed over, and the messages are deleted; AWS takes such an answer as a
complete failure, so that all of them come back. `{"batchItemFailures": null}` ends in an error
there, and is a success on AWS. AWS/Lambda metrics are published for calls of the Invoke API only:
a function that dies on a batch has no error, and the alarm on its errors stays at rest.

Of a FIFO queue, too, AWS brings back what is named and no more: the function names what follows.
"""

import logging
import time
from typing import Any

from batch_responses import failed
from ministack.services import lambda_svc, sqs

PATCHES = (
    "services.lambda_svc._run_sqs_batch",
    "services.lambda_svc._execute_function",
    "services.lambda_svc._emit_lambda_metrics",
    "services.lambda_svc._esm_backoff_until",
    "services.lambda_svc._ESM_BACKOFF_SECONDS",
    "services.sqs._delete_messages_for_esm",
)

logger = logging.getLogger("gaps.lambda_batch_responses")


def close() -> None:
    """Run batches by AWS's rules."""
    lambda_svc._run_sqs_batch = run


def run(  # noqa: PLR0917  (as it is called)
    mapping: dict[str, Any],
    function: dict[str, Any],
    event: dict[str, Any],
    batch: list[dict[str, Any]],
    url: str,
    queue: str,
) -> None:
    """Invoke the function with one batch, and delete what it has not failed at."""
    began = time.time()
    result = lambda_svc._execute_function(function, event)
    if not result.get("throttle"):  # which MiniStack counts itself
        lambda_svc._emit_lambda_metrics(
            mapping["FunctionName"],
            duration_ms=(time.time() - began) * 1000,
            error=bool(result.get("error")),
            throttle=False,
        )
    back = {message["id"] for message in batch}
    if result.get("error"):
        # What failed stays invisible for its visibility timeout; the next batch is paced, too.
        pause = lambda_svc._ESM_BACKOFF_SECONDS
        lambda_svc._esm_backoff_until[mapping["UUID"]] = time.time() + pause
    else:
        lambda_svc._esm_backoff_until.pop(mapping["UUID"], None)
        reports = "ReportBatchItemFailures" in (mapping.get("FunctionResponseTypes") or [])
        back = failed(result.get("body"), sorted(back)) if reports else set()
    done = {message["receipt_handle"] for message in batch if message["id"] not in back}
    sqs._delete_messages_for_esm(url, done)
    logger.info(
        "%s took %d of %d messages of %s\n%s",
        mapping["FunctionName"],
        len(done),
        len(batch),
        queue,
        result.get("log", ""),
    )
