"""CloudFormation makes bus policies, connections and API destinations; a rule's Ref has its bus.

Seen in MiniStack 1.5.33: the three types are unknown to CloudFormation, the Policy of an event bus
is dropped, Ref of a rule on a bus of one's own lacks "BUS|", PutPermission takes no whole policy,
and API destinations may have endpoints without TLS and connections that are not there.
"""

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import ranges
import resources
from gaps import eventbridge_refusals
from ministack.core.responses import get_account_id, get_region, json_response
from ministack.services import eventbridge
from ministack.services.cloudformation import drift, provisioners
from refusals import Refused, before

PATCHES = (
    *resources.NEEDS,
    "services.eventbridge._put_permission",
    "services.eventbridge._create_connection",
    "services.eventbridge._update_connection",
    "services.eventbridge._delete_connection",
    "services.eventbridge._connections",
    "services.eventbridge._create_api_destination",
    "services.eventbridge._update_api_destination",
    "services.eventbridge._delete_api_destination",
    "services.eventbridge._event_bus_policies",
    "services.cloudformation.drift._DRIFT_READERS",
    "services.cloudformation.provisioners._physical_name",
)

BLOCKS = {  # of AuthParameters, by type of authorization
    "BASIC": "BasicAuthParameters",
    "API_KEY": "ApiKeyAuthParameters",
    "OAUTH_CLIENT_CREDENTIALS": "OAuthParameters",
}
INVALID = "ValidationException"
Made = tuple[str, dict[str, Any]]


def close() -> None:
    """Add the types, and check what the API makes of the same things."""
    eventbridge._put_permission = before(put_permission, eventbridge_refusals.bus_of)
    eventbridge._create_connection = before(eventbridge._create_connection, check_connection)
    eventbridge._create_api_destination = before(
        eventbridge._create_api_destination, check_destination
    )
    handlers = provisioners._RESOURCE_HANDLERS
    handlers["AWS::Events::EventBusPolicy"] = {
        "create": lambda _, properties, __: permit(properties),
        "update": lambda _, old, new, __: (forbid(old), permit(new))[1],
        "delete": lambda _, properties: forbid(properties),
    }
    handlers["AWS::Events::Connection"] = _by_api("connection", "Connection", _connection)
    handlers["AWS::Events::ApiDestination"] = _by_api(
        "api_destination", "ApiDestination", _destination
    )
    resources.finish("AWS::Events::EventBus", keep_policy)
    name_bus(handlers["AWS::Events::Rule"])
    read, properties = drift._DRIFT_READERS["AWS::Events::Rule"]
    drift._DRIFT_READERS["AWS::Events::Rule"] = (
        lambda physical_id, given: read(_rule(physical_id), given),
        properties,
    )


def name_bus(handlers: dict[str, Any]) -> None:
    """Make "BUS|RULE" the physical id of a rule on a bus of one's own."""
    create, update, delete = (handlers[verb] for verb in ("create", "update", "delete"))

    def made(result: Made, properties: dict[str, Any]) -> Made:
        bus = eventbridge_refusals.bus_of({"EventBusName": properties.get("EventBusName")})
        return (result[0] if bus == "default" else f"{bus}|{result[0]}"), result[1]

    def changed(physical_id: str, old: Any, new: Any, *more: Any, **named: Any) -> Made:
        return made(update(_rule(physical_id), old, new, *more, **named), new)

    handlers["create"] = lambda logical_id, properties, stack: made(
        create(logical_id, properties, stack), properties
    )
    handlers["update"] = changed
    handlers["delete"] = lambda physical_id, properties: delete(_rule(physical_id), properties)


def _rule(physical_id: str) -> str:
    return physical_id.rpartition("|")[2]


def keep_policy(name: str, properties: dict[str, Any]) -> None:
    """The policy that a template gives to its bus."""
    if policy := properties.get("Policy"):
        parsed = json.loads(policy) if isinstance(policy, str) else policy
        eventbridge._event_bus_policies[name] = parsed


def put_permission(data: dict[str, Any]) -> Any:
    """PutPermission: a whole policy, or one statement of it."""
    bus = data["EventBusName"]
    if policy := data.get("Policy"):
        eventbridge._event_bus_policies[bus] = json.loads(policy)
        return json_response({})
    statement = {"Action": data.get("Action"), "Principal": data.get("Principal")}
    if condition := data.get("Condition"):
        given = {condition["Type"]: {condition["Key"]: condition["Value"]}}
        statement["Condition"] = given if "Type" in condition else condition
    put_statement(bus, data.get("StatementId", ""), statement)
    return json_response({})


