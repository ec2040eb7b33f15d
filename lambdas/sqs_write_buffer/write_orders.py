"""Write a batch of orders at this writer's share of the table's rate; the rest go back."""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from datetime import UTC, datetime

import boto3
from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes import SQSEvent, event_source
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

logger = Logger()
tracer = Tracer()
# One more attempt for a connection that breaks; waiting for the table is write()'s work.
dynamodb = boto3.client("dynamodb", config=Config(retries={"total_max_attempts": 2}))

SHARE = float(os.environ["WRITES_PER_SECOND"])  # of this writer, in write request units
LONGEST = 10_000  # characters of an order, twice what the largest takes
AT_ONCE = 25  # what one BatchWriteItem takes
PATIENCE = 3.0  # seconds for a batch; then the queue waits, which costs nothing
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0  # seconds, when the table refuses
# Only if it takes none of a call's items; otherwise the refused ones are in UnprocessedItems.
REFUSALS = {
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
}

Item = dict[str, dict[str, str]]  # a row as DynamoDB types it


class Line(BaseModel):
    """One line of an order."""

    model_config = ConfigDict(strict=True, extra="forbid")
    sku: str = Field(pattern=r"^[A-Za-z0-9-]{1,32}$")
    quantity: int = Field(ge=1, le=1000)


class Order(BaseModel):
    """What Api lets through, asked again: a queue has other entrances.

    Nothing that passes can make DynamoDB refuse a call (a key or an item too large): one item
    that it finds invalid would sink all 25.
    """

    model_config = ConfigDict(strict=True, extra="forbid")
    order_id: str = Field(pattern=r"^[A-Za-z0-9-]{1,64}$")
    customer: str = Field(pattern=r"^[A-Za-z0-9-]{1,64}$")
    items: list[Line] = Field(min_length=1, max_length=20)


class MalformedOrder(ValueError):
    """The message is not an order; the text says why, without the message itself."""


def parse_order(body: str) -> Order:
    """The order in a message's body; MalformedOrder says which field is missing or wrong."""
    if len(body) > LONGEST:  # before each wrong field of it becomes an error
        raise MalformedOrder(f"longer than {LONGEST} characters")
    try:
        return Order.model_validate_json(body)
    except ValidationError as error:
        # The name of a field that is not ours is the sender's: it stays out of the log.
        first = error.errors(include_input=False, include_url=False)[0]
        known = first["type"] != "extra_forbidden"
        where = ".".join(str(step) for step in first["loc"]) if known else ""
        raise MalformedOrder(f"{where}: {first['msg']}" if where else first["msg"]) from None


def row(order: Order, message_id: str) -> Item:
    """The row of an order, without the time at which it is written."""
    return {
        "order_id": {"S": order.order_id},
        "content": {"S": order.model_dump_json()},
        "message_id": {"S": message_id},
    }


def put(items: list[Item]) -> tuple[list[Item], float]:
    """Write at most 25 items of different keys; those that were refused, and the units used."""
    table, now = os.environ["WRITTEN_ORDERS"], {"written_at": {"S": datetime.now(UTC).isoformat()}}
    try:
        answer = dynamodb.batch_write_item(
            RequestItems={table: [{"PutRequest": {"Item": item | now}} for item in items]},
            ReturnConsumedCapacity="TOTAL",
        )
    except ClientError as error:
        if error.response["Error"]["Code"] in REFUSALS:
            return items, 0.0
        raise
    refused = [one["PutRequest"]["Item"] for one in answer["UnprocessedItems"].get(table, [])]
    return refused, sum(one["CapacityUnits"] for one in answer.get("ConsumedCapacity", []))


def write(items: list[Item], until: float) -> list[Item]:
    """Write items of different keys at the writer's share; those not written by `until`.

    After each call it sleeps for as long as the used units are worth, after a refusal for a
    random time that grows. `until` is a time.monotonic().
    """
    pause = FIRST_PAUSE
    while items and (began := time.monotonic()) < until:
        refused, units = put(items[:AT_ONCE])
        items = items[AT_ONCE:] + refused
        wait = units / SHARE - (time.monotonic() - began)
        if refused:
            wait = max(wait, random.uniform(0, pause))
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            pause = FIRST_PAUSE
        time.sleep(max(wait, 0))
    return items


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
@event_source(data_class=SQSEvent)
def handler(event: SQSEvent, context: LambdaContext) -> PartialItemFailureResponse:
    """Entry point: an SQS batch in, the ids of the messages out that must come back."""
    until = time.monotonic() + min(PATIENCE, context.get_remaining_time_in_millis() / 2000)
    rows: dict[str, Item] = {}  # by order id: a call with the same key twice is refused
    messages: dict[str, list[str]] = defaultdict(list)
    failed = []
    for record in event.records:
        try:
            order = parse_order(record.body)
        except MalformedOrder as error:
            logger.warning(
                "Rejected order",
                reason=str(error),
                message_id=record.message_id,
                receive_count=int(record.attributes.approximate_receive_count),
            )
            failed.append(record.message_id)
            continue
        rows[order.order_id] = row(order, record.message_id)
        messages[order.order_id].append(record.message_id)
    try:
        refused = write(list(rows.values()), until)
    except ClientError:
        sent_back = [message for several in messages.values() for message in several]
        logger.exception("Orders failed", message_ids=sent_back)
        raise
    left = [message for item in refused for message in messages[item["order_id"]["S"]]]
    if left:
        logger.warning("Left orders to the queue", message_ids=left)
    logger.info("Wrote orders", written=len(rows) - len(refused), rejected=len(failed))
    return {"batchItemFailures": [{"itemIdentifier": message} for message in failed + left]}
