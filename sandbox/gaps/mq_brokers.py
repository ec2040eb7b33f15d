"""AWS::AmazonMQ::Broker in templates.

Seen in MiniStack 1.5.33: the service's API keeps brokers, but CloudFormation does not know the
type. Here a template makes, changes and deletes a broker of that API. It has no data plane: its
endpoint leads nowhere, and a scenario starts a real broker beside it.
"""

import json
from typing import Any

from ministack.services import mq
from ministack.services.cloudformation import provisioners

PATCHES = (
    "services.mq._brokers",
    "services.mq._create_broker",
    "services.mq._update_broker",
    "services.mq._delete_broker",
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


def close() -> None:
    """Add the type's handlers."""
    provisioners._RESOURCE_HANDLERS["AWS::AmazonMQ::Broker"] = {
        "create": _create,
        "update": _update,
        "delete": lambda broker_id, _properties: mq._delete_broker(broker_id),
    }


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
        return
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
