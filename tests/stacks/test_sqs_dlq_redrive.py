"""What is true of SqsDlqRedrive and of no other pattern.

Its runbook runs on the sandbox's SQS.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import boto3
import pytest

import app
from tests.sandbox.checks.redrive import MOVES, Pair
from tests.sandbox.checks.stepfunctions import ended, role_that_may
from tests.synthesis import Synthesized, only, synthesize, synthesized


@pytest.fixture
def pattern() -> Synthesized:
    return synthesized("sqs_dlq_redrive")


def with_options(**options: Any) -> Synthesized:
    return synthesize(app.stack_class("SqsDlqRedrive"), "SqsDlqRedrive", **options)


def definition(pattern: Synthesized, failed_orders: str = "FailedOrders") -> dict[str, Any]:
    """The runbook as JSON, about the queue with this ARN."""
    parts = only(pattern, "AWS::StepFunctions::StateMachine")["DefinitionString"]["Fn::Join"][1]

    def resolved(part: Any) -> str:
        if isinstance(part, str):
            return part
        return "aws" if part == {"Ref": "AWS::Partition"} else failed_orders

    return json.loads("".join(map(resolved, parts)))


def granted(pattern: Synthesized, role: str) -> dict[str, list[str]]:
    """Logical id of each resource that a role's policy names to the actions on it."""
    statements = only(pattern, "AWS::IAM::Policy", role)["PolicyDocument"]["Statement"]
    found: dict[str, list[str]] = {}
    for statement in statements:
        actions, resource = statement["Action"], statement["Resource"]
        name = (
            resource.get("Ref") or resource.get("Fn::GetAtt", ["executions"])[0]
            if isinstance(resource, dict)
            else resource
        )
        found[name] = [actions] if isinstance(actions, str) else actions
    return found


# ---- rights


def test_the_runbook_has_the_rights_of_a_redrive_and_no_other_on_the_queues(
    pattern: Synthesized,
) -> None:
    grants = granted(pattern, "RunbookRole")
    queues = {name[:6]: actions for name, actions in grants.items() if name != "*"}
    assert queues == {
        "Failed": [
            "sqs:CancelMessageMoveTask",
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
            "sqs:ListMessageMoveTasks",
            "sqs:ReceiveMessage",
            "sqs:StartMessageMoveTask",
        ],
        "Orders": ["sqs:SendMessage"],
    }


def test_the_operator_starts_the_runbook_and_looks_on_but_touches_no_order(
    pattern: Synthesized,
) -> None:
    grants = granted(pattern, "OperatorDefaultPolicy")
    assert sorted(action for actions in grants.values() for action in actions) == [
        "sqs:GetQueueAttributes",
        "sqs:ListMessageMoveTasks",
        "states:DescribeExecution",
        "states:GetExecutionHistory",
        "states:StartExecution",
    ]


def test_the_operator_cannot_stop_an_execution_whose_redrive_would_go_on(
    pattern: Synthesized,
) -> None:
    assert "states:StopExecution" not in str(granted(pattern, "OperatorDefaultPolicy"))


# ---- the runbook as it is written


def test_a_redrive_goes_back_to_the_source_at_a_velocity(pattern: Synthesized) -> None:
    start = definition(pattern)["States"]["StartRedrive"]
    assert start["Resource"] == "arn:aws:states:::aws-sdk:sqs:startMessageMoveTask"
    assert start["Arguments"] == {
        "SourceArn": "FailedOrders",
        "MaxNumberOfMessagesPerSecond": "{% $velocity %}",
    }


def test_a_start_is_retried_only_if_it_was_throttled(pattern: Synthesized) -> None:
    """After a lost answer the redrive may run: SQS would refuse a second start."""
    (retrier,) = definition(pattern)["States"]["StartRedrive"]["Retry"]
    assert retrier["ErrorEquals"] == ["Sqs.RequestThrottledException"]


