"""Worker: fulfil each order once; what cannot be fulfilled goes to the dead-letter queue.

Acknowledges after the row is written. An order that is malformed, or whose id belongs to another
order, is rejected for good; any other failure puts it back until the queue's delivery limit. Run
as many as you like; SIGTERM ends one after the order in hand.

Once a minute it also measures the dead-letter queue, because RabbitMQ 4 on Amazon MQ publishes no
metric of a single queue.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from heapq import heappop, heappush
from typing import Any

import boto3
import pika
from botocore.config import Config
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from topology import DEAD, SHIPPING, CannotLogIn, add_setting, arguments, channels, declare, report

PREFETCH = 50  # orders in hand of one Worker; more than one round trip's worth, few to redeliver
client = cache(lambda service: boto3.client(service, config=Config(retries={"mode": "standard"})))


class MalformedOrder(ValueError):
    """The message is not an order; the text says why, without the message itself."""


class ConflictingOrder(ValueError):
    """Another order was already fulfilled under this order id."""


def parse_order(body: bytes) -> dict[str, Any]:
    """The order in a message's body; MalformedOrder says what is missing or wrong."""
    try:
        order = json.loads(body)
    except ValueError:
        raise MalformedOrder("not JSON") from None
    if not isinstance(order, dict):
        raise MalformedOrder("not an object")
    for field in ("order_id", "customer"):
        if not (isinstance(order.get(field), str) and order[field]):
            raise MalformedOrder(f"{field}: missing or not text")
    items = order.get("items")
    if not (isinstance(items, list) and items):
        raise MalformedOrder("items: missing or empty")
    for item in items:
        quantity = item.get("quantity") if isinstance(item, dict) else None
        if type(quantity) is not int or quantity < 1 or not isinstance(item.get("sku"), str):
            raise MalformedOrder("items: each has a sku and a quantity of at least 1")
    return order


def fulfil(table: str, order: dict[str, Any], message_id: str) -> str:
    """Write the order's row once; returns the id of the message that wrote it.

    ConflictingOrder if the row holds a different order.
    """
    content, dynamodb = json.dumps(order, sort_keys=True), client("dynamodb")
    try:
        dynamodb.put_item(
            TableName=table,
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
            raise ConflictingOrder("this order id belongs to another order") from None
        return row["message_id"]["S"]
    return message_id


def deliveries(channel: BlockingChannel) -> Iterator[tuple[Any, Any, Any]]:
    """(delivery, properties, body) of each message; or three times None."""
    yield from channel.consume(SHIPPING, inactivity_timeout=0.2)


class Worker:
    """One consumer of the queue, until it is told to stop."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings, self.stopping, self.measured = settings, False, 0.0
        self.held: list[tuple[float, int]] = []  # failed orders: (when to put back, delivery tag)
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, *_: object) -> None:
        """Finish the order in hand, then end."""
        self.stopping = True

    def run(self) -> None:
        """Consume over as many connections as it takes."""
        for channel in channels(self.settings):
            try:
                self.consume(channel)
            except AMQPError as error:
                report(state="lost", error=repr(error))
            if self.stopping:
                return

    def consume(self, channel: BlockingChannel) -> None:
        """Work on one channel; what is in hand when it goes is delivered again."""
        declare(channel)
        self.held.clear()  # the broker delivers them again by itself
        channel.basic_qos(prefetch_count=PREFETCH)
        for method, properties, body in deliveries(channel):
            if method:
                self.work(channel, method, properties, body)
            self.put_back(channel)
            if time.monotonic() - self.measured >= float(self.settings.measure_every):
                self.measure(channel)
            if self.stopping:
                channel.cancel()  # gives back what was fetched and not begun
                channel.connection.close()
                return

    def work(
        self,
        channel: BlockingChannel,
        method: Any,
        properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        """Fulfil one order and tell the broker what to do with its message.

        An order that failed is put back after a wait that doubles: a failure of DynamoDB for less
        than a minute parks nothing. By basic.reject and not basic.nack: from RabbitMQ 4.3 on only
        a reject counts as a failed delivery.
        """
        tag, message_id = method.delivery_tag, str(properties.message_id or "")
        delivery = (properties.headers or {}).get("x-delivery-count", 0) + 1
        known: dict[str, object] = {"message_id": message_id, "delivery": delivery}
        try:
            order = parse_order(body)
            known["order_id"] = order["order_id"]
            by = fulfil(self.settings.table, order, message_id)
        except (MalformedOrder, ConflictingOrder) as error:
            report(outcome="rejected", reason=str(error), **known)
            channel.basic_reject(tag, requeue=False)
        except Exception as error:
            report(outcome="failed", reason=f"{type(error).__name__}: {error}"[:200], **known)
            wait = float(self.settings.first_wait) * 2 ** (delivery - 1)
            heappush(self.held, (time.monotonic() + wait, tag))
        else:
            report(outcome="fulfilled" if by == message_id else "duplicate", by=by, **known)
            channel.basic_ack(tag)

    def put_back(self, channel: BlockingChannel) -> None:
        """Return the failed orders that have waited long enough."""
        while self.held and self.held[0][0] <= time.monotonic():
            channel.basic_reject(heappop(self.held)[1], requeue=True)

    def measure(self, channel: BlockingChannel) -> None:
        """Put the number of dead letters into CloudWatch."""
        self.measured = time.monotonic()
        depth = channel.queue_declare(DEAD, passive=True).method.message_count
        try:
            client("cloudwatch").put_metric_data(
                Namespace=self.settings.broker,
                MetricData=[
                    {
                        "MetricName": "DeadOrders",
                        "Dimensions": [{"Name": "Queue", "Value": DEAD}],
                        "Value": depth,
                        "Unit": "Count",
                    }
                ],
            )
        except Exception as error:  # orders are worth more than their metric
            report(state="not measured", error=repr(error))
        else:
            report(state="measured", dead=depth)


if __name__ == "__main__":
    parser = arguments("Fulfil orders until SIGTERM.")
    add_setting(parser, "--table", "FULFILLED_ORDERS", "DynamoDB table of fulfilled orders")
    add_setting(parser, "--broker", "BROKER_NAME", "namespace of the metric DeadOrders")
    add_setting(parser, "--first-wait", "FIRST_WAIT", "seconds until a failed order is back", "1")
    add_setting(parser, "--measure-every", "MEASURE_EVERY", "seconds between measurements", "60")
    try:
        Worker(parser.parse_args()).run()
    except CannotLogIn as problem:
        sys.exit(f"error: {problem}")
