"""What is true of MqBroker and of no other pattern."""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType
from typing import Any

import pytest

import app
from tests.synthesis import PROJECT, Synthesized, only, synthesize, synthesized


@pytest.fixture
def pattern() -> Synthesized:
    return synthesized("mq_broker")


def with_options(**options: Any) -> Synthesized:
    return synthesize(app.stack_class("MqBroker"), "MqBroker", **options)


def topology() -> ModuleType:
    """The names that the programs declare."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROJECT / "workers" / "mq_broker"))
        patch.delitem(sys.modules, "program", raising=False)
        module = importlib.import_module("topology")
        for name in ("topology", "program"):
            del sys.modules[name]
    return module


def broker(pattern: Synthesized) -> dict[str, Any]:
    return only(pattern, "AWS::AmazonMQ::Broker")


def test_three_nodes_stand_in_three_zones(pattern: Synthesized) -> None:
    subnets = pattern.resources("AWS::EC2::Subnet")
    zones = {str(subnet["AvailabilityZone"]) for subnet in subnets.values()}
    assert len(zones) == 3
    assert broker(pattern)["DeploymentMode"] == "CLUSTER_MULTI_AZ"
    assert {one["Ref"] for one in broker(pattern)["SubnetIds"]} == set(subnets)


def test_a_single_instance_has_one_subnet_in_one_zone() -> None:
    pattern = with_options(single_instance=True)
    (subnet,) = pattern.resources("AWS::EC2::Subnet")
    assert broker(pattern)["DeploymentMode"] == "SINGLE_INSTANCE"
    assert broker(pattern)["SubnetIds"] == [{"Ref": subnet}]


def test_nothing_leads_in_from_or_out_to_the_internet(pattern: Synthesized) -> None:
    kinds = {resource["Type"] for resource in pattern.template["Resources"].values()}
    assert not kinds & {"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::Route"}
    assert broker(pattern)["PubliclyAccessible"] is False


def rules(pattern: Synthesized, kind: str) -> set[tuple[str, str, int]]:
    """(from, to, port) of the rules between groups."""
    here, there = {
        "Ingress": ("SourceSecurityGroupId", "GroupId"),
        "Egress": ("GroupId", "DestinationSecurityGroupId"),
    }[kind]

    def name(group: dict[str, Any]) -> str:
        return group["Fn::GetAtt"][0][:-8]

    found = set()
    for rule in pattern.resources(f"AWS::EC2::SecurityGroup{kind}").values():
        assert rule["FromPort"] == rule["ToPort"] and rule["IpProtocol"] == "tcp"
        found.add((name(rule[here]), name(rule[there]), rule["FromPort"]))
    return found


def test_only_named_groups_reach_the_broker_and_the_endpoints(pattern: Synthesized) -> None:
    expected = {
        ("Application", "BrokerAccess", 5671),
        ("BrokerAccess", "BrokerAccess", 5671),
        ("Bastion", "BrokerAccess", 443),
        ("DeclareAccess", "BrokerAccess", 443),
        ("DeclareAccess", "Endpoints", 443),
        ("BrokerAccess", "Endpoints", 443),
        ("Application", "Endpoints", 443),
    }
    assert rules(pattern, "Ingress") == rules(pattern, "Egress") == expected
    for logical_id, group in pattern.resources("AWS::EC2::SecurityGroup").items():
        assert not group.get("SecurityGroupIngress"), logical_id


def test_the_mapping_and_the_programs_reach_what_they_call(pattern: Synthesized) -> None:
    names = {
        json.dumps(one["ServiceName"]).rpartition(".")[2].strip('"]}')
        for one in pattern.resources("AWS::EC2::VPCEndpoint").values()
    }
    assert names == {"lambda", "sts", "secretsmanager", "monitoring", "dynamodb"}


def test_the_password_is_generated_and_never_in_the_template(pattern: Synthesized) -> None:
    (user,) = broker(pattern)["Users"]
    assert "{{resolve:secretsmanager:" in json.dumps(user["Password"])
    generated = only(pattern, "AWS::SecretsManager::Secret")["GenerateSecretString"]
    assert generated["ExcludePunctuation"] is True
    assert 12 <= generated["PasswordLength"] <= 250
    # The secret's two fields are what broker, programs and mapping read.
    assert json.loads(generated["SecretStringTemplate"]).keys() == {"username"}
    assert generated["GenerateStringKey"] == "password"
    for field in ("Username", "Password"):
        assert f":SecretString:{field.lower()}::" in json.dumps(user[field])


def test_the_broker_keeps_its_settings(pattern: Synthesized) -> None:
    properties = broker(pattern)
    assert properties["EngineVersion"] == "4.2"
    assert properties["HostInstanceType"] == "mq.m7g.large"
    assert properties["AutoMinorVersionUpgrade"] is True
    assert properties["Logs"] == {"General": True}
    assert properties["MaintenanceWindowStartTime"]["TimeZone"] == "UTC"


def test_the_mapping_takes_the_queue_that_the_programs_declare(pattern: Synthesized) -> None:
    mapping = only(pattern, "AWS::Lambda::EventSourceMapping")
    assert mapping["Queues"] == [topology().ANALYTICS]
    access = {one["Type"]: one["URI"] for one in mapping["SourceAccessConfigurations"]}
    (secret,) = pattern.resources("AWS::SecretsManager::Secret")
    assert access == {"BASIC_AUTH": {"Ref": secret}, "VIRTUAL_HOST": "/"}


def test_the_mapping_waits_for_its_queue(pattern: Synthesized) -> None:
    assert only(pattern, "AWS::Lambda::EventSourceMapping")["Enabled"] is False
    enabled = with_options(mapping_enabled=True)
    assert only(enabled, "AWS::Lambda::EventSourceMapping")["Enabled"] is True


def test_the_mappings_pollers_may_stand_beside_this_broker_only(pattern: Synthesized) -> None:
    statements = only(pattern, "AWS::IAM::Policy", "RecordOrderRole")["PolicyDocument"]["Statement"]
    allowed = {
        action: statement["Resource"]
        for statement in statements
        for action in (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
    }
    assert allowed["mq:DescribeBroker"] == {"Fn::GetAtt": ["Broker", "Arn"]}
    assert "Password" in str(allowed["secretsmanager:GetSecretValue"])
    create = json.dumps(allowed["ec2:CreateNetworkInterface"])
    assert create.count("PrivateSubnet") == 3 and create.count("BrokerAccess") == 1
    assert allowed["dynamodb:PutItem"]["Fn::GetAtt"][0].startswith("OrderRecords")
    anywhere = {action for action, resource in allowed.items() if resource == "*"}
    assert all(action.startswith(("xray:", "ec2:Describe")) for action in anywhere)


def test_the_right_to_take_the_pollers_interfaces_away_goes_last(pattern: Synthesized) -> None:
    """Lambda's guide: in the name of the role that made them, which must still be allowed to."""
    policy = only(pattern, "AWS::IAM::Policy", "RecordOrderInterfaces")
    (statement,) = policy["PolicyDocument"]["Statement"]
    # Lambda asks for it before there is an interface: scoped, the stack would roll back.
    assert statement["Resource"] == "*"
    assert set(statement["Action"]) == {
        "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
    }
    outlived = {
        kind
        for kind in ("AWS::EC2::SecurityGroup", "AWS::Lambda::EventSourceMapping")
        for name, one in pattern.template["Resources"].items()
        if one["Type"] == kind and name.startswith(("BrokerAccess", "OrdersToRecord"))
        if policy["PolicyName"] in one["DependsOn"]
    }
    assert len(outlived) == 2


