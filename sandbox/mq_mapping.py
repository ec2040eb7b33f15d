"""What Lambda does for an event source mapping on a queue of RabbitMQ.

MiniStack has no poller for brokers. This one is ours, after Lambda's documentation; GAPS.md says
what that leaves unproven.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pika
from botocore.exceptions import ClientError
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

# What the function's role must allow, per Lambda's guide for a private broker.
NEEDED = (
    "secretsmanager:GetSecretValue",
    "mq:DescribeBroker",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcs",
)


class Mapping:
    """What Lambda does for one mapping, by its UUID.

    client: makes clients of AWS. connect: to the broker, with a user's name and password. tell: is
    told the result of the last processing whenever it changes, as Lambda words it.
    """

    def __init__(
        self,
        identifier: str,
        client: Callable[[str], Any],
        connect: Callable[[str, str], pika.BlockingConnection],
        tell: Callable[[str], None],
    ) -> None:
        self.identifier, self.client, self.connect, self.tell = identifier, client, connect, tell
        self.lambda_ = client("lambda")
        self.last = ""
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.poll, daemon=True, name=identifier)

    def poll(self) -> None:
        """Poll while the mapping is enabled and its function's role allows it, until stopped."""
        while not self.stopping.wait(0.3):
            try:
                self._poll()
            except (AMQPError, ClientError, OSError) as error:
                self._told(f"PROBLEM: {error!r}")

    def _told(self, result: str) -> None:
        if result != self.last:
            self.last = result
            self.tell(result)

    def _settings(self) -> dict[str, Any]:
        return self.lambda_.get_event_source_mapping(UUID=self.identifier)

    def _poll(self) -> None:
        settings = self._settings()
        if settings["State"] != "Enabled":
            self._told("No records processed")
            return
        access = {one["Type"]: one["URI"] for one in settings["SourceAccessConfigurations"]}
        function = self.lambda_.get_function_configuration(FunctionName=settings["FunctionArn"])
        denied = self._denied(function["Role"], settings["EventSourceArn"], access["BASIC_AUTH"])
        if denied:
            self._told(f"PROBLEM: the function's role does not allow {', '.join(denied)}")
            return
        secret = self.client("secretsmanager").get_secret_value(SecretId=access["BASIC_AUTH"])
        login = json.loads(secret["SecretString"])
        with closing(self.connect(login["username"], login["password"])) as connection:
            self._drain(connection.channel(), settings, access["VIRTUAL_HOST"])

    def _denied(self, role: str, broker_arn: str, secret_arn: str) -> list[str]:
        """What the role must allow and does not."""
        _, partition, _, region, account, *_ = broker_arn.split(":")
        interface = f"arn:{partition}:ec2:{region}:{account}:network-interface/eni-0"
        resources = {
            "secretsmanager:GetSecretValue": secret_arn,
            "mq:DescribeBroker": broker_arn,
            "ec2:CreateNetworkInterface": interface,
        }
        missing = []
        for action in NEEDED:
            # Lambda asks for the others without a resource; a scoped right does not suffice.
            (verdict,) = self.client("iam").simulate_principal_policy(
                PolicySourceArn=role,
                ActionNames=[action],
                ResourceArns=[resources.get(action, "*")],
            )["EvaluationResults"]
            if verdict["EvalDecision"] != "allowed":
                missing.append(action)
        return missing

    def _drain(self, channel: BlockingChannel, settings: dict[str, Any], virtual_host: str) -> None:
        """Collect batches and invoke, one at a time, until the mapping is disabled."""
        (queue,), size = settings["Queues"], settings["BatchSize"]
        channel.basic_qos(prefetch_count=size)
        batch: list[dict[str, Any]] = []
        tag, began = 0, 0.0
        for method, properties, body in _deliveries(channel, queue):
            if method:
                began = began if batch else time.monotonic()
                batch.append(message(method, properties, body))
                tag = method.delivery_tag
            waited = time.monotonic() - began
            if batch and (
                len(batch) >= size or waited >= settings["MaximumBatchingWindowInSeconds"]
            ):
                if self._invoke(settings, {f"{queue}::{virtual_host}": batch}):
                    channel.basic_ack(tag, multiple=True)
                else:  # the whole batch comes back: none of it is told apart
                    channel.basic_nack(tag, multiple=True, requeue=True)
                    self.stopping.wait(1)
                batch = []
                settings = self._settings()
            if self.stopping.is_set() or settings["State"] != "Enabled":
                break
        channel.cancel()

    def _invoke(self, settings: dict[str, Any], messages: dict[str, list[dict]]) -> bool:
        """Call the function with one batch, and wait; whether it did not fail."""
        answer = self.lambda_.invoke(
            FunctionName=settings["FunctionArn"],
            Payload=json.dumps(
                {
                    "eventSource": "aws:rmq",
                    "eventSourceArn": settings["EventSourceArn"],
                    "rmqMessagesByQueue": messages,
                }
            ),
        )
        said = answer["Payload"].read().decode()
        failed = "FunctionError" in answer
        self._told(f"PROBLEM: Function call failed: {said[:300]}" if failed else "OK")
        return not failed


def _deliveries(channel: BlockingChannel, queue: str) -> Iterator[tuple[Any, Any, Any]]:
    """(delivery, properties, body) of each message; three times None after 0.2 s without one."""
    yield from channel.consume(queue, inactivity_timeout=0.2)


def message(
    method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes
) -> dict[str, Any]:
    """One message in the shape that Lambda documents for RabbitMQ."""
    return {
        "basicProperties": {
            "contentType": properties.content_type,
            "contentEncoding": properties.content_encoding,
            "headers": {
                name: {"bytes": list(value.encode())} if isinstance(value, str) else value
                for name, value in (properties.headers or {}).items()
            },
            "deliveryMode": properties.delivery_mode,
            "priority": properties.priority,
            "correlationId": properties.correlation_id,
            "replyTo": properties.reply_to,
            "expiration": properties.expiration,
            "messageId": properties.message_id,
            "timestamp": None,
            "type": properties.type,
            "userId": properties.user_id,
            "appId": properties.app_id,
            "clusterId": None,
            "bodySize": len(body),
        },
        "redelivered": method.redelivered,
        "data": base64.b64encode(body).decode(),
    }
