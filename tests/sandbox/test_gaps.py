"""Each gap: stock MiniStack fails its check and ours passes. One that passes on stock is closed."""

from __future__ import annotations

import base64
import gzip
import io
import json
import pkgutil
import re
import time
import uuid
import zipfile
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


def highest(client: Clients, namespace: str, metric: str, **dimensions: str) -> float:
    """The highest value of a metric in the last five minutes; 0 if there is none."""
    now = time.time()
    points = client("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
        StartTime=now - 300,
        EndTime=now + 60,
        Period=60,
        Statistics=["Maximum"],
    )["Datapoints"]
    return max((point["Maximum"] for point in points), default=0)


def cloudwatch_sqs_metrics(client: Clients) -> bool:
    """A queue's depth and age are metrics of that queue."""
    sqs = client("sqs")
    name = f"metrics-{uuid.uuid4().hex[:8]}"
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    for body in ("one", "two"):
        sqs.send_message(QueueUrl=url, MessageBody=body)

    return soon(
        lambda: (
            highest(client, "AWS/SQS", "ApproximateNumberOfMessagesVisible", QueueName=name) == 2
            and highest(client, "AWS/SQS", "ApproximateAgeOfOldestMessage", QueueName=name) > 0
        )
    )


def function(client: Clients, code: str) -> str:
    """The ARN of a new function whose module is this code with a `handler`."""
    archived = io.BytesIO()
    with zipfile.ZipFile(archived, "w") as archive:
        archive.writestr("index.py", code)
    made = client("lambda").create_function(
        FunctionName=f"function-{uuid.uuid4().hex[:8]}",
        Runtime="python3.14",
        Role=f"arn:aws:iam::000000000000:role/{role(client, 'lambda.amazonaws.com')}",
        Handler="index.handler",
        Code={"ZipFile": archived.getvalue()},
    )
    return made["FunctionArn"]


FAILS = "def handler(event, context):\n    raise ValueError('no')\n"


def cloudwatch_alarms(client: Clients) -> bool:
    """An alarm sees its own function's errors without a PutMetricData, and no other's."""
    cloudwatch, lambda_ = client("cloudwatch"), client("lambda")
    other = f"other-{uuid.uuid4().hex[:8]}"
    fails = function(client, FAILS).rpartition(":")[2]
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


def role(client: Clients, service: str) -> str:
    """The name of a role that this service may assume and that may do nothing yet."""
    name = f"role-{uuid.uuid4().hex[:8]}"
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": service}}
    client("iam").create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps({"Statement": [trust]})
    )
    return name


def allow(client: Clients, name: str, action: str, resource: str) -> None:
    """Give a role its one policy."""
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    client("iam").put_role_policy(
        RoleName=name, PolicyName="one", PolicyDocument=json.dumps({"Statement": [statement]})
    )


def delivery_stream(client: Clients, role_name: str, **settings: Any) -> tuple[str, str]:
    """(bucket, stream): a stream to a new bucket, with this role."""
    name = f"stream-{uuid.uuid4().hex[:8]}"
    client("s3").create_bucket(Bucket=name)
    client("firehose").create_delivery_stream(
        DeliveryStreamName=name,
        ExtendedS3DestinationConfiguration={
            "RoleARN": f"arn:aws:iam::000000000000:role/{role_name}",
            "BucketARN": f"arn:aws:s3:::{name}",
            **settings,
        },
    )
    return name, f"arn:aws:firehose:us-east-1:000000000000:deliverystream/{name}"


def objects(client: Clients, bucket: str, prefix: str = "") -> dict[str, bytes]:
    """Key to content of all objects under a prefix."""
    s3 = client("s3")
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return {
        one["Key"]: s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in listed
    }


def put_records(client: Clients, stream: str, *data: bytes) -> None:
    """Put each piece of data on the stream as a record of its own."""
    for one in data:
        client("firehose").put_record(
            DeliveryStreamName=stream.rpartition("/")[2], Record={"Data": one}
        )


DELIMITED = {"Enabled": True, "Processors": [{"Type": "AppendDelimiterToRecord"}]}
HOUR = r"\d{4}/\d\d/\d\d/\d\d/"


def firehose_buffering(client: Clients) -> bool:
    """Records become an object when the buffer's time is up, and when it is full; compressed, with
    a newline each, under the prefix of its hour; one that is refused is written when it may be."""
    firehose = role(client, "firehose.amazonaws.com")
    bucket, stream = delivery_stream(
        client,
        firehose,
        BufferingHints={"SizeInMBs": 1, "IntervalInSeconds": 60},
        CompressionFormat="GZIP",
        ProcessingConfiguration=DELIMITED,
        Prefix="records/!{timestamp:yyyy/MM/dd/HH}/",
        ErrorOutputPrefix="errors/!{firehose:error-output-type}/",
    )
    full, to_be_filled = delivery_stream(
        client,
        firehose,
        BufferingHints={"SizeInMBs": 1, "IntervalInSeconds": 900},
        ProcessingConfiguration=DELIMITED,
        Prefix="by-size/",
    )
    half = [letter * (2**19) for letter in (b"a", b"b", b"c")]
    put_records(client, to_be_filled, *half)
    put_records(client, stream, b"one", "zwei \u2028 🛒".encode())
    if soon(lambda: bool(objects(client, bucket)), 4):  # its role may not write yet
        return False
    allow(client, firehose, "s3:PutObject", "arn:aws:s3:::*")
    if not (soon(lambda: bool(objects(client, bucket)), 3) and objects(client, full)):
        return False
    ((key, content),) = objects(client, bucket).items()
    ((full_key, full_content),) = objects(client, full).items()
    late = "DeliveryToS3.DataFreshness"
    stamp = r"-1-\d{4}(-\d\d){5}-[0-9a-f-]{36}"
    return bool(
        re.fullmatch(f"records/{HOUR}{bucket}{stamp}.gz", key)
        and gzip.decompress(content) == "one\nzwei \u2028 🛒\n".encode()
        and re.fullmatch(f"by-size/{HOUR}{full}{stamp}", full_key)
        and full_content == half[0] + b"\n" + half[1] + b"\n"
        # The oldest record waited for four seconds, which are 80 of Firehose's.
        and highest(client, "AWS/Firehose", late, DeliveryStreamName=bucket) > 50
        and errors_of_a_processor(client, firehose)
    )


