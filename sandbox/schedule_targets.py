"""What EventBridge Scheduler says of schedules it does not take, and which call one makes.

A templated target is a resource of one of a few services; a universal one is any operation of an
API, by arn:aws:scheduler:::aws-sdk:SERVICE:OPERATION, whose input is the operation's request.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import botocore.session
from botocore import xform_name

PREFIX = "arn:aws:scheduler:::aws-sdk:"
TEMPLATED = (
    "codebuild",
    "codepipeline",
    "ecs",
    "events",
    "firehose",
    "inspector",
    "kinesis",
    "lambda",
    "sagemaker",
    "sns",
    "sqs",
    "states",
)
# Parameters that a target of one service only has.
PARAMETERS = {
    "EcsParameters": "ecs",
    "EventBridgeParameters": "events",
    "KinesisParameters": "kinesis",
    "SageMakerPipelineParameters": "sagemaker",
    "SqsParameters": "sqs",
}
JSON = ("events", "lambda", "states")  # what takes no other text, unlike queues and topics
READS = ("get", "describe", "list")  # what begins so changes nothing, and is not called
# Services whose operations the sandbox calls, by Scheduler's name: botocore's name.
SDK = {
    "cloudwatch": "cloudwatch",
    "dynamodb": "dynamodb",
    "ec2": "ec2",
    "eventbridge": "events",
    "firehose": "firehose",
    "kinesis": "kinesis",
    "lambda": "lambda",
    "s3": "s3",
    "scheduler": "scheduler",
    "secretsmanager": "secretsmanager",
    "sfn": "stepfunctions",
    "sns": "sns",
    "sqs": "sqs",
    "ssm": "ssm",
}


class Call(NamedTuple):
    """An operation of a service by botocore's names, with its parameters."""

    service: str
    operation: str
    parameters: dict[str, Any]


def problems(schedule: Mapping[str, Any], region: str) -> Iterator[str]:
    """What is wrong with a schedule's window and target, in AWS's words where they are known."""
    window = schedule["FlexibleTimeWindow"]
    given = window.get("MaximumWindowInMinutes") is not None
    if given != (window["Mode"] == "FLEXIBLE"):
        must = "must not be provided" if given else "must be provided"
        when = f"when FlexibleTimeWindowMode is set to {window['Mode']}."
        yield f"MaximumWindowInMinutes {must} {when}"
    target = schedule["Target"]
    arn = target["Arn"]
    takes_json = arn.startswith(PREFIX) or set(arn.split(":")[2:3]) & set(JSON)
    if takes_json and target.get("Input") is not None and not _is_json(target["Input"]):
        yield "JSON syntax error in input for the target."
    yield from _of_universal(target) if arn.startswith(PREFIX) else _of_templated(target, region)


def _of_universal(target: Mapping[str, Any]) -> Iterator[str]:
    service, _, operation = target["Arn"].removeprefix(PREFIX).partition(":")
    if not target.get("Input"):
        yield "You must provide an input to set this target for your schedule."
    if operation.startswith(READS):
        yield f"{operation} API is not supported."
    if service not in SDK:
        yield f"The sandbox calls no operations of {service}"
    elif _operation(operation) not in _model(SDK[service]).operation_names:
        yield f"{service} has no operation {operation}"


def _of_templated(target: Mapping[str, Any], region: str) -> Iterator[str]:
    arn = target["Arn"]
    service, where = arn.split(":")[2:4] if arn.count(":") > 4 else ("", "")
    if not service:
        yield f"Parameter {arn} is not valid. Reason: Provided Arn is not in correct format."
    elif service not in TEMPLATED:
        yield f"{service} is not a supported service for a target."
    elif where != region:
        yield f"The target ARN provided does not match the current region {region}."
    for name, only in PARAMETERS.items():
        if target.get(name) is not None and service != only:
            yield f"Parameters {name} not supported for the target."
    group = (target.get("SqsParameters") or {}).get("MessageGroupId")
    if arn.endswith(".fifo") and service == "sqs" and not group:
        yield "Parameters SqsParameters must be specified."
    if group and not arn.endswith(".fifo"):
        yield "Parameters MessageGroupId not valid for the target."
    for name in ("EventBridgeParameters", "KinesisParameters"):
        if service == PARAMETERS[name] and not target.get(name):
            yield f"Parameters {name} must be specified."
    if service in TEMPLATED and service not in CALLS:
        yield f"The sandbox invokes no targets of {service}"


