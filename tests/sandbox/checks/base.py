"""Gaps that every pattern needs closed."""

from __future__ import annotations

import uuid
from typing import Any

import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.parsers import QueryParser

from tests.sandbox.cloud import (
    FAILS,
    Clients,
    allow,
    deploy,
    function,
    highest,
    listen,
    role_of,
    soon,
)


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


SLOW = """
import time
def handler(event, context):
    time.sleep(2)
    for record in event["Records"]:
        print("got", record["body"])
    bad = [record["messageId"] for record in event["Records"] if record["body"] == "bad"]
    return {"batchItemFailures": [{"itemIdentifier": one} for one in bad]}
"""


def sqs_clock(client: Clients) -> bool:
    """A message under a visibility timeout of 40 s is back within the check's few seconds.

    What SNS delivers is stamped by the same clock. A message stays away while a function works on
    it, for twice its visibility timeout, and one that failed comes back.
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
    if abs(first - second) >= 20:  # of SQS time: one second of ours
        return False
    arn = function(client, SLOW)
    name = arn.rpartition(":")[2]
    url = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "20"})["QueueUrl"]
    queue = f"arn:aws:sqs:us-east-1:000000000000:{name}"
    allow(client, role_of(client, arn), "sqs:*", queue)
    client("lambda").create_event_source_mapping(
        FunctionName=name, EventSourceArn=queue, FunctionResponseTypes=["ReportBatchItemFailures"]
    )
    sqs.send_message(QueueUrl=url, MessageBody="good")
    sqs.send_message(QueueUrl=url, MessageBody="bad")

    def received() -> list[str]:
        try:
            events = client("logs").filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
        except client("logs").exceptions.ResourceNotFoundException:
            return []
        return [one["message"].split()[1] for one in events if one["message"].startswith("got ")]

    if not soon(lambda: received().count("bad") >= 2, 15):
        return False
    return received().count("good") == 1


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


def cloudwatch_alarms_by_query(client: Clients) -> bool:
    """A client that speaks the query protocol is told the same of an alarm as one of today."""
    cloudwatch, prefix = client("cloudwatch"), f"by-query-{uuid.uuid4().hex[:8]}"
    for name in (f"{prefix}-b", f"{prefix}-a"):
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            AlarmDescription="Orders & <letters>",
            Namespace="AWS/SQS",
            MetricName="NumberOfMessagesDeleted",
            Dimensions=[{"Name": "QueueName", "Value": "orders"}],
            Statistic="Sum",
            Period=60,
            EvaluationPeriods=2,
            DatapointsToAlarm=1,
            Threshold=1.5,
            ComparisonOperator="GreaterThanOrEqualToThreshold",
            AlarmActions=["arn:aws:sns:us-east-1:000000000000:alerts"],
        )
    one = {"AlarmNames.member.1": f"{prefix}-a"}
    first = {"AlarmNamePrefix": prefix, "MaxRecords": "1"}
    return alarms_by_query(client, **one) == alarms(
        cloudwatch, AlarmNames=[f"{prefix}-a"]
    ) and alarms_by_query(client, **first) == alarms(
        cloudwatch, AlarmNamePrefix=prefix, MaxRecords=1
    )


def alarms(cloudwatch: Any, **asked: Any) -> dict[str, Any]:
    """What DescribeAlarms answers, less what is of the protocol."""
    return {k: v for k, v in cloudwatch.describe_alarms(**asked).items() if k != "ResponseMetadata"}


def alarms_by_query(client: Clients, **asked: str) -> dict[str, Any]:
    """The same, asked in the query protocol, which boto3 no longer speaks with CloudWatch."""
    cloudwatch = client("cloudwatch")
    request = AWSRequest(
        "POST", f"{client.url}/", data={"Action": "DescribeAlarms", "Version": "2010-08-01"} | asked
    )
    SigV4Auth(client.credentials, "monitoring", "us-east-1").add_auth(request)
    sent = request.prepare()
    with urllib3.PoolManager(ca_certs=client.authority) as http:
        answer = http.request("POST", sent.url, body=sent.body, headers=dict(sent.headers.items()))
    response = {"status_code": answer.status, "headers": {}, "body": answer.data}
    shape = cloudwatch.meta.service_model.operation_model("DescribeAlarms").output_shape
    parsed = QueryParser().parse(response, shape)
    return {k: v for k, v in parsed.items() if k != "ResponseMetadata"}
