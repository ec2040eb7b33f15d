"""The rules of a Choice state in JSONPath: every operator, with strict types."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

from . import paths, times
from .faults import runtime
from .scope import Sight


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "Equals": operator.eq,
    "LessThan": operator.lt,
    "GreaterThan": operator.gt,
    "LessThanEquals": operator.le,
    "GreaterThanEquals": operator.ge,
}
# What a value must be for a comparison; None: it is not that, and the comparison is false.
_READERS: dict[str, Callable[[Any], Any]] = {
    "String": lambda value: value if isinstance(value, str) else None,
    "Numeric": lambda value: value if is_number(value) else None,
    "Boolean": lambda value: value if isinstance(value, bool) else None,
    "Timestamp": times.moment,
}
_KINDS: dict[str, Callable[[Any], bool]] = {
    "IsNull": lambda value: value is None,
    "IsString": lambda value: isinstance(value, str),
    "IsNumeric": is_number,
    "IsBoolean": lambda value: isinstance(value, bool),
    "IsTimestamp": lambda value: times.moment(value) is not None,
}
_COMPARISON = re.compile(r"(String|Numeric|Boolean|Timestamp)(\w+?)(Path)?")


def holds(rule: dict[str, Any], sight: Sight) -> bool:
    """Whether a rule's condition is true. Fault if a path of it finds nothing."""
    if "And" in rule:
        return all(holds(one, sight) for one in rule["And"])
    if "Or" in rule:
        return any(holds(one, sight) for one in rule["Or"])
    if "Not" in rule:
        return not holds(rule["Not"], sight)
    if "IsPresent" in rule:
        return _is_present(rule["Variable"], sight) == rule["IsPresent"]
    value = _at(rule["Variable"], sight)
    name = next(name for name in rule if name in _KINDS or _COMPARISON.fullmatch(name))
    if name in _KINDS:
        return _KINDS[name](value) == rule[name]
    wanted = _at(rule[name], sight) if name.endswith("Path") else rule[name]
    return compare(name.removesuffix("Path"), value, wanted)


def compare(name: str, value: Any, wanted: Any) -> bool:
    """A comparison by its name, such as "NumericLessThan"; false if a value is of another type."""
    if name == "StringMatches":
        return isinstance(value, str) and _pattern(wanted).fullmatch(value) is not None
    read_as, order = next(
        (kind, name.removeprefix(kind)) for kind in _READERS if name.startswith(kind)
    )
    left, right = _READERS[read_as](value), _READERS[read_as](wanted)
    return left is not None and right is not None and _ORDERS[order](left, right)


def _pattern(wanted: str) -> re.Pattern[str]:
    r"""A pattern in which * is anything, \* an asterisk and \\ a backslash."""
    parts = re.findall(r"\\[\\*]|.", wanted, re.DOTALL)
    return re.compile(
        "".join(".*" if part == "*" else re.escape(part[-1]) for part in parts), re.DOTALL
    )


def _is_present(path: str, sight: Sight) -> bool:
    try:
        found = sight.look(path)
    except paths.PathError:
        return False
    return paths.parse(path).definite or bool(found)


def _at(path: str, sight: Sight) -> Any:
    try:
        return sight.look(path)
    except paths.PathError:
        raise runtime(
            f"Invalid path '{path}': The choice state's condition path references an invalid value."
        ) from None
