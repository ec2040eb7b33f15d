"""What Step Functions refuses in a request before it looks at what there is."""

from __future__ import annotations

import json
import re
from typing import Any

INPUT = 262_144  # bytes of an execution's input (dg/service-quotas)
# Members that are ARNs, and the kind of resource that each names.
KINDS = {
    "stateMachineArn": "stateMachine",
    "executionArn": "execution",
    "activityArn": "activity",
    "mapRunArn": "mapRun",
    "roleArn": "role",
}
NAMED = ("CreateActivity", "CreateStateMachine", "StartExecution", "StartSyncExecution")
CHANGES = (
    *("definition", "roleArn", "loggingConfiguration", "tracingConfiguration"),
    "encryptionConfiguration",
)
Refusal = tuple[str, str]  # AWS's error code, its words


def refusal(operation: str, data: dict[str, Any]) -> Refusal | None:
    """Why a request is refused whatever there is; None if it is not. Ranges are asked before."""
    for member, kind in KINDS.items():
        if (arn := data.get(member)) is not None and (said := _not_of(kind, arn)):
            return "InvalidArn", f"Invalid Arn: '{said}'"
    if operation in NAMED and (name := data.get("name")) is not None and not is_name(name):
        return "InvalidName", f"Invalid Name: '{name}'"
    if operation in ("StartExecution", "StartSyncExecution"):
        return of_input(data.get("input", "{}"))
    if operation == "UpdateStateMachine" and not any(name in data for name in CHANGES):
        return (
            "MissingRequiredParameter",
            "Either the definition, the role ARN, the LoggingConfiguration, or the"
            " TracingConfiguration must be specified",
        )
    return None


def is_name(name: str) -> bool:
    """Whether a machine, an execution or an activity can be named so (model, `Name`)."""
    illegal = r"[\s<>{}\[\]?*\"#%\\^|~`$&,;:/\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"
    return 1 <= len(name) <= 80 and not re.search(illegal, name)


def of_input(text: str) -> Refusal | None:
    """Why an execution's input is refused; None if it is not."""
    if len(text.encode()) > INPUT:
        return (
            "ValidationException",
            "1 validation error detected: Value at 'input' failed to satisfy constraint: Member"
            f" must have length less than or equal to {INPUT}",
        )
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        said = "Invalid execution input." if not text.strip() else _unread(text, error)
        return "InvalidExecutionInput", f"Invalid State Machine Execution Input: '{said}'"
    return None


def _unread(text: str, error: Exception) -> str:
    """As the parser says it that Step Functions has, where it was recorded."""
    at = getattr(error, "pos", 0)
    token = re.match(r"\w+", text[at:])
    if token and not text[:at].strip():
        expected = "JSON String, Number, Array, Object or token 'null', 'true' or 'false'"
        return f"Unrecognized token '{token[0]}': was expecting ({expected})"
    if "property name" in str(error) and at < len(text):
        sign = text[at]
        return (
            f"Unexpected character ('{sign}' (code {ord(sign)})): was expecting double-quote to"
            " start field name"
        )
    return str(error)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _not_of(kind: str, arn: Any) -> str:
    """Why a text is no ARN of a kind of resource; nothing if it is."""
    parts = str(arn).split(":")
    if parts[0] != "arn":
        return f"Invalid ARN prefix: {arn}"
    found = parts[5].partition("/")[0] if len(parts) > 5 else ""
    return "" if found == kind else f"Resource type not valid in this context: {found}"
