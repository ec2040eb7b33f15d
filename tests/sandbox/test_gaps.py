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


def fifo_queue(client: Clients, topic: str) -> tuple[str, str]:
    """(URL, ARN) of a FIFO queue that lets a topic send to it."""
    sqs, name = client("sqs"), f"gap-{uuid.uuid4().hex[:8]}.fifo"
    url = sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"})["QueueUrl"]
    described = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    arn = described["Attributes"]["QueueArn"]
    admit(client, topic, url, arn)
    return url, arn


def fifo_topic(client: Clients) -> str:
    """The ARN of a FIFO topic made by CreateTopic."""
    name = f"gap-{uuid.uuid4().hex[:8]}.fifo"
    return client("sns").create_topic(Name=name, Attributes={"FifoTopic": "true"})["TopicArn"]


def bodies(client: Clients, url: str) -> list[str]:
    """What is in a queue now, in its order; it stays invisible for a while."""
    answer = client("sqs").receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=600
    )
    return [message["Body"] for message in answer.get("Messages", [])]


def sns_topic_attributes(client: Clients) -> bool:
    """A template's FIFO topic asks for a group and drops duplicates; an update reaches it."""
    sns, cloudformation = client("sns"), client("cloudformation")
    stack = f"gap-{uuid.uuid4().hex[:8]}"

    def template(by_content: bool) -> str:
        properties = {
            "TopicName": f"{stack}.fifo",
            "FifoTopic": True,
            "ContentBasedDeduplication": by_content,
            "FifoThroughputScope": "MessageGroup",
            "SignatureVersion": "2",
        }
        return json.dumps(
            {"Resources": {"Events": {"Type": "AWS::SNS::Topic", "Properties": properties}}}
        )

    def is_now(status: str) -> bool:
        return cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"] == status

    cloudformation.create_stack(StackName=stack, TemplateBody=template(by_content=False))
    assert soon(lambda: is_now("CREATE_COMPLETE"))
    topic = cloudformation.describe_stack_resources(StackName=stack)["StackResources"][0][
        "PhysicalResourceId"
    ]
    found = sns.get_topic_attributes(TopicArn=topic)["Attributes"]
    wanted = {"FifoTopic": "true", "FifoThroughputScope": "MessageGroup", "SignatureVersion": "2"}
    if not wanted.items() <= found.items():
        return False
    with pytest.raises(sns.exceptions.ClientError, match="MessageGroupId"):
        sns.publish(TopicArn=topic, Message="without a group", MessageDeduplicationId="1")
    url, arn = fifo_queue(client, topic)
    sns.subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"}
    )
    for body, event in (("a", "1"), ("b", "2"), ("again", "1"), ("c", "3")):
        sns.publish(TopicArn=topic, Message=body, MessageGroupId="g", MessageDeduplicationId=event)
    with pytest.raises(sns.exceptions.ClientError, match="MessageDeduplicationId"):
        sns.publish(TopicArn=topic, Message="d", MessageGroupId="g")
    cloudformation.update_stack(StackName=stack, TemplateBody=template(by_content=True))
    assert soon(lambda: is_now("UPDATE_COMPLETE"))
    for _ in range(2):
        sns.publish(TopicArn=topic, Message="d", MessageGroupId="g")
    return bodies(client, url) == ["a", "b", "c", "d"]


def sns_sqs_delivery(client: Clients) -> bool:
    """A FIFO queue numbers what SNS delivers and knows it from what it has already got."""
    sns, sqs, topic = client("sns"), client("sqs"), fifo_topic(client)
    url, arn = fifo_queue(client, topic)
    sns.subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"}
    )
    sqs.send_message(
        QueueUrl=url, MessageBody="by SQS", MessageGroupId="g", MessageDeduplicationId="1"
    )
    for body, event in (("again", "1"), ("by SNS", "2")):
        sns.publish(TopicArn=topic, Message=body, MessageGroupId="g", MessageDeduplicationId=event)
    sqs.send_message(
        QueueUrl=url, MessageBody="again", MessageGroupId="g", MessageDeduplicationId="2"
    )
    found = sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["SequenceNumber"]
    )["Messages"]
    numbers = [message.get("Attributes", {}).get("SequenceNumber", "") for message in found]
    return [message["Body"] for message in found] == ["by SQS", "by SNS"] and "" < numbers[
        0
    ] < numbers[1]


def sns_subscription_dlq(client: Clients) -> bool:
    """What a queue refuses, or what comes after its end, is in the dead-letter queue instead.

    Only its own copy: another subscriber of the topic gets every message. FIFO order stays.
    """
    sns, sqs, topic = client("sns"), client("sqs"), fifo_topic(client)
    url, arn = fifo_queue(client, topic)
    dead_url, dead_arn = fifo_queue(client, topic)
    other_url, other_arn = fifo_queue(client, topic)
    redrive = json.dumps({"deadLetterTargetArn": dead_arn})
    for endpoint, more in ((arn, {"RedrivePolicy": redrive}), (other_arn, {})):
        sns.subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=endpoint,
            Attributes={"RawMessageDelivery": "true", **more},
        )

    def publish(body: str) -> None:
        sns.publish(TopicArn=topic, Message=body, MessageGroupId="g", MessageDeduplicationId=body)

    publish("taken")
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": ""})
    publish("refused")
    taken = bodies(client, url)
    sqs.delete_queue(QueueUrl=url)
    publish("too late")
    assert taken == ["taken"]
    assert bodies(client, other_url) == ["taken", "refused", "too late"]
    return bodies(client, dead_url) == ["refused", "too late"]


CHECKS = {
    check.__name__: check
    for check in (
        cloudwatch_alarms,
        cloudwatch_alarms_for_metric,
        cloudwatch_sqs_metrics,
        dynamodb_ttl,
        powertools_layer,
        sns_sqs_delivery,
        sns_subscription_dlq,
        sns_topic_attributes,
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
