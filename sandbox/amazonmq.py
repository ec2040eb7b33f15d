"""One broker of the embedded AWS, with Lambda's part for the mappings on it, as a process.

The gap mq_brokers starts it when a broker is made, in the environment of the server. It reads lines
of JSON: first what broker it is to be, then {"reboot": true}; at the end of its input it goes, and
the broker with it. It writes lines: {"missing": why} or {"started": true} at once, {"ready": true}
when the broker answers, {"failed": why}, and what Lambda would say of a mapping:
{"mapping": UUID, "result": text}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from sandbox import environment, rabbitmq, server
from sandbox.mq_mapping import Mapping

_one_at_a_time = threading.Lock()


def missing() -> str:
    """What this machine lacks to run a broker; nothing if it has it all."""
    try:
        rabbitmq.commands()
    except rabbitmq.BrokerMissing as problem:
        return str(problem)
    return ""


def say(**facts: object) -> None:
    """One line of JSON on standard output."""
    with _one_at_a_time:
        print(json.dumps(facts), flush=True)


def main() -> None:
    """Run a broker and its mappings until the input ends."""
    order = json.loads(sys.stdin.readline())
    settings = environment.for_clients(
        int(os.environ["GATEWAY_PORT"]),
        Path(os.environ["AWS_CA_BUNDLE"]),
        environment.Keys(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]),
    )
    os.environ.clear()
    os.environ.update(settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        broker = rabbitmq.Broker(
            order["username"],
            order["password"],
            tls=Path(order["tls"]),
            ports=(order["amqps"], order["console"]),
        )
    except rabbitmq.BrokerMissing as missing:
        say(missing=str(missing))
        return
    say(started=True)
    try:
        broker.start()
        say(ready=True)
        client = cache(boto3.client)
        for service in ("lambda", "secretsmanager", "iam"):
            client(service)  # a session makes one at a time, and here nobody else asks yet
        threading.Thread(target=_map, args=(broker, order["arn"], client), daemon=True).start()
        for _ in sys.stdin:
            broker.restart()
            say(ready=True)
    except server.SandboxError as problem:
        say(failed=str(problem))
        sys.stdin.read()
    finally:
        broker.stop(patience=0)


def _map(broker: rabbitmq.Broker, arn: str, client: Any) -> None:
    """A poller for each mapping on the broker, for as long as there is one; for ever."""
    mappings: dict[str, Mapping] = {}
    while True:
        try:
            found = client("lambda").list_event_source_mappings(EventSourceArn=arn)
            there = {one["UUID"] for one in found["EventSourceMappings"]}
        except (BotoCoreError, ClientError):
            there = set(mappings)  # the server is busy, or on its way out
        for identifier in there - set(mappings):
            mappings[identifier] = Mapping(
                identifier,
                client,
                broker.connect,
                lambda result, identifier=identifier: say(mapping=identifier, result=result),
            )
            mappings[identifier].thread.start()
        for identifier in set(mappings) - there:
            mappings.pop(identifier).stopping.set()
        time.sleep(0.5)


if __name__ == "__main__":
    main()
