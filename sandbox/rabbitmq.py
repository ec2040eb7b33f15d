"""A real RabbitMQ on loopback in the place of Amazon MQ's, and what Lambda does with its queues.

The broker is the machine's own rabbitmq-server, started as a plain process with its state in a
private folder, AMQPS only, and a certificate made for it. The mapping's poller is ours (MiniStack
has none for brokers); GAPS.md says what that leaves unproven.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import pika
from botocore.exceptions import ClientError
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from sandbox import server

# Debian's command in PATH wants to be root or rabbitmq; the script behind it runs as anybody.
SCRIPTS = ("/usr/lib/rabbitmq/bin", "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
HOST = "localhost"
logging.getLogger("pika").setLevel(logging.CRITICAL)  # a broker that goes away is expected


class BrokerMissing(server.SandboxError):
    """There is no rabbitmq-server on this machine; the text says how to get one."""


class Broker:
    """One broker; `url` and `authority` lead to it, its first user is `username`."""

    def __init__(self, username: str, password: str) -> None:
        path = os.pathsep.join((*SCRIPTS, os.environ.get("PATH", os.defpath)))
        command, mapper = shutil.which("rabbitmq-server", path=path), shutil.which("epmd")
        if not (command and mapper):
            raise BrokerMissing(
                "rabbitmq-server is not installed; install it:"
                " apt-get install -y rabbitmq-server (or your system's package of RabbitMQ)"
            )
        self._command = command
        self.folder = Path(tempfile.mkdtemp(prefix="sandbox-rabbitmq-"))
        self._port, self._mapper_port, self._node_port = server.free_ports(3)
        self.url = f"amqps://{HOST}:{self._port}"
        self.authority = self.folder / "ca.pem"
        self._process: subprocess.Popen[bytes] | None = None
        self._configure(username, password)
        # Erlang would start this one, its directory of nodes, as a daemon that outlives the node.
        self._mapper = self._run([mapper, "-port", str(self._mapper_port), "-address", "127.0.0.1"])

    def _configure(self, username: str, password: str) -> None:
        server.make_certificate(self.folder)
        cookie = self.folder / ".erlang.cookie"
        cookie.touch(mode=0o600)
        cookie.write_text(secrets.token_hex(32))
        cookie.chmod(0o400)
        (self.folder / "plugins").write_text("[].\n")
        settings = self.folder / "rabbitmq.conf"
        settings.touch(mode=0o600)
        settings.write_text(
            f"""
