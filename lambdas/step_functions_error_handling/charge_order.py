"""Charge the card of one order, once; the classes raised are what the workflow decides by."""

from __future__ import annotations

import hashlib
import os
import time
from datetime import UTC, datetime
from typing import Any, Protocol

import boto3
from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, Field, ValidationError

logger = Logger()
tracer = Tracer()
dynamodb = boto3.client("dynamodb")


class PaymentServiceUnavailable(Exception):
    """The payment service did not answer in its right mind: worth another attempt."""


class CardDeclined(Exception):
    """The bank has said no, and will say it again."""


class MalformedOrder(ValueError):
    """The input is not an order; the text says why, without the input itself."""


class ConflictingOrder(ValueError):
    """Another order was already charged, or tried, under this order id."""


class Order(BaseModel, strict=True):
    """What Buying starts the workflow with."""

    order_id: str = Field(min_length=1, max_length=64)
    customer: str = Field(min_length=1, max_length=64)
    card: str = Field(min_length=1, max_length=64)  # the payment provider's token, never a number
    amount_cents: int = Field(ge=1, le=10**12)


class PaymentProvider(Protocol):
    """What ChargeOrder needs of a payment provider."""

    def charge(self, card: str, amount_cents: int, idempotency_key: str) -> str:
        """Take the money and return the charge's id; the same key is charged once."""
        ...


class DemoPayments:
    """A provider without money, which answers by test cards as real providers' test modes do.

    card-ok: charged. card-declined, or any unknown card: declined. card-unavailable-N: the
    service is unavailable for the first N attempts. card-hangs: no answer, ever.
    """

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt

    def charge(self, card: str, amount_cents: int, idempotency_key: str) -> str:
        """The same charge id for the same key, however often it is asked for."""
        answer = answer_to(card, self.attempt)
        if answer == "hangs":
            while True:
                time.sleep(60)
        if answer == "unavailable":
            raise PaymentServiceUnavailable("the payment service is down for maintenance")
        if answer == "declined":
            raise CardDeclined(f"the bank declined {amount_cents / 100:.2f}")
        return "ch-" + hashlib.sha256(idempotency_key.encode()).hexdigest()[:16]


def answer_to(card: str, attempt: int) -> str:
    """What a test card makes of an attempt: "charged", "declined", "unavailable" or "hangs"."""
    kind, _, times = card.rpartition("-")
    if kind == "card-unavailable" and times.isdecimal():
        return "unavailable" if attempt <= int(times) else "charged"
    return {"card-ok": "charged", "card-hangs": "hangs"}.get(card, "declined")


def parse_order(event: object) -> Order:
    """The order in the workflow's input; MalformedOrder says which field is missing or wrong."""
    try:
        return Order.model_validate(event)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise MalformedOrder(f"{where}: {first['msg']}" if where else first["msg"]) from None


def begin(order: Order) -> dict[str, Any]:
    """Count this attempt in the order's row and return the row.

    ConflictingOrder if the row belongs to an order with other content.
    """
    try:
        return dynamodb.update_item(
            TableName=os.environ["CHARGES"],
            Key={"order_id": {"S": order.order_id}},
            UpdateExpression="SET content = :content, amount_cents = :amount ADD attempts :one",
            ConditionExpression="attribute_not_exists(order_id) OR content = :content",
            ExpressionAttributeValues={
                # A fingerprint, so that the table holds no card.
                ":content": {"S": hashlib.sha256(order.model_dump_json().encode()).hexdigest()},
                ":amount": {"N": str(order.amount_cents)},
                ":one": {"N": "1"},
            },
            ReturnValues="ALL_NEW",
        )["Attributes"]
    except dynamodb.exceptions.ConditionalCheckFailedException:
        raise ConflictingOrder("this order id belongs to an order with other content") from None


def record(order: Order, charge_id: str) -> bool:
    """Write the charge into the order's row; False if another attempt has written it before."""
    try:
        dynamodb.update_item(
            TableName=os.environ["CHARGES"],
            Key={"order_id": {"S": order.order_id}},
            UpdateExpression="SET charge_id = :charge, charged_at = :now",
            ConditionExpression="attribute_not_exists(charge_id)",
            ExpressionAttributeValues={
                ":charge": {"S": charge_id},
                ":now": {"S": datetime.now(UTC).isoformat()},
            },
        )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return False
    return True


def charge(order: Order) -> str:
    """Charge this order unless that is done already; returns the charge's id."""
    row = begin(order)
    attempt = int(row["attempts"]["N"])
    logger.append_keys(attempt=attempt)
    if "charge_id" in row:
        logger.info("Order was charged before")
        return row["charge_id"]["S"]
    provider: PaymentProvider = DemoPayments(attempt)  # your provider's client goes here
    # The order id is the provider's idempotency key: an attempt that is cut off between the
    # charge and its record does no harm.
    charge_id = provider.charge(order.card, order.amount_cents, idempotency_key=order.order_id)
    logger.info("Charged order" if record(order, charge_id) else "Order was charged before")
    return charge_id


@logger.inject_lambda_context(clear_state=True)
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, str]:
    """Entry point: an order in, its charge out; what it raises is the task's error."""
    try:
        order = parse_order(event)
        logger.append_keys(order_id=order.order_id)
        return {"order_id": order.order_id, "charge_id": charge(order)}
    except (MalformedOrder, ConflictingOrder, CardDeclined, PaymentServiceUnavailable) as error:
        logger.warning("Order not charged", error=type(error).__name__, reason=str(error))
        raise
    except Exception:
        logger.exception("Order failed")
        raise
