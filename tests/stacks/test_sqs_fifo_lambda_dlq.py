"""What is true of SqsFifoLambdaDlq and of no other pattern."""

from __future__ import annotations

from typing import Any

import pytest

import app
from tests.synthesis import Synthesized, only, synthesize, synthesized


@pytest.fixture
def pattern() -> Synthesized:
    return synthesized("sqs_fifo_lambda_dlq")


def with_options(**options: Any) -> Synthesized:
    return synthesize(app.stack_class("SqsFifoLambdaDlq"), "SqsFifoLambdaDlq", **options)


def test_both_queues_are_fifo_and_take_deduplication_ids_from_the_sender(
    pattern: Synthesized,
) -> None:
    queues = pattern.resources("AWS::SQS::Queue")
    assert len(queues) == 2
    for logical_id, queue in queues.items():
        assert queue["FifoQueue"] is True, logical_id
        assert not queue.get("ContentBasedDeduplication"), logical_id


def test_the_source_queues_name_is_a_fifo_name(pattern: Synthesized) -> None:
    name = only(pattern, "AWS::SQS::Queue", "OrderChanges")["QueueName"]
    assert name == {"Fn::Join": ["", [{"Ref": "AWS::StackName"}, "-OrderChanges.fifo"]]}


def test_a_change_is_parked_after_five_receives_and_kept_fourteen_days(
    pattern: Synthesized,
) -> None:
    changes = only(pattern, "AWS::SQS::Queue", "OrderChanges")
    assert changes["RedrivePolicy"]["maxReceiveCount"] == 5
    failed = only(pattern, "AWS::SQS::Queue", "FailedChanges")
    assert failed["MessageRetentionPeriod"] == 14 * 86400


@pytest.mark.parametrize(
    ("high", "scope", "limit"),
    [(False, "queue", "perQueue"), (True, "messageGroup", "perMessageGroupId")],
)
def test_high_throughput_counts_per_order_in_both_queues(
    high: bool, scope: str, limit: str
) -> None:
    for queue in with_options(high_throughput=high).resources("AWS::SQS::Queue").values():
        assert (queue["DeduplicationScope"], queue["FifoThroughputLimit"]) == (scope, limit)


@pytest.mark.parametrize(
    ("stops", "told", "meaning"),
    [(False, "false", "went on without them"), (True, "true", "stand still")],
)
def test_the_function_and_the_alarm_know_whether_an_order_stops(
    stops: bool, told: str, meaning: str
) -> None:
    pattern = with_options(stop_at_gaps=stops)
    variables = only(pattern, "AWS::Lambda::Function")["Environment"]["Variables"]
    assert variables["STOP_AT_GAPS"] == told
    parked = only(pattern, "AWS::CloudWatch::Alarm", "ChangesParked")
    assert meaning in parked["AlarmDescription"]


def test_options_reach_the_resources() -> None:
    pattern = with_options(max_receive_count=7, timeout_seconds=20, batch_size=3, max_concurrency=9)
    changes = only(pattern, "AWS::SQS::Queue", "OrderChanges")
    assert changes["RedrivePolicy"]["maxReceiveCount"] == 7
    assert changes["VisibilityTimeout"] == 120
    function = only(pattern, "AWS::Lambda::Function")
    assert function["Timeout"] == 20
    assert function["Environment"]["Variables"]["MAX_RECEIVE_COUNT"] == "7"
    mapping = only(pattern, "AWS::Lambda::EventSourceMapping")
    assert mapping["BatchSize"] == 3
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 9}
    assert only(pattern, "AWS::CloudWatch::Alarm", "ChangesLate")["Threshold"] == 120 * (7 + 1)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_receive_count": 0}, "max_receive_count is 1 to 1000, not 0"),
        ({"max_receive_count": 1001}, "max_receive_count is 1 to 1000, not 1001"),
        ({"timeout_seconds": 901}, "timeout_seconds is 1 to 900, not 901"),
        ({"batch_size": 11}, "batch_size is 1 to 10, not 11"),
        ({"max_concurrency": 1}, "max_concurrency is 2 to 1000, not 1"),
        ({"removal_policy": "keep"}, 'removal_policy is "destroy" or "retain", not "keep"'),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        with_options(**options)


def test_the_function_may_update_an_order_and_neither_read_nor_delete_one(
    pattern: Synthesized,
) -> None:
    statements = only(pattern, "AWS::IAM::Policy")["PolicyDocument"]["Statement"]
    (table,) = pattern.resources("AWS::DynamoDB::Table")
    on_table = [one["Action"] for one in statements if table in str(one["Resource"])]
    assert on_table == ["dynamodb:UpdateItem"]


def test_orders_can_be_restored(pattern: Synthesized) -> None:
    orders = only(pattern, "AWS::DynamoDB::Table", "ChangedOrders")
    assert orders["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_retain_keeps_rows_and_logs_but_not_queues() -> None:
    resources = with_options(removal_policy="retain").template["Resources"]
    kept = {name for name, one in resources.items() if one.get("DeletionPolicy") == "Retain"}
    assert {resources[name]["Type"] for name in kept} == {
        "AWS::DynamoDB::Table",
        "AWS::Logs::LogGroup",
    }
