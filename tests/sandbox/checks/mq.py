"""Gaps of Amazon MQ, and of the network and the secrets around a broker."""

from __future__ import annotations

import json
import socket
import ssl
import uuid
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from tests.sandbox.cloud import Clients, deploy, function, soon

NETWORK: dict[str, Any] = {
    "Network": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.0.0.0/16"}},
    "Subnet": {
        "Type": "AWS::EC2::Subnet",
        "Properties": {"VpcId": {"Ref": "Network"}, "CidrBlock": "10.0.0.0/24"},
    },
}


def made_of(client: Clients, resources: dict[str, Any]) -> dict[str, str] | None:
    """What deploy() makes, or None if CloudFormation does not get it made."""
    try:
        return deploy(client, resources)
    except (AssertionError, ClientError):
        return None


def ec2_flow_logs(client: Clients) -> bool:
    """A template's flow log is one of its network."""
    made = made_of(
        client,
        NETWORK
        | {
            "Traffic": {
                "Type": "AWS::EC2::FlowLog",
                "Properties": {
                    "ResourceId": {"Ref": "Network"},
                    "ResourceType": "VPC",
                    "TrafficType": "ALL",
                    "LogDestinationType": "cloud-watch-logs",
                    "LogGroupName": "traffic",
                },
            }
        },
    )
    if not made:
        return False
    described = client("ec2").describe_flow_logs(FlowLogIds=[made["Traffic"]])["FlowLogs"]
    return [(one["ResourceId"], one["TrafficType"]) for one in described] == [
        (made["Network"], "ALL")
    ]


def ec2_security_group_rules(client: Clients) -> bool:
    """Rules that stand beside their groups are rules of them."""
    group = {
        "Type": "AWS::EC2::SecurityGroup",
        "Properties": {"GroupDescription": "check", "VpcId": {"Ref": "Network"}},
    }
    here, there = {"Ref": "Here"}, {"Ref": "There"}
    port = {"IpProtocol": "tcp", "FromPort": 5671, "ToPort": 5671}
    made = made_of(
        client,
        NETWORK
        | {
            "Here": group,
            "There": group,
            "In": {
                "Type": "AWS::EC2::SecurityGroupIngress",
                "Properties": {"GroupId": there, "SourceSecurityGroupId": here, **port},
            },
            "Out": {
                "Type": "AWS::EC2::SecurityGroupEgress",
                "Properties": {"GroupId": here, "DestinationSecurityGroupId": there, **port},
            },
        },
    )
    if not made:
        return False
    described = {
        one["GroupId"]: one
        for one in client("ec2").describe_security_groups(GroupIds=[made["Here"], made["There"]])[
            "SecurityGroups"
        ]
    }

    def peers(permissions: list[dict[str, Any]]) -> set[str]:
        return {
            pair["GroupId"]
            for permission in permissions
            if permission.get("FromPort") == 5671
            for pair in permission["UserIdGroupPairs"]
        }

    return peers(described[made["There"]]["IpPermissions"]) == {made["Here"]} and peers(
        described[made["Here"]]["IpPermissionsEgress"]
    ) == {made["There"]}


def secret(client: Clients) -> tuple[str, str]:
    """(what Ref of a template's secret gives, the password in it), without punctuation."""
    arn = deploy(
        client,
        {
            "Password": {
                "Type": "AWS::SecretsManager::Secret",
                "Properties": {
                    "GenerateSecretString": {
                        "SecretStringTemplate": '{"username": "shop"}',
                        "GenerateStringKey": "password",
                        "PasswordLength": 40,
                        "ExcludePunctuation": True,
                    }
                },
            }
        },
    )["Password"]
    value = client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    return arn, json.loads(value)["password"]


def secretsmanager_generated_passwords(client: Clients) -> bool:
    """A password that is to have no punctuation has none, and the length asked for."""
    passwords = [secret(client)[1] for _ in range(3)]
    return all(password.isalnum() and len(password) == 40 for password in passwords)


def secretsmanager_secret_arn(client: Clients) -> bool:
    """Ref of a secret is its ARN."""
    arn, _ = secret(client)
    return arn == client("secretsmanager").describe_secret(SecretId=arn)["ARN"]


def broker(password: str, engine: str = "RABBITMQ") -> dict[str, Any]:
    """A template's broker in its network."""
    return NETWORK | {
        "Broker": {
            "Type": "AWS::AmazonMQ::Broker",
            "Properties": {
                "BrokerName": f"check-{uuid.uuid4().hex[:8]}",
                "EngineType": engine,
                "EngineVersion": "4.2",
                "HostInstanceType": "mq.m7g.large",
                "DeploymentMode": "SINGLE_INSTANCE",
                "PubliclyAccessible": False,
                "AutoMinorVersionUpgrade": True,
                "SubnetIds": [{"Ref": "Subnet"}],
                "Users": [{"Username": "shop", "Password": password}],
            },
        }
    }


