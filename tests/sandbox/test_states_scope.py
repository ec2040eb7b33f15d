"""Variables, and what a JSONPath field can see."""

from __future__ import annotations

import pytest

from sandbox.states.scope import Scope, Sight
from sandbox.states.task import StatesError


def test_an_inner_scope_reads_the_outer_one_and_has_its_own() -> None:
    outer = Scope()
    outer.assign({"x": 1})
    one, two = Scope(outer), Scope(outer)
    one.assign({"y": 2})
    two.assign({"y": 3})
    assert one.all() == {"x": 1, "y": 2} and two.all() == {"x": 1, "y": 3}
    assert outer.all() == {"x": 1}


def test_an_inner_scope_cannot_write_the_outer_one() -> None:
    outer = Scope()
    outer.assign({"x": 1})
    with pytest.raises(StatesError):
        Scope(outer).assign({"x": 2})


def test_a_variable_can_be_set_again() -> None:
    scope = Scope()
    scope.assign({"x": 1, "y": 1})
    scope.assign({"x": None})
    assert scope.all() == {"x": None, "y": 1}


SIGHT = Sight({"a": 1}, {"State": {"Name": "S"}}, {"v": {"w": [2]}, "null": None})


@pytest.mark.parametrize(
    ("path", "value"),
    [("$.a", 1), ("$", {"a": 1}), ("$$.State.Name", "S"), ("$v.w[0]", 2), ("$null", None)],
)
def test_paths_start_from_the_document_the_context_or_a_variable(path: str, value: object) -> None:
    assert SIGHT.look(path) == SIGHT.filter(path) == SIGHT.field(path, "x.$") == value


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("$.Payload", "Invalid path '$.Payload' : No results for path: $['Payload']"),
        ("$unknown", "Invalid path '$unknown' : No results for path: $unknown"),
    ],
)
def test_a_filter_that_finds_nothing_is_told_in_awss_words(path: str, problem: str) -> None:
    with pytest.raises(StatesError) as raised:
        SIGHT.filter(path)
    assert (raised.value.error, raised.value.cause) == ("States.Runtime", problem)


def test_a_field_names_what_its_path_was_looked_for_in() -> None:
    with pytest.raises(StatesError) as raised:
        SIGHT.field("$v.x", "y.$")
    assert raised.value.cause == (
        "The JSONPath '$v.x' specified for the field 'y.$' could not be found in the input"
        " '{\"w\":[2]}'"
    )
