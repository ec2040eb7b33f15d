"""What is true of SnsFifoSqsFifoFanOut and of no other pattern."""

from __future__ import annotations

import json
from typing import Any

import pytest

import app
from tests.synthesis import Synthesized, only, synthesize, synthesized

BRANCHES = [
    ("FraudChecks", "CheckFraud", "FraudVerdicts"),
    ("Shipments", "ShipOrder", "ShippingSteps"),
]


@pytest.fixture
def pattern() -> Synthesized:
    return synthesized("sns_fifo_sqs_fifo_fan_out")


def with_options(**options: Any) -> Synthesized:
    return synthesize(app.stack_class("SnsFifoSqsFifoFanOut"), "SnsFifoSqsFifoFanOut", **options)


def test_topic_and_queues_are_fifo_to_the_last(pattern: Synthesized) -> None:
    topic = only(pattern, "AWS::SNS::Topic", "OrderEvents")
    assert topic["FifoTopic"] is True
    assert topic["TopicName"]["Fn::Join"][1][-1].endswith(".fifo")
    for logical_id, queue in pattern.resources("AWS::SQS::Queue").items():
        assert queue["FifoQueue"] is True, logical_id


def test_order_events_are_encrypted_without_a_key_of_their_own(pattern: Synthesized) -> None:
    key = only(pattern, "AWS::SNS::Topic", "OrderEvents")["KmsMasterKeyId"]
    assert "alias/aws/sns" in json.dumps(key)
    assert len(pattern.resources("AWS::KMS::Key")) == 1  # that of Alerts


@pytest.mark.parametrize(("queue", "function", "table"), BRANCHES)
def test_each_service_has_a_branch_of_its_own(
    pattern: Synthesized, queue: str, function: str, table: str
) -> None:
    mapping = only(pattern, "AWS::Lambda::EventSourceMapping", function)
    assert mapping["EventSourceArn"]["Fn::GetAtt"][0].startswith(queue)
    effects = only(pattern, "AWS::Lambda::Function", function)["Environment"]["Variables"]
    assert effects["EFFECTS"]["Ref"].startswith(table)


@pytest.mark.parametrize(("queue", "function", "table"), BRANCHES)
def test_a_subscription_delivers_raw_and_has_a_dead_letter_queue_that_is_not_its_queues(
    pattern: Synthesized, queue: str, function: str, table: str
) -> None:
    subscription = only(pattern, "AWS::SNS::Subscription", queue)
    assert subscription["RawMessageDelivery"] is True
    undelivered = subscription["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]
    failed = only(pattern, "AWS::SQS::Queue", queue)["RedrivePolicy"]["deadLetterTargetArn"]
    assert undelivered.startswith(f"Undelivered{queue}")
    assert failed["Fn::GetAtt"][0].startswith(f"Failed{queue}")


@pytest.mark.parametrize("queue", ["FraudChecks", "Shipments"])
def test_what_could_not_be_delivered_is_kept_fourteen_days_and_told(
    pattern: Synthesized, queue: str
) -> None:
    kept = only(pattern, "AWS::SQS::Queue", f"Undelivered{queue}")
    assert kept["MessageRetentionPeriod"] == 14 * 86400
    alarm = only(pattern, "AWS::CloudWatch::Alarm", f"{queue}Undelivered")
    (dimension,) = alarm["Dimensions"]
    assert dimension["Value"]["Fn::GetAtt"][0].startswith(f"Undelivered{queue}")


def test_the_topic_may_write_to_the_queues_and_their_subscriptions_dead_letters_only(
    pattern: Synthesized,
) -> None:
    admitted = set()
    for policy in pattern.resources("AWS::SQS::QueuePolicy").values():
        for statement in policy["PolicyDocument"]["Statement"]:
            if statement["Effect"] == "Allow":
                assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
                assert statement["Action"] == "sqs:SendMessage"
                topic = statement["Condition"]["ArnEquals"]["aws:SourceArn"]["Ref"]
                assert topic.startswith("OrderEvents")
                admitted.add(policy["Queues"][0]["Ref"][:-8])  # without its hash
    wanted = {"FraudChecks", "Shipments", "UndeliveredFraudChecks", "UndeliveredShipments"}
    assert admitted == wanted


@pytest.mark.parametrize(("queue", "function", "table"), BRANCHES)
def test_a_function_reads_and_writes_its_own_table_and_deletes_nothing(
    pattern: Synthesized, queue: str, function: str, table: str
) -> None:
    statements = only(pattern, "AWS::IAM::Policy", function)["PolicyDocument"]["Statement"]
    granted = {
        action: json.dumps(one["Resource"])
        for one in statements
        for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])
        if action.startswith("dynamodb:")
    }
    assert set(granted) == {"dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"}
    assert all(f'"{table}' in resource for resource in granted.values())


