"""Fulfil each order of a batch once; report the ones that failed, so that only those come back."""

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
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, Field, ValidationError

logger = Logger()
tracer = Tracer()
dynamodb = boto3.client("dynamodb")

# A batch of nothing but poison is a normal batch of failed records, not a failed invocation:
# the function's error metric stays free for crashes and timeouts.
processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)

# The records save repeated work for an hour; the condition on the row holds for ever.
idempotency = IdempotencyConfig(
    event_key_jmespath="order_id",
    payload_validation_jmespath="[customer, items]",
    raise_on_no_idempotency_key=True,
    expires_after_seconds=3600,
)
records = DynamoDBPersistenceLayer(
    table_name=os.environ["IDEMPOTENCY_RECORDS"], boto3_client=dynamodb
)


class Item(BaseModel, strict=True):
    """One line of an order."""

    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(ge=1, le=1_000_000)


class Order(BaseModel, strict=True):
    """What Buying sends."""

    order_id: str = Field(min_length=1, max_length=64)
    customer: str = Field(min_length=1, max_length=64)
    items: list[Item] = Field(min_length=1, max_length=100)


class MalformedOrder(ValueError):
    """The message is not an order; the text says why, without the message itself."""


class ConflictingOrder(ValueError):
    """Another order was already fulfilled under this order id."""


def parse_order(body: str) -> Order:
    """The order in a message's body; MalformedOrder says which field is the first that is wrong."""
    try:
        return Order.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise MalformedOrder(f"{where}: {first['msg']}" if where else first["msg"]) from None


@idempotent_function(data_keyword_argument="order", config=idempotency, persistence_store=records)
def fulfil(*, order: dict[str, Any], message_id: str) -> str:
    """Write the row of this order once; returns the id of the message that wrote it.

    The second writer, even after the idempotency record has expired or been lost, gets the
    first one's id; ConflictingOrder if the row holds a different order.
    """
    content = Order.model_validate(order).model_dump_json()
    try:
        dynamodb.put_item(
            TableName=os.environ["FULFILLED_ORDERS"],
            Item={
                "order_id": {"S": order["order_id"]},
                "content": {"S": content},
                "message_id": {"S": message_id},
                "fulfilled_at": {"S": datetime.now(UTC).isoformat()},
            },
            ConditionExpression="attribute_not_exists(order_id)",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    except dynamodb.exceptions.ConditionalCheckFailedException as error:
        row = error.response["Item"]
        if row["content"]["S"] != content:
            raise ConflictingOrder("this order id belongs to an order with other content") from None
        return row["message_id"]["S"]
    logger.info("Fulfilled order")
    return message_id


def fulfil_record(record: SQSRecord) -> None:
    """Fulfil one message's order; what it raises makes only this message come back."""
    logger.append_keys(
        message_id=record.message_id,
        receive_count=int(record.attributes.approximate_receive_count),
    )
    try:
        order = parse_order(record.body)
        logger.append_keys(order_id=order.order_id)
        fulfilled_by = fulfil(order=order.model_dump(), message_id=record.message_id)
        if fulfilled_by != record.message_id:
            logger.info("Dropped duplicate order", fulfilled_by=fulfilled_by)
    except MalformedOrder as error:
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
    idempotency.register_lambda_context(context)
    return process_partial_response(event, fulfil_record, processor, context)
