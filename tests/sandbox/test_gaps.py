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

from sandbox import gaps, server

Clients = Callable[[str], Any]
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


CHECKS = {
    check.__name__: check
    for check in (
        cloudwatch_alarms,
        cloudwatch_sqs_metrics,
        dynamodb_ttl,
        powertools_layer,
        sqs_clock,
    )
}


def test_every_gap_has_a_check() -> None:
    assert set(CHECKS) == {module.name for module in pkgutil.iter_modules(gaps.__path__)}


@pytest.mark.parametrize("gap", CHECKS)
def test_gap_is_closed_in_ours(gap: str, sandbox: server.Server) -> None:
    assert CHECKS[gap](clients(sandbox))


@pytest.mark.parametrize("gap", CHECKS)
def test_gap_is_open_in_stock(gap: str, stock: server.Server) -> None:
    assert not CHECKS[gap](clients(stock)), f"upstream closed it: delete sandbox/gaps/{gap}.py"