def test_queues_are_declared_from_within_the_network(pattern: Synthesized) -> None:
    """Nobody outside reaches the broker, so the function that declares stands beside it."""
    (function,) = [
        one
        for one in pattern.resources("AWS::Lambda::Function").values()
        if one["Handler"].startswith("declare_queues")
    ]
    place = function["VpcConfig"]
    assert len(place["SubnetIds"]) == 3
    assert [one["Fn::GetAtt"][0][:13] for one in place["SecurityGroupIds"]] == ["DeclareAccess"]
    console = function["Environment"]["Variables"]["CONSOLE_URL"]
    assert console == {"Fn::Select": [0, {"Fn::GetAtt": ["Broker", "ConsoleURLs"]}]}
    role = only(pattern, "AWS::IAM::Policy", "DeclareQueuesRole")["PolicyDocument"]["Statement"]
    anywhere = {action for one in role if one["Resource"] == "*" for action in one["Action"]}
    # Lambda's guide: a resource for this action makes the creation of the function fail.
    assert "ec2:DeleteNetworkInterface" in anywhere
    assert not {one for one in anywhere if one.startswith("ec2:") and "Describe" not in one} - {
        "ec2:DeleteNetworkInterface"
    }


def test_the_programs_may_do_three_things(pattern: Synthesized) -> None:
    policy = only(pattern, "AWS::IAM::ManagedPolicy")
    statements = {one["Action"]: one for one in policy["PolicyDocument"]["Statement"]}
    assert set(statements) == {
        "secretsmanager:GetSecretValue",
        "dynamodb:PutItem",
        "cloudwatch:PutMetricData",
    }
    namespace = {"StringEquals": {"cloudwatch:namespace": {"Ref": "AWS::StackName"}}}
    assert statements["cloudwatch:PutMetricData"]["Condition"] == namespace
    assert "Roles" not in policy and "Users" not in policy


