"""What Step Functions refuses before it looks at what there is."""

from __future__ import annotations

import pytest

from sandbox.states import requests

MACHINE = "arn:aws:states:us-east-1:000000000000:stateMachine:orders"


@pytest.mark.parametrize("name", ["a", "x" * 80, "Order-1_2.json", "Bestellung=Ä", "a'b(c)@!+"])
def test_names(name: str) -> None:
    assert requests.is_name(name)


@pytest.mark.parametrize("sign", [*' \n<>{}[]?*"#%\\^|~`$&,;:/', "\x00", "\x7f", "\x9f"])
def test_what_no_name_has(sign: str) -> None:
    name = f"order{sign}1"
    assert not requests.is_name(name)
    assert requests.refusal("CreateActivity", {"name": name}) == (
        "InvalidName",
        f"Invalid Name: '{name}'",
    )


def test_a_name_is_1_to_80_characters() -> None:
    assert not requests.is_name("") and not requests.is_name("x" * 81)


@pytest.mark.parametrize(
    ("operation", "member", "arn", "said"),
    [
        ("DescribeStateMachine", "stateMachineArn", MACHINE, ""),
        ("DescribeStateMachine", "stateMachineArn", f"{MACHINE}:1", ""),
        ("DescribeStateMachine", "stateMachineArn", "orders", "Invalid ARN prefix: orders"),
        (
            "DescribeExecution",
            "executionArn",
            MACHINE.replace("stateMachine", "express"),
            "Resource type not valid in this context: express",
        ),
        (
            "GetActivityTask",
            "activityArn",
            MACHINE,
            "Resource type not valid in this context: stateMachine",
        ),
        ("DescribeMapRun", "mapRunArn", MACHINE.replace("stateMachine", "mapRun"), ""),
    ],
)
def test_arns_by_their_kind(operation: str, member: str, arn: str, said: str) -> None:
    expected = ("InvalidArn", f"Invalid Arn: '{said}'") if said else None
    assert requests.refusal(operation, {member: arn}) == expected


@pytest.mark.parametrize("text", ["{}", "2", '"text"', "null", "[]", '{"a": "é"}', " {} "])
def test_input_is_any_json(text: str) -> None:
    assert requests.of_input(text) is None


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "not JSON", "NaN", '{"a": Infinity}', "{}}"])
def test_input_is_json(text: str) -> None:
    refused = requests.of_input(text)
    assert refused and refused[0] == "InvalidExecutionInput"
    assert refused[1].startswith("Invalid State Machine Execution Input: '")


def test_input_is_measured_in_bytes() -> None:
    assert requests.of_input(f'"{"x" * (requests.INPUT - 2)}"') is None
    for text in (f'"{"x" * (requests.INPUT - 1)}"', f'"{"é" * (requests.INPUT // 2)}"'):
        refused = requests.of_input(text)
        assert refused and refused[0] == "ValidationException"


def test_an_update_changes_something() -> None:
    refused = requests.refusal("UpdateStateMachine", {"stateMachineArn": MACHINE, "publish": True})
    assert refused and refused[0] == "MissingRequiredParameter"
    sent = {"stateMachineArn": MACHINE, "tracingConfiguration": {"enabled": True}}
    assert requests.refusal("UpdateStateMachine", sent) is None
