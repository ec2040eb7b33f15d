"""How an integration of API Gateway with an AWS service becomes a request to that service.

The URI says service and action or path, parameters are mapped one by one, and what a service of the
query protocol answers comes back as JSON, because API Gateway accepts that. What AWS does with
values that are missing or empty was recorded on AWS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import botocore.session

# Services whose integrations the sandbox runs, by their name in a URI: botocore's name.
SERVICES = {
    "dynamodb": "dynamodb",
    "events": "events",
    "firehose": "firehose",
    "kinesis": "kinesis",
    "s3": "s3",
    "sns": "sns",
    "sqs": "sqs",
    "states": "stepfunctions",
}
# Those to which API Gateway itself says which action of a JSON protocol is meant.
TARGETED = ("dynamodb", "firehose", "kinesis", "states")
PROXIES = (
    "Integrations of type 'AWS_PROXY' currently only supports Lambda function and Firehose stream"
    " invocations."
)


@dataclass(frozen=True)
class Target:
    """What a URI of an integration names; `rest` follows "path/" or "action/"."""

    region: str
    service: str
    kind: str
    rest: str

    @property
    def function(self) -> bool:
        """Whether it is a Lambda function."""
        return self.service == "lambda"


@dataclass(frozen=True)
class Request:
    """What came in, or what goes to a service. Names of headers are in lower case."""

    method: str
    path: Mapping[str, str]
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: str


@dataclass
class Mapped:
    """Parameters of an integration's request."""

    header: dict[str, str] = field(default_factory=dict)
    querystring: dict[str, str | list[str]] = field(default_factory=dict)
    path: dict[str, str] = field(default_factory=dict)


class InvalidBody(Exception):
    """A parameter is to come from a body that is no JSON."""


def target(uri: str) -> Target | None:
    """What a URI names; None if it is no integration with an AWS service."""
    found = re.fullmatch(r"arn:aws[\w-]*:apigateway:([^:]*):([^:]*):(path|action)/(.*)", uri)
    return Target(*found.groups()) if found else None


