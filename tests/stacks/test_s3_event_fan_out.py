"""What is true of S3EventFanOut and of no other pattern."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws_cdk import App

import app
from tests.synthesis import FLAGS, Synthesized, synthesize, synthesized

SERVICES = ("Thumbnails", "Catalogue", "Scans")
PARKED = [f"{why}{what}" for what in SERVICES for why in ("Undelivered", "Failed")]


@pytest.fixture
def pattern() -> Synthesized:
    return synthesized("s3_event_fan_out")


def named(pattern: Synthesized, kind: str, begins: str) -> tuple[str, dict[str, Any]]:
    """(logical id, properties) of the only resource of a kind whose id begins so."""
    (found,) = [
        (logical_id, properties)
        for logical_id, properties in pattern.resources(kind).items()
        if logical_id.startswith(begins)
    ]
    return found


def only(pattern: Synthesized, kind: str, begins: str = "") -> dict[str, Any]:
    return named(pattern, kind, begins)[1]


def queue_id(pattern: Synthesized, begins: str) -> str:
    return named(pattern, "AWS::SQS::Queue", begins)[0]


def arn_of(logical_id: str) -> dict[str, Any]:
    return {"Fn::GetAtt": [logical_id, "Arn"]}


def with_options(**options: Any) -> Synthesized:
    return synthesize(app.stack_class("S3EventFanOut"), "S3EventFanOut", **options)


def uploads(pattern: Synthesized) -> tuple[str, dict[str, Any]]:
    (found,) = [
        (logical_id, properties)
        for logical_id, properties in pattern.resources("AWS::S3::Bucket").items()
        if "BucketNamespace" in properties
    ]
    return found


def text(value: Any) -> str:
    """A joined value as it would read in account 1 of Region r of partition p."""
    known = {"AWS::Partition": "p", "AWS::AccountId": "1", "AWS::Region": "r"}
    if isinstance(value, dict) and "Fn::Join" in value:
        return value["Fn::Join"][0].join(map(text, value["Fn::Join"][1]))
    return known[value["Ref"]] if isinstance(value, dict) else str(value)


def test_there_is_no_hidden_function(pattern: Synthesized) -> None:
    assert [i[:9] for i in pattern.resources("AWS::Lambda::Function")] == ["ScanImage"]
    kinds = {one["Type"] for one in pattern.template["Resources"].values()}
    assert not [kind for kind in kinds if kind.startswith("Custom::")]


def test_the_bucket_tells_the_topic_of_new_images_and_nothing_else(pattern: Synthesized) -> None:
    topic, _ = named(pattern, "AWS::SNS::Topic", "ImageEvents")
    assert uploads(pattern)[1]["NotificationConfiguration"] == {
        "TopicConfigurations": [
            {
                "Topic": {"Ref": topic},
                "Event": "s3:ObjectCreated:*",
                "Filter": {"S3Key": {"Rules": [{"Name": "prefix", "Value": "images/"}]}},
            }
        ]
    }


def test_the_topics_policy_is_there_when_s3_tests_it(pattern: Synthesized) -> None:
    policy, _ = named(pattern, "AWS::SNS::TopicPolicy", "ImageEvents")
    assert policy in pattern.template["Resources"][uploads(pattern)[0]]["DependsOn"]


def test_only_this_bucket_may_publish(pattern: Synthesized) -> None:
    key = only(pattern, "AWS::KMS::Key")["KeyPolicy"]["Statement"]
    topic = only(pattern, "AWS::SNS::TopicPolicy", "ImageEvents")["PolicyDocument"]["Statement"]
    bucket = f"{uploads(pattern)[1]['BucketNamePrefix']}-1-r-an"
    for statements in (key, topic):
        (one,) = [each for each in statements if "s3.amazonaws.com" in str(each["Principal"])]
        assert one["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
        assert text(one["Condition"]["ArnEquals"]["aws:SourceArn"]) == f"arn:p:s3:::{bucket}"


def test_the_buckets_name_is_in_the_accounts_namespace_and_fits(pattern: Synthesized) -> None:
    assert uploads(pattern)[1]["BucketNamespace"] == "account-regional"
    stack = app.stack_class("S3EventFanOut")
    prefix = uploads(synthesize(stack, "N" * 24))[1]["BucketNamePrefix"]
    assert len(f"{prefix}-123456789012-ap-southeast-1-an") <= 63
    with pytest.raises(ValueError, match="length of the stack's name is 1 to 24, not 25"):
        stack(App(context=FLAGS), "N" * 25)


def test_images_are_versioned_private_encrypted_and_their_access_logged(
    pattern: Synthesized,
) -> None:
    bucket, logs = uploads(pattern)[1], named(pattern, "AWS::S3::Bucket", "UploadsAccessLogs")[0]
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["LoggingConfiguration"] == {"DestinationBucketName": {"Ref": logs}}
    for one in pattern.resources("AWS::S3::Bucket").values():
        assert "BucketEncryption" in one
        assert set(one["PublicAccessBlockConfiguration"].values()) == {True}
    policies = pattern.resources("AWS::S3::BucketPolicy").values()
    plain = [
        policy["Bucket"]["Ref"]
        for policy in policies
        for one in policy["PolicyDocument"]["Statement"]
        if one["Effect"] == "Deny"
        and one["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    ]
    assert sorted(plain) == sorted(pattern.resources("AWS::S3::Bucket"))


def test_each_subscriber_has_a_dead_letter_queue_of_its_own(pattern: Synthesized) -> None:
    found = {}
    for one in pattern.resources("AWS::SNS::Subscription").values():
        endpoint = one["Endpoint"]["Fn::GetAtt"][0]
        found[endpoint] = one["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]
    assert found == {
        queue_id(pattern, "Thumbnails"): queue_id(pattern, "UndeliveredThumbnails"),
        queue_id(pattern, "Catalogue"): queue_id(pattern, "UndeliveredCatalogue"),
        named(pattern, "AWS::Lambda::Function", "ScanImage")[0]: queue_id(
            pattern, "UndeliveredScans"
        ),
    }


def test_the_queues_get_s3s_event_raw(pattern: Synthesized) -> None:
    raw = {
        one["Protocol"]: one.get("RawMessageDelivery")
        for one in pattern.resources("AWS::SNS::Subscription").values()
    }
    assert raw == {"sqs": True, "lambda": None}


def test_what_scan_image_fails_at_three_times_is_kept(pattern: Synthesized) -> None:
    invocation = only(pattern, "AWS::Lambda::EventInvokeConfig")
    assert invocation["MaximumRetryAttempts"] == 2
    destination = invocation["DestinationConfig"]["OnFailure"]["Destination"]
    assert destination == arn_of(queue_id(pattern, "FailedScans"))


@pytest.mark.parametrize("name", PARKED)
def test_what_is_parked_is_kept_fourteen_days_and_alarmed(pattern: Synthesized, name: str) -> None:
    logical_id, queue = named(pattern, "AWS::SQS::Queue", name)
    assert queue["MessageRetentionPeriod"] == 14 * 86400
    alarm = only(pattern, "AWS::CloudWatch::Alarm", f"{name}Wait")
    assert alarm["Threshold"] == 1
    assert alarm["Dimensions"] == [
        {"Name": "QueueName", "Value": {"Fn::GetAtt": [logical_id, "QueueName"]}}
    ]


@pytest.mark.parametrize("name", [f"Undelivered{one}" for one in SERVICES] + ["FailedScans"])
def test_no_queue_may_use_what_belongs_to_sns_and_lambda(pattern: Synthesized, name: str) -> None:
    queue = only(pattern, "AWS::SQS::Queue", name)
    assert queue["RedriveAllowPolicy"] == {"redrivePermission": "denyAll"}


def test_the_function_may_read_images_and_write_findings_and_nothing_else(
    pattern: Synthesized,
) -> None:
    statements = only(pattern, "AWS::IAM::Policy")["PolicyDocument"]["Statement"]
    of = {
        service: [one for one in statements if str(one["Action"]).strip("['").startswith(service)]
        for service in ("s3", "dynamodb")
    }
    (reads,), (writes,) = of["s3"], of["dynamodb"]
    bucket = uploads(pattern)[0]
    assert reads["Action"] == "s3:GetObjectVersion"
    assert reads["Resource"] == {"Fn::Join": ["", [arn_of(bucket), "/images/*"]]}
    assert writes["Action"] == "dynamodb:PutItem"


def test_a_lost_copy_has_an_alarm(pattern: Synthesized) -> None:
    alarms = pattern.resources("AWS::CloudWatch::Alarm").values()
    assert {
        ("AWS/SNS", "NumberOfNotificationsFailedToRedriveToDlq"),
        ("AWS/Lambda", "DestinationDeliveryFailures"),
    } <= {(one["Namespace"], one["MetricName"]) for one in alarms}


def test_options_reach_the_resources() -> None:
    pattern = with_options(
        max_receive_count=7, visibility_timeout_seconds=90, timeout_seconds=20, old_versions_days=9
    )
    for name in ("Thumbnails", "Catalogue"):
        queue = only(pattern, "AWS::SQS::Queue", name)
        assert queue["RedrivePolicy"]["maxReceiveCount"] == 7
        assert queue["VisibilityTimeout"] == 90
        late = only(pattern, "AWS::CloudWatch::Alarm", f"{name}Late")
        assert late["Threshold"] == 90 * (7 + 1)
    assert only(pattern, "AWS::Lambda::Function")["Timeout"] == 20
    rules = json.dumps(uploads(pattern)[1]["LifecycleConfiguration"])
    assert '"NoncurrentDays": 9' in rules


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_receive_count": 0}, "max_receive_count is 1 to 1000, not 0"),
        # With 0 the alarms on a queue's age would have 0 for a threshold, and never rest.
        ({"visibility_timeout_seconds": 0}, "_seconds is 1 to 43200, not 0"),
        ({"visibility_timeout_seconds": 43201}, "_seconds is 1 to 43200, not 43201"),
        (
            {"visibility_timeout_seconds": 43200, "max_receive_count": 8},
            "max_receive_count [+] 1 visibility timeouts, in seconds, is 1 to 345600",
        ),
        ({"timeout_seconds": 901}, "timeout_seconds is 1 to 900, not 901"),
        ({"old_versions_days": 0}, "old_versions_days is 1 to 3650, not 0"),
        ({"removal_policy": "keep"}, 'removal_policy is "destroy" or "retain", not "keep"'),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        with_options(**options)


def test_retain_keeps_images_findings_and_logs_but_not_queues() -> None:
    resources = with_options(removal_policy="retain").template["Resources"]
    kept = {name for name, one in resources.items() if one.get("DeletionPolicy") == "Retain"}
    assert {resources[name]["Type"] for name in kept} == {
        "AWS::DynamoDB::Table",
        "AWS::Logs::LogGroup",
        "AWS::S3::Bucket",
    }


def test_access_logs_go_after_a_quarter(pattern: Synthesized) -> None:
    logs = only(pattern, "AWS::S3::Bucket", "UploadsAccessLogs")
    (rule,) = logs["LifecycleConfiguration"]["Rules"]
    assert (rule["Status"], rule["ExpirationInDays"]) == ("Enabled", 90)
