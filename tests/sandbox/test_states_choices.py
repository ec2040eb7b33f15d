"""Operators of Choice rules, with answers that were recorded on AWS."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.states import choices
from sandbox.states.scope import Sight
from sandbox.states.task import StatesError

VALUES: list[Any] = [
    None, 0, 0.0, 1, 1.1, "", " ", "HelloWorld", "2012-10-09T19:00:55", "2012-10-09T19:00:55Z",
    "2023-02-24T12:15:56.832957+01:00", "2023-02-24", [], [""], {}, {"A": 0}, True, False,
]  # fmt: skip


def holds(rule: dict[str, Any], document: Any, **variables: Any) -> bool:
    return choices.holds(rule, Sight(document, {"Execution": {"Name": "one"}}, variables))


@pytest.mark.parametrize(
    ("operator", "true_of"),
    [
        ("IsNull", [None]),
        ("IsBoolean", [True, False]),
        ("IsNumeric", [0, 0.0, 1, 1.1]),
        ("IsString", [value for value in VALUES if isinstance(value, str)]),
        ("IsTimestamp", ["2012-10-09T19:00:55Z", "2023-02-24T12:15:56.832957+01:00"]),
        ("IsPresent", VALUES),
    ],
)
def test_what_a_value_is(operator: str, true_of: list[Any]) -> None:
    for value in VALUES:
        expected = any(value is one or (value == one and type(value) is type(one))
                       for one in true_of)  # fmt: skip
        for asked in (True, False):
            rule = {"Variable": "$.v", operator: asked}
            assert holds(rule, {"v": value}) is (expected is asked), (operator, value, asked)


@pytest.mark.parametrize(
    ("operator", "value", "wanted", "answer"),
    [
        ("StringEquals", "Hello", "Hello", True),
        ("StringEquals", " ", "     ", False),
        ("StringGreaterThan", "A", "A ", False),
        ("StringGreaterThan", "AB", "ABC", False),
        ("StringGreaterThanEquals", "", "", True),
        ("StringGreaterThanEquals", "AB", "A", True),
        ("StringLessThan", "A", "AB", True),
        ("StringLessThan", "", "", False),
        ("StringLessThanEquals", "AB", "A", False),
        ("NumericEquals", 1, 1.0, True),
        ("NumericEquals", 0, -0.0, True),
        ("NumericLessThan", 1, 1.01, True),
        ("NumericGreaterThan", 2, 10, False),
        ("NumericLessThanEquals", 1, 1, True),
        ("NumericGreaterThanEquals", 1, 2, False),
        ("BooleanEquals", True, True, True),
        ("BooleanEquals", True, False, False),
        ("TimestampEquals", "2023-02-24T13:00:00Z", "2023-02-24T14:00:00+01:00", True),
        ("TimestampLessThan", "2023-02-24T13:00:00Z", "2023-02-24T13:00:01Z", True),
        ("TimestampGreaterThan", "2023-02-24T13:00:00Z", "2023-02-24T13:00:01Z", False),
        ("TimestampLessThanEquals", "2023-02-24T13:00:00.5Z", "2023-02-24T13:00:00.5Z", True),
        ("TimestampGreaterThanEquals", "2023-02-24T13:00:00Z", "2023-02-24T14:00:00Z", False),
    ],
)
def test_comparisons_with_a_value_and_by_path(
    operator: str, value: Any, wanted: Any, answer: bool
) -> None:
    document = {"v": value, "w": wanted}
    assert holds({"Variable": "$.v", operator: wanted}, document) is answer
    assert holds({"Variable": "$.v", f"{operator}Path": "$.w"}, document) is answer


@pytest.mark.parametrize(
    ("operator", "wanted"),
    [
        ("StringEquals", "x"),
        ("NumericEquals", 7),
        ("BooleanEquals", True),
        ("TimestampEquals", "1999-01-01T00:00:00Z"),
        ("StringMatches", "x*"),
    ],
)
def test_a_value_of_another_type_is_unequal_and_no_error(operator: str, wanted: Any) -> None:
    for value in VALUES:
        expected = operator == "BooleanEquals" and value is True
        assert holds({"Variable": "$.v", operator: wanted}, {"v": value}) is expected, value


@pytest.mark.parametrize(
    ("value", "pattern", "answer"),
    [
        ("log-2024.txt", "log-*.txt", True),
        ("log-.txt", "log-*.txt", True),
        ("a\nb", "a*b", True),
        ("foobar", "*bar*", True),
        ("foo", "fo", False),
        ("a*b", r"a\*b", True),
        ("axb", r"a\*b", False),
        ("a\\b", r"a\\b", True),
        ("a.b", "a?b", False),
        ("axb", "a.b", False),
    ],
)
def test_string_matches(value: str, pattern: str, answer: bool) -> None:
    assert holds({"Variable": "$", "StringMatches": pattern}, value) is answer


def test_rules_within_rules() -> None:
    big = {"Variable": "$.n", "NumericGreaterThan": 5}
    even = {"Variable": "$.even", "BooleanEquals": True}
    assert holds({"And": [big, even]}, {"n": 6, "even": True})
    assert not holds({"And": [big, {"Not": even}]}, {"n": 6, "even": True})
    assert holds({"Or": [even, big]}, {"n": 6, "even": False})
    assert not holds({"Not": {"Or": [even, big]}}, {"n": 6, "even": False})


def test_a_path_may_start_from_a_variable_or_the_context() -> None:
    assert holds({"Variable": "$v.n", "NumericEqualsPath": "$.n"}, {"n": 1}, v={"n": 1})
    assert holds({"Variable": "$$.Execution.Name", "StringEquals": "one"}, {})


@pytest.mark.parametrize("path", ["$.missing", "$.v.missing", "$v", "$.l[3]", "$.l[?(@ > 9)]"])
def test_what_is_not_there_is_not_present(path: str) -> None:
    document = {"v": {}, "l": [1]}
    assert holds({"Variable": path, "IsPresent": False}, document)
    assert not holds({"Variable": path, "IsPresent": True}, document)


@pytest.mark.parametrize(
    "rule",
    [
        {"Variable": "$.missing", "NumericEquals": 1},
        {"Variable": "$.there", "NumericEqualsPath": "$.missing"},
        {"Variable": "$.missing", "IsNull": True},
    ],
)
def test_any_other_question_about_it_is_an_error_in_awss_words(rule: dict[str, Any]) -> None:
    with pytest.raises(StatesError) as raised:
        holds(rule, {"there": 1})
    assert (raised.value.error, raised.value.cause) == (
        "States.Runtime",
        "Invalid path '$.missing': The choice state's condition path references an invalid value.",
    )