def test_every_call_has_a_timeout_a_retry_and_a_catch_that_says_why(pattern: Synthesized) -> None:
    states = definition(pattern)["States"]
    calls = {name: state for name, state in states.items() if state["Type"] == "Task"}
    assert set(calls) == {"LookForTask", "StartRedrive", "CancelRedrive", "ReadProgress"}
    for name, state in calls.items():
        assert state["TimeoutSeconds"] == 30 and state["Retry"], name
        assert [one["Next"] for one in state["Catch"]] == ["GiveUp"], name
    assert "$problem.Error" in states["GiveUp"]["Error"]
    assert "$problem.Cause & ' (A redrive that runs goes on" in states["GiveUp"]["Cause"]


def test_what_only_asks_is_asked_again_three_times_whatever_went_wrong(
    pattern: Synthesized,
) -> None:
    """After at most 1, 2 and 4 seconds: an answer that is late does not end a redrive's watch."""
    states = definition(pattern)["States"]
    for name in ("LookForTask", "CancelRedrive", "ReadProgress"):
        (retrier,) = states[name]["Retry"]
        assert retrier == {
            "ErrorEquals": ["States.ALL"],
            "IntervalSeconds": 1,
            "BackoffRate": 2,
            "MaxAttempts": 3,
            "MaxDelaySeconds": 5,
            "JitterStrategy": "FULL",
        }, name


def test_each_refusal_is_an_error_of_its_own(pattern: Synthesized) -> None:
    """What an operator's tools tell apart."""
    states = definition(pattern)["States"]
    errors = {name: state["Error"] for name, state in states.items() if state["Type"] == "Fail"}
    assert errors == {
        "GiveUp": "{% $problem.Error %}",
        "RefuseToCancel": "NoRedriveRunning",
        "RefuseSecondRedrive": "RedriveAlreadyRunning",
        "RefuseVelocity": "InvalidVelocity",
        "ReportFailure": "RedriveFailed",
    }


def test_the_runbook_outlives_a_redrive_within_its_history(pattern: Synthesized) -> None:
    """SQS ends a redrive after 36 hours; an execution ends after 25,000 events.

    A look is a Wait, a Task and a Choice: nine events. Looks are a minute apart, but for the last
    four minutes and for the first looks at a redrive that stands still or has moved all it knew of.
    """
    runbook = definition(pattern)
    assert runbook["TimeoutSeconds"] > 36 * 3600
    assert 9 * (runbook["TimeoutSeconds"] / 60 + 100) < 25000


def test_every_step_is_logged_and_traced(pattern: Synthesized) -> None:
    runbook = only(pattern, "AWS::StepFunctions::StateMachine")
    assert runbook["LoggingConfiguration"]["Level"] == "ALL"
    assert runbook["TracingConfiguration"] == {"Enabled": True}


def test_a_failed_redrive_and_one_out_of_sight_have_alarms(pattern: Synthesized) -> None:
    alarms = pattern.resources("AWS::CloudWatch::Alarm").values()
    watched = {one["MetricName"] for one in alarms if one["Namespace"] == "AWS/States"}
    assert watched == {"ExecutionsFailed", "ExecutionsTimedOut"}


# ---- the runbook as it runs


def machine(definition: dict[str, Any], *rights: str) -> str:
    """The ARN of a new state machine whose role has these rights."""
    return boto3.client("stepfunctions").create_state_machine(
        name=f"runbook-{uuid.uuid4().hex[:8]}",
        definition=json.dumps(definition),
        roleArn=role_that_may(boto3.client, *rights),
    )["stateMachineArn"]


def run(arn: str, **settings: Any) -> dict[str, Any]:
    """An execution at its end."""
    started = boto3.client("stepfunctions").start_execution(
        stateMachineArn=arn, input=json.dumps(settings)
    )
    return ended(boto3.client, started["executionArn"], seconds=20)


class Runbook:
    """The runbook on a pair of queues of its own, in which these bodies are parked."""

    def __init__(self, pattern: Synthesized, *bodies: str) -> None:
        self.pair = Pair(boto3.client, *bodies)
        rights = (*MOVES, "sqs:GetQueueAttributes", "sqs:ListMessageMoveTasks", "sqs:SendMessage")
        self.arn = machine(definition(pattern, self.pair.dead), *rights)

    def run(self, **settings: Any) -> dict[str, Any]:
        """An execution at its end."""
        return run(self.arn, **settings)


