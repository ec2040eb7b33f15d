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
    """A message under a visibility timeout of 40 s is back within the check's few seconds.

    What SNS delivers is stamped by the same clock.
    """
    sqs, sns = client("sqs"), client("sns")
    url = sqs.create_queue(QueueName=f"clock-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="again")
    assert sqs.receive_message(QueueUrl=url, VisibilityTimeout=40)["Messages"]
    if not soon(lambda: "Messages" in sqs.receive_message(QueueUrl=url)):
        return False
    topic = sns.create_topic(Name=f"clock-{uuid.uuid4().hex[:8]}")["TopicArn"]
    listen(client, topic, url)
    sns.publish(TopicArn=topic, Message="by SNS")
    sqs.send_message(QueueUrl=url, MessageBody="by SQS")
    stamps = {}
    while len(stamps) < 2:
        (message,) = sqs.receive_message(
            QueueUrl=url, WaitTimeSeconds=2, MessageSystemAttributeNames=["SentTimestamp"]
        )["Messages"]
        if message["Body"] != "again":
            stamps[message["Body"]] = int(message["Attributes"]["SentTimestamp"]) / 1000
    first, second = stamps.values()
    return abs(first - second) < 20  # of SQS time: one second of ours


def listen(client: Clients, topic: str, url: str, **attributes: str) -> str:
    """Subscribe a queue to a topic, and let it; the queue's ARN."""
    sqs = client("sqs")
    described = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    arn = described["Attributes"]["QueueArn"]
    admit(client, topic, url, arn)
    client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes=attributes)
    return arn


def admit(client: Clients, topic: str, url: str, arn: str) -> None:
    """Let a topic send to a queue."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    client("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})


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


def create_function(client: Clients, name: str, role: str, body: str) -> str:
    """A function of one statement; its ARN."""
    import io
    import zipfile

    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("index.py", f"def handler(event, context):\n    {body}\n")
    return client("lambda").create_function(
        FunctionName=name,
        Runtime="python3.14",
        Role=role,
        Handler="index.handler",
        Code={"ZipFile": code.getvalue()},
    )["FunctionArn"]


def cloudwatch_alarms(client: Clients) -> bool:
    """An alarm sees its own function's errors without a PutMetricData, and no other's."""
    cloudwatch, lambda_, iam = client("cloudwatch"), client("lambda"), client("iam")
    role = iam.create_role(RoleName=f"fails-{uuid.uuid4().hex[:8]}", AssumeRolePolicyDocument="{}")[
        "Role"
    ]["Arn"]
    fails, other = f"fails-{uuid.uuid4().hex[:8]}", f"other-{uuid.uuid4().hex[:8]}"
    create_function(client, fails, role, "raise ValueError('no')")
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


def cloudwatch_alarms_for_metric(client: Clients) -> bool:
    """The alarms on one queue's metric are those of that queue."""
    cloudwatch, names = client("cloudwatch"), [f"asked-{uuid.uuid4().hex[:8]}" for _ in range(2)]
    for name in names:
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            Namespace="AWS/SQS",
            MetricName="NumberOfMessagesDeleted",
            Dimensions=[{"Name": "QueueName", "Value": name}],
            Statistic="Sum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=1,
            ComparisonOperator="GreaterThanOrEqualToThreshold",
        )
    found = cloudwatch.describe_alarms_for_metric(
        Namespace="AWS/SQS",
        MetricName="NumberOfMessagesDeleted",
        Dimensions=[{"Name": "QueueName", "Value": names[1]}],
    )["MetricAlarms"]
    return [alarm["AlarmName"] for alarm in found] == names[1:]


def s3_account_namespace(client: Clients) -> bool:
    """A bucket in the account's namespace has the name that was known before."""
    prefix = f"gap-{uuid.uuid4().hex[:8]}"
    made = deploy(
        client,
        {
            "Uploads": {
                "Type": "AWS::S3::Bucket",
                "Properties": {"BucketNamespace": "account-regional", "BucketNamePrefix": prefix},
            }
        },
    )
    return made["Uploads"] == f"{prefix}-000000000000-us-east-1-an"


def sns_lambda_delivery(client: Clients) -> bool:
    """What SNS may not hand to a function is in the subscription's dead-letter queue.

    What the function fails at is in its own destination instead, after three attempts.
    """
    sqs, sns, lambda_ = client("sqs"), client("sns"), client("lambda")
    name = f"fails-{uuid.uuid4().hex[:8]}"
    role = client("iam").create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    topic = sns.create_topic(Name=name)["TopicArn"]
    urls, arns = {}, {}
    for queue in ("undelivered", "failed"):
        urls[queue] = sqs.create_queue(QueueName=f"{name}-{queue}")["QueueUrl"]
        described = sqs.get_queue_attributes(QueueUrl=urls[queue], AttributeNames=["QueueArn"])
        arns[queue] = described["Attributes"]["QueueArn"]
    admit(client, topic, urls["undelivered"], arns["undelivered"])
    function = create_function(client, name, role, "raise ValueError('no')")
    lambda_.put_function_event_invoke_config(
        FunctionName=name, DestinationConfig={"OnFailure": {"Destination": arns["failed"]}}
    )
    sns.subscribe(
        TopicArn=topic,
        Protocol="lambda",
        Endpoint=function,
        Attributes={"RedrivePolicy": json.dumps({"deadLetterTargetArn": arns["undelivered"]})},
    )

    def arrived(queue: str) -> list[dict[str, Any]]:
        answer = sqs.receive_message(
            QueueUrl=urls[queue], MaxNumberOfMessages=10, VisibilityTimeout=0
        )
        return [json.loads(message["Body"]) for message in answer.get("Messages", [])]

    first = sns.publish(TopicArn=topic, Message="not let in")["MessageId"]
    if not soon(lambda: bool(arrived("undelivered"))):
        return False
    lambda_.add_permission(
        FunctionName=name,
        StatementId="sns",
        Action="lambda:InvokeFunction",
        Principal="sns.amazonaws.com",
        SourceArn=topic,
    )
    second = sns.publish(TopicArn=topic, Message="let in, and failed at")["MessageId"]
    assert soon(lambda: bool(arrived("failed")), seconds=30)
    (failed,) = arrived("failed")
    return [one["MessageId"] for one in arrived("undelivered")] == [first] and (
        failed["requestPayload"]["Records"][0]["Sns"]["MessageId"] == second
    )


CHECKS = {
    check.__name__: check
    for check in (
        cloudwatch_alarms,
        cloudwatch_alarms_for_metric,
        cloudwatch_sqs_metrics,
        dynamodb_ttl,
        powertools_layer,
        s3_account_namespace,
        sns_lambda_delivery,
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