def problem(kind: str, uri: str, credentials: str) -> str:
    """Why an integration of a REST API is refused: by AWS, or because the sandbox cannot run it."""
    found = target(uri)
    if kind not in {"AWS", "AWS_PROXY"} or (found and found.function):
        return ""
    if not found:
        return "AWS ARN for integration must contain path or action"
    proxy = kind == "AWS_PROXY"
    runs = found.service in SERVICES and (found.service, found.kind) != ("s3", "action")
    cannot = f"The sandbox cannot run an {kind} integration with"
    reasons = {
        PROXIES: proxy and found.service != "firehose",
        f"{cannot} {found.service}:{found.kind}": proxy or not runs,
        "Role ARN must be specified for AWS integrations": not credentials,
        f"{cannot} the caller's credentials": ":user/" in credentials,
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def mapped(
    parameters: Mapping[str, str],
    request: Request,
    context: Mapping[str, Any],
    stage_variables: Mapping[str, str],
) -> Mapped:
    """The parameters of an integration's request; what is not there is left out."""
    result = Mapped()
    for name, source in parameters.items():
        _, _, place = name.partition("integration.request.")
        kind, _, key = place.partition(".")
        value = _source(source, request, context, stage_variables)
        if value is None:
            continue
        if kind == "querystring":
            result.querystring[key] = value
        elif kind == "header":
            result.header[key] = ",".join(value) if isinstance(value, list) else value
        elif kind == "path":
            result.path[key] = value if isinstance(value, str) else ",".join(value)
    return result


def _source(
    source: str, request: Request, context: Mapping[str, Any], stage_variables: Mapping[str, str]
) -> str | list[str] | None:
    if source.startswith("'"):
        return source.strip("'")
    kind, _, name = source.partition(".")
    if kind == "context":
        return text(_descend(context, name.split(".")))
    if kind == "stageVariables":
        return stage_variables.get(name)
    kind, _, name = source.removeprefix("method.request.").partition(".")
    if kind == "body":
        return _of_body(request.body, name)
    several: Any = request.query.get(name) or [None]
    header = request.headers.get(name.lower())
    found: dict[str, Any] = {
        "header": header,
        "multivalueheader": header,
        "querystring": several[-1],
        "multivaluequerystring": several[0] if len(several) == 1 else several,
        "path": request.path.get(name),
    }
    return found.get(kind)


def _of_body(body: str, path: str) -> str | None:
    """A request's body, which is {} when empty, or what is at a path in it."""
    body = body or "{}"
    try:
        parsed = json.loads(body)
    except ValueError:
        if body.lstrip().startswith("{"):
            raise InvalidBody("Invalid JSON in request body") from None
        parsed = body
    if not path:
        return body
    steps = re.findall(r"[^.\[\]]+", path)
    return text(_descend(parsed, steps))


def _descend(value: Any, steps: Iterable[str]) -> Any:
    for step in steps:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def text(value: Any) -> str | None:
    """A value as a parameter: JSON, unless it is a string."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def call(found: Target, method: str, parameters: Mapped, body: str) -> Request:
    """The request to the service: its `path` holds one element, "", the path of its URL."""
    rest = re.sub(r"\{(\w+)\+?\}", lambda part: parameters.path.get(part[1], ""), found.rest)
    headers = {"accept": "application/json", "content-type": "application/json"}
    headers |= {name.lower(): value for name, value in parameters.header.items()}
    query = {
        name: value if isinstance(value, list) else [value]
        for name, value in parameters.querystring.items()
    }
    path = "/"
    if found.kind == "path":
        path, _, more = f"/{rest.lstrip('/')}".partition("?")
        query |= {name: [value] for name, value in parse_qsl(more)}
    else:
        action, *more = rest.split("&")
        query |= {name: [value] for name, value in parse_qsl("&".join(more))}
        if found.service in TARGETED:
            prefix = model(found.service).metadata["targetPrefix"]
            headers.setdefault("x-amz-target", f"{prefix}.{action}")
        elif "x-amz-target" not in headers:
            query.setdefault("Action", [action])
    return Request(method, {"": path}, query, headers, body)


@cache
def model(service: str) -> Any:
    """The botocore model of a service in URIs."""
    return botocore.session.get_session().get_service_model(SERVICES[service])


def in_json(found: Target, sent: Request, body: str) -> str:
    """The body of an answer: of the query protocol as JSON, unless the request asked for XML."""
    if found.service not in {"sns", "sqs"} or "xml" in sent.headers["accept"]:
        return body
    try:
        root = ElementTree.fromstring(body)  # noqa: S314, the sandbox's own server wrote it
    except ElementTree.ParseError:
        return body
    name, value = _plain(root.tag), _read(root)
    if name == "ErrorResponse":
        return json.dumps(value)
    action = name.removesuffix("Response")
    result = value.get(f"{action}Result")
    operations = model(found.service).operation_names
    if action in operations and (
        shape := model(found.service).operation_model(action).output_shape
    ):
        if not isinstance(result, dict):
            result = value[f"{action}Result"] = {}
        if action == "ReceiveMessage":
            messages = result.pop("Message", None)
            result["messages"] = [messages] if isinstance(messages, dict) else messages
        else:
            for member in shape.members:
                result.setdefault(member, None)
    return json.dumps({name: value})


def _plain(tag: str) -> str:
    return tag.rpartition("}")[2]


def _read(element: ElementTree.Element) -> Any:
    """An element's children by name, as a list where they repeat or are members; or its text."""
    if not len(element):
        return element.text or ""
    if all(_plain(child.tag) == "member" for child in element):
        return [_read(child) for child in element]
    found: dict[str, Any] = {}
    for child in element:
        name, value = _plain(child.tag), _read(child)
        if name in found:
            already = found[name]
            found[name] = [*already, value] if isinstance(already, list) else [already, value]
        else:
            found[name] = value
    return found


def response_headers(
    parameters: Mapping[str, str],
    headers: Mapping[str, str],
    body: str,
    context: Mapping[str, Any],
    stage_variables: Mapping[str, str],
) -> dict[str, str]:
    """The headers of a method's response, as an integration's response maps them.

    headers: those of the service's answer, by names in lower case.
    """
    found = {}
    for name, source in parameters.items():
        _, _, header = name.partition("method.response.header.")
        _, _, place = source.partition("integration.response.")
        kind, _, key = place.partition(".")
        if kind in {"header", "multivalueheader"}:
            value: Any = headers.get(key.lower())
        elif kind == "body":
            value = _of_body(body, key)
        else:
            nothing = Request("", {}, {}, {}, "")
            value = _source(source, nothing, context, stage_variables)
        if header and isinstance(value, str):
            found[header] = value
    return found


def selected(responses: Mapping[str, Mapping[str, Any]], answer: str) -> Mapping[str, Any] | None:
    """The integration response whose pattern matches a status or an error, or the default.

    None without either: API Gateway's own 500.
    """
    given = [one for one in responses.values() if one]
    for one in given:
        pattern = one.get("selectionPattern")
        if pattern and re.fullmatch(pattern, answer, re.DOTALL):
            return one
    return next((one for one in given if not one.get("selectionPattern")), None)
