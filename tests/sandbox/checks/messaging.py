"""Gaps of SNS, FIFO queues and S3."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.sandbox.cloud import (
    FAILS,
    Clients,
    admit,
    allow,
    deploy,
    function,
    listen,
    role_of,
    soon,
)


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
    allow(client, role_of(client, arn), "sqs:SendMessage", arns["failed"])
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


def sns_subscription_dlq__attributes(client: Clients) -> bool:
    """A raw message with more than ten attributes is the subscriber's error; an envelope is not."""
    sns, sqs = client("sns"), client("sqs")
    topic = sns.create_topic(Name=f"gap-{uuid.uuid4().hex[:8]}")["TopicArn"]
    urls = [sqs.create_queue(QueueName=f"gap-{uuid.uuid4().hex[:8]}")["QueueUrl"] for _ in range(3)]
    raw, wrapped, dead = urls
    described = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])
    dead_arn = described["Attributes"]["QueueArn"]
    admit(client, topic, dead, dead_arn)
    redrive = json.dumps({"deadLetterTargetArn": dead_arn})
    listen(client, topic, raw, RawMessageDelivery="true", RedrivePolicy=redrive)
    listen(client, topic, wrapped)
    for count in (10, 11):
        attributes = {
            f"a{number}": {"DataType": "String", "StringValue": "x"} for number in range(count)
        }
        sns.publish(TopicArn=topic, Message=str(count), MessageAttributes=attributes)
    return (
        bodies(client, raw) == ["10"]
        and [json.loads(one)["Message"] for one in bodies(client, wrapped)] == ["10", "11"]
        and bodies(client, dead) == ["11"]
    )


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
    publish("too-late")
    assert taken == ["taken"]
    assert bodies(client, other_url) == ["taken", "refused", "too-late"]
    return bodies(client, dead_url) == ["refused", "too-late"]