def test_the_depth_alarm_watches_what_worker_measures(pattern: Synthesized) -> None:
    alarm = only(pattern, "AWS::CloudWatch::Alarm", "OrdersParked")
    assert alarm["Namespace"] == {"Ref": "AWS::StackName"} == broker(pattern)["BrokerName"]
    assert alarm["Dimensions"] == [{"Name": "Queue", "Value": topology().DEAD}]
    assert (alarm["Threshold"], alarm["TreatMissingData"]) == (1, "ignore")
    assert alarm["Period"] == 60  # as often as Worker measures


@pytest.mark.parametrize(
    ("alarm", "expression", "metrics"),
    [
        (
            "BrokerMemory",
            "100 * used / most",
            {("RabbitMQMemUsed", "Maximum"), ("RabbitMQMemLimit", "Minimum")},
        ),
        (
            "BrokerDisk",
            "100 * least / free",
            {("RabbitMQDiskFree", "Minimum"), ("RabbitMQDiskFreeLimit", "Maximum")},
        ),
    ],
)
def test_memory_and_disk_are_measured_against_their_limits(
    pattern: Synthesized, alarm: str, expression: str, metrics: set[tuple[str, str]]
) -> None:
    queries = only(pattern, "AWS::CloudWatch::Alarm", alarm)["Metrics"]
    assert expression in [one.get("Expression") for one in queries]
    measured = [one["MetricStat"] for one in queries if "MetricStat" in one]
    assert {(one["Metric"]["MetricName"], one["Stat"]) for one in measured} == metrics
    for one in measured:
        assert one["Metric"]["Dimensions"] == [
            {"Name": "Broker", "Value": {"Ref": "AWS::StackName"}}
        ]


def test_the_brokers_alarms_speak_at_the_numbers_that_were_chosen(pattern: Synthesized) -> None:
    """(metric, threshold, minutes) of those that watch the broker itself."""
    expected = {
        "OrdersWaiting": ("MessageReadyCount", 10_000, 5),
        "OrdersInHand": ("MessageUnacknowledgedCount", 2000, 5),
        "BrokerMemory": (None, 80, 5),
        "BrokerDisk": (None, 50, 5),
    }
    for name, numbers in expected.items():
        alarm = only(pattern, "AWS::CloudWatch::Alarm", name)
        found = (alarm.get("MetricName"), alarm["Threshold"], alarm["EvaluationPeriods"])
        assert found == numbers, name
        assert alarm["TreatMissingData"] == "notBreaching", name
        assert alarm.get("Statistic", "Maximum") == "Maximum", name


def test_a_mapping_takes_what_there_is_after_a_second(pattern: Synthesized) -> None:
    mapping = only(pattern, "AWS::Lambda::EventSourceMapping")
    assert (mapping["BatchSize"], mapping["MaximumBatchingWindowInSeconds"]) == (100, 1)


def test_traffic_is_logged(pattern: Synthesized) -> None:
    flow_log = only(pattern, "AWS::EC2::FlowLog")
    assert (flow_log["ResourceType"], flow_log["TrafficType"]) == ("VPC", "ALL")


def test_options_reach_the_resources() -> None:
    pattern = with_options(engine_version="4.3", instance_size="2xlarge", waiting_orders=77)
    assert broker(pattern)["EngineVersion"] == "4.3"
    assert broker(pattern)["HostInstanceType"] == "mq.m7g.2xlarge"
    assert only(pattern, "AWS::CloudWatch::Alarm", "OrdersWaiting")["Threshold"] == 77


@pytest.mark.parametrize("size", ["medium", "16xlarge"])
def test_the_smallest_and_the_largest_node_can_be_had(size: str) -> None:
    assert broker(with_options(instance_size=size))["HostInstanceType"] == f"mq.m7g.{size}"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"engine_version": "3.8"}, 'engine_version is "4.3", "4.2" or "3.13", not "3.8"'),
        ({"instance_size": "huge"}, 'instance_size is one of medium, .*, not "huge"'),
        ({"waiting_orders": 0}, "waiting_orders is 1 to 10000000, not 0"),
        ({"removal_policy": "keep"}, 'removal_policy is "destroy" or "retain", not "keep"'),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        with_options(**options)


def test_retain_keeps_broker_password_rows_and_logs() -> None:
    resources = with_options(removal_policy="retain").template["Resources"]
    kept = {name for name, one in resources.items() if one.get("DeletionPolicy") == "Retain"}
    assert {resources[name]["Type"] for name in kept} == {
        "AWS::AmazonMQ::Broker",
        "AWS::SecretsManager::Secret",
        "AWS::DynamoDB::Table",
        "AWS::Logs::LogGroup",
    }
