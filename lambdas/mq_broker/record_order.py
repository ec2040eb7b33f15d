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
from botocore.exceptions import ClientError
from pydantic import BaseModel, Field, ValidationError

logger = Logger()
tracer = Tracer()
dynamodb = boto3.client("dynamodb")

# Characters of Base64 kept of a message that is no order: DynamoDB takes rows of 400 KB.
KEPT = 256 * 1024


class Item(BaseModel):
    """One line of an order."""

    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(ge=1, le=1_000_000)


class Order(BaseModel):
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
        problem = f"{where}: {first['msg']}" if where else first["msg"]
        if len(data) > KEPT:
            size = len(base64.b64decode(data))
            problem += f" (the first {KEPT * 3 // 4} of {size} bytes are kept)"
        return {"data": data[:KEPT], "problem": problem}
    return {"order_id": order.order_id, "content": order.model_dump_json()}


def digest(data: str) -> str:
    """An id for a message whose publisher gave it none: the same for the same content."""
    return f"sha256-{hashlib.sha256(data.encode()).hexdigest()}"


def record(message: dict[str, Any]) -> None:
    """Write one message's row, unless an earlier delivery of it did."""
    message_id = message["basicProperties"]["messageId"] or digest(message["data"])
    kept = as_record(message["data"]) | {"recorded_at": datetime.now(UTC).isoformat()}
    known = {key: kept[key] for key in ("order_id", "problem") if key in kept}
    known["message_id"] = message_id
    try:
        dynamodb.put_item(
            TableName=os.environ["ORDER_RECORDS"],
            Item={"message_id": {"S": message_id}} | {key: {"S": kept[key]} for key in kept},
            ConditionExpression="attribute_not_exists(message_id)",
        )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        logger.info("Dropped duplicate message", extra=known)
    else:
        logger.info("Recorded message", extra=known)


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
            except ClientError as problem:
                logger.exception("Message not recorded")
                problems.append(problem)
    if problems:
        raise problems[0]
