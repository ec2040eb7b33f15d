"""Filter policies: what SNS takes, and what one lets through."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox.filter_policies import combinations, lets_through, problem


def taken(policy: Any, scope: str = "MessageBody") -> str:
    return problem(json.dumps(policy), scope).removeprefix("FilterPolicy: ")


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"a": ["x", 1, None, True]},
        {"a": [{"prefix": "x"}, {"suffix": "x"}, {"equals-ignore-case": "X"}, {"wildcard": "x*"}]},
        {"a": [{"anything-but": ["x", 1]}, {"anything-but": {"prefix": "x"}}]},
        {"a": [{"anything-but": {"suffix": ["x", "y"]}}, {"wildcard": r"x\**y*"}]},
        {"a": [{"numeric": ["=", 1]}, {"numeric": [">", 0, "<=", 1]}, {"numeric": ["<", -1.5]}]},
        {"a": [{"exists": False}], "b": {"c": [{"cidr": "10.0.0.0/24"}]}},
        {"$or": [{"a": ["x"]}, {"b": {"c": ["y"]}}]},
        {f"key{number}": ["x"] for number in range(5)},
        {"a": [str(number) for number in range(150)]},
    ],
)
def test_what_is_right_is_taken(policy: dict[str, Any]) -> None:
    assert taken(policy) == ""


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ([], "failed to parse JSON"),
        ({"a": "x"}, '"a" must be an object or an array'),
        ({"a": []}, "Empty arrays are not allowed"),
        ({"a": [["x"]]}, "Match value must be String, number, true, false, or null"),
        ({"a": [{}]}, "Only one key allowed in match expression"),
        ({"a": [{"prefix": "x", "suffix": "y"}]}, "Only one key allowed in match expression"),
        ({"a": [{"like": "x"}]}, "Unrecognized match type like"),
        ({"a": [{"exists": "yes"}]}, "exists match pattern must be either true or false."),
        ({"a": [{"prefix": 1}]}, "prefix match pattern must be a string"),
        ({"a": [{"numeric": []}]}, "Invalid member in numeric match: ]"),
        ({"a": [{"numeric": ["~", 1]}]}, "Unrecognized numeric range operator: ~"),
        ({"a": [{"numeric": ["<", "1"]}]}, "Value of < must be numeric"),
        ({"a": [{"numeric": [">", 2, "<", 1]}]}, "Bottom must be less than top"),
        ({"a": [{"numeric": [">", 1, ">", 2]}]}, "Bad numeric range operator: >"),
        ({"a": [{"numeric": ["=", 1, "<", 2]}]}, "Too many elements in numeric expression"),
        ({"a": [float("nan")]}, "failed to parse JSON"),
        ({"a": [{"anything-but": {"prefix": 5}}]}, "prefix match pattern must be a string"),
        ({"a": [{"anything-but": {"prefix": ["x", 5]}}]}, "prefix match pattern must be a string"),
        ({"a": [{"anything-but": {"suffix": []}}]}, "Empty arrays are not allowed"),
        ({"a": [{"wildcard": "x**"}]}, "Consecutive wildcard characters at pos 1"),
        ({"a": [{"anything-but": {"wildcard": "**"}}]}, "Consecutive wildcard characters at pos 0"),
        ({"a": [{"anything-but": [None]}]},
         "Inside anything but list, start|null|boolean is not supported."),
        ({f"key{number}": ["x"] for number in range(6)},
         "Filter policy can not have more than 5 keys"),
        ({"a": [str(number) for number in range(151)]}, "Filter policy is too complex"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(policy: Any, said: str) -> None:
    assert taken(policy) == said


def test_attributes_have_no_depth() -> None:
    said = "Filter policy scope MessageAttributes does not support nested filter policy"
    assert taken({"a": {"b": ["x"]}}, "MessageAttributes") == said


@pytest.mark.parametrize(
    ("policy", "count"),
    [
        ({"a": ["x", "y"], "b": ["z", "w", "v"]}, 6),
        ({"a": {"b": ["x", "y"]}}, 4),
        ({"a": {"b": {"c": ["x"]}}, "d": ["y", "z"]}, 6),
        ({"$or": [{"a": ["x"]}, {"b": ["y", "z"]}]}, 3),
    ],
)
def test_combinations_are_values_times_depth(policy: dict[str, Any], count: int) -> None:
    assert combinations(policy) == count


ORDER = {
    "kind": "gift",
    "total": 120,
    "star": "a*",
    "paid": None,
    "address": {"city": "Ulm", "zip": "89073"},
    "items": [{"sku": "tea", "count": 1}, {"sku": "cup", "count": 4}],
    "tags": ["new", "fragile"],
}


@pytest.mark.parametrize(
    ("policy", "fits"),
    [
        ({"kind": ["gift"]}, True),
        ({"kind": ["standard", {"prefix": "gi"}]}, True),
        ({"kind": [{"anything-but": "gift"}]}, False),
        ({"kind": [{"anything-but": {"prefix": "st"}}]}, True),
        ({"kind": [{"anything-but": {"prefix": ["st", "gi"]}}]}, False),
        ({"kind": [{"anything-but": {"suffix": ["st", "gi"]}}]}, True),
        ({"star": [{"wildcard": r"a\*"}]}, True),
        ({"star": [{"wildcard": r"b\*"}]}, False),
        ({"kind": [{"wildcard": r"gif\*"}]}, False),
        ({"total": [120]}, True),
        ({"total": ["120"]}, False),
        ({"total": [{"numeric": [">", 100, "<", 130]}]}, True),
        ({"paid": [None]}, True),
        ({"paid": [{"exists": True}]}, True),
        ({"gone": [{"exists": False}]}, True),
        ({"gone": ["x"]}, False),
        ({"address": {"city": ["Ulm"]}}, True),
        ({"address.city": ["Ulm"]}, True),
        ({"items": {"sku": ["cup"]}}, True),
        ({"items": {"sku": ["cup"], "count": [4]}}, True),
        ({"items": {"sku": ["tea"], "count": [4]}}, False),
        ({"tags": ["fragile"]}, True),
        ({"tags": [{"anything-but": ["new"]}]}, True),
        ({"$or": [{"kind": ["x"]}, {"total": [120]}]}, True),
        ({"kind": ["gift"], "total": [1]}, False),
    ],
)
def test_a_body_fits_as_a_whole(policy: dict[str, Any], fits: bool) -> None:
    assert lets_through(json.dumps(policy), "MessageBody", {}, json.dumps(ORDER)) is fits


@pytest.mark.parametrize("message", ["no JSON", "[1]", '"text"'])
def test_a_body_that_is_no_object_never_fits(message: str) -> None:
    assert not lets_through('{"a": ["x"]}', "MessageBody", {}, message)


ATTRIBUTES = {
    "kind": {"DataType": "String", "StringValue": "gift"},
    "total": {"DataType": "Number", "StringValue": "120.0"},
    "tags": {"DataType": "String.Array", "StringValue": '["new", 7]'},
    "address": {"DataType": "String", "StringValue": "10.0.0.7"},
}


@pytest.mark.parametrize(
    ("policy", "fits"),
    [
        ({"kind": ["gift"], "total": [120]}, True),
        ({"total": [{"numeric": ["<=", 120]}]}, True),
        ({"tags": [7]}, True),
        ({"tags": ["old"]}, False),
        ({"address": [{"cidr": "10.0.0.0/24"}]}, True),
        ({"kind": [{"equals-ignore-case": "GIFT"}]}, True),
        ({"kind": [{"suffix": "ft"}, {"wildcard": "x*"}]}, True),
        ({"gone": [{"exists": False}], "kind": [{"exists": True}]}, True),
    ],
)
def test_attributes_fit(policy: dict[str, Any], fits: bool) -> None:
    assert lets_through(json.dumps(policy), "MessageAttributes", ATTRIBUTES, "x") is fits


def test_without_a_policy_all_pass() -> None:
    assert lets_through("", "MessageBody", {}, "no JSON")


def test_what_is_nested_too_deep_is_no_policy() -> None:
    assert problem("[" * 100_000 + "]" * 100_000, "MessageBody").endswith("failed to parse JSON")