@pytest.fixture(scope="module")
def parked(sandbox: Any) -> Runbook:
    """A runbook with one order parked, which nothing may redrive."""
    return Runbook(synthesized("sqs_dlq_redrive"), "order")


@pytest.mark.parametrize("velocity", [0, -1, 11, 2.5, "5", True, None, [5]])
def test_a_velocity_that_is_none_is_refused(parked: Runbook, velocity: Any) -> None:
    end = parked.run(messages_per_second=velocity)
    assert (end["status"], end["error"]) == ("FAILED", "InvalidVelocity")
    assert end["cause"] == "messages_per_second is a whole number from 1 to 10."


@pytest.mark.parametrize("cancel", [True, "true", "false", 1, None])
def test_whoever_writes_cancel_starts_nothing(parked: Runbook, cancel: Any) -> None:
    end = parked.run(cancel=cancel, messages_per_second=5)
    assert (end["status"], end["error"]) == ("FAILED", "NoRedriveRunning")


def test_a_redrive_of_nothing_completes(pattern: Synthesized, sandbox: Any) -> None:
    end = Runbook(pattern).run(cancel=False)
    assert json.loads(end["output"]) == {"status": "COMPLETED", "moved": 0, "to_move": 0}


def test_an_order_that_nobody_parked_fails_the_redrive_and_stays(
    pattern: Synthesized, sandbox: Any
) -> None:
    runbook = Runbook(pattern, "parked")
    runbook.pair.send(runbook.pair.dead_url, "sent there by hand")
    end = runbook.run()
    assert (end["status"], end["error"]) == ("FAILED", "RedriveFailed")
    assert end["cause"] == "CouldNotDetermineMessageSource: 1 of 2 orders are moved."


@pytest.mark.parametrize(
    ("moved", "to_move", "pause", "expected"),
    [
        (0, 100_000, 2, 60),  # 10,000 s are left at 10 a second
        (400, 1200, 60, 20),  # 80 s are left
        (1190, 1200, 20, 2),  # one second is left
        (7, 1200, 2, 4),  # nothing has moved since the look before
        (7, 1200, 60, 60),
        (3, None, 2, 4),  # SQS does not say yet how many there are
        (1300, 1200, 2, 4),  # more than there were at the start: orders come back
        (1300, 1200, 60, 60),
    ],
)
def test_the_next_look_comes_when_there_is_something_to_see(
    pattern: Synthesized, sandbox: Any, moved: int, to_move: int | None, pause: int, expected: int
) -> None:
    counted = definition(pattern)["States"]["ReadProgress"]["Assign"]["pause"].replace(
        "$states.result", "$states.input"
    )
    newest = {"Status": "RUNNING", "ApproximateNumberOfMessagesMoved": moved}
    if to_move is not None:
        newest["ApproximateNumberOfMessagesToMove"] = to_move
    before = {
        "task": {"ApproximateNumberOfMessagesMoved": 7},
        "velocity": 10,
        "pause": pause,
    }
    states = {
        "Before": {"Type": "Pass", "Assign": before, "Next": "Look"},
        "Look": {"Type": "Pass", "Output": counted, "End": True},
    }
    arn = machine({"QueryLanguage": "JSONata", "StartAt": "Before", "States": states})
    assert json.loads(run(arn, Results=[newest])["output"]) == expected