listeners.tcp = none
listeners.ssl.1 = 127.0.0.1:{self._port}
ssl_options.cacertfile = {self.authority}
ssl_options.certfile = {self.folder / "server.pem"}
ssl_options.keyfile = {self.folder / "server.key"}
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
ssl_options.versions.1 = tlsv1.3
ssl_options.versions.2 = tlsv1.2
default_user = {username}
default_pass = {password}
disk_free_limit.absolute = 50MB
"""
        )

    def _environment(self) -> dict[str, str]:
        """Made from nothing but PATH: the machine's settings for a broker are not for this one."""
        folder = self.folder
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_NODENAME": f"sandbox-{self._node_port}@{HOST}",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none "
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
            ),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a command in a group of its own, which ends when this process does, however."""
        watched = 'exec 3<&0; (cat <&3 >/dev/null; kill -KILL 0) & exec "$@" 3<&- </dev/null'
        with (self.folder / "output.log").open("ab") as log:
            return subprocess.Popen(
                ["/bin/sh", "-c", watched, "sh", *command],
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, patience: float = 60) -> None:
        """Start the broker on its own state and wait until it speaks TLS."""
        self._process = self._run([self._command])
        context = ssl.create_default_context(cafile=self.authority)
        deadline = time.monotonic() + patience
        while True:
            try:
                with socket.create_connection((HOST, self._port), timeout=2) as plain:
                    context.wrap_socket(plain, server_hostname=HOST).close()
                return
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    last = (self.folder / "output.log").read_text(errors="replace")[-500:]
                    self.stop()
                    raise server.SandboxError(
                        f"rabbitmq-server did not start ({error}): {' '.join(last.split())}"
                    ) from None
            time.sleep(0.1)

    @property
    def pid(self) -> int | None:
        """The process that runs the broker; None before it is started."""
        return self._process.pid if self._process else None

    def restart(self) -> None:
        """End the broker's process by SIGTERM, and start it again on the same state and port."""
        self._end(self._process)
        self.start()

    def stop(self) -> None:
        """End the broker and its directory of nodes, and remove the folder."""
        self._end(self._process)
        self._end(self._mapper)
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _end(process: subprocess.Popen[bytes] | None) -> None:
        """End a group that _run() made: SIGTERM to its leader, after 15 s SIGKILL to all."""
        if process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            process.terminate()
            process.wait(timeout=15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin:
            process.stdin.close()

    def connect(self, username: str, password: str) -> pika.BlockingConnection:
        """A connection that has verified the broker's certificate."""
        parameters = pika.URLParameters(f"{self.url}/%2F")
        parameters.credentials = pika.PlainCredentials(username, password)
        parameters.ssl_options = pika.SSLOptions(
            ssl.create_default_context(cafile=self.authority), HOST
        )
        return pika.BlockingConnection(parameters)


@contextmanager
def running(username: str, password: str) -> Generator[Broker]:
    """A broker for as long as the block runs; BrokerMissing without rabbitmq-server."""
    broker = Broker(username, password)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


# ---- the event source mapping


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
    """What Lambda does for one mapping on a private broker, done here."""

    def __init__(self, broker: Broker, identifier: str) -> None:
        self.broker, self.identifier = broker, identifier
        self.problem = "none known"  # why it does not poll
        self.stopping = threading.Event()
        self.lambda_ = boto3.client("lambda")

    def poll(self) -> None:
        """Poll while the mapping is enabled and its function's role allows it; for ever."""
        while not self.stopping.wait(0.3):
            try:
                self._connect()
            except (AMQPError, ClientError) as error:
                self.problem = repr(error)

    def _connect(self) -> None:
        settings = self.lambda_.get_event_source_mapping(UUID=self.identifier)
        if settings["State"] != "Enabled":
            self.problem = f"it is {settings['State'].lower()}"
            return
        access = {one["Type"]: one["URI"] for one in settings["SourceAccessConfigurations"]}
        function = self.lambda_.get_function_configuration(FunctionName=settings["FunctionArn"])
        denied = not_allowed(function["Role"], settings["EventSourceArn"], access["BASIC_AUTH"])
        if denied:
            self.problem = f"the function's role does not allow {', '.join(denied)}"
            return
        secret = boto3.client("secretsmanager").get_secret_value(SecretId=access["BASIC_AUTH"])
        login = json.loads(secret["SecretString"])
        with closing(self.broker.connect(login["username"], login["password"])) as connection:
            self._drain(connection.channel(), settings, access["VIRTUAL_HOST"])

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
                settings = self.lambda_.get_event_source_mapping(UUID=self.identifier)
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
        result = answer["Payload"].read().decode()
        failed = "FunctionError" in answer
        self.problem = f"the function failed: {result[:300]}" if failed else "none known"
        return not failed


def _deliveries(channel: BlockingChannel, queue: str) -> Iterator[tuple[Any, Any, Any]]:
    """(delivery, properties, body) of each message; three times None after 0.2 s without one."""
    yield from channel.consume(queue, inactivity_timeout=0.2)


@contextmanager
def mapped(broker: Broker, identifier: str) -> Generator[Mapping]:
    """Lambda's part for one mapping (its UUID) on this broker, for as long as the block runs."""
    mapping = Mapping(broker, identifier)
    poller = threading.Thread(target=mapping.poll, daemon=True, name="mapping")
    poller.start()
    try:
        yield mapping
    finally:
        mapping.stopping.set()
        poller.join(timeout=30)


def not_allowed(role: str, broker_arn: str, secret_arn: str) -> list[str]:
    """What a role must allow for a mapping on a private broker and does not."""
    _, partition, _, region, account, *_ = broker_arn.split(":")
    interface = f"arn:{partition}:ec2:{region}:{account}:network-interface/eni-0"
    resources = {"secretsmanager": secret_arn, "mq": broker_arn}
    missing = []
    for action in NEEDED:
        service, verb = action.split(":")
        resource = resources.get(service, "*" if verb.startswith("Describe") else interface)
        (verdict,) = boto3.client("iam").simulate_principal_policy(
            PolicySourceArn=role, ActionNames=[action], ResourceArns=[resource]
        )["EvaluationResults"]
        if verdict["EvalDecision"] != "allowed":
            missing.append(action)
    return missing


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
