"""Mapping templates of API Gateway: Velocity with AWS's $input, $util, $context, $stageVariables.

Velocity is airspeed-ext's. What AWS's variables come to is its documentation's; how an object is
printed and what an empty body is was recorded on AWS.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote_plus, unquote_plus

# They are the server's: tests run this module where it runs.
import airspeed  # ty: ignore[import-not-found]
from airspeed import operators  # ty: ignore[import-not-found]
from states import paths  # ty: ignore[import-not-found]

_METHODS = operators.__additional_methods__
_METHODS[str].update(
    {
        "equals": lambda text, other: text == other,
        "equalsIgnoreCase": lambda text, other: text.lower() == str(other).lower(),
        "toString": str,
        "isEmpty": lambda text: not text,
        "trim": str.strip,
        "toLowerCase": str.lower,
        "toUpperCase": str.upper,
        "endsWith": str.endswith,
        # In Java "$1" is a group and "\" takes the meaning from what follows.
        "replaceAll": lambda text, pattern, by: re.sub(
            pattern, lambda found: _group(found, by), text
        ),
        "indexOf": str.find,
    }
)


def _negated(self: Any, namespace: Any, loader: Any) -> bool:
    return not operators.boolean_value(self.value.calculate(namespace, loader))


def _condition(self: Any, namespace: Any, loader: Any) -> bool:
    return operators.boolean_value(self.expression.calculate(namespace, loader))


def _named(self: Any, current: Any, loader: Any, namespace: Any) -> Any:
    if self.name == "empty" and not self.parameters and isinstance(current, (str, list)):
        return not current
    return _NAMED(self, current, loader, namespace)


# In Velocity what is not there is false, also negated, and a Java getter is a property.
_NAMED = operators.NameOrCall.calculate
operators.UnaryOperatorValue.calculate = _negated
operators.Condition.calculate = _condition
operators.NameOrCall.calculate = _named


class InvalidBody(Exception):
    """A template asks a body for JSON that it is not."""


class Map(dict):
    """An object as Velocity has it: printed as Java prints a map, but lists in it as JSON."""

    def __str__(self) -> str:
        """As Java prints a map."""
        return "{" + ", ".join(f"{key}={_printed(value)}" for key, value in self.items()) + "}"

    def keySet(self) -> list[str]:
        """The keys."""
        return list(self)

    def entrySet(self) -> list[Map]:
        """The keys and values, each pair with `key` and `value`."""
        return [Map(key=key, value=value) for key, value in self.items()]

    def size(self) -> int:
        """The number of keys."""
        return len(self)

    def containsKey(self, key: str) -> bool:
        """Whether the key is there."""
        return key in self


class Array(list):
    """A list as Velocity has it, printed as JSON."""

    def __str__(self) -> str:
        """As JSON."""
        return json.dumps(self, separators=(",", ":"), ensure_ascii=False)

    def size(self) -> int:
        """The number of elements."""
        return len(self)

    def get(self, index: int) -> Any:
        """The element at an index from 0."""
        return self[index]

    def isEmpty(self) -> bool:
        """Whether there are no elements."""
        return not self


def render(
    template: str,
    body: str,
    params: Mapping[str, Mapping[str, str]],
    context: Map,
    stage_variables: Mapping[str, str],
) -> str:
    """The text that a template makes of a body; it may leave overrides in `context`.

    params: "path", "querystring" and "header", each name to value. InvalidBody if the template
    asks for JSON where there is none, operators.TemplateError if it is no Velocity.
    """
    namespace = {
        "input": _Input(body, params),
        "util": _Util(),
        "context": context,
        "stageVariables": velocity(dict(stage_variables)),
    }
    try:
        return _compiled(template.strip()).merge(namespace)
    except operators.TemplateExecutionError as error:
        cause: BaseException | None = error
        while cause:
            if isinstance(cause, InvalidBody):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise


def velocity(value: Any) -> Any:
    """JSON's values as Velocity's."""
    if isinstance(value, dict):
        return Map({key: velocity(item) for key, item in value.items()})
    if isinstance(value, list):
        return Array(map(velocity, value))
    return value


@lru_cache(maxsize=1024)
def _compiled(template: str) -> airspeed.Template:
    compiled = airspeed.Template(template)
    compiled.ensure_compiled()
    return compiled


def _printed(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _group(found: re.Match[str], by: str) -> str:
    """What Java's replaceAll puts in the place of a match."""
    return re.sub(
        r"\\(.)|\$(\d)",
        lambda part: part[1] if part[1] is not None else found[int(part[2])] or "",
        by,
        flags=re.DOTALL,
    )


class _Input:
    """$input: the body and parameters of a request, or the body of a response."""

    def __init__(self, body: str, params: Mapping[str, Mapping[str, str]]) -> None:
        self.body = body or "{}"  # recorded on AWS
        self._params = params

    def path(self, path: str) -> Any:
        """What a JSONPath finds in the body; an empty text where it finds nothing."""
        return velocity(self._find(path))

    def json(self, path: str) -> str:
        """What a JSONPath finds in the body, as JSON; an empty JSON string if nothing."""
        return json.dumps(self._find(path), separators=(",", ":"), ensure_ascii=False)

    def params(self, name: str | None = None) -> Any:
        """All parameters, or the one of that name: of the path, the query string, the headers."""
        if name is None:
            return velocity({kind: dict(values) for kind, values in self._params.items()})
        for kind in ("path", "querystring", "header"):
            values = self._params.get(kind) or {}
            # The server has the names of headers in lower case.
            for key in (name, name.lower()) if kind == "header" else (name,):
                if key in values:
                    return values[key]
        return ""

    def _find(self, path: str) -> Any:
        try:
            return paths.parse(path).read(parsed(self.body))
        except paths.PathError:
            return ""


def parsed(body: str) -> Any:
    """A body as JSON; text that does not begin as JSON would is a string. InvalidBody if broken."""
    try:
        return json.loads(body)
    except ValueError:
        if body.lstrip()[:1] in "{[":
            raise InvalidBody("Could not parse request body into json.") from None
        return body


def _escaped(value: Any) -> str:
    """As a JavaScript string needs it: single quotes too, which JSON does not allow."""
    return json.dumps(_printed(value))[1:-1].replace("'", "\\'")


class _Util:
    """$util."""

    escapeJavaScript = staticmethod(_escaped)
    parseJson = staticmethod(lambda text: velocity(json.loads(text)))
    urlEncode = staticmethod(lambda text: quote_plus(str(text)))
    urlDecode = staticmethod(lambda text: unquote_plus(str(text)))
    base64Encode = staticmethod(lambda text: base64.b64encode(str(text).encode()).decode())
    base64Decode = staticmethod(lambda text: base64.b64decode(text).decode())
