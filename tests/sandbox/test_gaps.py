"""Each gap: stock MiniStack fails its check and ours passes. One that passes on stock is closed."""

from __future__ import annotations

import json
import pkgutil
import time
import uuid
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from sandbox import gaps, server

Clients = Callable[..., Any]
PATIENCE = 6  # real seconds in which a check must pass; on stock it is waited out


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Generator[server.Server]:
    """MiniStack as it is, but with IAM and TLS on."""
    folder = tmp_path_factory.mktemp("stock") / "run"
    yield server.start(folder, gaps=False)
    server.stop(folder)


def clients(target: server.Server) -> Clients:
    """Clients for one server, without changing this process's environment."""
    environment = target.environment()
    return partial(
        boto3.client,
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        verify=environment["AWS_CA_BUNDLE"],
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def soon(probe: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether `probe` comes true in time."""
    deadline = time.monotonic() + seconds
    while not (result := probe()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return result


def deploy(client: Clients, resources: dict[str, Any]) -> dict[str, str]:
    """A stack of these resources: logical id to physical id."""
    cloudformation, name = client("cloudformation"), f"gap-{uuid.uuid4().hex[:8]}"
    cloudformation.create_stack(StackName=name, TemplateBody=json.dumps({"Resources": resources}))

    def status() -> str:
        return cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]

    assert soon(lambda: not status().endswith("_IN_PROGRESS")) and status() == "CREATE_COMPLETE"
    described = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
    return {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in described}


def powertools_layer(client: Clients) -> bool:
    """The public parameter leads to a layer that a function of any account may use."""
    ssm, lambda_ = client("ssm"), client("lambda")
    name = "/aws/service/powertools/python/arm64/python3.14/latest"
    found = ssm.get_parameters(Names=[name])["Parameters"]
    if not found:
        return False
    arn = found[0]["Value"]
    assert arn.startswith("arn:aws:lambda:us-east-1:017000801446:layer:AWSLambdaPowertools")
    return lambda_.get_layer_version_by_arn(Arn=arn)["Content"]["CodeSize"] > 0


def sqs_clock(client: Clients) -> bool:
    """A message under a visibility timeout of 40 s is back within the check's few seconds."""
    sqs = client("sqs")
    url = sqs.create_queue(QueueName=f"clock-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="again")
    assert sqs.receive_message(QueueUrl=url, VisibilityTimeout=40)["Messages"]
    return soon(lambda: "Messages" in sqs.receive_message(QueueUrl=url))


def dynamodb_ttl(client: Clients) -> bool:
    """A template's time to live is on, after an update too."""
    made = deploy(
        client,
        {
            "Records": {
                "Type": "AWS::DynamoDB::Table",
                "Properties": {
                    "BillingMode": "PAY_PER_REQUEST",
                    "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
                    "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
                    "TimeToLiveSpecification": {"AttributeName": "expires", "Enabled": True},
                },
            }
        },
    )
    described = client("dynamodb").describe_time_to_live(TableName=made["Records"])
    return described["TimeToLiveDescription"] == {
        "TimeToLiveStatus": "ENABLED",
        "AttributeName": "expires",
    }


def cloudwatch_sqs_metrics(client: Clients) -> bool:
    """A queue's depth and age are metrics of that queue."""
    sqs, cloudwatch = client("sqs"), client("cloudwatch")
    name = f"metrics-{uuid.uuid4().hex[:8]}"
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    for body in ("one", "two"):
        sqs.send_message(QueueUrl=url, MessageBody=body)

    def highest(metric: str) -> float:
        now = time.time()
        points = cloudwatch.get_metric_statistics(
            Namespace="AWS/SQS",
            MetricName=metric,
            Dimensions=[{"Name": "QueueName", "Value": name}],
            StartTime=now - 300,
            EndTime=now + 60,
            Period=60,
            Statistics=["Maximum"],
        )["Datapoints"]
        return max((point["Maximum"] for point in points), default=0)

    return soon(
        lambda: (
            highest("ApproximateNumberOfMessagesVisible") == 2
            and highest("ApproximateAgeOfOldestMessage") > 0
        )
    )


def cloudwatch_alarms(client: Clients) -> bool:
    """An alarm sees its own function's errors without a PutMetricData, and no other's."""
    cloudwatch, lambda_, iam = client("cloudwatch"), client("lambda"), client("iam")
    role = iam.create_role(RoleName=f"fails-{uuid.uuid4().hex[:8]}", AssumeRolePolicyDocument="{}")[
        "Role"
    ]["Arn"]
    fails, other = f"fails-{uuid.uuid4().hex[:8]}", f"other-{uuid.uuid4().hex[:8]}"
    import io
    import zipfile

    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("index.py", "def handler(event, context):\n    raise ValueError('no')\n")
    lambda_.create_function(
        FunctionName=fails,
        Runtime="python3.14",
        Role=role,
        Handler="index.handler",
        Code={"ZipFile": code.getvalue()},
    )
    for name in (fails, other):
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            Namespace="AWS/Lambda",
            MetricName="Errors",
            Dimensions=[{"Name": "FunctionName", "Value": name}],
            Statistic="Sum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=1,
            ComparisonOperator="GreaterThanOrEqualToThreshold",
            TreatMissingData="notBreaching",
        )
    assert lambda_.invoke(FunctionName=fails)["FunctionError"]

    def state(name: str) -> str:
        described = cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]
        return described[0]["StateValue"]

    return soon(lambda: state(fails) == "ALARM") and state(other) == "OK"


def made_of(client: Clients, resources: dict[str, Any]) -> dict[str, str] | None:
    """What deploy() makes, or None if CloudFormation does not get it made."""
    try:
        return deploy(client, resources)
    except (AssertionError, ClientError):
        return None


NETWORK: dict[str, Any] = {
    "Network": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.0.0.0/16"}},
    "Subnet": {
        "Type": "AWS::EC2::Subnet",
        "Properties": {"VpcId": {"Ref": "Network"}, "CidrBlock": "10.0.0.0/24"},
    },
}


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


def mq_brokers(client: Clients) -> bool:
    """A template makes a broker, and none with a password that Amazon MQ refuses."""

    def broker(password: str) -> dict[str, Any]:
        return NETWORK | {
            "Broker": {
                "Type": "AWS::AmazonMQ::Broker",
                "Properties": {
                    "BrokerName": f"check-{uuid.uuid4().hex[:8]}",
                    "EngineType": "RABBITMQ",
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

    made = made_of(client, broker("long-enough-for-it"))
    if not made or made_of(client, broker("too:short")):
        return False
    described = client("mq").describe_broker(BrokerId=made["Broker"])
    return (described["EngineVersion"], described["SubnetIds"]) == ("4.2", [made["Subnet"]])


def function(client: Clients, code: str) -> str:
    """The name of a function with this code."""
    import io
    import zipfile

    name = f"check-{uuid.uuid4().hex[:8]}"
    role = client("iam").create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    archived = io.BytesIO()
    with zipfile.ZipFile(archived, "w") as archive:
        archive.writestr("index.py", code)
    client("lambda").create_function(
        FunctionName=name,
        Runtime="python3.14",
        Role=role,
        Handler="index.handler",
        Code={"ZipFile": archived.getvalue()},
    )
    return name


def lambda_mq_mapping(client: Clients) -> bool:
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


CHECKS = {
    check.__name__: check
    for check in (
        cloudwatch_alarms,
        cloudwatch_math_alarms,
        cloudwatch_sqs_metrics,
        dynamodb_ttl,
        ec2_flow_logs,
        ec2_security_group_rules,
        iam_metric_namespace,
        lambda_mq_mapping,
        mq_brokers,
        powertools_layer,
        secretsmanager_generated_passwords,
        secretsmanager_secret_arn,
        sqs_clock,
    )
}


def test_every_gap_has_a_check() -> None:
    assert set(CHECKS) == {module.name for module in pkgutil.iter_modules(gaps.__path__)}


@pytest.mark.xdist_group("sandbox")
@pytest.mark.parametrize("gap", CHECKS)
def test_gap_is_closed_in_ours(gap: str, sandbox: server.Server) -> None:
    assert CHECKS[gap](clients(sandbox))


@pytest.mark.parametrize("gap", CHECKS)
def test_gap_is_open_in_stock(gap: str, stock: server.Server) -> None:
    assert not CHECKS[gap](clients(stock)), f"upstream closed it: delete sandbox/gaps/{gap}.py"