@pytest.mark.parametrize("table", ["FraudVerdicts", "ShippingSteps"])
def test_a_row_is_one_event_of_one_customer_and_can_be_restored(
    pattern: Synthesized, table: str
) -> None:
    rows = only(pattern, "AWS::DynamoDB::Table", table)
    assert [key["AttributeName"] for key in rows["KeySchema"]] == ["customer", "sequence"]
    assert rows["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_deduplication_and_limits_cover_the_whole_topic_unless_asked_otherwise(
    pattern: Synthesized,
) -> None:
    assert scopes(pattern) == {("Topic", "queue", "perQueue")}
    assert scopes(with_options(high_throughput=True)) == {
        ("MessageGroup", "messageGroup", "perMessageGroupId")
    }


def scopes(pattern: Synthesized) -> set[tuple[str, str, str]]:
    topic = only(pattern, "AWS::SNS::Topic", "OrderEvents")["FifoThroughputScope"]
    return {
        (topic, queue["DeduplicationScope"], queue["FifoThroughputLimit"])
        for queue in pattern.resources("AWS::SQS::Queue").values()
    }


def test_an_event_needs_a_deduplication_id_unless_asked_otherwise(pattern: Synthesized) -> None:
    by_id = only(pattern, "AWS::SNS::Topic", "OrderEvents")
    assert by_id["ContentBasedDeduplication"] is False
    by_content = with_options(content_based_deduplication=True)
    topic = only(by_content, "AWS::SNS::Topic", "OrderEvents")
    assert topic["ContentBasedDeduplication"] is True


@pytest.mark.parametrize(("queue", "function", "table"), BRANCHES)
def test_options_reach_the_resources(queue: str, function: str, table: str) -> None:
    pattern = with_options(max_receive_count=7, timeout_seconds=20, batch_size=3)
    waiting = only(pattern, "AWS::SQS::Queue", queue)
    assert waiting["RedrivePolicy"]["maxReceiveCount"] == 7
    assert waiting["VisibilityTimeout"] == 120
    handles = only(pattern, "AWS::Lambda::Function", function)
    assert handles["Timeout"] == 20
    assert handles["Environment"]["Variables"]["MAX_RECEIVE_COUNT"] == "7"
    assert only(pattern, "AWS::Lambda::EventSourceMapping", function)["BatchSize"] == 3
    assert only(pattern, "AWS::CloudWatch::Alarm", f"{queue}Late")["Threshold"] == 120 * (7 + 1)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_receive_count": 0}, "max_receive_count is 1 to 1000, not 0"),
        ({"max_receive_count": 1001}, "max_receive_count is 1 to 1000, not 1001"),
        (
            {"timeout_seconds": 900, "max_receive_count": 64},
            "max_receive_count [+] 1 visibility timeouts, in seconds, is 1 to 345600",
        ),
        ({"timeout_seconds": 901}, "timeout_seconds is 1 to 900, not 901"),
        ({"batch_size": 11}, "batch_size is 1 to 10, not 11"),
        ({"removal_policy": "keep"}, 'removal_policy is "destroy" or "retain", not "keep"'),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        with_options(**options)


def test_retain_keeps_rows_and_logs_but_not_queues() -> None:
    resources = with_options(removal_policy="retain").template["Resources"]
    kept = {name for name, one in resources.items() if one.get("DeletionPolicy") == "Retain"}
    assert {resources[name]["Type"] for name in kept} == {
        "AWS::DynamoDB::Table",
        "AWS::Logs::LogGroup",
    }
