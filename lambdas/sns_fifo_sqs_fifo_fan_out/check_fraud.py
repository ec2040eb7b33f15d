"""Check each order event once, each customer's in order; a failing event holds back the others."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any, Literal

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
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

logger = Logger()
tracer = Tracer()
dynamodb = boto3.client("dynamodb")

MAX_RECEIVE_COUNT = int(os.environ["MAX_RECEIVE_COUNT"])
REVIEW_ABOVE_CENTS = 100_000


class UntilLastReceive(SqsFifoPartialProcessor):
    """Stops a group at its first failure, but no longer once the failing event leaves it.

    To be received counts, tried or not: those behind a poison event in its batches would go
    to the dead-letter queue with it, untried. So at its last receive they get their turn.
    """

    def failure_handler(self, record: SQSRecord, exception: ExceptionInfo) -> FailureResponse:
        """Report the failed event; stop its group unless this was its last receive."""
        if int(record.attributes.approximate_receive_count) >= MAX_RECEIVE_COUNT:
            return BatchProcessor.failure_handler(self, record, exception)
        return super().failure_handler(record, exception)


processor = UntilLastReceive(skip_group_on_error=True)
# A batch of nothing but failures is a normal batch of failed records, not a failed invocation:
# the function's error metric stays free for crashes and timeouts.
processor.raise_on_entire_batch_failure = False


class OrderEvent(BaseModel, strict=True):
    """What Fraud reads of Buying's event; sequence numbers the events of one customer."""

    event_id: str = Field(min_length=1, max_length=64)
    customer: str = Field(min_length=1, max_length=64)
    sequence: int = Field(ge=1, le=10**15)
    order_id: str = Field(min_length=1, max_length=64)
    kind: Literal["placed", "changed", "cancelled"]
    total_cents: NonNegativeInt


class MalformedEvent(ValueError):
    """The message is not an order event; the text says why, without the message itself."""


class ConflictingEvent(ValueError):
    """Another event of this customer was already handled under this sequence."""


def parse_event(body: str) -> OrderEvent:
    """The event in a message's body; MalformedEvent says which field is missing or wrong."""
    try:
        return OrderEvent.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise MalformedEvent(f"{where}: {first['msg']}" if where else first["msg"]) from None


def verdict(event: OrderEvent) -> str:
    """Whether a person must look at the order before it may cost the shop money."""
    if event.kind == "cancelled":
        return "clear"
    return "review" if event.total_cents > REVIEW_ABOVE_CENTS else "clear"


def check(event: OrderEvent, message_id: str) -> str:
    """Write the row of this event once; returns the id of the message that wrote it.

    The row and the customer's position (row 0) change together or not at all. Whoever comes
    second gets the first one's id; ConflictingEvent if the row holds another event.
    """
    table, customer = os.environ["EFFECTS"], {"S": event.customer}
    latest = {"customer": customer, "sequence": {"N": "0"}}
    found = dynamodb.get_item(TableName=table, Key=latest, ConsistentRead=True)
    before = int(found.get("Item", {}).get("position", {"N": "0"})["N"])
    row = {
        "customer": customer,
        "sequence": {"N": str(event.sequence)},
        "position": {"N": str(before + 1)},
        "event_id": {"S": event.event_id},
        "order_id": {"S": event.order_id},
        "verdict": {"S": verdict(event)},
        "message_id": {"S": message_id},
        "checked_at": {"S": datetime.now(UTC).isoformat()},
    }
    try:
        dynamodb.transact_write_items(
            TransactItems=[
                {
                    "Put": {
                        "TableName": table,
                        "Item": row,
                        "ConditionExpression": "attribute_not_exists(customer)",
                        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                    }
                },
                {
                    "Update": {
                        "TableName": table,
                        "Key": latest,
                        "UpdateExpression": "SET #position = :next",
                        "ConditionExpression": "attribute_not_exists(#position) OR "
                        "#position = :before",
                        "ExpressionAttributeNames": {"#position": "position"},
                        "ExpressionAttributeValues": {
                            ":before": {"N": str(before)},
                            ":next": {"N": str(before + 1)},
                        },
                    }
                },
            ]
        )
    except dynamodb.exceptions.TransactionCanceledException as error:
        if earlier := error.response["CancellationReasons"][0].get("Item"):
            if earlier["event_id"]["S"] != event.event_id:
                raise ConflictingEvent("this sequence belongs to another event") from None
            return earlier["message_id"]["S"]
        raise  # somebody else writes for this customer at the same time: try again
    logger.info("Checked event", position=before + 1)
    return message_id


def handle_record(record: SQSRecord) -> None:
    """Check one message's event; what it raises makes this message and its group come back."""
    logger.append_keys(
        message_id=record.message_id,
        deduplication_id=record.attributes.message_deduplication_id,
        receive_count=int(record.attributes.approximate_receive_count),
    )
    try:
        event = parse_event(record.body)
        logger.append_keys(event_id=event.event_id)
        checked_by = check(event, record.message_id)
        if checked_by != record.message_id:
            logger.info("Dropped duplicate event", checked_by=checked_by)
    except MalformedEvent as error:
        logger.warning("Rejected event", reason=str(error))
        raise
    except Exception:
        logger.exception("Event failed")
        raise
    finally:
        logger.remove_keys(["message_id", "deduplication_id", "receive_count", "event_id"])


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Entry point: an SQS batch in, the ids of the failed messages out."""
    return process_partial_response(event, handle_record, processor, context)
