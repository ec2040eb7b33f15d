"""Fulfil each order of a batch once; an order of a kind that this release does not know fails."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    process_partial_response,
)
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, Field, ValidationError

logger = Logger()
tracer = Tracer()
dynamodb = boto3.client("dynamodb")

# A batch of nothing but unknown orders is a normal batch of failed records, not a failed
# invocation: the function's error metric stays free for crashes and timeouts.
processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)

# What the first release shipped with. The second learned gift orders; see the stack's option.
KINDS = {"standard"} | ({"gift"} if os.environ["ACCEPT_GIFT_ORDERS"] == "true" else set())


class Order(BaseModel, strict=True):
    """What Buying sends."""

    order_id: str = Field(min_length=1, max_length=64)
    customer: str = Field(min_length=1, max_length=64)
    kind: str = Field(min_length=1, max_length=32)


class Rejected(ValueError):
    """The order cannot be fulfilled; the text says why, without the message itself."""


def parse_order(body: str, kinds: set[str]) -> Order:
    """The order in a message's body; Rejected if it is none, or none of these kinds."""
    try:
        order = Order.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        fields = sorted({str(problem["loc"][0]) if problem["loc"] else "" for problem in problems})
        raise Rejected(f"missing or wrong: {', '.join(filter(None, fields)) or 'all'}") from None
    if order.kind not in kinds:
        raise Rejected(f"kind: this release knows {', '.join(sorted(kinds))} orders only")
    return order


def fulfil(order: Order, message_id: str) -> bool:
    """Write the row of this order; False if it was there already.

    A redrive delivers at least once, and as a new message: only the order's own id can tell.
    """
    content = order.model_dump_json()
    try:
        dynamodb.put_item(
            TableName=os.environ["FULFILLED_ORDERS"],
            Item={
                "order_id": {"S": order.order_id},
                "content": {"S": content},
                "message_id": {"S": message_id},
                "fulfilled_at": {"S": datetime.now(UTC).isoformat()},
            },
            ConditionExpression="attribute_not_exists(order_id)",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    except dynamodb.exceptions.ConditionalCheckFailedException as error:
        if error.response["Item"]["content"]["S"] != content:
            raise Rejected("order_id: belongs to an order with other content") from None
        return False
    return True


def fulfil_record(record: SQSRecord) -> None:
    """Fulfil one message's order; what it raises makes only this message come back."""
    logger.append_keys(
        message_id=record.message_id,
        receive_count=int(record.attributes.approximate_receive_count),
    )
    try:
        order = parse_order(record.body, KINDS)
        logger.append_keys(order_id=order.order_id)
        if fulfil(order, record.message_id):
            logger.info("Fulfilled order")
        else:
            logger.info("Dropped duplicate order")
    except Rejected as error:
        logger.warning("Rejected order", reason=str(error))
        raise
    except Exception:
        logger.exception("Order failed")
        raise
    finally:
        logger.remove_keys(["message_id", "receive_count", "order_id"])


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Entry point: an SQS batch in, the ids of the failed messages out."""
    return process_partial_response(event, fulfil_record, processor, context)
