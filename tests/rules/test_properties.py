"""What holds for any template: no rule crashes, and how a value is spelled makes no difference."""

from __future__ import annotations

import copy
import json
import random
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules import _messaging
from tests.rules.pack import findings, matches
from tests.rules.test_mutations import MUTATIONS, mutated
from tests.synthesis import PATTERNS, synthesized

ODD = [
    *(None, True, False, -1, 0, 7.5, 10**7, "", "${", "${}", "${A.B.C}", "{", "[]", "*", "x" * 300),
    *([], {}, [[]], [{}], {"": {}}, {"Fn::Nobody": 1}, {"Condition": "Nobody"}),
]
FUNCTIONS = ["Ref", "Condition"] + [
    f"Fn::{name}"
    for name in ("GetAtt", "If", "Join", "Sub", "Select", "Split", "FindInMap", "ToJsonString")
]


def odd(chance: random.Random, depth: int = 3) -> Any:
    """Something that does not belong there; often an intrinsic function with wrong arguments."""
    match chance.randrange(4 if depth else 1):
        case 1:
            return {chance.choice(FUNCTIONS): odd(chance, depth - 1)}
        case 2:
            return [odd(chance, depth - 1) for _ in range(chance.randrange(4))]
        case 3:
            return {chance.choice([*FUNCTIONS, "Arn", "a"]): odd(chance, depth - 1)}
    return copy.deepcopy(chance.choice(ODD))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in a template below its resources' types."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else []
    )
    return [path] + [one for key, each in inner for one in places(each, (*path, key))]


def put(template: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    at: Any = template
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), stem=st.sampled_from(sorted(PATTERNS)))
def test_no_rule_crashes_on_a_broken_template(seed: int, stem: str) -> None:
    chance = random.Random(seed)
    template = {"Resources": copy.deepcopy(synthesized(stem).template["Resources"])}
    inside = [path for path in places(template) if "Properties" in path]
    for path in chance.sample(inside, chance.randint(1, 30)):
        with suppress(KeyError, IndexError, TypeError):  # a place that is gone already
            put(template, path, odd(chance))
    matches(template)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_rule_crashes_on_something_else(seed: int) -> None:
    chance = random.Random(seed)
    sections = ("Resources", "Parameters", "Conditions", "Mappings", "Outputs")
    template: dict[str, Any] = {name: {"A": odd(chance), "B": odd(chance)} for name in sections}
    template["Resources"]["C"] = {"Type": "AWS::SQS::Queue", "Properties": odd(chance)}
    template["Resources"]["D"] = {"Type": odd(chance), "Condition": odd(chance)}
    if chance.random() < 0.2:
        template[chance.choice(sections)] = odd(chance)
    matches(template)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3.0), ("3", 3.0), (" 3 ", 3.0), ("three", None), ("", None), (True, None), ([3], None)],
)
def test_a_number_may_be_written_as_text_and_nothing_else_is_one(
    value: Any, expected: float | None
) -> None:
    assert _messaging.number(value, default=7) == expected
    assert _messaging.number(None, default=7) == 7


def respelled(value: Any, parameters: dict[str, Any], chance: random.Random) -> Any:
    """The same value by other intrinsic functions: what comes out of them is what went in."""
    if isinstance(value, dict) and not any(key.startswith(("Fn::", "Ref")) for key in value):
        return {key: respelled(one, parameters, chance) for key, one in value.items()}
    if isinstance(value, list):
        return [respelled(one, parameters, chance) for one in value]
    ways = [value, {"Fn::If": ["Always", value, value]}]
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        name = f"P{len(parameters)}"
        ways += [{"Ref": name}, {"Fn::Select": [1, ["other", value]]}]
        ways += [{"Fn::Select": [0, [value, "other"]]}, {"Fn::Select": ["0", [value]]}]
        if isinstance(value, str) and "${" not in value:
            half = len(value) // 2
            ways += [{"Fn::Join": ["", [value[:half], value[half:]]]}, {"Fn::Sub": value}]
        parameters[name] = {"Type": "String", "Default": value}
    return chance.choice(ways)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), rule=st.sampled_from(sorted(MUTATIONS)))
