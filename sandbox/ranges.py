"""What AWS answers to parameters that are outside the ranges of a service's model.

botocore has those ranges (least, most, pattern, allowed values) and checks few of them. AWS checks
all before it looks at anything else, and answers with a ValidationException whose text names each.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import botocore.session

# Where what AWS allows is narrower than the model: {"Timeout": {"max": 900}}, by shape.
Narrower = Mapping[str, Mapping[str, Any]]


def problem(
    service: str,
    operation: str,
    sent: Mapping[str, Any],
    narrower: Narrower | None = None,
    required: bool = True,
) -> str:
    """The text of the ValidationException for what an operation is sent; "" where AWS takes it.

    `sent` is by the names of the model. A number may be a string, as in templates. Without
    `required`, what is missing is passed over.
    """
    shape = _model(service).operation_model(operation).input_shape
    found = list(_structure(shape, sent, "", narrower or {}, required))
    if not found:
        return ""
    errors = "error" if len(found) == 1 else "errors"
    return f"{len(found)} validation {errors} detected: {'; '.join(found)}"


@cache
def _model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


def _structure(
    shape: Any, sent: Mapping[str, Any], path: str, narrower: Narrower, required: bool
) -> Iterator[str]:
    for name, member in shape.members.items():
        at = f"{path}{name[0].lower()}{name[1:]}"
        if sent.get(name) is not None:
            yield from _value(member, sent[name], at, narrower, required)
        elif required and name in shape.required_members:
            yield _failed(None, at, "Member must not be null")


def _value(shape: Any, value: Any, path: str, narrower: Narrower, required: bool) -> Iterator[str]:
    limits = _limits(shape, narrower)
    secret = bool(shape.metadata.get("sensitive"))
    if shape.type_name == "structure":
        if isinstance(value, Mapping):
            yield from _structure(shape, value, f"{path}.", narrower, required)
        return
    for constraint in _broken(shape.type_name, limits, value):
        yield _failed(value, path, constraint, secret)
    if shape.type_name == "list" and isinstance(value, list):
        member = shape.member
        if member.type_name in {"structure", "list", "map"}:
            for number, one in enumerate(value, start=1):
                yield from _value(member, one, f"{path}.{number}.member", narrower, required)
        else:
            yield from _each(member, value, value, path, narrower, of="Member")
    elif shape.type_name == "map" and isinstance(value, Mapping):
        yield from _each(shape.key, list(value), value, path, narrower, of="Map keys")
        yield from _each(shape.value, list(value.values()), value, path, narrower, of="Map value")


def _each(
    shape: Any, values: list[Any], shown: Any, path: str, narrower: Narrower, *, of: str
) -> Iterator[str]:
    """Plain values of a list or a map: AWS names all of their constraints if one is broken."""
    limits = _limits(shape, narrower)
    if any(True for value in values for _ in _broken(shape.type_name, limits, value)):
        every = ", ".join([*_constraints(shape.type_name, limits), "Member must not be null"])
        secret = bool(shape.metadata.get("sensitive"))
        yield _failed(shown, path, f"{of} must satisfy constraint: [{every}]", secret)


def _limits(shape: Any, narrower: Narrower) -> dict[str, Any]:
    limits = {name: shape.metadata[name] for name in ("max", "min") if name in shape.metadata}
    if pattern := shape.metadata.get("pattern"):
        limits["pattern"] = pattern
    if allowed := shape.metadata.get("enum"):
        limits["enum"] = allowed
    return {**limits, **narrower.get(shape.name, {})}


NUMBERS = ("integer", "long", "float", "double")
LENGTHS = ("string", "list", "map", "blob")


def _constraints(kind: str, limits: dict[str, Any]) -> dict[str, str]:
    """Each constraint of a value in AWS's words and order, with its name in the model."""
    words = {}
    measure = "value" if kind in NUMBERS else "length"
    for name, comparison in (("max", "less"), ("min", "greater")):
        if name in limits and kind in (*NUMBERS, *LENGTHS):
            text = f"Member must have {measure} {comparison} than or equal to {limits[name]}"
            words[text] = name
    if "pattern" in limits:
        words[f"Member must satisfy regular expression pattern: {limits['pattern']}"] = "pattern"
    if "enum" in limits:
        words[f"Member must satisfy enum value set: [{', '.join(limits['enum'])}]"] = "enum"
    return words


def _broken(kind: str, limits: dict[str, Any], value: Any) -> Iterator[str]:
    if kind in NUMBERS:
        try:
            size = float(value)
        except (TypeError, ValueError):
            return
    elif kind in LENGTHS and hasattr(value, "__len__"):
        size = len(value)
    else:
        return
    for text, name in _constraints(kind, limits).items():
        if (
            (name == "max" and size > limits["max"])
            or (name == "min" and size < limits["min"])
            or (name == "enum" and value not in limits["enum"])
            or (name == "pattern" and not _matches(limits["pattern"], value))
        ):
            yield text


def _matches(pattern: str, value: Any) -> bool:
    r"""Whether all of it matches; true for Java's own expressions, such as `\p{L}`."""
    try:
        return re.fullmatch(pattern, str(value)) is not None
    except re.error:
        return True


def _failed(value: Any, path: str, constraint: str, secret: bool = False) -> str:
    shown = "Value" if secret else f"Value {_shown(value)}"
    return f"{shown} at '{path}' failed to satisfy constraint: {constraint}"


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"'[{', '.join(map(str, value))}]'"
    if isinstance(value, Mapping):
        return f"'{{{', '.join(f'{key}={one}' for key, one in value.items())}}}'"
    return f"'{str(value).lower() if isinstance(value, bool) else value}'"
