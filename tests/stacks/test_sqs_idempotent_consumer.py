"""What is true of SqsIdempotentConsumer and of no other pattern."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import app
from tests.synthesis import PROJECT, Synthesized, only, synthesize, synthesized

PROGRAMS = PROJECT / "workers" / "sqs_idempotent_consumer"


@pytest.fixture
def pattern() -> Synthesized:
    return synthesized("sqs_idempotent_consumer")


def with_options(**options: Any) -> Synthesized:
    return synthesize(app.stack_class("SqsIdempotentConsumer"), "SqsIdempotentConsumer", **options)


def group(pattern: Synthesized) -> dict[str, Any]:
    return only(pattern, "AWS::AutoScaling::AutoScalingGroup")


def launch(pattern: Synthesized) -> dict[str, Any]:
    return only(pattern, "AWS::EC2::LaunchTemplate")["LaunchTemplateData"]


def user_data(pattern: Synthesized) -> str:
    """The user data with each reference as ${logical id}."""
    _, parts = launch(pattern)["UserData"]["Fn::Base64"]["Fn::Join"]
    return "".join(
        part if isinstance(part, str) else part.get("Fn::Sub", f"${{{part.get('Ref')}}}")
        for part in parts
    )


def test_nobody_reaches_an_instance_and_it_reaches_no_internet(pattern: Synthesized) -> None:
    kinds = {resource["Type"] for resource in pattern.template["Resources"].values()}
    assert not kinds & {"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::Route"}
    assert "KeyName" not in launch(pattern)
    for rule in pattern.resources("AWS::EC2::SecurityGroupIngress").values():
        assert "EndpointAccess" in json.dumps(rule["GroupId"])
        assert "WorkerAccess" in json.dumps(rule["SourceSecurityGroupId"])
    for logical_id, one in pattern.resources("AWS::EC2::SecurityGroup").items():
        assert not one.get("SecurityGroupIngress"), logical_id
    subnets = pattern.resources("AWS::EC2::Subnet")
    assert len({str(subnet["AvailabilityZone"]) for subnet in subnets.values()}) == 2
    assert not any(subnet["MapPublicIpOnLaunch"] for subnet in subnets.values())
    assert {one["Ref"] for one in group(pattern)["VPCZoneIdentifier"]} == set(subnets)


def test_an_instance_answers_for_itself_to_tokens_only(pattern: Synthesized) -> None:
    options = launch(pattern)["MetadataOptions"]
    assert options == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    (disk,) = launch(pattern)["BlockDeviceMappings"]
    assert disk["Ebs"]["Encrypted"] is True


def test_there_is_an_endpoint_for_each_service_that_an_instance_calls(pattern: Synthesized) -> None:
    kinds = {
        json.dumps(one["ServiceName"]).rpartition(".")[2].strip('"]}'): one["VpcEndpointType"]
        for one in pattern.resources("AWS::EC2::VPCEndpoint").values()
    }
    assert kinds == {
        "s3": "Gateway",
        "dynamodb": "Gateway",
        "sqs": "Interface",
        "autoscaling": "Interface",
        "cloudformation": "Interface",
        "logs": "Interface",
        "ssm": "Interface",
        "ssmmessages": "Interface",
    }


def test_the_gateway_of_s3_leads_to_the_program_and_the_repository(pattern: Synthesized) -> None:
    (statement,) = only(pattern, "AWS::EC2::VPCEndpoint", "NetworkS3")["PolicyDocument"][
        "Statement"
    ]
    assert statement["Action"] == "s3:GetObject"
    program, repository = (json.dumps(one) for one in statement["Resource"])
    assert ".zip" in program and "al2023-repos-" in repository


def test_a_worker_may_do_what_it_does_and_nothing_else(pattern: Synthesized) -> None:
    statements = only(pattern, "AWS::IAM::Policy", "WorkerRole")["PolicyDocument"]["Statement"]
    allowed = {
        action: json.dumps(one["Resource"])
        for one in statements
        for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])
    }
    expected = {
        "sqs:ReceiveMessage": '"Orders',
        "sqs:DeleteMessage": '"Orders',
        "sqs:ChangeMessageVisibility": '"Orders',
        "dynamodb:PutItem": '"FulfilledOrders',
        "autoscaling:CompleteLifecycleAction": "-Workers",
        "cloudformation:SignalResource": '"AWS::StackId"',
        "s3:GetObject": ".zip",
        "logs:CreateLogStream": '"WorkerLogs',
        "logs:PutLogEvents": '"WorkerLogs',
        "ssm:UpdateInstanceInformation": '"*"',
        "ssmmessages:CreateControlChannel": '"*"',
        "ssmmessages:CreateDataChannel": '"*"',
        "ssmmessages:OpenControlChannel": '"*"',
        "ssmmessages:OpenDataChannel": '"*"',
    }
    assert set(allowed) == set(expected)
    assert all(where in allowed[action] for action, where in expected.items())


def test_a_worker_has_its_permissions_and_its_ways_out_from_start_to_end(
    pattern: Synthesized,
) -> None:
    (logical_id,) = pattern.resources("AWS::AutoScaling::AutoScalingGroup")
    needs = set(pattern.template["Resources"][logical_id]["DependsOn"])
    for way_out in (
        "VPCEndpoint",
        "SecurityGroupIngress",
        "SecurityGroupEgress",
        "SubnetRouteTableAssociation",
    ):
        found = set(pattern.resources(f"AWS::EC2::{way_out}"))
        assert found and found <= needs, way_out
    assert any(one.startswith("WorkerRoleDefaultPolicy") for one in needs)


def test_a_worker_gets_every_setting_that_it_has_no_default_for(pattern: Synthesized) -> None:
    text = user_data(pattern)
    settings = dict(
        line.split("=", 1) for line in text.split("<<'END'\n")[1].split("\nEND\n")[0].splitlines()
    )
    known = set(re.findall(r'"([A-Z_]+)"', (PROGRAMS / "worker.py").read_text()))
    known |= {"LOG_GROUP", "AWS_DEFAULT_REGION"}
    assert set(settings) <= known
    assert {"ORDERS_URL", "FULFILLED_ORDERS"} <= set(settings)
    (orders,) = (one for one in pattern.resources("AWS::SQS::Queue") if one.startswith("Orders"))
    assert settings["ORDERS_URL"] == f"${{{orders}}}"
    assert settings["VISIBILITY_TIMEOUT"] == "60"
    assert json.dumps(group(pattern)["AutoScalingGroupName"]).endswith('"-Workers"]]}')
    assert settings["GROUP_NAME"] == "${AWS::StackName}-Workers"


def test_the_hooks_are_those_that_the_programs_complete(pattern: Synthesized) -> None:
    hooks = {
        one["LifecycleHookName"]: (
            one["LifecycleTransition"].rpartition("_")[2],
            one["DefaultResult"],
        )
        for one in group(pattern)["LifecycleHookSpecificationList"]
    }
    assert hooks == {"Start": ("LAUNCHING", "ABANDON"), "Drain": ("TERMINATING", "CONTINUE")}
    assert "HOOK_NAME=Drain\n" in user_data(pattern)
    assert "--lifecycle-hook-name Start" in user_data(pattern)


def test_the_group_follows_the_backlog_of_each_worker(pattern: Synthesized) -> None:
    policy = only(pattern, "AWS::AutoScaling::ScalingPolicy")["TargetTrackingConfiguration"]
    queries = {one["Id"]: one for one in policy["CustomizedMetricSpecification"]["Metrics"]}
    assert policy["TargetValue"] == 100
    assert [one for one in queries if queries[one]["ReturnData"]] == ["backlog"]
    expression = queries["backlog"]["Expression"]
    assert eval(expression, {"waiting": 900, "workers": 3}) == 300
    waiting, workers = (queries[one]["MetricStat"]["Metric"] for one in ("waiting", "workers"))
    assert waiting["MetricName"] == "ApproximateNumberOfMessagesVisible"
    assert waiting["Dimensions"][0]["Value"]["Fn::GetAtt"][0].startswith("Orders")
    assert [one["Dimensions"][0]["Name"] for one in (waiting, workers)] == [
        "QueueName",
        "AutoScalingGroupName",
    ]
    assert workers["MetricName"] == "GroupInServiceInstances"
    assert workers["Dimensions"][0]["Value"] == group(pattern)["AutoScalingGroupName"]
    (collected,) = group(pattern)["MetricsCollection"]
    assert collected["Metrics"] == ["GroupInServiceInstances"]


def test_a_new_program_replaces_the_workers_one_by_one_or_is_taken_back(
    pattern: Synthesized,
) -> None:
    """CloudFormation waits for a signal of each new worker, which tells how its start ended."""
    (logical_id,) = pattern.resources("AWS::AutoScaling::AutoScalingGroup")
    resource = pattern.template["Resources"][logical_id]
    update = resource["UpdatePolicy"]["AutoScalingRollingUpdate"]
    assert (update["MaxBatchSize"], update["MinInstancesInService"]) == (1, 1)
    assert (update["WaitOnResourceSignals"], update["PauseTime"]) == (True, "PT15M")
    assert resource["CreationPolicy"]["ResourceSignal"] == {"Count": 1, "Timeout": "PT15M"}
    first, *_ = user_data(pattern).partition("set -euo pipefail")
    assert f"--stack-name ${{AWS::StackId}} --logical-resource-id {logical_id} " in first
    assert "trap exitTrap EXIT" in first


@pytest.mark.parametrize(
    ("ends", "said"), [("true", "CONTINUE SUCCESS"), ("false", "ABANDON FAILURE")]
)
def test_however_the_installation_ends_it_is_told(
    pattern: Synthesized, tmp_path: Path, ends: str, said: str
) -> None:
    """The user data up to its first command, run by a shell with programs that stand for AWS's."""
    first, *_ = user_data(pattern).partition("set -euo pipefail")
    for program, text in (("curl", "i-1"), ("aws", '"$@" >>told')):
        (tmp_path / program).write_text(f"#!/bin/sh\necho {text}\n")
        (tmp_path / program).chmod(0o755)
    # Bash takes no name that CloudFormation would have put in its place.
    script = re.sub(r"\$\{AWS::\w+\}", "STACK", first) + f"set -e; {ends}"
    subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False
    )
    hook, signal = (tmp_path / "told").read_text().splitlines()
    result, status = said.split()
    assert hook.endswith(f"--instance-id i-1 --lifecycle-action-result {result}")
    assert signal.endswith(f"--unique-id i-1 --status {status}")
    assert group(pattern)["LaunchTemplate"]["Version"]["Fn::GetAtt"][1] == "LatestVersionNumber"


