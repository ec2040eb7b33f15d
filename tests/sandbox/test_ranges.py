"""What AWS says of parameters outside the ranges of its models."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import ranges

MAPPING = {"FunctionName": "order", "EventSourceArn": "arn:aws:sqs:us-east-1:000000000000:orders"}


@pytest.mark.parametrize(
    ("operation", "sent", "said"),
    [
        ("CreateEventSourceMapping", MAPPING | {"BatchSize": 10_000}, ""),
        (
            "CreateEventSourceMapping",
            MAPPING | {"BatchSize": 10_001},
            "1 validation error detected: Value '10001' at 'batchSize' failed to satisfy"
            " constraint: Member must have value less than or equal to 10000",
        ),
        (
            "CreateEventSourceMapping",
            MAPPING | {"ScalingConfig": {"MaximumConcurrency": "1"}},
            "1 validation error detected: Value '1' at 'scalingConfig.maximumConcurrency' failed"
            " to satisfy constraint: Member must have value greater than or equal to 2",
        ),
        (
            "CreateEventSourceMapping",
            {"StartingPosition": "0"},
            "2 validation errors detected: Value null at 'functionName' failed to satisfy"
            " constraint: Member must not be null; Value '0' at 'startingPosition' failed to"
            " satisfy constraint: Member must satisfy enum value set:"
            " [TRIM_HORIZON, LATEST, AT_TIMESTAMP]",
        ),
        (
            "UpdateFunctionConfiguration",
            {"FunctionName": "order", "Handler": "in dex", "Description": "x" * 257},
            "2 validation errors detected: Value 'in dex' at 'handler' failed to satisfy"
            " constraint: Member must satisfy regular expression pattern: [^\\s]+; Value"
            f" '{'x' * 257}' at 'description' failed to satisfy constraint: Member must have length"
            " less than or equal to 256",
        ),
        (
            "UpdateFunctionCode",
            {"FunctionName": "order", "Architectures": ["x86"]},
            "1 validation error detected: Value '[x86]' at 'architectures' failed to satisfy"
            " constraint: Member must satisfy constraint: [Member must satisfy enum value set:"
            " [x86_64, arm64], Member must not be null]",
        ),
        (
            "UpdateFunctionConfiguration",
            {"FunctionName": "order", "Environment": {"Variables": {"1": "one"}}},
            "1 validation error detected: Value at 'environment.variables' failed to satisfy"
            " constraint: Map keys must satisfy constraint: [Member must satisfy regular expression"
            " pattern: [a-zA-Z]([a-zA-Z0-9_])+, Member must not be null]",
        ),
    ],
)
def test_aws_names_what_is_out_of_range(operation: str, sent: dict[str, Any], said: str) -> None:
    assert ranges.problem("lambda", operation, sent) == said


def test_structures_in_lists_are_counted_from_one() -> None:
    entries = [{"Id": "a"}, {"Id": "b", "MessageGroupId": 1}]
    targets = [{"Id": "a", "Arn": "arn"}, {"Id": "b b", "Arn": "arn"}]
    assert ranges.problem("sqs", "SendMessageBatch", {"Entries": entries}, required=False) == ""
    assert "at 'targets.2.member.id'" in ranges.problem(
        "events", "PutTargets", {"Rule": "r", "Targets": targets}
    )


def test_a_limit_of_aws_may_be_narrower_than_the_model() -> None:
    sent = {"FunctionName": "order", "Timeout": 901}
    assert not ranges.problem("lambda", "UpdateFunctionConfiguration", sent)
    assert "less than or equal to 900" in ranges.problem(
        "lambda", "UpdateFunctionConfiguration", sent, {"Timeout": {"max": 900}}
    )
