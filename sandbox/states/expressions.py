"""JSONata as Step Functions evaluates it: 2.0.6, without $eval, with functions of its own.

jsonata-python takes Python's None for undefined. So null goes in as the package's own value for
it, and None that comes out is undefined, which AWS takes for an error.
"""

from __future__ import annotations

import json
import math
import random
import re
import uuid
from collections.abc import Callable
from typing import Any

from jsonata import Jsonata
from jsonata.functions import Functions
from jsonata.jexception import JException
from jsonata.utils import Utils

from .faults import Fault, text
from .intrinsics import digest

LONGEST = 5_000  # milliseconds for one expression; AWS's bound is not known
DEEPEST = 100  # nested evaluations: 1 + 1 + ... of so many terms (measured on AWS, floci#2783)
MOST = 360_145  # elements that $range makes (measured on AWS, floci#2697)
_FAILED = "threw an error during evaluation"
_MEMORY = "Expression evaluation memory limit exceeded: Check for excessive memory usage"
_BOUNDS = {
    "D1011": "Stack overflow error: Check for non-terminating recursive function. Consider"
    " rewriting as tail-recursive.",
    "D1012": "Expression evaluation timeout: Check for infinite loop",
}
BEGIN, END = "{%", "%}"
_TYPES_BY_LETTER = {"n": "numbers", "s": "strings", "o": "objects", "b": "booleans"}
_TYPES = {str: "string", bool: "boolean", list: "array", dict: "object", type(None): "null"}


def is_expression(value: Any) -> bool:
    """Whether a value in a definition is a JSONata expression."""
    return isinstance(value, str) and value.startswith(BEGIN) and value.endswith(END)


def fill(template: Any, field: str, bindings: dict[str, Any]) -> Any:
    """A template with all its expressions worked out. field: as AWS names it, "Output/total"."""
    if isinstance(template, dict):
        return {name: fill(one, f"{field}/{name}", bindings) for name, one in template.items()}
    if isinstance(template, list):
        return [fill(one, f"{field}[{at}]", bindings) for at, one in enumerate(template)]
    return evaluate(template, field, bindings) if is_expression(template) else template


def typed(template: Any, field: str, bindings: dict[str, Any], expected: str) -> Any:
    """The same for a field that takes one type: "number", "string", "boolean", "array"."""
    return checked(fill(template, field, bindings), template, field, expected)


def checked(value: Any, template: Any, field: str, expected: str) -> Any:
    """What a template came to, if it is of the type that the field takes."""
    if (found := kind(value)) != expected:
        raise _fault(
            template,
            field,
            f"returned an unexpected result type. Expected '{expected}', but was '{found}' for"
            f" value: {text(value)}",
        )
    return value


def kind(value: Any) -> str:
    """The JSON type of a value."""
    return _TYPES.get(type(value), "number")


def evaluate(expression: str, field: str, bindings: dict[str, Any]) -> Any:
    """What an expression comes to. Fault if that is nothing, no JSON, or an error."""
    try:
        compiled = Jsonata.jsonata(_inner(expression), timeout=LONGEST, stack=DEEPEST)
        compiled.set_output_convert_nulls(False)
        compiled.assign("eval", None)
        for name, function in FUNCTIONS.items():
            compiled.register_lambda(name, function)
        for name in ("contains", "match", "replace", "split"):
            compiled.register_lambda(name, _that_proceeds(compiled.environment.lookup(name)))
        found = compiled.evaluate(None, _with_nulls(bindings))
        if isinstance(found, float) and not math.isfinite(found):
            return None  # JSON has no infinity (measured on AWS, floci#2783)
        if found is not None:
            return _json(found)
    except ZeroDivisionError:
        if (top := compiled.ast) and (top.type, top.value) == ("binary", "/"):
            return None  # infinity, as above
        raise _fault(
            expression, field, _FAILED + ". D1001: Number out of range: Infinity"
        ) from None
    except (JException, ArithmeticError, ValueError, TypeError, LookupError) as error:
        problem = f"{_FAILED}{_message(error)}"
        raise _fault(expression, field, problem) from None
    except RecursionError:
        problem = f"{_FAILED}: {_BOUNDS['D1011']}"
        raise _fault(expression, field, problem) from None
    raise _fault(expression, field, "returned nothing (undefined).")


