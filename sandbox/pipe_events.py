"""What goes through a pipe of EventBridge: its events, input templates, and what pipes may be.

The rules are those of the guide's pages on input transformation, on batching and on sources.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

BATCH = 10  # messages, if the pipe does not say
# Targets that the sandbox runs, by service in the ARN: the largest batch, or None for any.
TARGETS = {
    "events": 10,
    "firehose": 500,
    "kinesis": 500,
    "lambda": None,
    "logs": 10_000,
    "sns": 10,
    "sqs": 10,
    "states": None,
}
ENRICHMENTS = ("lambda", "states")
_NOTHING = "\0nothing\0"


def service(arn: str) -> str:
    """The service that an ARN names, and what kind of resource if one service has several."""
    parts = arn.split(":")
    if len(parts) < 6:
        return arn.partition(":")[0]
    if parts[2] == "events" and not parts[5].startswith("event-bus/"):
        return parts[5].partition("/")[0]
    return parts[2]


def problem(pipe: Mapping[str, Any]) -> str:
    """Why a pipe is refused, by AWS or because the sandbox cannot run it; by CreatePipe's names."""
    return next(_problems(pipe), "")


def _problems(pipe: Mapping[str, Any]) -> Iterator[str]:
    source, target = service(pipe["Source"]), service(pipe["Target"])
    parameters, enrichment = pipe.get("SourceParameters") or {}, pipe.get("Enrichment") or ""
    if source == "dynamodb":
        more = (
            parameters.get("FilterCriteria"),
            enrichment,
            (pipe.get("TargetParameters") or {}).get("InputTemplate"),
        )
        if any(more) or target not in {"sns", "states"}:
            yield (
                "The sandbox runs a pipe from DynamoDB to SNS or Step Functions only, without"
                " filter, enrichment and input template"
            )
        return
    if source != "sqs":
        yield f"The sandbox cannot run a pipe from {source}"
    if target not in TARGETS:
        yield f"The sandbox cannot run a pipe to {target}"
    if enrichment and service(enrichment) not in ENRICHMENTS:
        yield f"The sandbox cannot run a pipe with enrichment by {service(enrichment)}"
    if source == "sqs":
        batch = int((parameters.get("SqsQueueParameters") or {}).get("BatchSize") or BATCH)
        if pipe["Source"].endswith(".fifo") and batch > 10:
            yield "The batch size of a FIFO queue is 10 at most"
        most = TARGETS.get(target)
        if most and batch > most:
            yield f"The batch size of a pipe to {target} is {most} at most"


def record(message: Mapping[str, Any], queue: str) -> dict[str, Any]:
    """The event of a message as ReceiveMessage gives it, from the queue of this ARN."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message.get("Attributes") or {},
        "messageAttributes": {
            name: _attribute(value)
            for name, value in (message.get("MessageAttributes") or {}).items()
        },
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": queue,
        "awsRegion": queue.split(":")[3],
    }


def _attribute(value: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"stringListValues": [], "binaryListValues": []}
    for name in ("StringValue", "DataType"):
        if name in value:
            found[name[0].lower() + name[1:]] = value[name]
    if "BinaryValue" in value:
        found["binaryValue"] = base64.b64encode(value["BinaryValue"]).decode()
    return found


def transformed(template: str, event: Any, pipe: Mapping[str, Any]) -> str:
    """The text that an input template makes of an event; without one, the event as JSON.

    In JSON a string gets its quotes and a variable that is not there leaves out its field. In a
    string, quoted or all of the template, an object loses its quotes.
    """
    if not template:
        return event if isinstance(event, str) else json.dumps(event)
    variables = {
        "aws.pipes.pipe-arn": pipe.get("Arn", ""),
        "aws.pipes.pipe-name": pipe.get("Name", ""),
        "aws.pipes.source-arn": pipe.get("Source", ""),
        "aws.pipes.enrichment-arn": pipe.get("Enrichment") or "",
        "aws.pipes.target-arn": pipe.get("Target", ""),
        "aws.pipes.event": event,
        "aws.pipes.event.json": _decoded(event),
        "aws.pipes.event.ingestion-time": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    structured = template.lstrip()[:1] in {"{", "["}
    quoted, made = False, ""
    for part in re.split(r'(<[^<>\s]+>|\\.|")', template):
        name = part[1:-1] if part.startswith("<") else ""
        if part == '"':
            quoted = not quoted
        if name.startswith("$") or name in variables:
            value = at(name, event) if name.startswith("$") else variables[name]
            made += json.dumps(value) if structured and not quoted else _inline(value)
        else:
            made += part
    return _without_nothing(made) if structured else made


def _without_nothing(made: str) -> str:
    """JSON without the fields whose variables were not there."""
    nothing = json.dumps(_NOTHING)
    if nothing not in made:
        return made
    try:
        return json.dumps(_pruned(json.loads(made)))
    except ValueError:
        return made.replace(nothing, "")


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pruned(one) for key, one in value.items() if one != _NOTHING}
    if isinstance(value, list):
        return [_pruned(one) for one in value if one != _NOTHING]
    return value


def _inline(value: Any) -> str:
    if value == _NOTHING:
        return ""
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")


def at(path: str, event: Any) -> Any:
    """What a path finds in an event whose body is read as the JSON it may be."""
    found = [_decoded(event)]
    many = False
    for name, index in re.findall(r"\.([^.\[\]]+)|\[(\d+|\*)\]", path):
        if index == "*":
            many = True
            found = [one for value in found if isinstance(value, list) for one in value]
        elif index:
            number = int(index)
            found = [
                value[number] for value in found if isinstance(value, list) and number < len(value)
            ]
        else:
            found = [value[name] for value in found if isinstance(value, dict) and name in value]
    if many:
        return found
    return found[0] if found else _NOTHING


def parameter(value: Any, event: Any) -> Any:
    """A parameter of a target: as it is, or what its path finds; None where that is nothing."""
    if not (isinstance(value, str) and value.startswith("$.")):
        return value
    found = at(value, event)
    if found == _NOTHING:
        return None
    return found if isinstance(found, str) else json.dumps(found)


def _decoded(event: Any) -> Any:
    if not isinstance(event, dict) or event.get("eventSource") != "aws:sqs":
        return event
    try:
        return {**event, "body": json.loads(event["body"])}
    except ValueError:
        return event
