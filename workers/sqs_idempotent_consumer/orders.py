"""What is done with one order, and when it is done: decisions without a queue.

Needs Python 3.9 or newer, Amazon Linux 2023's own, and boto3 1.28 or newer.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

LONGEST_PACKING = 300  # seconds; the unit and the group wait longer when they stop a worker
# DynamoDB's own limits are 2,048 bytes of a key and 400 KB of a row, names included.
LONGEST_ID, LARGEST_ORDER = 64, 350_000  # characters, bytes


class MalformedOrder(ValueError):
    """The message is not an order; the text says why, without the message itself."""


class ConflictingOrder(ValueError):
    """Another order was already fulfilled under this order id."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, unless a name is in it twice: readers differ in which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _no_constant(name: str) -> None:
    """NaN and Infinity, which Python reads, are not JSON."""
    raise ValueError(name)


def parse_order(body: str) -> dict[str, Any]:
    """The order in a message's body; MalformedOrder says what is missing or wrong."""
    try:
        order = json.loads(body, object_pairs_hook=_object, parse_constant=_no_constant)
        json.dumps(order, ensure_ascii=False).encode()  # text that no database can hold
    except (ValueError, RecursionError):
        raise MalformedOrder("not JSON") from None
    if not isinstance(order, dict):
        raise MalformedOrder("not an object")
    for field in ("order_id", "customer"):
        if not (isinstance(order.get(field), str) and order[field]):
            raise MalformedOrder(f"{field}: missing or not text")
    if len(order["order_id"]) > LONGEST_ID:
        raise MalformedOrder(f"order_id: longer than {LONGEST_ID} characters")
    if len(json.dumps(order)) > LARGEST_ORDER:  # as its row holds it
        raise MalformedOrder(f"larger than {LARGEST_ORDER} bytes")
    items = order.get("items")
    if not (isinstance(items, list) and items):
        raise MalformedOrder("items: missing or empty")
    for item in items:
        quantity = item.get("quantity") if isinstance(item, dict) else None
        if type(quantity) is not int or quantity < 1 or not isinstance(item.get("sku"), str):
            raise MalformedOrder("items: each has a sku and a quantity of at least 1")
    seconds = order.get("packing_seconds", 0)
    if type(seconds) not in (int, float) or not (math.isfinite(seconds) and seconds >= 0):
        raise MalformedOrder("packing_seconds: not a number from 0")
    if seconds > LONGEST_PACKING:
        raise MalformedOrder(f"packing_seconds: more than {LONGEST_PACKING}")
    return order


def pack(order: dict[str, Any]) -> None:
    """Stands for your own work, and takes as long as the order says.

    It may happen twice, so it must be harmless: what has an effect elsewhere (a charge, a mail)
    takes the order's id as its idempotency key, or follows from the row, by the table's stream.
    """
    time.sleep(order.get("packing_seconds", 0))


def commit(dynamodb: Any, table: str, order: dict[str, Any], message_id: str) -> str:
    """Write the order's row once; returns the id of the message that wrote it.

    ConflictingOrder if the row holds a different order.
    """
    content = json.dumps(order, sort_keys=True)
    try:
        dynamodb.put_item(
            TableName=table,
            Item={
                "order_id": {"S": order["order_id"]},
                "content": {"S": content},
                "message_id": {"S": message_id},
                "fulfilled_at": {"S": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
            },
            ConditionExpression="attribute_not_exists(order_id)",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    except dynamodb.exceptions.ConditionalCheckFailedException as error:
        row = error.response["Item"]
        if row["content"]["S"] != content:
            raise ConflictingOrder("this order id belongs to another order") from None
        return row["message_id"]["S"]
    return message_id