def test_a_person_is_told_of_workers_that_do_not_come(pattern: Synthesized) -> None:
    alarm = only(pattern, "AWS::CloudWatch::Alarm", "WorkersMissing")
    assert (alarm["MetricName"], alarm["Statistic"]) == ("GroupInServiceInstances", "Maximum")
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("LessThanThreshold", 1)


def test_options_reach_the_resources() -> None:
    pattern = with_options(
        visibility_timeout_seconds=90, max_receive_count=7, orders_at_once=9,
        backlog_per_worker=50, min_workers=2, max_workers=8, instance_size="large",
    )  # fmt: skip
    orders = only(pattern, "AWS::SQS::Queue", "Orders")
    assert (orders["VisibilityTimeout"], orders["RedrivePolicy"]["maxReceiveCount"]) == (90, 7)
    assert "VISIBILITY_TIMEOUT=90\nORDERS_AT_ONCE=9\n" in user_data(pattern)
    policy = only(pattern, "AWS::AutoScaling::ScalingPolicy")["TargetTrackingConfiguration"]
    assert policy["TargetValue"] == 50
    assert (group(pattern)["MinSize"], group(pattern)["MaxSize"]) == ("2", "8")
    assert launch(pattern)["InstanceType"] == "t4g.large"
    assert only(pattern, "AWS::CloudWatch::Alarm", "OrdersLate")["Threshold"] == 90 * (7 + 1)
    assert only(pattern, "AWS::CloudWatch::Alarm", "WorkersMissing")["Threshold"] == 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"visibility_timeout_seconds": 59}, "visibility_timeout_seconds is 60 to 43200, not 59"),
        ({"max_receive_count": 4}, "max_receive_count is 5 to 1000, not 4"),
        (
            {"visibility_timeout_seconds": 43200, "max_receive_count": 8},
            "max_receive_count [+] 1 visibility timeouts, in seconds, is 1 to 345600",
        ),
        ({"orders_at_once": 0}, "orders_at_once is 1 to 64, not 0"),
        ({"backlog_per_worker": 0}, "backlog_per_worker is 1 to 100000, not 0"),
        ({"min_workers": 0}, "min_workers is 1 to 99, not 0"),
        ({"min_workers": 4}, "max_workers is 5 to 100, not 4"),
        ({"instance_size": "nano"}, 'instance_size is one of .*, not "nano"'),
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
