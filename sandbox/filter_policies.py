"""What SNS takes as a filter policy, and which messages one lets through.

After the developer guide ("Filter policy constraints") and public records of AWS's answers.
"""

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MOST_KEYS = 5
MOST_COMBINATIONS = 150
MOST_BYTES = 262_144
LARGEST = 10**9  # of a number, either side of zero
TEXTS = ("prefix", "suffix", "equals-ignore-case", "wildcard", "cidr")
OPERATORS = (*TEXTS, "exists", "anything-but", "numeric")
SCOPES = ("MessageAttributes", "MessageBody")


def problem(text: str, scope: str) -> str:
    """What SNS says against a policy; "" if it takes it, as it does an empty one."""
    return next(_said(text, scope), "") if text else ""


def _said(text: str, scope: str) -> Iterator[str]:
    if len(text.encode()) > MOST_BYTES:
        yield "FilterPolicy: Filter policy is too large"
    try:
        policy = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        policy = None
    if not isinstance(policy, dict):
        yield "FilterPolicy: failed to parse JSON"
        return
    yield from _problems(policy, scope)
    if len([key for key in policy if not _is_or(key, policy[key])]) > MOST_KEYS:
        yield f"FilterPolicy: Filter policy can not have more than {MOST_KEYS} keys"
    if combinations(policy) > MOST_COMBINATIONS:
        yield "FilterPolicy: Filter policy is too complex"


def _no_json(name: str) -> None:
    """NaN and the like, which Python alone reads."""
    raise ValueError(name)


def combinations(policy: Mapping[str, Any], depth: int = 1) -> int:
    """How many combinations a policy stands for: values times their depth, `$or` added up."""
    count = 1
    for key, value in policy.items():
        if _is_or(key, value):
            count *= sum(combinations(one, depth) for one in value)
        elif isinstance(value, dict):
            count *= combinations(value, depth + 1)
        else:
            count *= len(value) * depth
    return count


def _is_or(key: str, value: Any) -> bool:
    """`$or` is the operator only before two or more objects whose names are no operators."""
    return (
        key == "$or"
        and isinstance(value, list)
        and len(value) > 1
        and all(isinstance(one, dict) and not set(one) & set(OPERATORS) for one in value)
    )


def _problems(policy: Mapping[str, Any], scope: str) -> Iterator[str]:
    for key, value in policy.items():
        if _is_or(key, value):
            for one in value:
                yield from _problems(one, scope)
        elif isinstance(value, dict):
            if scope != "MessageBody":
                yield "Filter policy scope MessageAttributes does not support nested filter policy"
            elif not value:
                yield "FilterPolicy: Empty objects are not allowed"
            yield from _problems(value, scope)
        elif not isinstance(value, list):
            yield f'FilterPolicy: "{key}" must be an object or an array'
        elif not value:
            yield "FilterPolicy: Empty arrays are not allowed"
        else:
            for rule in value:
                yield from (f"FilterPolicy: {said}" for said in _wrong(rule))


def _wrong(rule: Any) -> Iterator[str]:
    """What is wrong with one rule of a key."""
    if isinstance(rule, list):
        yield "Match value must be String, number, true, false, or null"
    elif not isinstance(rule, dict):
        yield from _wrong_number(rule)
    elif len(rule) != 1:
        yield "Only one key allowed in match expression"
    else:
        ((operator, value),) = rule.items()
        if operator not in OPERATORS:
            yield f"Unrecognized match type {operator}"
        elif operator == "exists":
            if not isinstance(value, bool):
                yield "exists match pattern must be either true or false."
        elif operator == "numeric":
            yield from _wrong_range(value)
        elif operator == "anything-but":
            yield from _wrong_exclusion(value)
        else:
            yield from _wrong_text(operator, value)