@pytest.mark.parametrize(
    ("listed", "looks"),
    [
        # The former redrive is not taken for the one just started.
        ([{"Status": "COMPLETED", "StartedTimestamp": 7}], 0),
        ([{"Status": "RUNNING", "StartedTimestamp": 8}], 0),
        ([{"Status": "CANCELLING", "StartedTimestamp": 8}], 0),
        ([{"Status": "COMPLETED", "StartedTimestamp": 8}], 2),
        ([{"Status": "CANCELLED", "StartedTimestamp": 8}], 2),
    ],
)
def test_a_redrive_is_over_once_it_was_seen_so_twice(
    pattern: Synthesized, sandbox: Any, listed: list[dict[str, Any]], looks: int
) -> None:
    """SQS may list it late, and count what it moved late."""
    read, judge = (definition(pattern)["States"][name] for name in ("ReadProgress", "Judge"))
    counted = {
        name: read["Assign"][name].replace("$states.result", "$states.input")
        for name in ("task", "ended")
    }
    before = {"before": 7, "ended": 0}
    states = {
        "Started": {"Type": "Pass", "Assign": before, "Next": "ReadProgress"},
        "ReadProgress": {"Type": "Pass", "Assign": counted, "Next": "Judge"},
        "Judge": judge,
        "Pause": {
            "Type": "Choice",
            "Choices": [{"Condition": "{% $ended = 0 %}", "Next": "GoesOn"}],
            "Default": "ReadProgress",
        },
        "GoesOn": {"Type": "Fail", "Error": "GoesOn"},
        "ReportFailure": {"Type": "Fail", "Error": "ReportFailure"},
        "Ended": {"Type": "Pass", "Output": "{% $ended %}", "End": True},
    }
    arn = machine({"QueryLanguage": "JSONata", "StartAt": "Started", "States": states})
    end = run(arn, Results=listed)
    assert end.get("error") == "GoesOn" if not looks else json.loads(end["output"]) == looks


def test_what_sqs_leaves_out_counts_as_none(pattern: Synthesized, sandbox: Any) -> None:
    looked = definition(pattern)["States"]["LookForTask"]["Assign"]["task"]
    newest = looked.replace("$states.result", "$states.input")
    states = {"Look": {"Type": "Pass", "Output": newest, "End": True}}
    arn = machine({"QueryLanguage": "JSONata", "StartAt": "Look", "States": states})
    none = {
        "Status": "NONE",
        "StartedTimestamp": 0,
        "ApproximateNumberOfMessagesMoved": 0,
        "ApproximateNumberOfMessagesToMove": 0,
    }
    running = {"Status": "RUNNING", "StartedTimestamp": 7}
    assert json.loads(run(arn)["output"]) == none
    assert json.loads(run(arn, Results=[running])["output"]) == none | running


# ---- options


def test_options_reach_the_resources() -> None:
    pattern = with_options(
        max_receive_count=7, timeout_seconds=20, max_messages_per_second=50, accept_gift_orders=True
    )
    orders = only(pattern, "AWS::SQS::Queue", "Orders")
    assert orders["RedrivePolicy"]["maxReceiveCount"] == 7
    assert orders["VisibilityTimeout"] == 120
    function = only(pattern, "AWS::Lambda::Function")
    assert function["Timeout"] == 20
    assert function["Environment"]["Variables"]["ACCEPT_GIFT_ORDERS"] == "true"
    states = definition(pattern)["States"]
    assert ": 50 %}" in states["LookForTask"]["Assign"]["velocity"]
    assert "1 to 50." in states["RefuseVelocity"]["Cause"]


def test_the_first_release_knows_no_gift_orders(pattern: Synthesized) -> None:
    """The scenario parks them without an option of its own."""
    variables = only(pattern, "AWS::Lambda::Function")["Environment"]["Variables"]
    assert variables["ACCEPT_GIFT_ORDERS"] == "false"


def test_the_fix_changes_the_function_and_nothing_else(pattern: Synthesized) -> None:
    before, after = pattern.template, with_options(accept_gift_orders=True).template
    changed = {
        name
        for name, resource in after["Resources"].items()
        if resource != before["Resources"].get(name)
    }
    assert {after["Resources"][name]["Type"] for name in changed} == {"AWS::Lambda::Function"}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_receive_count": 0}, "max_receive_count is 1 to 1000, not 0"),
        ({"timeout_seconds": 901}, "timeout_seconds is 1 to 900, not 901"),
        ({"max_messages_per_second": 0}, "max_messages_per_second is 1 to 500, not 0"),
        ({"max_messages_per_second": 501}, "max_messages_per_second is 1 to 500, not 501"),
        ({"removal_policy": "keep"}, 'removal_policy is "destroy" or "retain", not "keep"'),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        with_options(**options)


def test_retain_keeps_rows_and_logs_but_no_queue() -> None:
    resources = with_options(removal_policy="retain").template["Resources"]
    kept = {name for name, one in resources.items() if one.get("DeletionPolicy") == "Retain"}
    assert {resources[name]["Type"] for name in kept} == {
        "AWS::DynamoDB::Table",
        "AWS::Logs::LogGroup",
    }
