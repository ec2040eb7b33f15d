"""AWS's SDK for a function that has none: boto3, asked in lines of JSON.

Run with a client's package, "s3" of "@aws-sdk/client-s3": writes the service's name in class names
and its operations. Run without: reads [package, operation, parameters] and writes {"result": ...}
or {"error": ...}, in the order of the questions. Bytes and times, which JSON has not, are objects
with one member: {"$bytes": base64}, {"$stream": base64}, {"$date": ISO 8601}.
"""

import base64
import json
import sys
from datetime import datetime
from functools import cache
from typing import Any

import boto3
from botocore.response import StreamingBody

# Packages whose service has another name in boto3, but for its hyphens.
NAMES = {
    "cloudwatchlogs": "logs",
    "cognitoidentityprovider": "cognito-idp",
    "elasticloadbalancing": "elb",
    "elasticloadbalancingv2": "elbv2",
    "eventbridge": "events",
    "sfn": "stepfunctions",
}


@cache
def client(package: str) -> Any:
    """The client of a package; UnknownServiceError if boto3 has none."""
    bare = package.replace("-", "")
    services = {name.replace("-", ""): name for name in boto3.Session().get_available_services()}
    return boto3.client(NAMES.get(bare, services.get(bare, bare)))


def described(package: str) -> dict[str, Any]:
    """What a package exports: the service's name in class names, and its operations."""
    model = client(package).meta.service_model
    name = "".join(word[0].upper() + word[1:] for word in str(model.service_id).split())
    return {"name": name, "operations": model.operation_names}


def answer(package: str, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """What the service says, or its error as the SDK throws it."""
    try:
        result = client(package)._make_api_call(operation, parameters)
    except Exception as error:  # whatever it is, it is the function's
        response = getattr(error, "response", {})
        said = response.get("Error", {"Code": type(error).__name__, "Message": str(error)})
        return {"error": {"name": said["Code"], "message": said["Message"]} | metadata(response)}
    return {"result": result | metadata(result)}


def metadata(response: dict[str, Any]) -> dict[str, Any]:
    """`$metadata` of an answer, in place of boto3's."""
    found = response.pop("ResponseMetadata", {})
    names = {"httpStatusCode": "HTTPStatusCode", "requestId": "RequestId"}
    return {"$metadata": {name: found.get(theirs) for name, theirs in names.items()}}


def written(value: Any) -> dict[str, str]:
    """What JSON has no form of."""
    if isinstance(value, datetime):
        return {"$date": value.isoformat()}
    kind, read = (
        ("$stream", value.read()) if isinstance(value, StreamingBody) else ("$bytes", value)
    )
    return {kind: base64.b64encode(read).decode()}


def bytes_of(value: dict[str, Any]) -> Any:
    """The bytes that stand for themselves in a parameter."""
    return base64.b64decode(value["$bytes"]) if set(value) == {"$bytes"} else value


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(described(sys.argv[1])))
    else:
        for line in sys.stdin:
            question = json.loads(line, object_hook=bytes_of)
            print(json.dumps(answer(*question), default=written), flush=True)
