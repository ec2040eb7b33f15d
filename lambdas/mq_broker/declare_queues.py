"""Declare the exchanges and queues of orders on the broker, and say how many messages wait.

The same as the programs' topology.py, which they run at each connection, but by RabbitMQ's HTTP
API, for which the standard library is enough. To declare what is there changes nothing; if it
differs, RabbitMQ refuses and says how.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
from http.client import HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import boto3
from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger()
tracer = Tracer()
secrets = boto3.client("secretsmanager")

LIVES = {"durable": True, "auto_delete": False}
QUORUM = {"x-queue-type": "quorum"}
WORK = QUORUM | {
    "x-delivery-limit": 1000,
    "x-dead-letter-exchange": "orders.dead",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
# What RabbitMQ's HTTP API is told, in this order: its path, and the body.
TOPOLOGY: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("PUT", "exchanges/%2F/orders.dead", LIVES | {"type": "fanout"}),
    ("PUT", "queues/%2F/orders.dead", LIVES | {"arguments": QUORUM | {"x-delivery-limit": 10**6}}),
    ("POST", "bindings/%2F/e/orders.dead/q/orders.dead", {"routing_key": ""}),
    ("PUT", "exchanges/%2F/orders", LIVES | {"type": "direct"}),
    ("PUT", "queues/%2F/orders.shipping", LIVES | {"arguments": WORK}),
    ("POST", "bindings/%2F/e/orders/q/orders.shipping", {"routing_key": "parcel"}),
    ("PUT", "queues/%2F/orders.analytics", LIVES | {"arguments": WORK}),
    ("POST", "bindings/%2F/e/orders/q/orders.analytics", {"routing_key": "digital"}),
)


class BrokerRefused(Exception):
    """RabbitMQ said no; the text says to what, and why."""


def ask(method: str, path: str, login: str, body: dict[str, Any] | None = None) -> Any:
    """RabbitMQ's answer to a request of its HTTP API."""
    console = HTTPSConnection(
        urlsplit(os.environ["CONSOLE_URL"]).netloc,
        timeout=5,
        context=ssl.create_default_context(),
    )
    try:
        console.request(
            method,
            f"/api/{path}",
            None if body is None else json.dumps(body),
            {"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        )
        answer = console.getresponse()
        said = answer.read().decode(errors="replace")
    finally:
        console.close()
    if answer.status >= 400:
        raise BrokerRefused(f"{method} {path}: {answer.status} {said[:500]}")
    return json.loads(said or "null")


def login() -> str:
    """The user and the password that the secret holds now, as HTTP wants them."""
    secret = secrets.get_secret_value(SecretId=os.environ["PASSWORD_ARN"])["SecretString"]
    user = json.loads(secret)
    return base64.b64encode(f"{user['username']}:{user['password']}".encode()).decode()


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
def handler(_event: Any, _context: LambdaContext) -> dict[str, dict[str, int]]:
    """Entry point: any event in, messages by queue out (RabbitMQ counts every five seconds)."""
    known = login()
    for method, path, body in TOPOLOGY:
        ask(method, path, known, body)
    queues = ask("GET", "queues/%2F", known)
    counts = {queue["name"]: queue.get("messages", 0) for queue in queues}
    messages = {name: counts[name] for name in sorted(counts) if name.startswith("orders.")}
    logger.info("Declared queues", messages=messages)
    return {"messages": messages}
