"""JSONPath as Step Functions reads it: Jayway's dialect, without its functions.

A definite path (names and single indexes) comes to one value, and is an error where there is none.
Any other comes to a list of all matches, which may be empty; but what stands before the first part
that may match many must be there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

Step = tuple[str, Any]
Test = Callable[[Any, Any], bool]
_NAME = re.compile(r"[^\s.\[\]()?,=<>!&|'\"]+")
_VARIABLE = re.compile(r"\$(\w*)")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_COMPARE = re.compile(r"==|!=|<=|>=|=~|<|>|in\b|nin\b|subsetof\b|anyof\b|noneof\b|size\b|empty\b")
_WORDS = {"true": True, "false": False, "null": None}


class PathError(Exception):
    """The text is no path, or a path finds nothing; the message is Jayway's."""


@dataclass(frozen=True)
class Path:
    """A path: what it starts from ("$" the document, "$$" the context, "$name"), and its steps."""

    root: str
    steps: tuple[Step, ...]

    @property
    def definite(self) -> bool:
        """Whether it comes to one value."""
        return all(_single(step, last=step is self.steps[-1]) for step in self.steps)

    def read(self, document: Any) -> Any:
        """The value or list of values. PathError if what must be there is not."""
        found: list[Any] = [document]
        sure, trail = True, "$"
        for number, step in enumerate(self.steps):
            last = number == len(self.steps) - 1
            place = _Place(document, sure, last, trail)
            found = [match for value in found for match in _apply(step, value, place)]
            sure = sure and _single(step, last)
            trail += _shown(step)
            if sure and not found:
                problem = "No results for path" if last else "Missing property in path"
                raise PathError(f"{problem}: {trail}" if last else f"{problem} {trail}")
        return found[0] if self.definite else found


@lru_cache(maxsize=4096)
def parse(path: str) -> Path:
    """Read the text of a path. PathError if it is none."""
    reader = _Reader(path)
    found = reader.path()
    reader.space()
    if not reader.done:
        raise PathError(f"Could not parse '{path}' at character {reader.at}")
    return found


def put(path: Path, document: Any, value: Any) -> Any:
    """The document with a value at a reference path, made where it is missing; a copy.

    PathError if something on the way there is no object, or an index is not there.
    """
    if not path.steps:
        return value
    (kind, key), rest = path.steps[0], Path(path.root, path.steps[1:])
    if kind == "name" and len(key) == 1:
        if not isinstance(document, dict):
            raise PathError(f"no object at {_shown(path.steps[0])}")
        return {**document, key[0]: put(rest, document.get(key[0], {}), value)}
    if kind == "index" and len(key) == 1:
        if not isinstance(document, list) or not -len(document) <= key[0] < len(document):
            raise PathError(f"no element at {_shown(path.steps[0])}")
        copied = list(document)
        copied[key[0]] = put(rest, document[key[0]], value)
        return copied
    raise PathError("it is no reference path")