def put_statement(bus: str, name: str, statement: dict[str, Any]) -> None:
    """Put a statement into the policy of a bus, instead of one of that name."""
    sent = {"EventBusName": bus, "StatementId": name}
    if problem := ranges.problem("events", "PutPermission", sent):
        raise Refused(problem, INVALID)
    principal = statement.get("Principal")
    if isinstance(principal, str) and principal.isdigit():
        principal = {"AWS": f"arn:aws:iam::{principal}:root"}
    whole = {
        "Sid": name,
        "Effect": "Allow",
        "Resource": f"arn:aws:events:{get_region()}:{get_account_id()}:event-bus/{bus}",
        **statement,
        "Principal": principal,
    }
    policy: dict[str, Any] = eventbridge._event_bus_policies.get(bus) or {"Version": "2012-10-17"}
    others = [one for one in policy.get("Statement", []) if one.get("Sid") != name]
    eventbridge._event_bus_policies[bus] = {**policy, "Statement": [*others, whole]}


def permit(properties: dict[str, Any]) -> Made:
    """A statement of CloudFormation's in the policy of a bus."""
    eventbridge._ensure_default_bus()
    bus = eventbridge_refusals.bus_of(dict(properties))
    given = properties.get("Statement") or {
        name: properties[name]
        for name in ("Action", "Principal", "Condition")
        if properties.get(name)
    }
    if isinstance(condition := given.get("Condition"), dict) and "Key" in condition:
        given["Condition"] = {condition["Type"]: {condition["Key"]: condition["Value"]}}
    put_statement(bus, properties["StatementId"], given)
    return properties["StatementId"], {}


def forbid(properties: dict[str, Any]) -> None:
    """Take a statement out of the policy of a bus."""
    bus = properties.get("EventBusName") or "default"
    policy = eventbridge._event_bus_policies.get(bus) or {}
    left = [one for one in policy.get("Statement", []) if one["Sid"] != properties["StatementId"]]
    if left:
        policy["Statement"] = left
    else:
        eventbridge._event_bus_policies.pop(bus, None)


def check_connection(data: dict[str, Any]) -> None:
    """CreateConnection."""
    if problem := ranges.problem("events", "CreateConnection", data):
        raise Refused(problem, INVALID)
    block = BLOCKS[data["AuthorizationType"]]
    if not data["AuthParameters"].get(block):
        text = f"Parameter {block} is not valid. Reason: Missing required field(s)."
        raise Refused(text, INVALID)


def check_destination(data: dict[str, Any]) -> None:
    """CreateApiDestination."""
    arn = data.get("ConnectionArn") or ""
    whole = arn if arn.count("/") == 2 else f"{arn}/0"  # MiniStack's own have no id at the end
    if problem := ranges.problem(
        "events", "CreateApiDestination", {**data, "ConnectionArn": whole}
    ):
        raise Refused(problem, INVALID)
    endpoint, connection = data["InvocationEndpoint"], arn.split("/")[1]
    if not endpoint.startswith("https://"):
        reason = f"Endpoint '{endpoint}' is not valid"
        raise Refused(f"Parameter InvocationEndpoint is not valid. Reason: {reason}.", INVALID)
    if connection not in eventbridge._connections:
        text = f"Connection '{connection}' does not exist."
        raise Refused(text, "ResourceNotFoundException")


def _by_api(kind: str, of: str, attributes: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
    """Handlers of a type by the calls of EventBridge's API that make, change and delete it."""

    def call(verb: str, name: str, properties: dict[str, Any]) -> Made:
        answer = getattr(eventbridge, f"_{verb}_{kind}")({**properties, "Name": name})
        body = json.loads(answer[2])
        if answer[0] >= 400:
            raise ValueError(body["message"])
        return name, attributes(name, body[f"{of}Arn"])

    def create(logical_id: str, properties: dict[str, Any], stack: str) -> Made:
        generated = provisioners._physical_name(stack, logical_id, max_len=64)
        return call("create", properties.get("Name") or generated, properties)

    def update(name: str, _: dict[str, Any], new: dict[str, Any], __: str) -> Made:
        if new.get("Name") in {None, name}:
            return call("update", name, new)
        made = call("create", new["Name"], new)
        call("delete", name, {})
        return made

    def delete(name: str, _: dict[str, Any]) -> None:
        if name in getattr(eventbridge, f"_{kind}s"):
            getattr(eventbridge, f"_delete_{kind}")({"Name": name})

    return {"create": create, "update": update, "delete": delete}


def _connection(name: str, arn: str) -> dict[str, Any]:
    where = f"{get_region()}:{get_account_id()}"
    secret = f"arn:aws:secretsmanager:{where}:secret:events!connection/{name}/{uuid4()}"
    return {"Arn": arn, "ArnForPolicy": arn, "SecretArn": secret}


def _destination(_: str, arn: str) -> dict[str, Any]:
    return {"Arn": arn, "ArnForPolicy": arn}
