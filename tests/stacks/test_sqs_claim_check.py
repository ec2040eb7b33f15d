"""What is true of SqsClaimCheck and of no other pattern."""

from __future__ import annotations

import json
from typing import Any

import pytest

import app
from tests.synthesis import Synthesized, only, synthesize, synthesized

MIB = 1024 * 1024


@pytest.fixture
def pattern() -> Synthesized:
    return synthesized("sqs_claim_check")


def with_options(**options: Any) -> Synthesized:
    return synthesize(app.stack_class("SqsClaimCheck"), "SqsClaimCheck", **options)


def grants(pattern: Synthesized, role: str) -> dict[str, str]:
    """Action to resource, as text without logical ids' hashes, of all that a role may do."""
    statements = only(pattern, "AWS::IAM::Policy", role)["PolicyDocument"]["Statement"]
    assert all(statement["Effect"] == "Allow" for statement in statements)
    return {
        action: json.dumps(statement["Resource"])
        for statement in statements
        for action in (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
    }


def expires(pattern: Synthesized, bucket: str) -> int:
    """Days after which a bucket's objects are deleted."""
    (rule,) = only(pattern, "AWS::S3::Bucket", bucket)["LifecycleConfiguration"]["Rules"]
    assert rule["Status"] == "Enabled" and "Prefix" not in rule  # all objects
    return rule["ExpirationInDays"]


def test_an_object_outlives_its_message_in_the_dead_letter_queue_and_after_a_redrive(
    pattern: Synthesized,
) -> None:
    lives = only(pattern, "AWS::SQS::Queue", "FailedOrders")["MessageRetentionPeriod"] // 86400
    assert expires(pattern, "LargeOrders") > 2 * lives
    assert expires(with_options(keep_days=15), "LargeOrders") == 15 > lives


def test_a_redeemed_claim_is_remembered_as_long_as_its_object_could_have_been_there() -> None:
    function = only(with_options(keep_days=40), "AWS::Lambda::Function")
    assert function["Environment"]["Variables"]["KEEP_DAYS"] == "40"


def test_objects_are_encrypted_private_logged_and_not_versioned(pattern: Synthesized) -> None:
    for bucket in ("LargeOrders", "AccessLogs"):
        found = only(pattern, "AWS::S3::Bucket", bucket)
        (rule,) = found["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
        assert set(found["PublicAccessBlockConfiguration"].values()) == {True}
        assert "VersioningConfiguration" not in found  # deleted means gone
    logging = only(pattern, "AWS::S3::Bucket", "LargeOrders")["LoggingConfiguration"]
    assert logging["DestinationBucketName"]["Ref"].startswith("AccessLogs")


def test_buckets_refuse_plain_text(pattern: Synthesized) -> None:
    policies = pattern.resources("AWS::S3::BucketPolicy").values()
    refusing = {
        policy["Bucket"]["Ref"]
        for policy in policies
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Deny"
        and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    }
    assert refusing == set(pattern.resources("AWS::S3::Bucket"))


def test_buying_may_store_and_send_and_no_more(pattern: Synthesized) -> None:
    allowed = grants(pattern, "Buying")
    assert set(allowed) == {"sqs:SendMessage", "s3:PutObject"}
    assert "/orders/*" in allowed["s3:PutObject"]


def test_the_function_reads_and_deletes_orders_only_and_learns_what_is_missing(
    pattern: Synthesized,
) -> None:
    allowed = grants(pattern, "FulfilOrderRole")
    on_bucket = {action: resource for action, resource in allowed.items() if "s3:" in action}
    assert set(on_bucket) == {"s3:GetObject", "s3:DeleteObject", "s3:ListBucket"}
    assert "/orders/*" in on_bucket["s3:GetObject"] and "/orders/*" in on_bucket["s3:DeleteObject"]
    assert "/" not in on_bucket["s3:ListBucket"]
    assert {action for action in allowed if "dynamodb:" in action} == {
        "dynamodb:GetItem",
        "dynamodb:PutItem",
        "dynamodb:UpdateItem",
        "dynamodb:DeleteItem",
    }
    assert "RedeemedClaims" in allowed["dynamodb:DeleteItem"]


def test_redeemed_claims_expire_and_rows_can_be_restored(pattern: Synthesized) -> None:
    claims = only(pattern, "AWS::DynamoDB::Table", "RedeemedClaims")
    assert claims["TimeToLiveSpecification"] == {"AttributeName": "expiration", "Enabled": True}
    rows = only(pattern, "AWS::DynamoDB::Table", "FulfilledOrders")
    assert rows["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_a_claim_is_parked_after_five_receives(pattern: Synthesized) -> None:
    assert only(pattern, "AWS::SQS::Queue", "Orders")["RedrivePolicy"]["maxReceiveCount"] == 5


def test_options_reach_the_resources() -> None:
    pattern = with_options(
        largest_order_mib=2, max_receive_count=7, timeout_seconds=20, max_concurrency=9
    )
    orders = only(pattern, "AWS::SQS::Queue", "Orders")
    assert orders["RedrivePolicy"]["maxReceiveCount"] == 7
    assert orders["VisibilityTimeout"] == 120
    function = only(pattern, "AWS::Lambda::Function")
    assert function["Timeout"] == 20
    assert function["Environment"]["Variables"]["LARGEST_ORDER"] == str(2 * MIB)
    scaling = only(pattern, "AWS::Lambda::EventSourceMapping")["ScalingConfig"]
    assert scaling == {"MaximumConcurrency": 9}
    assert only(pattern, "AWS::CloudWatch::Alarm", "OrdersLate")["Threshold"] == 120 * (7 + 1)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"largest_order_mib": 0}, "largest_order_mib is 1 to 32, not 0"),
        ({"largest_order_mib": 33}, "largest_order_mib is 1 to 32, not 33"),
        ({"keep_days": 14}, "keep_days is 15 to 3650, not 14"),
        ({"max_receive_count": 0}, "max_receive_count is 1 to 1000, not 0"),
        ({"timeout_seconds": 901}, "timeout_seconds is 1 to 900, not 901"),
        (
            {"timeout_seconds": 900, "max_receive_count": 64},
            "max_receive_count [+] 1 visibility timeouts, in seconds, is 1 to 345600",
        ),
        ({"max_concurrency": 1}, "max_concurrency is 2 to 1000, not 1"),
        ({"removal_policy": "keep"}, 'removal_policy is "destroy" or "retain", not "keep"'),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        with_options(**options)


def test_retain_keeps_rows_objects_and_logs_but_not_queues() -> None:
    resources = with_options(removal_policy="retain").template["Resources"]
    kept = {name for name, one in resources.items() if one.get("DeletionPolicy") == "Retain"}
    assert {resources[name]["Type"] for name in kept} == {
        "AWS::DynamoDB::Table",
        "AWS::Logs::LogGroup",
        "AWS::S3::Bucket",
    }
