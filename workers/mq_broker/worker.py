"""Worker: fulfil each order once; what cannot be fulfilled goes to the dead-letter queue.

Acknowledges after the row is written. An order that is malformed, or whose id belongs to another
order, is rejected for good, and so is one that has failed six times for a reason of its own. While
DynamoDB does not answer, the orders in hand wait for it, and no other is taken: giving them back
would use up their deliveries. Run as many as you like; SIGTERM ends one after the orders in hand.

The main thread does what the broker wants and nothing that could wait, some threads fulfil, and one
measures the dead-letter queue once a minute, because RabbitMQ 4 on Amazon MQ publishes no metric of
a single queue.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from heapq import heappop, heappush
from queue import Empty, SimpleQueue
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from program import TICK, Program, client, outage, report, said
from topology import DEAD, SHIPPING, Hopeless, Link, add_setting, arguments, declare

AT_ONCE = 4  # orders in work at the same time
PREFETCH = 2 * AT_ONCE  # more than one round trip's worth, few to give back
ATTEMPTS = 6  # at an order that fails for a reason of its own
LONGEST = (
    600.0  # seconds for which an order waits in hand; RabbitMQ wants its word within 30 minutes
)
LONGEST_ID = 64  # characters; DynamoDB has 2,048 bytes for a key
STOP_WITHIN = 60.0  # seconds for the orders in hand when told to stop


class MalformedOrder(ValueError):
    """The message is not an order; the text says why, without the message itself."""


class ConflictingOrder(ValueError):
    """Another order was already fulfilled under this order id."""


class Stale(Exception):
    """The connection that a message came by is gone: the message is delivered again."""


@dataclass
class Delivery:
    """A message in hand. failures: of the order's own, so far."""

    connection: pika.BlockingConnection
    channel: BlockingChannel
    tag: int
    message_id: str
    count: int
    body: bytes
    failures: int = 0

    def __lt__(self, other: Delivery) -> bool:
        """By age, in the heap of those that wait."""
        return self.tag < other.tag


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, unless a name is in it twice: readers differ in which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _no_constant(name: str) -> None:
    """NaN and Infinity, which Python reads, are not JSON."""
    raise ValueError(name)


def parse_order(body: bytes) -> dict[str, Any]:
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
    items = order.get("items")
    if not (isinstance(items, list) and items):
        raise MalformedOrder("items: missing or empty")
    for item in items:
        quantity = item.get("quantity") if isinstance(item, dict) else None
        if type(quantity) is not int or quantity < 1 or not isinstance(item.get("sku"), str):
            raise MalformedOrder("items: each has a sku and a quantity of at least 1")
    return order


def fulfil(dynamodb: Any, table: str, order: dict[str, Any], message_id: str) -> str:
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


