"""How an HTTP API's integration with an AWS service becomes a request to that service.

The subtype says service and action; each of its parameters is static, or a selection expression on
the request. Subtypes and parameters are those of AWS's reference; what it refuses is there too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True)
class Subtype:
    """service: as it signs. Parameters by AWS's names."""

    service: str
    action: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


_SQS = ("QueueUrl",)
SUBTYPES = {
    f"{name}-{subtype.action}": subtype
    for name, subtype in (
        (
            "EventBridge",
            Subtype(
                "events",
                "PutEvents",
                ("Detail", "DetailType", "Source"),
                ("Time", "EventBusName", "Resources", "TraceHeader"),
            ),
        ),
        (
            "SQS",
            Subtype(
                "sqs",
                "SendMessage",
                ("QueueUrl", "MessageBody"),
                (
                    "DelaySeconds",
                    "MessageAttributes",
                    "MessageDeduplicationId",
                    "MessageGroupId",
                    "MessageSystemAttributes",
                ),
            ),
        ),
        (
            "SQS",
            Subtype(
                "sqs",
                "ReceiveMessage",
                _SQS,
                (
                    "AttributeNames",
                    "MaxNumberOfMessages",
                    "MessageAttributeNames",
                    "ReceiveRequestAttemptId",
                    "VisibilityTimeout",
                    "WaitTimeSeconds",
                ),
            ),
        ),
        ("SQS", Subtype("sqs", "DeleteMessage", ("ReceiptHandle", "QueueUrl"))),
        ("SQS", Subtype("sqs", "PurgeQueue", _SQS)),
        (
            "Kinesis",
            Subtype(
                "kinesis",
                "PutRecord",
                ("StreamName", "Data", "PartitionKey"),
                ("SequenceNumberForOrdering", "ExplicitHashKey"),
            ),
        ),
        (
            "StepFunctions",
            Subtype("states", "StartExecution", ("StateMachineArn",), ("Name", "Input")),
        ),
        (
            "StepFunctions",
            Subtype(
                "states",
                "StartSyncExecution",
                ("StateMachineArn",),
                ("Name", "Input", "TraceHeader"),
            ),
        ),
        (
            "StepFunctions",
            Subtype("states", "StopExecution", ("ExecutionArn",), ("Cause", "Error")),
        ),
    )
}
# Version of JSON and prefix of targets.
PROTOCOLS = {
    "events": ("1.1", "AWSEvents"),
    "kinesis": ("1.1", "Kinesis_20131202"),
    "states": ("1.0", "AWSStepFunctions"),
}
# Their values are structures: AWS takes expressions only.
STRUCTURES = ("MessageAttributes", "MessageSystemAttributes")


def problem(integration: Mapping[str, Any]) -> str:
    """Why an integration of an HTTP API is refused, by AWS or because the sandbox cannot run it.

    By the API's own names: integrationType, integrationSubtype and so on.
    """
    kind, name = integration.get("integrationType"), integration.get("integrationSubtype")
    if integration.get("connectionType") == "VPC_LINK":
        return "The sandbox cannot run an integration through a VPC link"
    if kind not in {"AWS_PROXY", "HTTP_PROXY"}:
        return f"The sandbox cannot run an integration of type {kind} with an HTTP API"
    if not name:
        return ""
    if name not in SUBTYPES:
        return f"The sandbox cannot run an integration of subtype {name}"
    return next(_refused(name, integration), "")


def _refused(name: str, integration: Mapping[str, Any]) -> Iterator[str]:
    subtype, given = SUBTYPES[name], integration.get("requestParameters") or {}
    for missing in sorted(set(subtype.required) - set(given)):
        yield f"The request parameter {missing} is required for {name}"
    for unknown in sorted(set(given) - {*subtype.required, *subtype.optional, "Region"}):
        yield f"The request parameter {unknown} is not supported for {name}"
    for structure in STRUCTURES:
        if (source := given.get(structure)) and "$" not in source:
            yield (
                "Invalid selection expression specified: Validation Result: warnings : [], errors :"
                f" [Invalid source: {source} specified for destination: {structure}]"
            )
    if not integration.get("credentialsArn"):
        yield f"A credentials ARN is required for {name}"


