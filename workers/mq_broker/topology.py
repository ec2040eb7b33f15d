"""What Publisher and Worker share: how they reach the broker, and what they declare on it.

Run it by itself to declare the queues, before RecordOrder's mapping is enabled:

    python topology.py --url amqps://b-....on.aws:5671 --secret arn:aws:secretsmanager:...

Needs pika and boto3. Every setting is an argument or, better in a unit file, an environment
variable; the password is neither, but comes from Secrets Manager or from a file.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import ssl
import sys
import time
from collections.abc import Generator
from pathlib import Path

import boto3
import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ProbableAuthenticationError

ORDERS, DEAD_ORDERS = "orders", "orders.dead"  # exchanges
SHIPPING, ANALYTICS, DEAD = "orders.shipping", "orders.analytics", "orders.dead"  # queues
ROUTES = {"parcel": SHIPPING, "digital": ANALYTICS}  # an order's kind is its routing key
DELIVERY_LIMIT = 5  # failed deliveries that are followed by another one
LONGEST_WAIT = 10.0  # seconds between two attempts to connect

logging.getLogger("pika").setLevel(logging.CRITICAL)  # what it would say is in the reports


class CannotLogIn(Exception):
    """The broker does not accept the user or the password: waiting would not help."""


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
        secret = boto3.client("secretsmanager").get_secret_value(SecretId=settings.secret)
        login = secret["SecretString"]
    user = json.loads(login)
    target.credentials = pika.PlainCredentials(user["username"], user["password"])
    target.heartbeat, target.blocked_connection_timeout = 30, 60
    target.socket_timeout, target.connection_attempts = 5, 1
    return target


def channels(settings: argparse.Namespace) -> Generator[BlockingChannel]:
    """A channel on a new connection each time the last one is lost; waits longer and longer.

    The wait is random up to a bound that doubles, so that clients of a broker that comes back do
    not all arrive at once. A connection that was made resets it. CannotLogIn ends it.
    """
    bound = 0.2
    while True:
        try:
            channel = pika.BlockingConnection(parameters(settings)).channel()
        except ProbableAuthenticationError:
            raise CannotLogIn("the broker does not accept the login in the secret") from None
        except (AMQPError, OSError) as error:
            report(state="no connection", error=repr(error))
            time.sleep(random.uniform(0, bound))
            bound = min(2 * bound, LONGEST_WAIT)
            continue
        bound = 0.2
        report(state="connected")
        yield channel
        time.sleep(random.uniform(0, bound))


def declare(channel: BlockingChannel) -> None:
    """Declare exchanges and queues as they must be; the broker closes the channel if they differ.

    Quorum queues survive the loss of a node. A dead letter stays in its queue until the
    dead-letter queue has confirmed it (at-least-once, which asks for reject-publish).
    """
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


def report(**facts: object) -> None:
    """One line of JSON on standard output, with the time."""
    print(json.dumps({"at": round(time.time(), 3), **facts}), flush=True)


def main() -> None:
    """Declare, once."""
    for channel in channels(arguments("Declare the exchanges and queues of orders.").parse_args()):
        declare(channel)
        channel.connection.close()
        report(state="declared", queues=[*ROUTES.values(), DEAD])
        return


if __name__ == "__main__":
    try:
        main()
    except CannotLogIn as problem:
        sys.exit(f"error: {problem}")
