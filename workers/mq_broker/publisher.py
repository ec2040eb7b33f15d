"""Publisher: send each order until the broker has confirmed that it keeps it.

Reads one order a line from standard input, as JSON: {"id": its message id, "kind": "parcel" or
"digital", "body": the message}. Reports each confirmed id on standard output, and each line that is
no order or that the broker does not take, which costs the others nothing. Ends with exit code 0
when all are confirmed, 1 when some are not.

A message whose confirmation got lost with the connection is published again, under the same
message id: consumers must be idempotent, and they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from typing import TextIO, cast

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, NackError, UnroutableError
from program import Program, report
from topology import ORDERS, Hopeless, Link, arguments, declare

LONGEST = 255  # bytes of a message id and of a routing key, AMQP's own limit
TRIES = 2  # after so many channels that the broker closed because of a message, it is refused


@dataclass
class Message:
    """An order to send. line: of the input, from 1. attempts: so far."""

    line: int
    id: str
    kind: str
    body: bytes
    attempts: int = 0
    closed: int = 0


def read(number: int, line: str) -> Message:
    """The order in a line; ValueError says why there is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")
    parts: dict[str, bytes] = {}
    for name in ("id", "kind", "body"):
        if not (isinstance(found.get(name), str) and (found[name] or name == "body")):
            raise ValueError(f"{name}: missing or not text")
        try:
            parts[name] = found[name].encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name}: not Unicode") from None
        if name != "body" and len(parts[name]) > LONGEST:
            raise ValueError(f"{name}: longer than {LONGEST} bytes")
    return Message(number, found["id"], found["kind"], parts["body"])


class Publisher:
    """Publishes all of an input over as many connections as it takes. refused: how many lines."""

    def __init__(self, lines: TextIO) -> None:
        self.lines, self.refused = lines, 0

    def messages(self) -> Iterator[Message]:
        """The orders of the input; what is none is reported."""
        for number, line in enumerate(self.lines, 1):
            if line.strip():
                try:
                    yield read(number, line)
                except ValueError as error:
                    self.refused += 1
                    report(refused=None, line=number, reason=str(error))

    def publish(self, link: Link) -> None:
        """Publish until the input ends."""
        waiting = self.messages()
        message = next(waiting, None)
        for connection in link.connections():
            try:
                channel = connection.channel()
                declare(channel)
                channel.confirm_delivery()
                while message:
                    message.attempts += 1
                    result = send(channel, message)
                    self.refused += result != "confirmed"
                    report(**{result: message.id, "attempts": message.attempts})
                    link.progress()
                    message = next(waiting, None)
                return
            except ChannelClosedByBroker as error:  # because of this message, such as its size
                if message is None:
                    return
                message.closed += 1
                if message.closed == TRIES:
                    self.refused += 1
                    report(refused=message.id, line=message.line, reason=error.reply_text)
                    message = next(waiting, None)
            except AMQPError as error:
                if message is None:  # closed by the broker after the last confirmation
                    return
                report(state="lost", error=repr(error), unconfirmed=message.id)


def send(channel: BlockingChannel, message: Message) -> str:
    """Publish and wait for the broker's word: "confirmed", "unroutable" or "refused".

    Mandatory: without a queue for its kind a message would be confirmed, and gone.
    """
    try:
        channel.basic_publish(
            ORDERS,
            message.kind,
            message.body,
            pika.BasicProperties(
                message_id=message.id,
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


def main() -> int:
    """The exit code: whether a line was refused."""
    settings = arguments("Publish orders with confirms.").parse_args()
    lines = cast(TextIOWrapper, sys.stdin)
    # What is no UTF-8 is read as what cannot be written as such, and is refused with its line.
    lines.reconfigure(encoding="utf-8", errors="surrogateescape")
    publisher = Publisher(lines)
    publisher.publish(Link(Program(), settings))
    return int(publisher.refused > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Hopeless as problem:
        sys.exit(f"error: {problem}")