def test_how_a_value_is_spelled_makes_no_difference(seed: int, rule: str) -> None:
    stem, template = next(
        (stem, template) for stem in PATTERNS if (template := mutated(rule, stem))
    )
    chance, parameters = random.Random(seed), copy.deepcopy(template.get("Parameters", {}))
    resources = {}
    for logical_id, one in template["Resources"].items():
        again = respelled(one.get("Properties", {}), parameters, chance)
        resources[logical_id] = {**one, "Properties": again}
    conditions = {"Always": {"Fn::Equals": [{"Ref": "AWS::Region"}, "eu-west-1"]}}
    spelled = {"Parameters": parameters, "Conditions": conditions, "Resources": resources}
    assert findings(spelled) == findings(template), stem


def sources(timeout: int, visibility: int) -> dict[str, Any]:
    arn = "arn:aws:sqs:eu-west-1:111122223333:parked"
    resources = {
        "Orders": (
            "AWS::SQS::Queue",
            {
                "VisibilityTimeout": visibility,
                "RedrivePolicy": {"deadLetterTargetArn": arn, "maxReceiveCount": 5},
            },
        ),
        "Fulfil": ("AWS::Lambda::Function", {"Timeout": timeout}),
        "Mapping": (
            "AWS::Lambda::EventSourceMapping",
            {
                "EventSourceArn": {"Fn::GetAtt": ["Orders", "Arn"]},
                "FunctionName": {"Ref": "Fulfil"},
                "BatchSize": 1,
            },
        ),
    }
    return {
        "Resources": {
            logical_id: {"Type": kind, "Properties": properties}
            for logical_id, (kind, properties) in resources.items()
        }
    }


@settings(max_examples=40, deadline=None)
@given(timeout=st.integers(1, 900), off=st.integers(-2, 2))
def test_the_visibility_timeout_is_asked_to_the_second(timeout: int, off: int) -> None:
    expected = {("E9101", "Orders")} if off < 0 else set()
    assert findings(sources(timeout, 6 * timeout + off)) == expected


EVENTS = ["s3:ObjectCreated:*", "s3:ObjectCreated:Put", "s3:ObjectRemoved:*"]
EDGES = ["", "a", "ab", "b"]


@pytest.mark.parametrize("first", list(product(EVENTS, EDGES, EDGES)))
def test_notifications_overlap_if_one_event_matches_both(first: tuple[str, str, str]) -> None:
    """Against the keys themselves: every key of up to five letters that both could match."""
    keys = ["".join(letters) for size in range(6) for letters in product("ab", repeat=size)]
    kinds = ["s3:ObjectCreated:Put", "s3:ObjectCreated:Copy", "s3:ObjectRemoved:Delete"]

    def matched(event: str, prefix: str, suffix: str) -> set[tuple[str, str]]:
        return {
            (kind, key)
            for kind in kinds
            for key in keys
            if kind.startswith(event.rstrip("*")) and key.startswith(prefix)
            if key.endswith(suffix)
        }

    def settings_of(event: str, prefix: str, suffix: str) -> dict[str, Any]:
        rules = [{"Name": "prefix", "Value": prefix}, {"Name": "suffix", "Value": suffix}]
        return {"Event": event, "Queue": "x", "Filter": {"S3Key": {"Rules": rules}}}

    resources, expected = {}, set()
    for number, second in enumerate(product(EVENTS, EDGES, EDGES)):
        both = [settings_of(*first), settings_of(*second)]
        properties = {"NotificationConfiguration": {"QueueConfigurations": both}}
        resources[f"B{number}"] = {"Type": "AWS::S3::Bucket", "Properties": properties}
        if matched(*first) & matched(*second):
            expected.add(("E9301", f"B{number}"))
    assert findings({"Resources": resources}) == expected


def test_findings_are_said_in_one_sentence_that_says_what_to_do() -> None:
    for rule in MUTATIONS:
        template = next(found for stem in PATTERNS if (found := mutated(rule, stem)))
        for _, path, message in matches(json.loads(json.dumps(template))):
            verb, end = message.split()[0], message[-1]
            assert verb.istitle() and end == "." and message.count(". ") == 0, message
            assert str(path[1]) in message, "the message names the resource"
