"""What EventBridge takes and refuses, by answers recorded on AWS."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import event_rules

ENTRY = {"Source": "shop", "DetailType": "Order", "Detail": '{"id": 1}'}
QUEUE = {"Id": "one", "Arn": "arn:aws:sqs:us-east-1:000000000000:orders"}
MACHINE = {"Id": "one", "Arn": "arn:aws:states:us-east-1:000000000000:stateMachine:orders"}


@pytest.mark.parametrize("missing", ["Source", "DetailType", "Detail"])
def test_an_entry_has_source_type_and_detail(missing: str) -> None:
    entry = {name: value for name, value in ENTRY.items() if name != missing}
    reason = f"Parameter {missing} is not valid. Reason: {missing} is a required argument."
    assert event_rules.entry_problem(entry) == ("InvalidArgument", reason)


@pytest.mark.parametrize("detail", ["text", '"text"', "[1]", '{"id": 1', "1"])
def test_a_detail_is_an_object(detail: str) -> None:
    problem = event_rules.entry_problem(ENTRY | {"Detail": detail})
    assert problem == ("MalformedDetail", "Detail is malformed.")


def test_an_entry_is_taken() -> None:
    assert event_rules.entry_problem(ENTRY) is None
    assert event_rules.size(ENTRY | {"Time": 0, "Resources": ["12"]}) == 4 + 5 + 9 + 14 + 2


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (QUEUE, []),
        (QUEUE | {"InputPath": "$.detail.items[0]"}, []),
        (QUEUE | {"InputPath": "detail"}, ["InputPath for target one is invalid."]),
        (
            QUEUE | {"Input": "{}", "InputPath": "$"},
            ["Only one of Input, InputPath, or InputTransformer must be provided for target one."],
        ),
        (QUEUE | {"Input": "text"}, ["JSON syntax error in input for target one."]),
        (
            QUEUE | {"InputTransformer": {"InputTemplate": '"<id> <aws.events.rule-arn>"'}},
            ["InputTemplate for target one contains invalid placeholder id."],
        ),
        (
            QUEUE | {"InputTransformer": {"InputTemplate": '"<aws.events.event.json>"'}},
            [
                "InputTemplate for target one contains placeholder aws.events.event.json valid"
                " only for JSON template."
            ],
        ),
        (MACHINE, [f"RoleArn is required for target {MACHINE['Arn']}."]),
        (
            QUEUE | {"Arn": f"{QUEUE['Arn']}.fifo"},
            ["Parameter(s) SqsParameters must be specified for target: one."],
        ),
        (
            QUEUE | {"DeadLetterConfig": {"Arn": f"{QUEUE['Arn']}.fifo"}},
            ["SQS FIFO is not supported by Dead Letter Queues."],
        ),
        (
            QUEUE | {"DeadLetterConfig": {"Arn": "arn:aws:sns:us-east-1:000000000000:dead"}},
            ["sns is not supported as a dead letter resource."],
        ),
    ],
)
def test_targets(target: dict[str, Any], said: list[str]) -> None:
    assert list(event_rules.target_problems(target)) == said


EVENT = {"detail-type": "Order", "detail": {"items": [{"id": 1}, {"id": 2}], "none": None}}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", EVENT),
        ("$.detail-type", "Order"),
        ("$.detail.items[1].id", 2),
        ("$.detail.items[*].id", [1, 2]),
        ("$.detail.none", None),
    ],
)
def test_paths(path: str, found: Any) -> None:
    assert event_rules.at(EVENT, path) == found


@pytest.mark.parametrize("path", ["$.missing", "$.detail.items[2]", "$.detail-type.x"])
def test_paths_to_nothing(path: str) -> None:
    with pytest.raises(LookupError):
        event_rules.at(EVENT, path)
