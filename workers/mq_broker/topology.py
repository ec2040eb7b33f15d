"""What Publisher and Worker share: how they reach the broker, and what they declare on it.

Run it by itself to declare the queues, before RecordOrder's mapping is enabled:

    python topology.py --url amqps://b-....on.aws:5671 --secret arn:aws:secretsmanager:...

Needs pika, boto3 and program.py. Every setting is an argument or, better in a unit file, an
environment variable; the password is neither, but comes from Secrets Manager or from a file.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import ssl
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pika
from botocore.exceptions import BotoCoreError, ClientError
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import (
    AMQPError,
    ChannelClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)
from program import Program, client, outage, report, said, waits

ORDERS, DEAD_ORDERS = "orders", "orders.dead"  # exchanges
SHIPPING, ANALYTICS, DEAD = "orders.shipping", "orders.analytics", "orders.dead"  # queues
ROUTES = {"parcel": SHIPPING, "digital": ANALYTICS}  # an order's kind is its routing key
# Only against an order that kills whoever takes it. Up to RabbitMQ 4.2 each return of a message
# counts as a failed delivery, so those of every restart and failover of a Worker, which no good
# order may use up; from 4.3 on only basic.reject counts.
DELIVERY_LIMIT = 1000
LONGEST_WAIT = 10.0  # seconds between two attempts to connect
REFUSED = ("(403)", "(530)")  # AMQP's codes: not this user or password, not this virtual host
DECLARED_OTHERWISE = 406  # AMQP's code

logging.getLogger("pika").setLevel(logging.CRITICAL)  # what it would say is in the reports


class Hopeless(Exception):
    """The broker refuses us, and waiting would not help; the text says what a person must do."""


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the settings that lead to the broker."""
    parser = argparse.ArgumentParser(description=description)
    add_setting(parser, "--url", "BROKER_URL", "amqps://host:port of the broker")
    add_setting(parser, "--ca", "BROKER_CA", "certificates to trust, if not the system's", "")
    add_setting(parser, "--secret", "BROKER_SECRET", "ARN of the secret with the login", "")
    add_setting(parser, "--login-file", "BROKER_LOGIN_FILE", "or a file that holds the same", "")
    return parser


def add_setting(
    parser: argparse.ArgumentParser, flag: str, name: str, meaning: str, default: str | None = None
) -> None:
    """An argument whose default is an environment variable; required without a default."""
    value = os.environ.get(name, default)
    parser.add_argument(flag, default=value, required=value is None, help=f"{meaning} ({name})")


def parameters(settings: argparse.Namespace) -> pika.URLParameters:
    """Where the broker is and how to log in; the password is read anew at each connection."""
    target = pika.URLParameters(f"{settings.url}/%2F")
    if not target.ssl_options:
        raise SystemExit("error: the broker's URL must begin with amqps://")
    target.ssl_options = pika.SSLOptions(
        ssl.create_default_context(cafile=settings.ca or None), target.host
    )
    if not (settings.login_file or settings.secret):
        raise SystemExit("error: say --secret or --login-file")
    if settings.login_file:
        login = Path(settings.login_file).read_text()
    else:
        secret = client("secretsmanager").get_secret_value(SecretId=settings.secret)
        login = secret["SecretString"]
    try:
        user = json.loads(login)
        target.credentials = pika.PlainCredentials(user["username"], user["password"])
    except (ValueError, TypeError, KeyError):
        raise Hopeless("the secret holds no username and password, as JSON") from None
    target.heartbeat, target.blocked_connection_timeout = 30, 60
    target.socket_timeout, target.connection_attempts = 5, 1
    return target


class Link:
    """The way to the broker: a new connection each time the last one is lost."""

    def __init__(self, life: Program, settings: argparse.Namespace) -> None:
        self.life, self.settings = life, settings
        self.progress()

    def progress(self) -> None:
        """Something was done over this connection: the next loss is waited for briefly again."""
        self.again = waits(longest=LONGEST_WAIT)

    def connections(self) -> Generator[pika.BlockingConnection]:
        """Connections until the program is to stop; one that is left is closed.

        Waits longer and longer in between, at random, so that clients of a broker that comes back
        do not all arrive at once. Hopeless if the broker refuses the login: only its own word
        counts, and not a connection that goes away in the middle of it, as in a failover.
        """
        while not self.life.why:
            try:
                connection = pika.BlockingConnection(parameters(self.settings))
            except (ProbableAuthenticationError, ProbableAccessDeniedError) as error:
                if any(code in repr(error) for code in REFUSED):
                    text = "the broker does not accept the login in the secret"
                    raise Hopeless(text) from None
                self._lost(error)
            except (ClientError, BotoCoreError) as error:
                if not outage(error):
                    raise Hopeless(f"the secret cannot be read: {said(error)}") from None
                self._lost(error)
            except (AMQPError, OSError) as error:
                self._lost(error)
            else:
                report(state="connected")
                try:
                    yield connection
                finally:
                    with suppress(AMQPError, OSError):
                        connection.close()
                self.life.pause(next(self.again))

    def _lost(self, error: Exception) -> None:
        report(state="no connection", error=repr(error))
        self.life.pause(next(self.again))


def declare(channel: BlockingChannel) -> None:
    """Declare exchanges and queues as they must be.

    Quorum queues survive the loss of a node. A dead letter stays in its queue until the
    dead-letter queue has confirmed it (at-least-once, which asks for reject-publish).

    Hopeless if there is one of that name with other settings, which RabbitMQ never changes: let it
    run empty, delete it, and start again.
    """
    try:
        _declare(channel)
    except ChannelClosedByBroker as error:
        if error.reply_code != DECLARED_OTHERWISE:
            raise
        raise Hopeless(
            f"{error.reply_text}: let that queue run empty, delete it, and start again"
        ) from None


def _declare(channel: BlockingChannel) -> None:
    channel.exchange_declare(DEAD_ORDERS, "fanout", durable=True)
    # Nothing may be lost here for having been looked at: RabbitMQ 4 would drop it after 20 times.
    parked = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
    channel.queue_declare(DEAD, durable=True, arguments=parked)
    channel.queue_bind(DEAD, DEAD_ORDERS)
    channel.exchange_declare(ORDERS, "direct", durable=True)
    for kind, queue in ROUTES.items():
        channel.queue_declare(
            queue,
            durable=True,
            arguments={
                "x-queue-type": "quorum",
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": DEAD_ORDERS,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        )
        channel.queue_bind(queue, ORDERS, routing_key=kind)


def main() -> None:
    """Declare, once."""
    settings = arguments("Declare the exchanges and queues of orders.").parse_args()
    for connection in Link(Program(), settings).connections():
        try:
            declare(connection.channel())
        except AMQPError as error:
            report(state="lost", error=repr(error))
            continue
        report(state="declared", queues=[*ROUTES.values(), DEAD])
        return


if __name__ == "__main__":
    try:
        main()
    except Hopeless as problem:
        sys.exit(f"error: {problem}")
