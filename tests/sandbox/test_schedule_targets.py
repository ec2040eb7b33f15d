"""What EventBridge Scheduler takes and refuses, and the calls that it makes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox import schedule_targets

ACCOUNT = "000000000000"
QUEUE = f"arn:aws:sqs:us-east-1:{ACCOUNT}:orders"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/schedules"
START = "arn:aws:scheduler:::aws-sdk:sfn:startExecution"


def schedule(arn: str = QUEUE, target: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A schedule that is taken, but for what is given."""
    return {
        "ScheduleExpression": "rate(1 hour)",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {"Arn": arn, "RoleArn": ROLE, **(target or {})},
        **more,
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (schedule(), []),
        (schedule(START, {"Input": "{}"}), []),
        (
            schedule(FlexibleTimeWindow={"Mode": "FLEXIBLE"}),
            [
                "MaximumWindowInMinutes must be provided when FlexibleTimeWindowMode is set to"
                " FLEXIBLE."
            ],
        ),
        (
            schedule(FlexibleTimeWindow={"Mode": "OFF", "MaximumWindowInMinutes": 5}),
            [
                "MaximumWindowInMinutes must not be provided when FlexibleTimeWindowMode is set to"
                " OFF."
            ],
        ),
        (schedule(target={"Input": "text"}), []),
        (
            schedule(f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:buy", {"Input": "text"}),
            ["JSON syntax error in input for the target."],
        ),
        (
            schedule(QUEUE.replace("us-east-1", "eu-west-1")),
            ["The target ARN provided does not match the current region us-east-1."],
        ),
        (schedule(f"{QUEUE}.fifo"), ["Parameters SqsParameters must be specified."]),
        (
            schedule(target={"SqsParameters": {"MessageGroupId": "one"}}),
            ["Parameters MessageGroupId not valid for the target."],
        ),
        (
            schedule("arn:aws:s3:us-east-1::orders"),
            ["s3 is not a supported service for a target."],
        ),
        (
            schedule(f"arn:aws:codebuild:us-east-1:{ACCOUNT}:project/orders"),
            ["The sandbox invokes no targets of codebuild"],
        ),
        (schedule(START), ["You must provide an input to set this target for your schedule."]),
        (
            schedule("arn:aws:scheduler:::aws-sdk:sqs:getQueueUrl", {"Input": "{}"}),
            ["getQueueUrl API is not supported."],
        ),
        (
            schedule("arn:aws:scheduler:::aws-sdk:medialive:startChannel", {"Input": "{}"}),
            ["The sandbox calls no operations of medialive"],
        ),
    ],
)
def test_schedules(given: dict[str, Any], said: list[str]) -> None:
    assert list(schedule_targets.problems(given, "us-east-1")) == said


def test_a_universal_target_names_the_parameters_of_its_operation() -> None:
    given = json.dumps({"StateMachineArn": "machine", "Input": {"id": 1}})
    made = schedule_targets.call({"Arn": START}, given)
    assert made == (
        "stepfunctions",
        "start_execution",
        {"stateMachineArn": "machine", "input": '{"id": 1}'},
    )


def test_an_input_gets_schedulers_own_values() -> None:
    given = '{"id": "<aws.scheduler.execution-id>", "other": "<aws.scheduler.none>"}'
    filled = schedule_targets.filled(given, {"execution-id": "17"})
    assert filled == '{"id": "17", "other": "<aws.scheduler.none>"}'
