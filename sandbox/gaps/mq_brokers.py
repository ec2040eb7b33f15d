"""Brokers that work, and AWS::AmazonMQ::Broker in templates.

Seen in MiniStack 1.5.33: the service's API keeps brokers, but their endpoints lead nowhere, a
reboot does nothing, and CloudFormation does not know the type. Here each RabbitMQ broker is a real
one on loopback, in a process of its own (sandbox.amazonmq), from its creation until it is
deleted or the server ends; that process also polls for the event source mappings on it. A broker
is CREATION_IN_PROGRESS until it answers. There is no ActiveMQ: a template with one is refused.
"""

import contextvars
import json
import os
import socket
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ministack.services import lambda_svc, mq
from ministack.services.cloudformation import provisioners

PATCHES = (
    "services.mq._brokers",
    "services.mq._create_broker",
    "services.mq._update_broker",
    "services.mq._delete_broker",
    "services.mq._reboot_broker",
    "services.lambda_svc._esms",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
)

# What the API keeps only if it is told after the creation.
KEPT = ("logs", "maintenanceWindowStartTime", "securityGroups", "subnetIds")
CHANGEABLE = (
    "autoMinorVersionUpgrade",
    "engineVersion",
    "hostInstanceType",
    "logs",
    "maintenanceWindowStartTime",
    "securityGroups",
)


PROJECT = Path(__file__).parent.parent.parent
_processes: dict[str, subprocess.Popen[str]] = {}  # by the broker's id


def close() -> None:
    """Add the type's handlers, and give brokers a process."""
    create, delete, reboot = mq._create_broker, mq._delete_broker, mq._reboot_broker

    def create_and_start(request: dict) -> tuple:
        answer = create(request)
        if answer[0] < 400 and request["engineType"].upper() == "RABBITMQ":
            broker_id = json.loads(answer[2])["brokerId"]
            if problem := _start(broker_id, request):
                delete(broker_id)
                return mq._err(400, "engineType", problem)
        return answer

    def delete_and_stop(broker_id: str) -> tuple:
        answer = delete(broker_id)
        if answer[0] < 400 and (process := _processes.pop(broker_id, None)):
            _end(process)
        return answer

    def reboot_really(broker_id: str) -> tuple:
        answer = reboot(broker_id)
        if answer[0] < 400 and (process := _processes.get(broker_id)):
            mq._brokers[broker_id]["brokerState"] = "REBOOT_IN_PROGRESS"
            _write(process, {"reboot": True})
        return answer

    mq._create_broker, mq._delete_broker = create_and_start, delete_and_stop
    mq._reboot_broker = reboot_really
    provisioners._RESOURCE_HANDLERS["AWS::AmazonMQ::Broker"] = {
        "create": _create,
        "update": _update,
        "delete": lambda broker_id, _properties: mq._delete_broker(broker_id),
    }


def _start(broker_id: str, request: dict) -> str:
    """Start a broker's process and say where it will answer; what is missing, if something is."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(2)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        amqps, console = (probe.getsockname()[1] for probe in probes)
    process = subprocess.Popen(
        [os.environ["SANDBOX_PYTHON"], "-m", "sandbox.amazonmq"],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    broker, user = mq._brokers[broker_id], request["users"][0]
    _write(
        process,
        {
            "arn": broker["brokerArn"],
            "username": user["username"],
            "password": user["password"],
            "amqps": amqps,
            "console": console,
            "tls": str(Path(os.environ["AWS_CA_BUNDLE"]).parent),
        },
    )
    assert process.stdout
    said = json.loads(process.stdout.readline() or '{"missing": "its process ended at once"}')
    if "missing" in said:
        _end(process)
        return said["missing"]
    broker["brokerState"] = "CREATION_IN_PROGRESS"
    for instance in broker["brokerInstances"]:
        instance["endpoints"] = [f"amqps://localhost:{amqps}"]
        instance["consoleURL"] = f"https://localhost:{console}"
    _processes[broker_id] = process
    context = contextvars.copy_context()  # of the account and the Region
    listening = threading.Thread(
        target=context.run, args=(_listen, broker_id, process), daemon=True, name=broker_id
    )
    listening.start()
    return ""


def _listen(broker_id: str, process: subprocess.Popen[str]) -> None:
    """Keep what a broker's process says, until it ends."""
    assert process.stdout
    for line in process.stdout:
        said, broker = json.loads(line), mq._brokers.get(broker_id, {})
        if "ready" in said:
            broker["brokerState"] = "RUNNING"
        elif "failed" in said:
            broker["brokerState"] = "CREATION_FAILED"
        elif said["mapping"] in lambda_svc._esms:
            lambda_svc._esms[said["mapping"]]["LastProcessingResult"] = said["result"]
    process.wait()