def _wrong_text(operator: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{operator} match pattern must be a string"
    elif operator == "cidr":
        yield from _wrong_network(value)
    # An escaped star is none; two other letters in its place keep the position.
    elif operator == "wildcard" and "**" in (plain := re.sub(r"\\.", "__", value, flags=re.S)):
        yield f"Consecutive wildcard characters at pos {plain.index('**')}"


def _wrong_number(value: Any) -> Iterator[str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) > LARGEST:
        yield f"Value must be between -{LARGEST} and {LARGEST}"


def _wrong_network(value: str) -> Iterator[str]:
    if value.count("/") != 1:
        yield "Malformed CIDR, one '/' required"
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        yield f"Nonstandard IP address: {value.partition('/')[0]}"


def _wrong_exclusion(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if len(value) != 1 or next(iter(value)) not in TEXTS:
            yield f"Unsupported anything-but pattern: {next(iter(value), '')}"
            return
        ((operator, given),) = value.items()
        texts = _listed(given)
        if not texts:
            yield "Empty arrays are not allowed"
        for one in texts:
            yield from _wrong_text(operator, one)
        return
    values = _listed(value)
    if not values:
        yield "Empty arrays are not allowed"
    if any(isinstance(one, bool) or not isinstance(one, (str, int, float)) for one in values):
        yield "Inside anything but list, start|null|boolean is not supported."
    for one in values:
        yield from _wrong_number(one)


def _wrong_range(value: Any) -> Iterator[str]:
    if not isinstance(value, list):
        yield "Value of numeric must be an array."
        return
    if not value:
        yield "Invalid member in numeric match: ]"
        return
    operator, *rest = value
    if operator not in ("=", "<", "<=", ">", ">="):
        yield f"Unrecognized numeric range operator: {operator}"
    for name, limit in ((operator, rest[:1]), (rest[1:2] and rest[1], rest[2:3])):
        if name and not (limit and isinstance(limit[0], (int, float)) and limit[0] is not True):
            yield f"Value of {name} must be numeric"
        elif limit:
            yield from _wrong_number(limit[0])
    if len(rest) > 1:
        if operator not in (">", ">=") or len(rest) > 3:
            yield "Too many elements in numeric expression"
        elif rest[1] not in ("<", "<="):
            yield f"Bad numeric range operator: {rest[1]}"
        elif rest[0] >= rest[2]:
            yield "Bottom must be less than top"


# ---- messages


def lets_through(text: str, scope: str, attributes: Mapping[str, Any], message: str) -> bool:
    """Whether a policy, which SNS has taken, lets a message through; an empty one all of them.

    attributes: by name, as Publish takes them. message: what the subscriber would get.
    """
    if not text:
        return True
    policy = json.loads(text)
    if scope == "MessageBody":
        try:
            body = json.loads(message)
        except ValueError:
            return False
        return isinstance(body, dict) and _fits(policy, body)
    values = {name: _candidates(attribute) for name, attribute in attributes.items()}
    return _fits(policy, values)


def _candidates(attribute: Mapping[str, Any]) -> Any:
    """The values of a message attribute: an array's elements, a number, or the text."""
    kind, text = attribute.get("DataType", ""), attribute.get("StringValue", "")
    try:
        if kind == "String.Array" and isinstance(found := json.loads(text), list):
            return found
        if kind.partition(".")[0] == "Number":
            return float(text)
    except ValueError:
        pass
    return text


def _fits(policy: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    for key, value in policy.items():
        if _is_or(key, value):
            if not any(_fits(one, body) for one in value):
                return False
            continue
        found = list(_at(body, key))
        if isinstance(value, dict):
            # One element must meet all that is said of it.
            objects = [one for many in found for one in _flat(many) if isinstance(one, dict)]
            if not any(_fits(value, one) for one in objects):
                return False
        elif not any(_meets(rule, found, bool(body)) for rule in value):
            return False
    return True


def _at(body: Any, key: str) -> Iterator[Any]:
    """What is there by a name, or by names with dots between them, in any element of arrays."""
    for one in _flat(body):
        if not isinstance(one, Mapping):
            continue
        if key in one:
            yield one[key]
        first, dot, rest = key.partition(".")
        if dot and first in one:
            yield from _at(one[first], rest)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _flat(value: Any) -> Iterator[Any]:
    """A value, or each that an array, or arrays within it, hold."""
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    else:
        yield value


def _meets(rule: Any, found: list[Any], something: bool) -> bool:
    if isinstance(rule, dict) and "exists" in rule:
        return bool(found) if rule["exists"] else not found and something
    return any(_matches(rule, one) for many in found for one in _flat(many))


def _matches(rule: Any, value: Any) -> bool:
    if isinstance(rule, dict):
        ((operator, given),) = rule.items()
        return _operator_matches(operator, given, value)
    if isinstance(rule, bool) or rule is None:
        return value is rule or value == json.dumps(rule)
    return value == rule if isinstance(rule, str) else _number(value) == float(rule)


def _operator_matches(operator: str, given: Any, value: Any) -> bool:
    if operator == "anything-but":
        if isinstance(given, dict):
            ((operator, texts),) = given.items()
            return isinstance(value, str) and not any(
                _text_matches(operator, one, value) for one in _listed(texts)
            )
        return not any(_matches(one, value) for one in _listed(given))
    if operator == "numeric":
        number = _number(value)
        return number is not None and _in_range(number, given)
    return isinstance(value, str) and _text_matches(operator, given, value)


def _text_matches(operator: str, given: str, value: str) -> bool:
    match operator:
        case "prefix":
            return value.startswith(given)
        case "suffix":
            return value.endswith(given)
        case "equals-ignore-case":
            return value.lower() == given.lower()
        case "wildcard":
            # A star is any letters, one after a backslash is itself.
            parts = re.findall(r"\\.|.", given, re.S)
            pattern = (".*" if one == "*" else re.escape(one[-1]) for one in parts)
            return bool(re.fullmatch("".join(pattern), value, re.S))
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(given, strict=False)
    except ValueError:
        return False


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)


def _in_range(number: float, given: list[Any]) -> bool:
    for operator, limit in zip(given[::2], given[1::2], strict=True):
        holds = {
            "=": number == limit,
            "<": number < limit,
            "<=": number <= limit,
            ">": number > limit,
            ">=": number >= limit,
        }
        if not holds[operator]:
            return False
    return True