def errors_of_a_processor(client: Clients, firehose: str) -> bool:
    """A record that a Lambda processor fails lies under the error prefix, the others do not."""
    code = (
        "def handler(event, context):\n"
        "    results = ['Ok', 'ProcessingFailed', 'Dropped']\n"
        "    records = zip(event['records'], results)\n"
        "    return {'records': [{**record, 'result': result} for record, result in records]}\n"
    )
    processor = {
        "Type": "Lambda",
        "Parameters": [{"ParameterName": "LambdaArn", "ParameterValue": function(client, code)}],
    }
    bucket, stream = delivery_stream(
        client,
        firehose,
        BufferingHints={"SizeInMBs": 1, "IntervalInSeconds": 0},
        ProcessingConfiguration={"Enabled": True, "Processors": [processor]},
        Prefix="records/!{timestamp:yyyy}/",
        ErrorOutputPrefix="errors/!{firehose:error-output-type}/",
    )
    put_records(client, stream, b"good", b"bad", b"dropped")
    if not soon(lambda: len(objects(client, bucket)) == 2):
        return False
    ((failed_key, failed),) = objects(client, bucket, "errors/").items()
    return (
        failed_key.startswith("errors/processing-failed/")
        and base64.b64decode(json.loads(failed)["rawData"]) == b"bad"
        and list(objects(client, bucket, "records/").values()) == [b"good"]
    )


def sns_to_firehose(client: Clients) -> bool:
    """A topic's message is on the stream while the subscription's role may put it there, and in
    the subscription's dead-letter queue when it may not."""
    sns, sqs, iam = client("sns"), client("sqs"), client("iam")
    firehose, subscriber = (role(client, f"{one}.amazonaws.com") for one in ("firehose", "sns"))
    allow(client, firehose, "s3:PutObject", "arn:aws:s3:::*")
    bucket, stream = delivery_stream(
        client, firehose, BufferingHints={"SizeInMBs": 1, "IntervalInSeconds": 0}
    )
    allow(client, subscriber, "firehose:PutRecord", stream)
    topic = sns.create_topic(Name=f"topic-{uuid.uuid4().hex[:8]}")["TopicArn"]
    url = sqs.create_queue(QueueName=f"parked-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    got = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    queue = got["Attributes"]["QueueArn"]
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue,
    }
    sqs.set_queue_attributes(
        QueueUrl=url, Attributes={"Policy": json.dumps({"Statement": [statement]})}
    )
    sns.subscribe(
        TopicArn=topic,
        Protocol="firehose",
        Endpoint=stream,
        Attributes={
            "SubscriptionRoleArn": f"arn:aws:iam::000000000000:role/{subscriber}",
            "RawMessageDelivery": "true",
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": queue}),
        },
    )
    sns.publish(TopicArn=topic, Message="first")
    if not soon(lambda: list(objects(client, bucket).values()) == [b"first"]):
        return False
    iam.delete_role_policy(RoleName=subscriber, PolicyName="one")
    sns.publish(TopicArn=topic, Message="second")
    allow(client, subscriber, "firehose:PutRecord", stream)
    sns.publish(TopicArn=topic, Message="third")
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "no.such"}}
    iam.update_assume_role_policy(
        RoleName=subscriber, PolicyDocument=json.dumps({"Statement": [trust]})
    )
    sns.publish(TopicArn=topic, Message="fourth")
    parked = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return sorted(one["Body"] for one in parked) == ["fourth", "second"] and soon(
        lambda: sorted(objects(client, bucket).values()) == [b"first", b"third"]
    )


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
    arn = function(client, FAILS)
    name = arn.rpartition(":")[2]
    topic = sns.create_topic(Name=name)["TopicArn"]
    urls, arns = {}, {}
    for queue in ("undelivered", "failed"):
        urls[queue] = sqs.create_queue(QueueName=f"{name}-{queue}")["QueueUrl"]
        described = sqs.get_queue_attributes(QueueUrl=urls[queue], AttributeNames=["QueueArn"])
        arns[queue] = described["Attributes"]["QueueArn"]
    admit(client, topic, urls["undelivered"], arns["undelivered"])
    lambda_.put_function_event_invoke_config(
        FunctionName=name, DestinationConfig={"OnFailure": {"Destination": arns["failed"]}}
    )
    sns.subscribe(
        TopicArn=topic,
        Protocol="lambda",
        Endpoint=arn,
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
        firehose_buffering,
        powertools_layer,
        s3_account_namespace,
        sns_lambda_delivery,
        sns_to_firehose,
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
