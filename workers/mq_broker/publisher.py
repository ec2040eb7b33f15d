"""Publisher: send each order until the broker has confirmed that it keeps it.

Reads one order a line from standard input, as JSON: {"id": its message id, "kind": "parcel" or
"digital", "body": the message}. Reports each confirmed id on standard output. Ends with exit code
0 when all are confirmed, 1 when the broker has sent some back.

A message whose confirmation got lost with the connection is published again, under the same
message id: consumers must be idempotent, and they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, NackError, UnroutableError
from topology import ORDERS, CannotLogIn, arguments, channels, declare, report


def messages() -> Iterator[dict[str, Any]]:
    """The orders on standard input."""
    for line in sys.stdin:
        if line.strip():
            yield json.loads(line)


def send(channel: BlockingChannel, message: dict[str, Any]) -> str:
    """Publish and wait for the broker's word: "confirmed", "unroutable" or "refused".

    Mandatory: without a queue for its kind a message would be confirmed, and gone.
    """
    try:
        channel.basic_publish(
            ORDERS,
            message["kind"],
            message["body"].encode(),
            pika.BasicProperties(
                message_id=message["id"],
                content_type="application/json",
                delivery_mode=pika.DeliveryMode.Persistent,
            ),
            mandatory=True,
        )
    except UnroutableError:
        return "unroutable"
    except NackError:
        return "refused"
    return "confirmed"


def publish(settings: argparse.Namespace) -> int:
    """Publish all of standard input over as many connections as it takes; how many came back."""
    waiting, came_back = messages(), 0
    message, attempts = next(waiting, None), 0
    for channel in channels(settings):
        try:
            declare(channel)
            channel.confirm_delivery()
            while message:
                attempts += 1
                result = send(channel, message)
                report(**{result: message["id"], "attempts": attempts})
                came_back += result != "confirmed"
                message, attempts = next(waiting, None), 0
            channel.connection.close()
            return came_back
        except AMQPError as error:
            if message is None:  # closed by the broker after the last confirmation
                return came_back
            report(state="lost", error=repr(error), unconfirmed=message["id"])
    return came_back


if __name__ == "__main__":
    try:
        sys.exit(1 if publish(arguments("Publish orders with confirms.").parse_args()) else 0)
    except CannotLogIn as problem:
        sys.exit(f"error: {problem}")
