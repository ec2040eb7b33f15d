"""How Step Functions spells what a service is told, what it answers, and what went wrong.

Optimized integrations speak as the AWS SDK for Java 1 does, AWS SDK integrations as its version 2.
Parameters, results and errors are spelled by botocore's models, so no service is listed here but
where the two SDKs have a name of their own for it.
"""

from __future__ import annotations

import datetime
import json
import re
from functools import cache
from typing import Any

import botocore.session
from botocore.exceptions import ClientError, UnknownServiceError

from .task import StatesError

# Name of a service in a Resource to its folder in botocore, where they differ.
FOLDERS = {
    "cloudwatchlogs": "logs",
    "cognitoidentityprovider": "cognito-idp",
    "costexplorer": "ce",
    "eventbridge": "events",
    "sfn": "stepfunctions",
    "states": "stepfunctions",
}
# What SDK 1 calls a service of an optimized integration: in error names, in its base exception, and
# in causes. Each was seen in recorded answers, but for EventBridge's last two.
SDK_1 = {
    "dynamodb": ("DynamoDB", "AmazonDynamoDBException", "AmazonDynamoDBv2"),
    "events": ("EventBridge", "AmazonEventBridgeException", "AmazonEventBridge"),
    "lambda": ("Lambda", "AWSLambdaException", "AWSLambda"),
    "sns": ("SNS", "AmazonSNSException", "AmazonSNS"),
    "sqs": ("SQS", "AmazonSQSException", "AmazonSQS"),
    "states": ("StepFunctions", "AWSStepFunctionsException", "AWSStepFunctions"),
}
WORD = re.compile(r"[A-Z]+(?=v\d)|[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")


@cache
def model(service: str) -> Any:
    """Botocore's model of a service by its name in a Resource; None if there is none."""
    try:
        return botocore.session.get_session().get_service_model(folder(service))
    except UnknownServiceError:
        return None


def folder(service: str) -> str:
    """A service's name in botocore, by that in a Resource."""
    return FOLDERS.get(service, service)


def operation(service: str, action: str) -> Any:
    """The model of an action as a Resource spells it (sendMessage); None if there is none."""
    found = model(service)
    for name in found.operation_names if found else ():
        if name.lower() == action.lower():
            return found.operation_model(name)
    return None


# ---- what is told


def told(shape: Any, value: Any) -> Any:
    """What a state says, as botocore spells and types it."""
    if shape.type_name == "structure" and isinstance(value, dict):
        members = {name.lower(): name for name in shape.members}
        return {
            name: told(shape.members[name], one)
            for key, one in value.items()
            if (name := members.get(key.lower()))
        }
    if shape.type_name == "list" and isinstance(value, list):
        return [told(shape.member, one) for one in value]
    if shape.type_name == "map" and isinstance(value, dict):
        return {key: told(shape.value, one) for key, one in value.items()}
    if shape.type_name == "blob":
        return (value if isinstance(value, str) else text(value)).encode()
    if shape.type_name == "string" and value is not None and not isinstance(value, str):
        return text(value)
    return value


def text(value: Any) -> str:
    """A value as JSON text, without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# ---- what is answered


def answered(shape: Any, value: Any, sdk: int) -> Any:
    """A service's answer, as the states see it."""
    if shape is None or value is None:
        return value
    if shape.type_name == "structure":
        return {
            pascal(name) if sdk == 2 else name[:1].upper() + name[1:]: answered(member, one, sdk)
            for name, member in shape.members.items()
            if (one := value.get(name)) is not None
        }
    if shape.type_name == "list":
        return [answered(shape.member, one, sdk) for one in value]
    if shape.type_name == "map":
        return {key: answered(shape.value, one, sdk) for key, one in value.items()}
    if isinstance(value, datetime.datetime):
        moment = value.astimezone(datetime.UTC).isoformat(timespec="milliseconds")
        return moment.replace("+00:00", "Z")
    if hasattr(value, "read"):
        value = value.read()
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def pascal(name: str) -> str:
    """A member's name in SDK 2, with a capital: Md5OfMessageBody for MD5OfMessageBody, but ETag."""
    leading = re.match(r"[A-Z]+", name)
    if not leading:
        return name[:1].upper() + name[1:]
    run, rest = leading[0], name[leading.end() :]
    if len(run) > 1 and rest[:1].islower():  # its last capital begins the next word
        run, rest = run[:-1], run[-1] + rest
    return run[:1] + run[1:].lower() + rest


# ---- what went wrong


def failed(service: str, optimized: bool, error: ClientError) -> StatesError:
    """The error of a task whose call a service refused."""
    said, meta = error.response["Error"], error.response["ResponseMetadata"]
    code, message = said.get("QueryErrorCode") or said["Code"], said.get("Message", "")
    status, request = meta.get("HTTPStatusCode"), meta.get("RequestId", "")
    shape = model(service).shape_for_error_code(code)
    if optimized:
        prefix, base, name = SDK_1[service]
        known = shape is not None and service != "sqs"  # of SQS, SDK 1 knows no others
        kind = exception(shape.name) if known else base
        cause = (
            f"{message} (Service: {name}; Status Code: {status}; Error Code: {code};"
            f" Request ID: {request}; Proxy: null)"
        )
        return StatesError(f"{prefix}.{kind}", cause)
    prefix = sdk_2(service)
    kind = exception(pascal(shape.name)) if shape is not None else f"{prefix}Exception"
    cause = f"{message} (Service: {prefix}, Status Code: {status}, Request ID: {request})"
    return StatesError(f"{prefix}.{kind}", cause)


def exception(shape: str) -> str:
    """The class that an SDK makes of an error of this name."""
    return re.sub(r"(Exception|Fault)?$", "Exception", shape, count=1)


def sdk_2(service: str) -> str:
    """What SDK 2 calls a service: DynamoDB is DynamoDb, SFN is Sfn."""
    return "".join(word.capitalize() for word in WORD.findall(model(service).service_id))


def http(meta: dict[str, Any]) -> dict[str, Any]:
    """What an optimized integration adds to a result about its request."""
    headers = meta.get("HTTPHeaders", {})
    return {
        "SdkHttpMetadata": {
            "AllHttpHeaders": {name: [value] for name, value in headers.items()},
            "HttpHeaders": headers,
            "HttpStatusCode": meta.get("HTTPStatusCode"),
        },
        "SdkResponseMetadata": {"RequestId": meta.get("RequestId", "")},
    }