def mapped(
    parameters: Mapping[str, str],
    request: Any,
    context: Mapping[str, Any],
    stage_variables: Mapping[str, str],
) -> dict[str, str]:
    """Each parameter's value; what cannot be resolved is left out.

    request: one of api_calls, whose path has the whole path under "" besides its parameters.
    """
    look = _looker(request, context, stage_variables)
    found = {name: _resolved(str(source), look) for name, source in parameters.items()}
    return {name: value for name, value in found.items() if value is not None}


def _resolved(source: str, look: Callable[[str], str | None]) -> str | None:
    if re.fullmatch(r"\$\{[^}]*\}", source):
        return look(source[2:-1])
    if "${" in source:
        return re.sub(r"\$\{([^}]*)\}", lambda part: look(part[1]) or "", source)
    return look(source[1:]) if source.startswith("$") else source


def _looker(
    request: Any, context: Mapping[str, Any], stage_variables: Mapping[str, str]
) -> Callable[[str], str | None]:
    def look(expression: str) -> str | None:
        root, _, rest = expression.partition(".")
        if root == "stageVariables":
            return stage_variables.get(rest)
        if root == "context":
            return _text_at(context, rest)
        kind, _, name = rest.partition(".")
        if kind == "body":
            return _text_at(request.body, name) if name else request.body
        values: dict[str, str | None] = {
            "header": request.headers.get(name.lower()),
            "querystring": ",".join(request.query[name]) if name in request.query else None,
            "path": request.path.get(name),
        }
        return values.get(kind)

    return look


def _text_at(document: Any, path: str) -> str | None:
    """What a path of names and indexes finds, as JSON unless it is a string; None if nothing."""
    try:
        value = json.loads(document) if isinstance(document, str) else document
        for step in re.findall(r"[^.\[\]'\"]+", path):
            value = value[int(step)] if isinstance(value, list) else value[step]
    except (ValueError, TypeError, LookupError):
        return None
    return value if isinstance(value, str) or value is None else json.dumps(value)


def call(subtype: Subtype, values: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """(headers, body) of the POST to the service."""
    given = {name: value for name, value in values.items() if name != "Region"}
    if subtype.service == "sqs":
        headers = {"content-type": "application/x-www-form-urlencoded"}
        form = {"Action": subtype.action, "Version": "2012-11-05", **_form(given)}
        return headers, urlencode(form)
    version, prefix = PROTOCOLS[subtype.service]
    headers = {
        "content-type": f"application/x-amz-json-{version}",
        "x-amz-target": f"{prefix}.{subtype.action}",
    }
    body: dict[str, Any] = dict(given)
    if subtype.service == "events":
        if "Resources" in given:
            body["Resources"] = _listed(given["Resources"])
        body = {"Entries": [body]}
    elif subtype.service == "states":
        body = {name[0].lower() + name[1:]: value for name, value in given.items()}
    return headers, json.dumps(body)


def _listed(value: str) -> list[Any]:
    try:
        found = json.loads(value)
    except ValueError:
        return [value]
    return found if isinstance(found, list) else [found]


def _form(given: Mapping[str, str]) -> dict[str, str]:
    """Parameters as SQS's query protocol has them, where lists and maps are numbered."""
    form: dict[str, str] = {}
    for name, value in given.items():
        if name in STRUCTURES:
            attributes = json.loads(value)
            for number, (key, fields) in enumerate(attributes.items(), start=1):
                prefix = f"{name.removesuffix('s')}.{number}"
                form[f"{prefix}.Name"] = key
                form |= {f"{prefix}.Value.{one}": str(of) for one, of in fields.items()}
        elif name in {"AttributeNames", "MessageAttributeNames"}:
            for number, one in enumerate(_listed(value), start=1):
                form[f"{name.removesuffix('s')}.{number}"] = str(one)
        else:
            form[name] = value
    return form
