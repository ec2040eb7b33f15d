"""What is true of StepFunctionsErrorHandling and of no other pattern."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest

import app
from sandbox.states import expressions
from tests.synthesis import PROJECT, Synthesized, only, synthesize, synthesized

STEM = "step_functions_error_handling"


@pytest.fixture
def pattern() -> Synthesized:
    return synthesized(STEM)


def with_options(**options: Any) -> Synthesized:
    name = "StepFunctionsErrorHandling"
    return synthesize(app.stack_class(name), name, **options)


def definition(pattern: Synthesized) -> dict[str, Any]:
    """The workflow as JSON, with its references by logical id."""
    machine = only(pattern, "AWS::StepFunctions::StateMachine")
    parts = machine["DefinitionString"]["Fn::Join"][1]
    return json.loads("".join(part if isinstance(part, str) else named(part) for part in parts))


def named(reference: dict[str, Any]) -> str:
    return reference["Ref"] if "Ref" in reference else reference["Fn::GetAtt"][0]


def test_a_charge_is_attempted_three_times_at_most(pattern: Synthesized) -> None:
    """One retrier: a second would have retries of its own."""
    (retrier,) = definition(pattern)["States"]["ChargeCard"]["Retry"]
    assert retrier["MaxAttempts"] == 2


def test_retries_back_off_up_to_a_cap_with_full_jitter(pattern: Synthesized) -> None:
    (retrier,) = definition(pattern)["States"]["ChargeCard"]["Retry"]
    assert retrier["JitterStrategy"] == "FULL" and retrier["BackoffRate"] > 1
    assert retrier["IntervalSeconds"] < retrier["MaxDelaySeconds"]
    assert retrier["MaxDelaySeconds"] < retrier["IntervalSeconds"] * retrier["BackoffRate"]


def test_only_transient_errors_are_retried(pattern: Synthesized) -> None:
    """Every class that ChargeOrder raises is retried by intention or not at all."""
    (retrier,) = definition(pattern)["States"]["ChargeCard"]["Retry"]
    source = (PROJECT / "lambdas" / STEM / "charge_order.py").read_text()
    raised = {
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
        and {ast.unparse(base) for base in node.bases} & {"Exception", "ValueError"}
    }
    assert raised & set(retrier["ErrorEquals"]) == {"PaymentServiceUnavailable"}
    assert "CardDeclined" in raised
    assert all(
        error.startswith(("Lambda.", "Sandbox.")) for error in {*retrier["ErrorEquals"]} - raised
    )


def test_a_function_out_of_time_is_tried_again_under_both_names_of_it(
    pattern: Synthesized,
) -> None:
    """Step Functions' guide: newer runtimes say Sandbox.Timedout, others Lambda.Unknown."""
    (retrier,) = definition(pattern)["States"]["ChargeCard"]["Retry"]
    assert {"Sandbox.Timedout", "Lambda.Unknown"} <= set(retrier["ErrorEquals"])


def test_every_error_of_a_charge_leads_by_an_alert_to_failed(pattern: Synthesized) -> None:
    states = definition(pattern)["States"]
    (catcher,) = states["ChargeCard"]["Catch"]
    assert (catcher["ErrorEquals"], catcher["Next"]) == (["States.ALL"], "PublishAlert")
    # The alert and the execution's end speak of the order, not of the error in its place.
    assert catcher["Output"] == states["PublishAlert"]["Output"] == "{% $states.input %}"
    assert states["PublishAlert"]["Next"] == "GiveUp"
    assert [one["Next"] for one in states["PublishAlert"]["Catch"]] == ["GiveUp"]
    assert states["GiveUp"]["Type"] == "Fail"
    assert "$problem.error" in states["GiveUp"]["Error"]


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (
            '{"errorMessage":"The card is declined","errorType":"CardDeclined"}',
            "The card is declined",
        ),
        ('Returned payload: {"errorMessage":"Task timed out"}', None),
        ("The JSONPath found nothing", None),
        (None, ""),
    ],
)
def test_an_alert_says_why_whatever_the_cause_looks_like(
    pattern: Synthesized, cause: str | None, reason: str | None
) -> None:
    (catcher,) = definition(pattern)["States"]["ChargeCard"]["Catch"]
    output = {"Error": "Lambda.Unknown"} | ({} if cause is None else {"Cause": cause})
    told = expressions.fill(
        catcher["Assign"]["problem"], "Assign/problem", {"states": {"errorOutput": output}}
    )
    assert told == {"error": "Lambda.Unknown", "reason": cause if reason is None else reason}


def test_the_rule_sees_every_end_without_success_of_this_machine_only(
    pattern: Synthesized,
) -> None:
    (machine,) = pattern.resources("AWS::StepFunctions::StateMachine")
    assert only(pattern, "AWS::Events::Rule")["EventPattern"] == {
        "source": ["aws.states"],
        "detail-type": ["Step Functions Execution Status Change"],
        "detail": {
            "stateMachineArn": [{"Ref": machine}],
            "status": ["FAILED", "TIMED_OUT", "ABORTED"],
        },
    }


def test_what_the_rule_cannot_deliver_is_kept_two_weeks_and_told(pattern: Synthesized) -> None:
    (target,) = only(pattern, "AWS::Events::Rule")["Targets"]
    queue = named(target["DeadLetterConfig"]["Arn"])
    assert target["RetryPolicy"] == {"MaximumEventAgeInSeconds": 3600, "MaximumRetryAttempts": 20}
    assert pattern.resources("AWS::SQS::Queue")[queue]["MessageRetentionPeriod"] == 14 * 86400
    depth = only(pattern, "AWS::CloudWatch::Alarm", "AlertsUndelivered")
    assert depth["MetricName"] == "ApproximateNumberOfMessagesVisible"
    assert [named(one["Value"]) for one in depth["Dimensions"]] == [queue]