def mq_brokers(client: Clients) -> bool:
    """A template makes a broker that answers, and none with a password that Amazon MQ refuses."""
    made = made_of(client, broker("long-enough-for-it"))
    if not made or made_of(client, broker("too:short")) or made_of(client, broker("x", "ACTIVEMQ")):
        return False
    mq, here = client("mq"), {"BrokerId": made["Broker"]}
    try:
        described = mq.describe_broker(**here)
        if (described["EngineVersion"], described["SubnetIds"]) != ("4.2", [made["Subnet"]]):
            return False
        running = soon(lambda: mq.describe_broker(**here)["BrokerState"] == "RUNNING", 60)
        (where,) = described["BrokerInstances"]
        reached = [answers(client, url) for url in (*where["Endpoints"], where["ConsoleURL"])]
        mq.reboot_broker(**here)
        restarts = mq.describe_broker(**here)["BrokerState"] == "REBOOT_IN_PROGRESS"
        again = soon(lambda: mq.describe_broker(**here)["BrokerState"] == "RUNNING", 60)
    finally:
        mq.delete_broker(**here)
    gone = soon(lambda: not answers(client, where["ConsoleURL"]))
    return running and reached == [True, True] and restarts and again and gone


def answers(client: Clients, url: str) -> bool:
    """Whether somebody speaks TLS there, with a certificate that clients here trust."""
    target, trusted = urlsplit(url), ssl.create_default_context(cafile=client.authority)
    try:
        with socket.create_connection((target.hostname, target.port), timeout=5) as plain:
            trusted.wrap_socket(plain, server_hostname=target.hostname).close()
    except OSError:
        return False
    return True


def lambda_mapping_properties__broker(client: Clients) -> bool:
    """A template's mapping on a broker's queue keeps queue and login, and stays disabled."""
    access = [
        {"Type": "BASIC_AUTH", "URI": "arn:aws:secretsmanager:us-east-1:000000000000:secret:login"},
        {"Type": "VIRTUAL_HOST", "URI": "/"},
    ]
    made = deploy(
        client,
        {
            "Mapping": {
                "Type": "AWS::Lambda::EventSourceMapping",
                "Properties": {
                    "EventSourceArn": "arn:aws:mq:us-east-1:000000000000:broker:shop:b-1",
                    "FunctionName": function(client, "def handler(event, context): pass"),
                    "Queues": ["orders"],
                    "SourceAccessConfigurations": access,
                    "Enabled": False,
                },
            }
        },
    )
    found = client("lambda").get_event_source_mapping(UUID=made["Mapping"])
    kept = [found.get(name) for name in ("State", "Queues", "SourceAccessConfigurations")]
    return kept == ["Disabled", ["orders"], access]


def iam_metric_namespace(client: Clients) -> bool:
    """A role that may put metrics into one namespace may do that, and into no other."""
    iam, name = client("iam"), f"measures-{uuid.uuid4().hex[:8]}"
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam::000000000000:root"},
        "Action": "sts:AssumeRole",
    }
    role = iam.create_role(
        RoleName=name,
        AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
    )["Role"]["Arn"]
    statement = {
        "Effect": "Allow",
        "Action": "cloudwatch:PutMetricData",
        "Resource": "*",
        "Condition": {"StringEquals": {"cloudwatch:namespace": "Mine"}},
    }
    iam.put_role_policy(
        RoleName=name,
        PolicyName="measure",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
    credentials = client("sts").assume_role(RoleArn=role, RoleSessionName="check")["Credentials"]
    as_role = client(
        "cloudwatch",
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
    )

    def may(namespace: str) -> bool:
        try:
            as_role.put_metric_data(
                Namespace=namespace, MetricData=[{"MetricName": "Depth", "Value": 1}]
            )
        except ClientError as error:
            assert error.response["Error"]["Code"].startswith("AccessDenied")
            return False
        return True

    return may("Mine") and not may("Other")


def cloudwatch_math_alarms(client: Clients) -> bool:
    """A template's alarm on a quotient sees the quotient of its own metrics."""
    space = f"math-{uuid.uuid4().hex[:8]}"

    def query(name: str, metric: str) -> dict[str, Any]:
        stat = {"Metric": {"Namespace": space, "MetricName": metric}, "Period": 60, "Stat": "Sum"}
        return {"Id": name, "MetricStat": stat, "ReturnData": False}

    made = made_of(
        client,
        {
            "Memory": {
                "Type": "AWS::CloudWatch::Alarm",
                "Properties": {
                    "Metrics": [
                        {"Id": "percent", "Expression": "100 * used / most", "ReturnData": True},
                        query("used", "Used"),
                        query("most", "Limit"),
                    ],
                    "ComparisonOperator": "GreaterThanOrEqualToThreshold",
                    "Threshold": 80,
                    "EvaluationPeriods": 1,
                    "TreatMissingData": "notBreaching",
                },
            }
        },
    )
    if not made:
        return False
    cloudwatch = client("cloudwatch")

    def state(used: float) -> str:
        cloudwatch.put_metric_data(
            Namespace=space,
            MetricData=[
                {"MetricName": "Used", "Value": used},
                {"MetricName": "Limit", "Value": 1000},
            ],
        )
        described = cloudwatch.describe_alarms(AlarmNames=[made["Memory"]])["MetricAlarms"]
        return described[0]["StateValue"]

    return soon(lambda: state(0) == "OK") and soon(lambda: state(900) == "ALARM")
