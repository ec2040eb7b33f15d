"""Apply each change of an order once and in sequence; one that fails holds back its order only."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    ExceptionInfo,
    FailureResponse,
    SqsFifoPartialProcessor,
    process_partial_response,
)
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, Field, ValidationError

logger = Logger()
tracer = Tracer()
dynamodb = boto3.client("dynamodb")

MAX_RECEIVE_COUNT = int(os.environ["MAX_RECEIVE_COUNT"])
STOP_AT_GAPS = os.environ["STOP_AT_GAPS"] == "true"


class HoldUntilLastReceive(SqsFifoPartialProcessor):
    """Holds a group at its first failure, but no longer once the failing message leaves it.

    SQS counts receives, not attempts: messages held behind a poison one in its batches have been
    received as often as it, and would be parked with it without ever being tried. So at its last
    receive, after which it is parked, they get their turn.
    """

    def failure_handler(self, record: SQSRecord, exception: ExceptionInfo) -> FailureResponse:
        """Report the failed message; hold its group unless this was its last receive."""
        if int(record.attributes.approximate_receive_count) >= MAX_RECEIVE_COUNT:
            return BatchProcessor.failure_handler(self, record, exception)
        return super().failure_handler(record, exception)


# Without skip_group_on_error the first failure would hold back every order of the batch.
processor = HoldUntilLastReceive(skip_group_on_error=True)
# A batch of nothing but failures is a normal batch of failed records, not a failed invocation:
# the function's error metric stays free for crashes and timeouts.
processor.raise_on_entire_batch_failure = False


class Item(BaseModel, strict=True):
    """One line of an order."""

    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(ge=1, le=1_000_000)


class OrderChange(BaseModel, strict=True):
    """What Buying sends: an order as it is from this revision on; revisions count from 1."""

    order_id: str = Field(min_length=1, max_length=64)
    revision: int = Field(ge=1, le=1000)  # a row lists them all, and holds 400 KB
    address: str = Field(min_length=1, max_length=200)
    items: list[Item] = Field(min_length=1, max_length=100)


class RefusedChange(ValueError):
    """A change that must not be applied; the text says why, without the message itself."""


class MalformedChange(RefusedChange):
    """The message is not a change of the order that its group is for."""


class ConflictingChange(RefusedChange):
    """Another change was already applied as this revision."""


class OvertakenChange(RefusedChange):
    """A later revision was applied while this one was parked: it would undo that."""


class EarlyChange(RefusedChange):
    """The revision before this one has not been applied, and gaps are not allowed."""


def parse_change(body: str, group: str) -> OrderChange:
    """The change in a message's body; MalformedChange says which field is missing or wrong.

    SQS keeps the order within a group, so a change under another group than its order's has none.
    """
    try:
        change = OrderChange.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise MalformedChange(f"{where}: {first['msg']}" if where else first["msg"]) from None
    if change.order_id != group:
        raise MalformedChange("order_id: is not the message's group")
    return change


def applied_by(change: OrderChange, digest: str, row: dict[str, Any]) -> str:
    """The id of the message that applied this revision before, by the order's row in DynamoDB.

    If none did, a RefusedChange says why the revision cannot be applied to this row.
    """
    for earlier in (one["M"] for one in row.get("applied", {"L": []})["L"]):
        if int(earlier["revision"]["N"]) == change.revision:
            if earlier["digest"]["S"] != digest:
                raise ConflictingChange("this revision was applied with other content")
            return earlier["message_id"]["S"]
    latest = int(row.get("revision", {"N": "0"})["N"])
    if change.revision < latest:
        raise OvertakenChange(f"revision {latest} has already been applied")
    raise EarlyChange(f"revision {latest + 1} has not been applied")


def apply(change: OrderChange, message_id: str) -> str:
    """Write this revision over the order's row once; returns the id of the message that did.

    Content, revision and the list of what was applied change together or not at all. RefusedChange
    if the row has gone past this revision or, where gaps are not allowed, has not come to it.
    """
    content = change.model_dump_json()
    digest = sha256(content.encode()).hexdigest()
    revision = {"N": str(change.revision)}
    values: dict[str, Any] = {
        ":content": {"S": content},
        ":revision": revision,
        ":none": {"L": []},
        ":this": {
            "L": [
                {
                    "M": {
                        "revision": revision,
                        "message_id": {"S": message_id},
                        "digest": {"S": digest},
                        "applied_at": {"S": datetime.now(UTC).isoformat()},
                    }
                }
            ]
        },
    }
    condition = "attribute_not_exists(revision)"
    if not STOP_AT_GAPS:
        condition += " OR revision < :revision"
    elif change.revision > 1:
        condition, values[":before"] = "revision = :before", {"N": str(change.revision - 1)}
    try:
        before = dynamodb.update_item(
            TableName=os.environ["CHANGED_ORDERS"],
            Key={"order_id": {"S": change.order_id}},
            UpdateExpression="SET content = :content, revision = :revision,"
            " applied = list_append(if_not_exists(applied, :none), :this)",
            ConditionExpression=condition,
            ExpressionAttributeValues=values,
            ReturnValues="UPDATED_OLD",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        ).get("Attributes", {})
    except dynamodb.exceptions.ConditionalCheckFailedException as error:
        return applied_by(change, digest, error.response.get("Item", {}))
    latest = int(before.get("revision", {"N": "0"})["N"])
    logger.info("Applied change", missing=list(range(latest + 1, change.revision)))
    return message_id


def handle_record(record: SQSRecord) -> None:
    """Apply one message's change; what it raises makes this message and its group come back."""
    attributes = record.attributes
    logger.append_keys(
        message_id=record.message_id,
        group=attributes.message_group_id,
        receive_count=int(attributes.approximate_receive_count),
    )
    try:
        change = parse_change(record.body, attributes.message_group_id or "")
        logger.append_keys(revision=change.revision)
        earlier = apply(change, record.message_id)
        if earlier != record.message_id:
            logger.info("Dropped duplicate change", applied_by=earlier)
    except RefusedChange as error:
        logger.warning("Refused change", kind=type(error).__name__, reason=str(error))
        raise
    except Exception:
        logger.exception("Change failed")
        raise
    finally:
        logger.remove_keys(["message_id", "group", "receive_count", "revision"])


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Entry point: an SQS batch in, the ids of the failed messages out."""
    return process_partial_response(event, handle_record, processor, context)
