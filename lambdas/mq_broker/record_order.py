"""Record each message of a RabbitMQ batch once, whether it can be read or not."""

from __future__ import annotations

import base64
import hashlib
import os
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, Field, ValidationError

logger = Logger()
tracer = Tracer()
dynamodb = boto3.client("dynamodb")

# Characters of Base64 kept of a message that is no order: DynamoDB takes rows of 400 KB.
KEPT = 256 * 1024


class Item(BaseModel, strict=True):
    """One line of an order."""

    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(ge=1, le=1_000_000)


class Order(BaseModel, strict=True):
    """What Buying sends."""

    order_id: str = Field(min_length=1, max_length=64)
    customer: str = Field(min_length=1, max_length=64)
    items: list[Item] = Field(min_length=1, max_length=100)


def as_record(data: str) -> dict[str, str]:
    """What to keep of a message: its order, or the problem with it; `data` is in Base64.

    No message makes the batch fail: the whole of it would come back, and after the delivery limit
    the good orders beside a poison one would be dead letters, too.
    """
    try:
        order = Order.model_validate_json(base64.b64decode(data))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        return unread(data, f"{where}: {first['msg']}" if where else first["msg"])
    return {"order_id": order.order_id, "content": order.model_dump_json()}


def unread(data: str, problem: str) -> dict[str, str]:
    """What to keep of a message that is not to be read: itself, and why."""
    if len(data) > KEPT:
        size = len(base64.b64decode(data))
        problem += f" (the first {KEPT * 3 // 4} of {size} bytes are kept)"
    return {"data": data[:KEPT], "problem": problem}


def digest(data: str) -> str:
    """An id for a message whose publisher gave it none: the same for the same content."""
    return f"sha256-{hashlib.sha256(data.encode()).hexdigest()}"


def record(message: dict[str, Any]) -> None:
    """Write one message's row, unless an earlier delivery of it did.

    Another message under an id that was used before is kept under an id of its own.
    """
    data = message["data"]
    message_id, kept = message["basicProperties"].get("messageId"), as_record(data)
    if message_id and (earlier := write(message_id, kept)):
        if all(earlier.get(key) == {"S": value} for key, value in kept.items()):
            logger.info("Dropped duplicate message", extra={"message_id": message_id})
            return
        kept = unread(data, f"message id {message_id} belongs to another message")
        message_id = None
    if not message_id and write(digest(data), kept):
        logger.info("Dropped duplicate message", extra={"message_id": digest(data)})


def write(message_id: str, kept: dict[str, str]) -> dict[str, Any] | None:
    """Write a row; the one that is there already, if there is one."""
    row = {"message_id": message_id, **kept, "recorded_at": datetime.now(UTC).isoformat()}
    try:
        dynamodb.put_item(
            TableName=os.environ["ORDER_RECORDS"],
            Item={key: {"S": value} for key, value in row.items()},
            ConditionExpression="attribute_not_exists(message_id)",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    except dynamodb.exceptions.ConditionalCheckFailedException as error:
        return error.response["Item"]
    known = {key: row[key] for key in ("message_id", "order_id", "problem") if key in row}
    logger.info("Recorded message", extra=known)
    return None


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], _context: LambdaContext) -> None:
    """Entry point: a batch of one queue's messages; an exception brings all of it back.

    Not before each message was tried: one that cannot be written costs no other its row.
    """
    problems = []
    for messages in event["rmqMessagesByQueue"].values():
        for message in messages:
            try:
                record(message)
            except Exception as problem:
                logger.exception("Message not recorded")
                problems.append(problem)
    if problems:
        raise problems[0]