def equal(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal: true is not 1, but 1 is 1.0."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    return left == right


def _single(step: Step, last: bool) -> bool:
    kind, given = step
    # Several names at the end make one object of them.
    return (kind == "index" and len(given) == 1) or (kind == "name" and (last or len(given) == 1))


def _shown(step: Step) -> str:
    kind, given = step
    if kind == "name":
        return "[" + ",".join(f"'{name}'" for name in given) + "]"
    if kind == "index":
        return "[" + ",".join(map(str, given)) + "]"
    return {"wild": "[*]", "deep": "..", "slice": "[:]", "filter": "[?]"}[kind]


@dataclass(frozen=True)
class _Place:
    """Where a step is applied. sure: all before it was definite, so what it needs must be there."""

    document: Any
    sure: bool
    last: bool
    trail: str


def _apply(step: Step, value: Any, place: _Place) -> Iterable[Any]:
    """What a step finds in one value."""
    kind, given = step
    if kind == "name":
        return _named(given, value, place)
    if kind == "wild":
        return _children(value)
    if kind == "filter":
        candidates = value if isinstance(value, list) else [value]
        return [one for one in candidates if given(one, place.document)]
    if kind == "deep":
        anywhere = replace(place, sure=False)
        return [match for one in _descendants(value) for match in _apply(given, one, anywhere)]
    return _listed(kind, given, value, place)


def _listed(kind: str, given: Any, value: Any, place: _Place) -> list[Any]:
    if not isinstance(value, list):
        if place.sure:
            raise PathError(f"{place.trail} is no array")
        return []
    if kind == "slice":
        return value[slice(*given)]
    return [value[at] for at in given if -len(value) <= at < len(value)]


def _named(names: tuple[str, ...], value: Any, place: _Place) -> list[Any]:
    if not isinstance(value, dict):
        if place.sure:
            shown = _shown(("name", names))
            raise PathError(f"Missing property in path {place.trail}{shown}")
        return []
    there = {name: value[name] for name in names if name in value}
    return [there] if place.last and len(names) > 1 else list(there.values())


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _descendants(value: Any) -> Iterator[Any]:
    yield value
    for child in _children(value):
        yield from _descendants(child)


class _Reader:
    """Reads a path from a text, from where it stands."""

    def __init__(self, source: str) -> None:
        self.source, self.at = source, 0

    @property
    def done(self) -> bool:
        return self.at >= len(self.source)

    def next_is(self, *tokens: str) -> str:
        """The first of the tokens that comes next, which is then behind us; "" if none does."""
        for token in tokens:
            if self.source.startswith(token, self.at):
                self.at += len(token)
                return token
        return ""

    def space(self) -> None:
        while not self.done and self.source[self.at].isspace():
            self.at += 1

    def match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.source, self.at)
        self.at = found.end() if found else self.at
        return found.group() if found else ""

    def fail(self) -> PathError:
        return PathError(f"Could not parse '{self.source}' at character {self.at}")

    def expect(self, token: str) -> None:
        self.space()
        if not self.next_is(token):
            raise self.fail()

    def path(self) -> Path:
        if self.next_is("$$"):
            root = "$$"
        elif self.next_is("@"):
            root = "@"
        elif not (root := self.match(_VARIABLE)):
            raise self.fail()
        steps: list[Step] = []
        while step := self.step():
            steps.append(step)
        return Path(root, tuple(steps))

    def step(self) -> Step | None:
        if self.next_is(".."):
            inner = self.bracket() if self.next_is("[") else self.name()
            return ("deep", inner)
        if self.next_is("."):
            return self.name()
        return self.bracket() if self.next_is("[") else None

    def name(self) -> Step:
        if self.next_is("*"):
            return ("wild", None)
        if not (name := self.match(_NAME)) or self.source.startswith("(", self.at):
            raise self.fail()  # nothing, or one of Jayway's functions, which AWS does not have
        return ("name", (name,))

    def bracket(self) -> Step:
        self.space()
        if self.next_is("*"):
            step: Step = ("wild", None)
        elif self.next_is("?"):
            self.expect("(")
            step = ("filter", self.either())
            self.expect(")")
        elif self.source[self.at : self.at + 1] in {"'", '"'}:
            step = ("name", tuple(self.separated(self.string)))
        else:
            step = self.numbers()
        self.expect("]")
        return step

    def separated(self, one: Callable[[], Any]) -> list[Any]:
        values = [one()]
        self.space()
        while self.next_is(","):
            self.space()
            values.append(one())
            self.space()
        return values

    def string(self) -> str:
        quote, self.at = self.source[self.at], self.at + 1
        read = ""
        while not self.done and self.source[self.at] != quote:
            self.at += self.source[self.at] == "\\"
            read += self.source[self.at : self.at + 1]
            self.at += 1
        if not self.next_is(quote):
            raise self.fail()
        return read

    def numbers(self) -> Step:
        digits = re.compile(r"-?\d+")
        first = self.match(digits)
        self.space()
        if self.next_is(":"):
            self.space()
            last = self.match(digits)
            return ("slice", (int(first) if first else None, int(last) if last else None))
        indexes = [first]
        while self.next_is(","):
            self.space()
            indexes.append(self.match(digits))
            self.space()
        if not all(indexes):
            raise self.fail()
        return ("index", tuple(map(int, indexes)))

    # A filter: @ is the candidate, $ the document.

    def either(self) -> Test:
        tests = [self.both()]
        self.space()
        while self.next_is("||"):
            tests.append(self.both())
            self.space()
        return lambda one, document: any(test(one, document) for test in tests)

    def both(self) -> Test:
        tests = [self.test()]
        self.space()
        while self.next_is("&&"):
            tests.append(self.test())
            self.space()
        return lambda one, document: all(test(one, document) for test in tests)

    def test(self) -> Test:
        self.space()
        if self.next_is("!"):
            inner = self.test()
            return lambda one, document: not inner(one, document)
        if self.next_is("("):
            inner = self.either()
            self.expect(")")
            return inner
        left = self.operand()
        self.space()
        if not (operator := self.match(_COMPARE)):
            return lambda one, document: left(one, document) is not _NOTHING
        self.space()
        if operator == "=~":
            pattern = self.regular()
            return lambda one, document: _matches(pattern, left(one, document))
        right, compare = self.operand(), _OPERATORS[operator]
        return lambda one, document: compare(left(one, document), right(one, document))

    def operand(self) -> Callable[[Any, Any], Any]:
        following = self.source[self.at : self.at + 1]
        if following in {"@", "$"}:
            path = self.path()
            return lambda one, document: _look(path, one if path.root == "@" else document)
        value = self.literal()
        return lambda *_: value

    def literal(self) -> Any:
        following = self.source[self.at : self.at + 1]
        if following in {"'", '"'}:
            return self.string()
        if self.next_is("["):
            self.space()
            values = [] if self.source.startswith("]", self.at) else self.separated(self.literal)
            self.expect("]")
            return values
        if number := self.match(_NUMBER):
            return float(number) if set(number) & set(".eE") else int(number)
        for word, value in _WORDS.items():
            if self.next_is(word):
                return value
        raise self.fail()

    def regular(self) -> re.Pattern[str]:
        self.expect("/")
        begin = self.at
        while not self.done and self.source[self.at] != "/":
            self.at += 2 if self.source[self.at] == "\\" else 1
        body = self.source[begin : self.at]
        self.expect("/")
        return re.compile(body, re.IGNORECASE if self.next_is("i") else 0)