def test_no_queue_can_be_redriven_from_or_to_the_undelivered_alerts(pattern: Synthesized) -> None:
    assert only(pattern, "AWS::SQS::Queue")["RedriveAllowPolicy"] == {
        "redrivePermission": "denyAll"
    }


def statement(statements: list[dict[str, Any]], service: str) -> dict[str, Any]:
    (found,) = [
        one for one in statements if one["Principal"] == {"Service": f"{service}.amazonaws.com"}
    ]
    return found


def test_eventbridge_may_use_topic_and_key_without_a_condition(pattern: Synthesized) -> None:
    """With one, SNS or KMS could refuse an alert: EventBridge's guide supports none there."""
    topic = only(pattern, "AWS::SNS::TopicPolicy")["PolicyDocument"]["Statement"]
    key = only(pattern, "AWS::KMS::Key")["KeyPolicy"]["Statement"]
    for statements in (topic, key):
        assert "Condition" not in statement(statements, "events")


def test_the_workflow_may_publish_under_the_key(pattern: Synthesized) -> None:
    policy = only(pattern, "AWS::IAM::Policy", "OrderWorkflowRole")["PolicyDocument"]["Statement"]
    (key,), (topic,) = (pattern.resources(f"AWS::{kind}") for kind in ("KMS::Key", "SNS::Topic"))
    by_resource = {named(one["Resource"]): one["Action"] for one in policy if one_resource(one)}
    assert by_resource == {topic: "sns:Publish", key: ["kms:Decrypt", "kms:GenerateDataKey*"]}


def one_resource(statement: dict[str, Any]) -> bool:
    return isinstance(statement["Resource"], dict)


def test_the_function_may_update_charges_and_never_read_or_delete_them(
    pattern: Synthesized,
) -> None:
    policy = only(pattern, "AWS::IAM::Policy", "ChargeOrderRole")["PolicyDocument"]["Statement"]
    (table,) = pattern.resources("AWS::DynamoDB::Table")
    assert [one["Action"] for one in policy if table in str(one["Resource"])] == [
        "dynamodb:UpdateItem"
    ]


@pytest.mark.parametrize("included", [False, True])
def test_the_log_has_every_event_and_orders_only_if_told_to(included: bool) -> None:
    machine = only(
        with_options(include_execution_data=included), "AWS::StepFunctions::StateMachine"
    )
    assert machine["LoggingConfiguration"]["Level"] == "ALL"
    assert machine["LoggingConfiguration"]["IncludeExecutionData"] is included
    assert machine["TracingConfiguration"] == {"Enabled": True}


def test_orders_are_not_logged_unless_told_to(pattern: Synthesized) -> None:
    machine = only(pattern, "AWS::StepFunctions::StateMachine")
    assert machine["LoggingConfiguration"]["IncludeExecutionData"] is False


def test_failed_timed_out_and_throttled_executions_have_alarms(pattern: Synthesized) -> None:
    alarms = pattern.resources("AWS::CloudWatch::Alarm").values()
    watched = {one["MetricName"] for one in alarms if one["Namespace"] == "AWS/States"}
    assert watched == {"ExecutionsFailed", "ExecutionsTimedOut", "ExecutionThrottled"}


def test_an_alarm_is_over_when_nothing_more_goes_wrong(pattern: Synthesized) -> None:
    """Step Functions and SQS publish nothing where nothing happens."""
    for name, alarm in pattern.resources("AWS::CloudWatch::Alarm").items():
        assert alarm["TreatMissingData"] == "notBreaching", name


def test_the_whole_workflow_is_written_in_jsonata(pattern: Synthesized) -> None:
    assert definition(pattern)["QueryLanguage"] == "JSONata"


def test_options_reach_the_resources() -> None:
    pattern = with_options(timeout_seconds=20, workflow_timeout_seconds=300)
    assert only(pattern, "AWS::Lambda::Function")["Timeout"] == 20
    assert definition(pattern)["TimeoutSeconds"] == 300


def test_by_default_an_order_that_hangs_is_cut_off_in_its_third_attempt(
    pattern: Synthesized,
) -> None:
    """The scenario shows a timed-out order without an option of its own."""
    timeout = only(pattern, "AWS::Lambda::Function")["Timeout"]
    assert 2 * timeout < definition(pattern)["TimeoutSeconds"] < 3 * timeout


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"timeout_seconds": 0}, "timeout_seconds is 1 to 900, not 0"),
        ({"timeout_seconds": 901}, "timeout_seconds is 1 to 900, not 901"),
        ({"workflow_timeout_seconds": 10}, "workflow_timeout_seconds is 11 to 31536000, not 10"),
        (
            {"workflow_timeout_seconds": 31536001},
            "workflow_timeout_seconds is 11 to 31536000, not 31536001",
        ),
        ({"removal_policy": "keep"}, 'removal_policy is "destroy" or "retain", not "keep"'),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        with_options(**options)


def test_retain_keeps_charges_and_logs_but_no_queue() -> None:
    resources = with_options(removal_policy="retain").template["Resources"]
    kept = {name for name, one in resources.items() if one.get("DeletionPolicy") == "Retain"}
    assert {resources[name]["Type"] for name in kept} == {
        "AWS::DynamoDB::Table",
        "AWS::Logs::LogGroup",
    }