def call(target: Mapping[str, Any], payload: str) -> Call:
    """The call that a schedule makes with its input."""
    arn = target["Arn"]
    if arn.startswith(PREFIX):
        service, _, operation = arn.removeprefix(PREFIX).partition(":")
        name = _operation(operation)
        shape = _model(SDK[service]).operation_model(name).input_shape
        return Call(SDK[service], xform_name(name), _named(shape, json.loads(payload)))
    return CALLS[arn.split(":")[2]](target, payload)


def _to_queue(target: Mapping[str, Any], payload: str) -> Call:
    _, _, _, region, account, name = target["Arn"].split(":", 5)
    url = f"https://sqs.{region}.amazonaws.com/{account}/{name}"
    group = (target.get("SqsParameters") or {}).get("MessageGroupId")
    fifo = {"MessageGroupId": group} if group else {}
    return Call("sqs", "send_message", {"QueueUrl": url, "MessageBody": payload, **fifo})


def _to_topic(target: Mapping[str, Any], payload: str) -> Call:
    return Call("sns", "publish", {"TopicArn": target["Arn"], "Message": payload})


def _to_function(target: Mapping[str, Any], payload: str) -> Call:
    sent = {"FunctionName": target["Arn"], "InvocationType": "Event", "Payload": payload.encode()}
    return Call("lambda", "invoke", sent)


def _to_machine(target: Mapping[str, Any], payload: str) -> Call:
    sent = {"stateMachineArn": target["Arn"], "input": payload}
    return Call("stepfunctions", "start_execution", sent)


def _to_bus(target: Mapping[str, Any], payload: str) -> Call:
    given = target["EventBridgeParameters"]
    entry = {
        "EventBusName": target["Arn"],
        "Source": given["Source"],
        "DetailType": given["DetailType"],
        "Detail": payload,
    }
    return Call("events", "put_events", {"Entries": [entry]})


def _to_firehose(target: Mapping[str, Any], payload: str) -> Call:
    name = target["Arn"].rpartition("/")[2]
    sent = {"DeliveryStreamName": name, "Record": {"Data": payload.encode()}}
    return Call("firehose", "put_record", sent)


def _to_kinesis(target: Mapping[str, Any], payload: str) -> Call:
    key = target["KinesisParameters"]["PartitionKey"]
    sent = {"StreamARN": target["Arn"], "PartitionKey": key, "Data": payload.encode()}
    return Call("kinesis", "put_record", sent)


CALLS = {
    "events": _to_bus,
    "firehose": _to_firehose,
    "kinesis": _to_kinesis,
    "lambda": _to_function,
    "sns": _to_topic,
    "sqs": _to_queue,
    "states": _to_machine,
}


def filled(payload: str, context: Mapping[str, str]) -> str:
    """An input with Scheduler's own values, such as <aws.scheduler.execution-id>, in place."""
    return re.sub(
        r"<aws\.scheduler\.([\w-]+)>", lambda found: context.get(found[1], found[0]), payload
    )


def _operation(name: str) -> str:
    """An operation's name in the model: sendMessage is SendMessage there."""
    return name[:1].upper() + name[1:]


def _named(shape: Any, value: Any) -> Any:
    """A value with the member names of the model, which Scheduler begins with a capital."""
    if shape.type_name == "structure" and isinstance(value, dict):
        members = {name.lower(): (name, member) for name, member in shape.members.items()}
        known = ((members.get(name.lower()), one) for name, one in value.items())
        return {found[0]: _named(found[1], one) for found, one in known if found}
    if shape.type_name == "list" and isinstance(value, list):
        return [_named(shape.member, one) for one in value]
    if shape.type_name == "map" and isinstance(value, dict):
        return {name: _named(shape.value, one) for name, one in value.items()}
    if shape.type_name == "blob" and isinstance(value, str):
        return value.encode()
    if shape.type_name == "string" and isinstance(value, dict | list):
        return json.dumps(value)
    return value


@cache
def _model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
