"""What is true of SqsLambdaDlq and of no other pattern."""

from __future__ import annotations

from typing import Any

import pytest

import app
from tests.synthesis import Synthesized, only, synthesize, synthesized


@pytest.fixture
def pattern() -> Synthesized:
    return synthesized("sqs_lambda_dlq")


def with_options(**options: Any) -> Synthesized:
    return synthesize(app.stack_class("SqsLambdaDlq"), "SqsLambdaDlq", **options)


def test_failed_orders_are_kept_fourteen_days(pattern: Synthesized) -> None:
    assert only(pattern, "AWS::SQS::Queue", "FailedOrders")["MessageRetentionPeriod"] == 14 * 86400


def test_an_order_is_parked_after_five_receives(pattern: Synthesized) -> None:
    orders = only(pattern, "AWS::SQS::Queue", "Orders")
    assert orders["RedrivePolicy"]["maxReceiveCount"] == 5


def test_options_reach_the_resources() -> None:
    pattern = with_options(max_receive_count=7, timeout_seconds=20, max_concurrency=9)
    orders = only(pattern, "AWS::SQS::Queue", "Orders")
    assert orders["RedrivePolicy"]["maxReceiveCount"] == 7
    assert orders["VisibilityTimeout"] == 120
    assert only(pattern, "AWS::Lambda::Function")["Timeout"] == 20
    scaling = only(pattern, "AWS::Lambda::EventSourceMapping")["ScalingConfig"]
    assert scaling == {"MaximumConcurrency": 9}
    late = only(pattern, "AWS::CloudWatch::Alarm", "OrdersLate")
    assert late["Threshold"] == 120 * (7 + 1)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_receive_count": 0}, "max_receive_count is 1 to 1000, not 0"),
        ({"max_receive_count": 1001}, "max_receive_count is 1 to 1000, not 1001"),
        ({"timeout_seconds": 901}, "timeout_seconds is 1 to 900, not 901"),
        ({"max_concurrency": 1}, "max_concurrency is 2 to 1000, not 1"),
        ({"removal_policy": "keep"}, 'removal_policy is "destroy" or "retain", not "keep"'),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        with_options(**options)


def test_the_function_may_write_an_order_and_never_read_or_delete_one(
    pattern: Synthesized,
) -> None:
    statements = only(pattern, "AWS::IAM::Policy")["PolicyDocument"]["Statement"]
    table = next(i for i in pattern.resources("AWS::DynamoDB::Table") if i.startswith("Fulfilled"))
    on_table = [one["Action"] for one in statements if table in str(one["Resource"])]
    assert on_table == ["dynamodb:PutItem"]


def test_rows_can_be_restored_and_idempotency_records_expire(pattern: Synthesized) -> None:
    rows = only(pattern, "AWS::DynamoDB::Table", "FulfilledOrders")
    records = only(pattern, "AWS::DynamoDB::Table", "IdempotencyRecords")
    assert rows["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert records["TimeToLiveSpecification"] == {"AttributeName": "expiration", "Enabled": True}


def test_retain_keeps_rows_and_logs_but_not_queues() -> None:
    resources = with_options(removal_policy="retain").template["Resources"]
    kept = {name for name, one in resources.items() if one.get("DeletionPolicy") == "Retain"}
    assert {resources[name]["Type"] for name in kept} == {
        "AWS::DynamoDB::Table",
        "AWS::Logs::LogGroup",
    }
