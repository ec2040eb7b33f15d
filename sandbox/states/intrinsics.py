"""The intrinsic functions of JSONPath states, and the payload templates that call them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import random
import re
import uuid
from collections.abc import Callable
from typing import Any

from . import paths
from .faults import Fault, runtime, text
from .scope import Sight

LONGEST = 10_000  # characters that Base64Encode, Base64Decode and Hash take (developer guide)
MOST = 1_000  # elements that ArrayRange makes (developer guide)
ALGORITHMS = {"MD5", "SHA-1", "SHA-256", "SHA-384", "SHA-512"}
_CALL = re.compile(r"\s*(States\.\w+)\s*\(")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None}


def fill(template: Any, sight: Sight) -> Any:
    """A payload template with every field whose name ends in ".$" worked out."""
    if isinstance(template, list):
        return [fill(one, sight) for one in template]
    if not isinstance(template, dict):
        return template
    return {
        name.removesuffix(".$"): _field(name, value, sight)
        if name.endswith(".$")
        else fill(value, sight)
        for name, value in template.items()
    }


def _field(name: str, value: Any, sight: Sight) -> Any:
    if not isinstance(value, str):
        raise runtime(
            f"The value for the field '{name}' must be a valid JSONPath or a valid intrinsic"
            " function call"
        )
    return call(value, sight) if value.lstrip().startswith("States.") else sight.field(value, name)


def call(source: str, sight: Sight) -> Any:
    """What an intrinsic function, with its arguments as in the definition, comes to."""
    try:
        value, end = _call(source, 0, sight)
    except _Refused as refused:
        raise Fault(
            "States.IntrinsicFailure",
            f"The function '{source}' had the following error: {refused}",
        ) from None
    except paths.PathError as missing:
        path = str(missing)
        raise runtime(
            f"The function '{source}' had the following error: The JsonPath argument for the"
            f" field '{path}' could not be found in the input '{text(sight.source(path))}'"
        ) from None
    if source[end:].strip():
        raise runtime(f"The function '{source}' is not an intrinsic function call")
    return value


class _Refused(Exception):
    """The arguments are not what the function takes."""


def _call(source: str, at: int, sight: Sight) -> tuple[Any, int]:
    """The value of the call that begins here, and where it ends."""
    head = _CALL.match(source, at)
    if not head or head.group(1) not in FUNCTIONS:
        raise _Refused("it is not an intrinsic function")
    arguments, at = [], head.end()
    while True:
        at = _blank(source, at)
        if source[at : at + 1] == ")" and not arguments:
            break
        value, at = _argument(source, at, sight)
        arguments.append(value)
        at = _blank(source, at)
        if source[at : at + 1] == ")":
            break
        if source[at : at + 1] != ",":
            raise _Refused("its arguments cannot be read")
        at += 1
    function = FUNCTIONS[head.group(1)]
    try:
        return function(*arguments), at + 1
    except TypeError:
        raise _Refused("the number or type of its arguments is invalid") from None


def _argument(source: str, at: int, sight: Sight) -> tuple[Any, int]:
    if source[at : at + 1] == "'":
        return _string(source, at + 1)
    if source[at : at + 1] == "$":
        end = _end_of_path(source, at)
        path = source[at:end].strip()
        try:
            return sight.look(path), end
        except paths.PathError:
            raise paths.PathError(path) from None
    if source.startswith("States.", at):
        return _call(source, at, sight)
    if number := _NUMBER.match(source, at):
        return json.loads(number.group()), number.end()
    for word, value in _WORDS.items():
        if source.startswith(word, at):
            return value, at + len(word)
    raise _Refused("its arguments cannot be read")


def _string(source: str, at: int) -> tuple[str, int]:
    r"""A string in apostrophes; \{ and \} are left for States.Format."""
    read = ""
    while at < len(source) and source[at] != "'":
        if source[at] == "\\" and source[at + 1 : at + 2] in {"'", "\\"}:
            at += 1
        elif source[at] == "\\" and source[at + 1 : at + 2] in {"{", "}"}:
            read, at = read + "\\", at + 1
        read += source[at]
        at += 1
    if at >= len(source):
        raise _Refused("a string does not end")
    return read, at + 1


def _end_of_path(source: str, at: int) -> int:
    """Where a path ends: at a comma or parenthesis that stands outside its brackets and strings."""
    depth, quote = 0, ""
    while at < len(source):
        here = source[at]
        if quote:
            quote = "" if here == quote else quote
        elif here in "'\"" and depth:
            quote = here
        elif here in "[(":
            depth += 1
        elif here in "])" and depth:
            depth -= 1
        elif here in ",)" and not depth:
            break
        at += 1
    return at


def _blank(source: str, at: int) -> int:
    while at < len(source) and source[at].isspace():
        at += 1
    return at


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise _Refused(problem)


def _whole(value: Any) -> int:
    """A number rounded as Java does it: halves up."""
    _require(
        isinstance(value, int | float) and not isinstance(value, bool), "it takes a number there"
    )
    return value if isinstance(value, int) else math.floor(value + 0.5)


def _array(value: Any) -> list[Any]:
    _require(isinstance(value, list), "it takes an array there")
    return value


def _text(value: Any, longest: int | None = None) -> str:
    _require(isinstance(value, str), "it takes a string there")
    _require(longest is None or len(value) <= longest, f"it takes at most {longest} characters")
    return value


def _format(template: Any, *values: Any) -> str:
    parts = re.split(r"(\\[{}]|\{\})", _text(template))
    _require(
        parts.count("{}") == len(values),
        "The number of arguments do not match the occurrences of {}",
    )
    shown = iter(value if isinstance(value, str) else text(value) for value in values)
    return "".join(
        next(shown) if part == "{}" else part[1:] if part in {"\\{", "\\}"} else part
        for part in parts
    )


def _string_to_json(source: Any) -> Any:
    try:
        return json.loads(_text(source))
    except ValueError:
        raise _Refused("Invalid JSON string") from None


def _partition(values: Any, size: Any) -> list[Any]:
    each = _whole(size)
    _require(each > 0, "the chunk size must be a positive integer")
    return [values[at : at + each] for at in range(0, len(_array(values)), each)]


def _range(first: Any, last: Any, step: Any) -> list[int]:
    begin, end, by = _whole(first), _whole(last), _whole(step)
    _require(by != 0, "the increment cannot be zero")
    made = range(begin, end + (1 if by > 0 else -1), by)
    _require(len(made) <= MOST, f"it makes at most {MOST} elements")
    return list(made)


def _item(values: Any, index: Any) -> Any:
    at = _whole(index)
    _require(0 <= at < len(_array(values)), "the index is out of range")
    return values[at]


def _unique(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in _array(values):
        if not any(paths.equal(value, one) for one in found):
            found.append(value)
    return found


def _decode(source: Any) -> str:
    try:
        return base64.b64decode(_text(source, LONGEST), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise _Refused("it is not Base64 of a text") from None


def digest(source: str, algorithm: Any) -> str:
    """The hash of a string in hexadecimal digits. ValueError for an algorithm AWS does not have."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"the algorithm must be one of {', '.join(sorted(ALGORITHMS))}")
    return hashlib.new(algorithm.replace("SHA-", "SHA"), source.encode()).hexdigest()