def _inner(expression: Any) -> str:
    if is_expression(expression):
        return expression.removeprefix(BEGIN).removesuffix(END).strip()
    return text(expression)


def _fault(expression: Any, field: str, problem: str) -> Fault:
    return Fault(
        "States.QueryEvaluationError",
        f"The JSONata expression '{_inner(expression)}' specified for the field '{field}'"
        f" {problem}",
        field,
    )


def _message(error: Exception) -> str:
    """What went wrong, after a full stop if it has one of JSONata's codes, else after a colon."""
    if not isinstance(error, JException):
        if number := re.fullmatch(r"could not convert string to float: '(.*)'", str(error)):
            return f". D3030: Unable to cast value to a number: {text(number.group(1))}"
        return f": {error}"
    if error.error in _BOUNDS:
        return f": {_BOUNDS[error.error]}"
    if error.error.startswith("Second argument of replace"):
        return ". D3010: Second argument of replace function cannot be an empty string"
    # The package fills its templates without quotation marks, and says Object for function.
    given = iter((error.current, error.expected, error.extra))
    template = JException.error_codes.get(error.error, str(error))
    if template == "{{{message}}}":  # what $error and $assert say
        return f". {error.error}: {error.current}"
    said = re.sub(r"\{\{\w+\}\}", lambda _: _shown(next(given, None)), template)
    said = re.sub(r"\b(of|match|\w+(?= Object must)) Object\b", r"\1 function", said)
    return f". {error.error}: {said}"


def _shown(value: Any) -> str:
    """What a message names: a function, a value, or a type by the letter of a signature."""
    return text(_TYPES_BY_LETTER.get(value, value) if isinstance(value, str) else value)


def _with_nulls(value: Any) -> Any:
    """A copy in which null is the package's value for it."""
    if isinstance(value, dict):
        return {name: _with_nulls(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_nulls(one) for one in value]
    return Utils.NULL_VALUE if value is None else value


def _json(value: Any) -> Any:
    """The package's result as JSON: null as None, whole numbers as integers, plain lists."""
    if value is Utils.NULL_VALUE or value is None:
        return None
    if isinstance(value, dict):
        return {name: _json(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):  # the package's ranges are lists that are empty but for iteration
        return [_json(one) for one in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise JException("D1001", 0, value)
        return int(value) if value.is_integer() else value
    if isinstance(value, str | bool | int):
        return value
    raise ValueError("a function is no JSON value")


def _partition(values: list[Any] | None, size: Any) -> list[Any] | None:
    each = math.floor(size)
    if each < 1:
        raise ValueError("the size of a partition must be positive")
    return (
        None if values is None else [values[at : at + each] for at in range(0, len(values), each)]
    )


def _range(first: Any, last: Any, step: Any) -> list[int]:
    begin, end, by = math.floor(first), math.floor(last), math.floor(step)
    if by == 0:
        raise ValueError("the step of a range must not be zero")
    made = range(begin, end + (1 if by > 0 else -1), by)
    if len(made) > MOST:
        raise ValueError(_MEMORY)
    return list(made)


def _hash(source: Any, algorithm: Any) -> str | None:
    if source is None:
        return None
    return digest(source if isinstance(source, str) else text(_json(source)), algorithm)


def _random(seed: Any = None) -> float:
    return random.Random(None if seed is None else math.floor(seed)).random()


def _parse(source: str | None) -> Any:
    return None if source is None else _with_nulls(json.loads(source))


def _that_proceeds(function: Any) -> Callable[..., Any]:
    """A function with a pattern, which must not match nothing: JSONata would never get on."""

    def call(*given: Any) -> Any:
        if any(hasattr(one, "fullmatch") and one.fullmatch("") for one in given):
            raise JException("D1004", 0)
        return function.call(None, function.validate(list(given), None))

    return call


def _to_millis(timestamp: Any = None, picture: Any = None) -> Any:
    # The package reads "2024-01-01 00:00:00", which AWS does not.
    if picture is None and isinstance(timestamp, str) and " " in timestamp:
        raise JException("D3110", 0, timestamp)
    try:
        return Functions.datetime_to_millis(timestamp, picture)
    except ValueError:
        raise JException("D3110", 0, timestamp) from None


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "partition": _partition,
    "range": _range,
    "hash": _hash,
    "random": _random,
    "uuid": lambda: str(uuid.uuid4()),
    "parse": _parse,
    "toMillis": _to_millis,
}
