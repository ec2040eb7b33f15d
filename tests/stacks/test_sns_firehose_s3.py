"""What is true of SnsFirehoseS3 and of no other pattern."""

from __future__ import annotations

import json
from typing import Any

import pytest

import app
from tests.synthesis import Synthesized, only, synthesize, synthesized


@pytest.fixture
def pattern() -> Synthesized:
    return synthesized("sns_firehose_s3")


def with_options(**options: Any) -> Synthesized:
    return synthesize(app.stack_class("SnsFirehoseS3"), "SnsFirehoseS3", **options)


def destination(pattern: Synthesized) -> dict[str, Any]:
    stream = only(pattern, "AWS::KinesisFirehose::DeliveryStream")
    return stream["ExtendedS3DestinationConfiguration"]


def statements(pattern: Synthesized, role: str) -> list[dict[str, Any]]:
    return only(pattern, "AWS::IAM::Policy", role)["PolicyDocument"]["Statement"]


def test_a_line_is_a_message_as_it_was_published(pattern: Synthesized) -> None:
    assert only(pattern, "AWS::SNS::Subscription")["RawMessageDelivery"] is True
    processing = destination(pattern)["ProcessingConfiguration"]
    assert processing["Enabled"] is True
    assert [one["Type"] for one in processing["Processors"]] == ["AppendDelimiterToRecord"]
    assert destination(pattern)["CompressionFormat"] == "GZIP"


def test_objects_lie_under_their_hour_and_errors_under_their_kind(pattern: Synthesized) -> None:
    assert destination(pattern)["Prefix"] == "orders/!{timestamp:yyyy/MM/dd/HH}/"
    errors = destination(pattern)["ErrorOutputPrefix"]
    assert errors.startswith("errors/!{firehose:error-output-type}/")


def test_orders_that_sns_cannot_hand_over_are_kept_fourteen_days(pattern: Synthesized) -> None:
    (queue,) = pattern.resources("AWS::SQS::Queue")
    target = only(pattern, "AWS::SNS::Subscription")["RedrivePolicy"]["deadLetterTargetArn"]
    assert target == {"Fn::GetAtt": [queue, "Arn"]}
    properties = only(pattern, "AWS::SQS::Queue")
    assert properties["MessageRetentionPeriod"] == 14 * 86400
    assert properties["RedriveAllowPolicy"] == {"redrivePermission": "denyAll"}


def test_only_this_topic_may_park_an_order(pattern: Synthesized) -> None:
    policy = only(pattern, "AWS::SQS::QueuePolicy")["PolicyDocument"]["Statement"]
    (allowed,) = [one for one in policy if one["Effect"] == "Allow"]
    (topic,) = [one for one in pattern.resources("AWS::SNS::Topic") if "OrderEvents" in one]
    assert allowed["Principal"] == {"Service": "sns.amazonaws.com"}
    assert allowed["Condition"] == {"ArnEquals": {"aws:SourceArn": {"Ref": topic}}}


def test_the_topic_may_put_records_on_the_stream_and_nothing_else(pattern: Synthesized) -> None:
    (stream,) = pattern.resources("AWS::KinesisFirehose::DeliveryStream")
    (statement,) = statements(pattern, "OrderEventsRole")
    assert statement["Action"] == ["firehose:PutRecord", "firehose:PutRecordBatch"]
    assert statement["Resource"] == {"Fn::GetAtt": [stream, "Arn"]}


def test_the_stream_may_write_under_its_prefixes_and_delete_nothing(pattern: Synthesized) -> None:
    actions: dict[str, set[str]] = {}
    for statement in statements(pattern, "OrderArchiveRole"):
        found = statement["Action"] if isinstance(statement["Action"], list) else None
        key = json.dumps(statement["Resource"])
        actions.setdefault(key, set()).update(found or [statement["Action"]])
    on_objects, on_others = (
        {action for key, found in actions.items() if ("/*" in key) is whether for action in found}
        for whether in (True, False)
    )
    assert on_objects == {"s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"}
    assert on_others == {
        "s3:GetBucketLocation",
        "s3:ListBucket",
        "s3:ListBucketMultipartUploads",
        "logs:PutLogEvents",
    }
    assert all('"/orders/*"' in key and '"/errors/*"' in key for key in actions if "/*" in key)


def test_no_other_account_can_make_the_services_use_these_roles(pattern: Synthesized) -> None:
    account = {"Ref": "AWS::AccountId"}
    for role, condition in (
        ("OrderArchiveRole", {"StringEquals": {"sts:ExternalId": account}}),
        ("OrderEventsRole", {"StringEqualsIfExists": {"aws:SourceAccount": account}}),
    ):
        (trust,) = only(pattern, "AWS::IAM::Role", role)["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Condition"] == condition