def _hash(source: Any, algorithm: Any) -> str:
    shown = source if isinstance(source, str) else text(source)
    try:
        return digest(_text(shown, LONGEST), algorithm)
    except ValueError as problem:
        raise _Refused(str(problem)) from None


def _merge(first: Any, second: Any, deep: Any) -> dict[str, Any]:
    _require(deep is False, "it merges in shallow mode only: its third argument is false")
    _require(isinstance(first, dict) and isinstance(second, dict), "it takes two objects")
    return first | second


def _random(first: Any, last: Any, *seed: Any) -> int:
    begin, end = _whole(first), _whole(last)
    _require(begin < end, "the start must be below the end")
    return random.Random(_whole(seed[0]) if seed else None).randrange(begin, end)


def _add(first: Any, second: Any) -> int:
    total = _whole(first) + _whole(second)
    _require(-(2**31) <= total < 2**31, "the result is no 32-bit integer")
    return total


def _split(source: Any, separators: Any) -> list[str]:
    if not _text(separators):
        return [_text(source)]
    pattern = "|".join(re.escape(separator) for separator in separators)
    return [part for part in re.split(pattern, _text(source)) if part]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "States.Format": _format,
    "States.StringToJson": _string_to_json,
    "States.JsonToString": text,
    "States.Array": lambda *values: list(values),
    "States.ArrayPartition": _partition,
    "States.ArrayContains": lambda values, one: any(
        paths.equal(value, one) for value in _array(values)
    ),
    "States.ArrayRange": _range,
    "States.ArrayGetItem": _item,
    "States.ArrayLength": lambda values: len(_array(values)),
    "States.ArrayUnique": _unique,
    "States.Base64Encode": lambda source: base64.b64encode(
        _text(source, LONGEST).encode()
    ).decode(),
    "States.Base64Decode": _decode,
    "States.Hash": _hash,
    "States.JsonMerge": _merge,
    "States.MathRandom": _random,
    "States.MathAdd": _add,
    "States.StringSplit": _split,
    "States.UUID": lambda: str(uuid.uuid4()),
}
