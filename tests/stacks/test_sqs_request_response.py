"""What is true of SqsRequestResponse and of no other pattern."""

from __future__ import annotations

import json
from typing import Any

import pytest

import app
from tests.synthesis import Synthesized, only, synthesize, synthesized


@pytest.fixture
def pattern() -> Synthesized:
    return synthesized("sqs_request_response")


def with_options(**options: Any) -> Synthesized:
    return synthesize(app.stack_class("SqsRequestResponse"), "SqsRequestResponse", **options)


def granted(statements: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Resource, by the beginning of its logical id, to the actions allowed on it."""
    found: dict[str, set[str]] = {}
    for statement in statements:
        assert statement["Effect"] == "Allow"
        actions, resources = (
            one if isinstance(one, list) else [one]
            for one in (statement["Action"], statement["Resource"])
        )
        for resource in resources:
            name = resource if resource == "*" else resource["Fn::GetAtt"][0][:-8]
            found.setdefault(name, set()).update(actions)
    return found


def test_each_asker_has_a_queue_of_answers_and_a_dead_letter_queue(pattern: Synthesized) -> None:
    queues = {logical_id[:-8] for logical_id in pattern.resources("AWS::SQS::Queue")}
    assert queues == {
        "FraudQuestions",
        "FailedFraudQuestions",
        "BuyingAnswers",
        "FailedBuyingAnswers",
        "ShippingAnswers",
        "FailedShippingAnswers",
    }


def test_an_asker_may_ask_and_read_its_own_answers_and_nothing_else(pattern: Synthesized) -> None:
    access = only(pattern, "AWS::IAM::ManagedPolicy", "BuyingAccess")
    assert granted(access["PolicyDocument"]["Statement"]) == {
        "FraudQuestions": {"sqs:SendMessage"},
        "BuyingAnswers": {"sqs:ReceiveMessage", "sqs:DeleteMessage"},
    }


def test_the_function_may_name_and_answer_the_askers_queues_only(pattern: Synthesized) -> None:
    """So a reply_to of any other queue is refused, that of the questions and of ours too."""
    grants = granted(only(pattern, "AWS::IAM::Policy")["PolicyDocument"]["Statement"])
    assert grants == {
        "BuyingAnswers": {"sqs:GetQueueUrl", "sqs:SendMessage"},
        "ShippingAnswers": {"sqs:GetQueueUrl", "sqs:SendMessage"},
        "FraudQuestions": {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"},
        "Verdicts": {"dynamodb:PutItem"},
        "CheckFraudLogs": {"logs:CreateLogStream", "logs:PutLogEvents"},
        "*": {"xray:PutTraceSegments", "xray:PutTelemetryRecords"},
    }


def test_questions_and_answers_live_a_day_and_dead_letters_fourteen(pattern: Synthesized) -> None:
    for logical_id, queue in pattern.resources("AWS::SQS::Queue").items():
        days = 14 if logical_id.startswith("Failed") else 1
        assert queue["MessageRetentionPeriod"] == days * 86400, logical_id
        assert logical_id.startswith("Failed") or queue["RedrivePolicy"]["maxReceiveCount"] == 5


def test_verdicts_are_forgotten_when_their_questions_have_expired(pattern: Synthesized) -> None:
    time_to_live = only(pattern, "AWS::DynamoDB::Table")["TimeToLiveSpecification"]
    assert time_to_live == {"AttributeName": "expires_at", "Enabled": True}


def test_options_reach_the_resources() -> None:
    pattern = with_options(
        askers="Billing", max_receive_count=7, timeout_seconds=20, max_concurrency=9
    )
    questions = only(pattern, "AWS::SQS::Queue", "FraudQuestions")
    answers = only(pattern, "AWS::SQS::Queue", "BillingAnswers")
    assert questions["RedrivePolicy"]["maxReceiveCount"] == 7
    assert answers["RedrivePolicy"]["maxReceiveCount"] == 7
    assert questions["VisibilityTimeout"] == 120
    assert only(pattern, "AWS::Lambda::Function")["Timeout"] == 20
    scaling = only(pattern, "AWS::Lambda::EventSourceMapping")["ScalingConfig"]
    assert scaling == {"MaximumConcurrency": 9}
    assert only(pattern, "AWS::CloudWatch::Alarm", "FraudQuestionsLate")["Threshold"] == 120 * 8
    assert only(pattern, "AWS::CloudWatch::Alarm", "BillingAnswersLate")["Threshold"] == 60 * 8
    assert {"BillingAnswersUrl", "BillingAccessArn"} <= set(pattern.template["Outputs"])
    assert "Buying" not in json.dumps(pattern.template)


def test_ten_askers_of_the_longest_names_can_be_had() -> None:
    names = [f"{letter}{'x' * 29}" for letter in "ABCDEFGHIJ"]
    pattern = with_options(askers=",".join(names))
    assert len(pattern.resources("AWS::IAM::ManagedPolicy")) == 10
    longest = f"SqsRequestResponse-{names[0]}Answers"
    assert len(longest) <= 80


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"askers": ""}, 'askers is 1 to 10 names such as "Buying,Shipping", not ""'),
        ({"askers": "buying"}, "askers is 1 to 10 names"),
        ({"askers": "Buying, Shipping"}, "askers is 1 to 10 names"),
        ({"askers": "Buying,Buying"}, "askers is 1 to 10 names"),
        ({"askers": ",".join("ABCDEFGHIJK")}, "askers is 1 to 10 names"),
        ({"askers": "B" * 31}, "askers is 1 to 10 names"),
        ({"max_receive_count": 4}, "max_receive_count is 5 to 1000, not 4"),
        ({"max_receive_count": 1001}, "max_receive_count is 5 to 1000, not 1001"),
        ({"timeout_seconds": 901}, "timeout_seconds is 1 to 900, not 901"),
        (
            {"timeout_seconds": 900, "max_receive_count": 16},
            "max_receive_count [+] 1 visibility timeouts, in seconds, is 1 to 86400",
        ),
        ({"max_concurrency": 1}, "max_concurrency is 2 to 1000, not 1"),
        ({"removal_policy": "keep"}, 'removal_policy is "destroy" or "retain", not "keep"'),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        with_options(**options)


def test_crashes_of_the_function_have_an_alarm(pattern: Synthesized) -> None:
    alarm = only(pattern, "AWS::CloudWatch::Alarm", "CheckFraudErrors")
    assert (alarm["Namespace"], alarm["MetricName"], alarm["Threshold"]) == (
        "AWS/Lambda",
        "Errors",
        1,
    )


def test_retain_keeps_the_logs() -> None:
    resources = with_options(removal_policy="retain").template["Resources"]
    kept = [one["Type"] for one in resources.values() if one.get("DeletionPolicy") == "Retain"]
    assert kept == ["AWS::Logs::LogGroup"]
