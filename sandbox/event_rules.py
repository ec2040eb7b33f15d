"""What EventBridge says of entries, rules and targets that it does not take.

Codes and texts are AWS's, recorded from its answers, where they were known.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MOST_BYTES = 1_048_576  # of all entries of a request; 262,144 until 2026
INPUTS = ("Input", "InputPath", "InputTransformer")
PREDEFINED = (
    "aws.events.rule-arn",
    "aws.events.rule-name",
    "aws.events.event.ingestion-time",
    "aws.events.event",
    "aws.events.event.json",
)
# Kinds of targets that EventBridge reaches by the target's policy; all others need a role.
BY_POLICY = ("lambda", "sns", "sqs", "logs")


def size(entry: Mapping[str, Any]) -> int:
    """The bytes that EventBridge counts of an entry."""
    texts = [entry.get("Source"), entry.get("DetailType"), entry.get("Detail")]
    texts += entry.get("Resources") or []
    return sum(len((text or "").encode()) for text in texts) + 14 * (entry.get("Time") is not None)


def entry_problem(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """The code and text with which one entry of PutEvents fails; None if it does not."""
    for name in ("Source", "DetailType", "Detail"):
        if not entry.get(name):
            reason = f"Parameter {name} is not valid. Reason: {name} is a required argument."
            return "InvalidArgument", reason
    if entry["Source"].startswith("aws."):
        return "NotAuthorizedForSourceException", "Not authorized for the source."
    try:
        detail = json.loads(entry["Detail"])
    except (ValueError, TypeError, RecursionError):
        detail = None
    if not isinstance(detail, dict):
        return "MalformedDetail", "Detail is malformed."
    return None


def at(event: Any, path: str) -> Any:
    """What a path such as $.detail.items[0].id selects of an event, all of it where it has a *.

    LookupError if there is nothing.
    """
    values, every = [event], "*" in path
    for name, index in re.findall(r"\.([^.\[\]]+)|\[(\d+|\*)\]", path):
        step = name or index
        if step == "*":
            values = [one for value in values for one in _children(value)]
        elif name:
            values = [value[name] for value in values if isinstance(value, dict) and name in value]
        else:
            values = [value[int(index)] for value in values if len(_items(value)) > int(index)]
    return values if every else values[0]


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else _items(value)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def target_problems(target: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a rule's target, in AWS's words."""
    name, arn = target["Id"], target["Arn"]
    service = arn.split(":")[2] if arn.count(":") > 4 else ""
    if sum(target.get(one) is not None for one in INPUTS) > 1:
        each = "Input, InputPath, or InputTransformer"
        yield f"Only one of {each} must be provided for target {name}."
    if (given := target.get("Input")) is not None and not _is_json(given):
        yield f"JSON syntax error in input for target {name}."
    transformer = target.get("InputTransformer") or {}
    known = transformer.get("InputPathsMap") or {}
    for path in (target.get("InputPath"), *known.values()):
        if path is not None and (not path.startswith("$") or re.search(r"\[\s*['\"]", path)):
            yield f"InputPath for target {name} is invalid."
    template = transformer.get("InputTemplate", "")
    for placeholder in re.findall(r"<([A-Za-z0-9_.-]+)>", template):
        if placeholder not in known and placeholder not in PREDEFINED:
            yield f"InputTemplate for target {name} contains invalid placeholder {placeholder}."
    if "<aws.events.event.json>" in template and not template.lstrip().startswith("{"):
        yield (
            f"InputTemplate for target {name} contains placeholder aws.events.event.json valid only"
            " for JSON template."
        )
    if service and service not in BY_POLICY and not target.get("RoleArn"):
        yield f"RoleArn is required for target {arn}."
    if service == "sqs" and arn.endswith(".fifo") and not target.get("SqsParameters"):
        yield f"Parameter(s) SqsParameters must be specified for target: {name}."
    dead = (target.get("DeadLetterConfig") or {}).get("Arn", "")
    if dead and dead.split(":")[2:3] != ["sqs"]:
        yield f"{dead.split(':')[2]} is not supported as a dead letter resource."
    if dead.endswith(".fifo"):
        yield "SQS FIFO is not supported by Dead Letter Queues."


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, TypeError):
        return False
    return True