def test_stream_and_subscription_wait_for_the_grants_of_their_roles(pattern: Synthesized) -> None:
    """CloudFormation tries neither before its role may do its work."""
    for kind, role in (
        ("AWS::KinesisFirehose::DeliveryStream", "OrderArchiveRoleDefaultPolicy"),
        ("AWS::SNS::Subscription", "OrderEventsRoleDefaultPolicy"),
    ):
        (resource,) = [one for one in pattern.template["Resources"].values() if one["Type"] == kind]
        assert any(one.startswith(role) for one in resource["DependsOn"])


def test_what_waits_and_what_is_written_is_encrypted(pattern: Synthesized) -> None:
    stream = only(pattern, "AWS::KinesisFirehose::DeliveryStream")
    assert stream["DeliveryStreamEncryptionConfigurationInput"] == {"KeyType": "AWS_OWNED_CMK"}
    topic = only(pattern, "AWS::SNS::Topic", "OrderEvents")
    assert topic["KmsMasterKeyId"] == "alias/aws/sns"
    for bucket in pattern.resources("AWS::S3::Bucket").values():
        (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}


def test_buckets_are_private_and_tls_only(pattern: Synthesized) -> None:
    tls_only = set()
    for policy in pattern.resources("AWS::S3::BucketPolicy").values():
        for statement in policy["PolicyDocument"]["Statement"]:
            if statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}:
                assert statement["Effect"] == "Deny"
                tls_only.add(policy["Bucket"]["Ref"])
    buckets = pattern.resources("AWS::S3::Bucket")
    assert tls_only == set(buckets)
    for bucket in buckets.values():
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}


def test_access_to_the_archive_is_logged(pattern: Synthesized) -> None:
    (logs,) = [one for one in pattern.resources("AWS::S3::Bucket") if one.startswith("Access")]
    archive = only(pattern, "AWS::S3::Bucket", "ArchivedOrders")
    assert archive["LoggingConfiguration"]["DestinationBucketName"] == {"Ref": logs}


def test_options_reach_the_resources() -> None:
    pattern = with_options(buffer_seconds=900, buffer_mib=128, cool_days=40, keep_days=50)
    assert destination(pattern)["BufferingHints"] == {"IntervalInSeconds": 900, "SizeInMBs": 128}
    archive = only(pattern, "AWS::S3::Bucket", "ArchivedOrders")
    (rule,) = archive["LifecycleConfiguration"]["Rules"]
    assert rule["ExpirationInDays"] == 50
    assert rule["Transitions"] == [{"StorageClass": "STANDARD_IA", "TransitionInDays": 40}]
    assert only(pattern, "AWS::CloudWatch::Alarm", "ArchiveLate")["Threshold"] == 900 + 600


def test_a_buffer_of_no_seconds_is_passed_on() -> None:
    hints = destination(with_options(buffer_seconds=0))["BufferingHints"]
    assert hints == {"IntervalInSeconds": 0, "SizeInMBs": 5}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"buffer_seconds": -1}, "buffer_seconds is 0 to 900, not -1"),
        ({"buffer_seconds": 901}, "buffer_seconds is 0 to 900, not 901"),
        ({"buffer_mib": 0}, "buffer_mib is 1 to 128, not 0"),
        ({"buffer_mib": 129}, "buffer_mib is 1 to 128, not 129"),
        ({"cool_days": 29}, "cool_days is 30 to 3650, not 29"),
        ({"cool_days": 60, "keep_days": 60}, "keep_days is 61 to 36500, not 60"),
        ({"removal_policy": "keep"}, 'removal_policy is "destroy" or "retain", not "keep"'),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        with_options(**options)


def test_both_hops_and_the_delay_have_alarms(pattern: Synthesized) -> None:
    alarms = {
        alarm["MetricName"]: (alarm["Statistic"], alarm["ComparisonOperator"], alarm["Threshold"])
        for alarm in pattern.resources("AWS::CloudWatch::Alarm").values()
    }
    assert alarms == {
        "ApproximateNumberOfMessagesVisible": ("Maximum", "GreaterThanOrEqualToThreshold", 1),
        "DeliveryToS3.Success": ("Average", "LessThanThreshold", 1),
        "DeliveryToS3.DataFreshness": ("Maximum", "GreaterThanOrEqualToThreshold", 660),
    }


def test_retain_keeps_the_archive_and_its_logs_and_nothing_else() -> None:
    resources = with_options(removal_policy="retain").template["Resources"]
    kept = {name for name, one in resources.items() if one.get("DeletionPolicy") == "Retain"}
    assert {resources[name]["Type"] for name in kept} == {
        "AWS::S3::Bucket",
        "AWS::Logs::LogGroup",
        "AWS::Logs::LogStream",
    }


def test_a_refusal_alarms_until_the_bucket_takes_an_object_again(pattern: Synthesized) -> None:
    """Between two attempts there is no data: the alarm must not tell that all is well."""
    alarm = only(pattern, "AWS::CloudWatch::Alarm", "ArchiveRefused")
    assert alarm["MetricName"] == "DeliveryToS3.Success"
    assert alarm["TreatMissingData"] == "ignore"