def _write(process: subprocess.Popen[str], order: dict) -> None:
    assert process.stdin
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()


def _end(process: subprocess.Popen[str]) -> None:
    """Let the process go, which takes the broker with it."""
    assert process.stdin
    process.stdin.close()
    threading.Thread(target=process.wait, daemon=True).start()


def _create(_logical_id: str, properties: dict, _stack: str) -> tuple[str, dict]:
    request = _camel(properties)
    for flag in ("publiclyAccessible", "autoMinorVersionUpgrade"):
        request[flag] = provisioners._cfn_bool(request.get(flag, False))
    request["tags"] = {tag["Key"]: tag["Value"] for tag in properties.get("Tags", [])}
    _check(request)
    broker_id = _answer(mq._create_broker(request))["brokerId"]
    mq._brokers[broker_id].update({key: request[key] for key in KEPT if key in request})
    return broker_id, _attributes(broker_id)


def _update(broker_id: str, _old: dict, new: dict, _stack: str) -> tuple[str, dict]:
    request = _camel(new)
    _answer(
        mq._update_broker(broker_id, {key: request[key] for key in CHANGEABLE if key in request})
    )
    return broker_id, _attributes(broker_id)


def _check(request: dict) -> None:
    """What Amazon MQ asks of a RabbitMQ broker and MiniStack does not."""
    if request["engineType"].upper() != "RABBITMQ":
        raise ValueError("The sandbox has no ActiveMQ, only RabbitMQ.")
    users = request.get("users", [])
    if len(users) != 1 or "groups" in users[0] or "consoleAccess" in users[0]:
        raise ValueError("A RabbitMQ broker takes one user, with a name and a password.")
    password = str(users[0].get("password", ""))
    if not 12 <= len(password) <= 250 or len(set(password)) < 4 or set(password) & set(",:="):
        raise ValueError("The password has 12 to 250 characters, 4 different ones, none of , : =")
    if request.get("publiclyAccessible") and request.get("securityGroups"):
        raise ValueError("A public RabbitMQ broker takes no security groups.")
    if request.get("deploymentMode") == "SINGLE_INSTANCE" and len(request["subnetIds"]) != 1:
        raise ValueError("A SINGLE_INSTANCE broker takes one subnet.")


def _attributes(broker_id: str) -> dict[str, Any]:
    broker = mq._brokers[broker_id]
    instances = broker["brokerInstances"]
    return {
        "Arn": broker["brokerArn"],
        "Id": broker_id,
        "EngineVersionCurrent": broker["engineVersion"],
        "AmqpEndpoints": instances[0]["endpoints"],
        "ConsoleURLs": [instance["consoleURL"] for instance in instances],
        "IpAddresses": [instance["ipAddress"] for instance in instances],
    }


def _camel(value: Any) -> Any:
    """A template's property names as the API spells them."""
    if isinstance(value, dict):
        return {key[:1].lower() + key[1:]: _camel(one) for key, one in value.items()}
    return [_camel(one) for one in value] if isinstance(value, list) else value


def _answer(response: tuple) -> dict[str, Any]:
    status, _, body = response
    if status >= 400:
        raise ValueError(json.loads(body)["message"])
    return json.loads(body)