class Worker(Program):
    """One consumer of the queue, until it is told to stop."""

    def __init__(self, settings: argparse.Namespace) -> None:
        super().__init__()
        self.settings, self.link, self.measured = settings, Link(self, settings), 0.0
        self.dynamodb = client("dynamodb", connections=AT_ONCE)
        self.todo: SimpleQueue[Delivery] = SimpleQueue()
        self.depths: SimpleQueue[int] = SimpleQueue()  # of the dead-letter queue, to be told
        # The main thread's own: what is in hand on the present channel, and of that the failed
        # orders that wait, (when to try again, delivery).
        self.channel: BlockingChannel | None = None
        self.hand: set[int] = set()
        self.later: list[tuple[float, Delivery]] = []

    def run(self) -> int:
        """Consume over as many connections as it takes; the exit code, 0 if told to stop."""
        for _ in range(AT_ONCE):
            self.start(self.work)
        self.start(self.measure)
        for connection in self.link.connections():
            try:
                self.consume(connection)
            except (AMQPError, OSError) as error:
                report(state="lost", error=repr(error))
        return int(self.failed)

    # ---- the main thread

    def consume(self, connection: pika.BlockingConnection) -> None:
        """Take orders on one connection; what is in hand when it goes is delivered again."""
        self.channel = channel = connection.channel()
        self.hand.clear()
        self.later.clear()
        declare(channel)
        channel.basic_qos(prefetch_count=PREFETCH)
        consumer = channel.basic_consume(SHIPPING, partial(self.take, connection))
        while not self.why:
            connection.process_data_events(time_limit=TICK)
            if not channel.consumer_tags:
                report(
                    state="cancelled"
                )  # by the broker: the queue was deleted, or its node is gone
                return
            self.try_again()
            if time.monotonic() - self.measured >= float(self.settings.measure_every):
                self.measured = time.monotonic()
                declared = channel.queue_declare(DEAD, passive=True)
                self.depths.put(declared.method.message_count or 0)
        channel.basic_cancel(consumer)
        end = time.monotonic() + STOP_WITHIN
        while len(self.hand) > len(self.later) and not self.failed and time.monotonic() < end:
            connection.process_data_events(time_limit=TICK)

    def take(
        self,
        connection: pika.BlockingConnection,
        channel: BlockingChannel,
        method: Any,
        properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        """A message has come."""
        returned = (properties.headers or {}).get("x-delivery-count")
        count = (returned if type(returned) is int else 0) + 1  # a publisher may say anything
        message_id = str(properties.message_id or "")
        self.hand.add(method.delivery_tag)
        self.todo.put(Delivery(connection, channel, method.delivery_tag, message_id, count, body))

    def try_again(self) -> None:
        """Have the failed orders worked on that have waited long enough."""
        while self.later and self.later[0][0] <= time.monotonic():
            self.todo.put(heappop(self.later)[1])

    def settle(self, delivery: Delivery, verdict: str) -> None:
        """Tell the broker what to do with a message."""
        if delivery.channel is not self.channel:
            return
        if verdict == "again":
            wait = float(self.settings.first_wait) * 2 ** (delivery.failures - 1)
            heappush(self.later, (time.monotonic() + wait, delivery))
            return
        self.hand.discard(delivery.tag)
        if verdict == "done":
            delivery.channel.basic_ack(delivery.tag)
        else:
            delivery.channel.basic_reject(delivery.tag, requeue=verdict == "give back")
        if verdict != "give back":
            self.link.progress()

    # ---- the other threads

    def work(self) -> None:
        """Fulfil orders one by one; when told to stop, those in hand."""
        while not self.why or not self.todo.empty():
            with suppress(Empty):
                delivery = self.todo.get(timeout=TICK)
                if delivery.channel is self.channel and (verdict := self.fulfil(delivery)):
                    with suppress(AMQPError):
                        settle = partial(self.settle, delivery, verdict)
                        delivery.connection.add_callback_threadsafe(settle)

    def fulfil(self, delivery: Delivery) -> str:
        """What is to become of an order: "done", "park", "again", "give back" or, if gone, ""."""
        known: dict[str, object] = {
            "message_id": delivery.message_id,
            "delivery": delivery.count,
            "attempt": delivery.failures + 1,
        }
        try:
            order = parse_order(delivery.body)
            known["order_id"] = order["order_id"]
            by = self.through_outages(partial(self.write, delivery, order), longest=LONGEST)
        except (MalformedOrder, ConflictingOrder) as error:
            report(outcome="rejected", reason=str(error), **known)
            return "park"
        except Stale:
            return ""
        except Exception as error:
            if outage(error):
                report(outcome="given back", reason=said(error), **known)
                return "give back"
            delivery.failures += 1
            report(outcome="failed", reason=said(error), **known)
            return "again" if delivery.failures < ATTEMPTS else "park"
        report(outcome="fulfilled" if by == delivery.message_id else "duplicate", by=by, **known)
        return "done"

    def write(self, delivery: Delivery, order: dict[str, Any]) -> str:
        """Write an order's row, unless its message is delivered again."""
        if delivery.channel is not self.channel:
            raise Stale
        return fulfil(self.dynamodb, self.settings.table, order, delivery.message_id)

    def measure(self) -> None:
        """Put the number of dead letters into CloudWatch."""
        cloudwatch = client("cloudwatch")
        while not self.why:
            with suppress(Empty):
                depth = self.depths.get(timeout=TICK)
                while not self.depths.empty():  # older ones waited for a call that hung
                    depth = self.depths.get()
                self.tell(cloudwatch, depth)

    def tell(self, cloudwatch: Any, depth: int) -> None:
        """Put one number into CloudWatch."""
        try:
            cloudwatch.put_metric_data(
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
    add_setting(parser, "--first-wait", "FIRST_WAIT", "seconds until a failed order is tried", "1")
    add_setting(parser, "--measure-every", "MEASURE_EVERY", "seconds between measurements", "60")
    worker = Worker(parser.parse_args())
    worker.stop_by_signal()
    try:
        sys.exit(worker.run())
    except Hopeless as problem:
        sys.exit(f"error: {problem}")