_NOTHING = object()


def _look(path: Path, value: Any) -> Any:
    try:
        return path.read(value)
    except PathError:
        return _NOTHING


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def test(left: Any, right: Any) -> bool:
        numbers = all(
            isinstance(one, int | float) and not isinstance(one, bool) for one in (left, right)
        )
        strings = isinstance(left, str) and isinstance(right, str)
        return (numbers or strings) and compare(left, right)

    return test


def _within(value: Any, values: Any) -> bool:
    return isinstance(values, list) and any(equal(value, one) for one in values)


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": equal,
    "!=": lambda left, right: not equal(left, right),
    "<": _ordered(lambda left, right: left < right),
    "<=": _ordered(lambda left, right: left <= right),
    ">": _ordered(lambda left, right: left > right),
    ">=": _ordered(lambda left, right: left >= right),
    "in": _within,
    "nin": lambda left, right: not _within(left, right),
    "subsetof": lambda left, right: (
        isinstance(left, list) and all(_within(one, right) for one in left)
    ),
    "anyof": lambda left, right: (
        isinstance(left, list) and any(_within(one, right) for one in left)
    ),
    "noneof": lambda left, right: (
        isinstance(left, list) and not any(_within(one, right) for one in left)
    ),
    "size": lambda left, right: isinstance(left, list | str) and len(left) == right,
    "empty": lambda left, right: isinstance(left, list | str) and (not left) == right,
}
