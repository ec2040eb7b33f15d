"""Gaps between queues, those who may use them, and the functions on them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from tests.sandbox.cloud import Clients, deploy, function, soon


def lambda_log_lines(client: Clients) -> bool:
    """The last of very many lines that a function writes is in its log."""
    logs = client("logs")
    code = "def handler(event, context):\n    print('\\n' * 1_000_000 + 'the last line')\n"
    name = function(client, code).rpartition(":")[2]
    client("lambda").update_function_configuration(FunctionName=name, Timeout=60)
    assert "FunctionError" not in client("lambda").invoke(FunctionName=name)
    group = f"/aws/lambda/{name}"
    try:
        found = logs.filter_log_events(logGroupName=group, filterPattern='"the last line"')
        return bool(found["events"])
    finally:
        logs.delete_log_group(logGroupName=group)


def sqs_receipt_handles__standard(client: Clients) -> bool:
    """An older handle deletes, a second deletion is none, and handles are Base64."""
    sqs, url = client("sqs"), queue(client)
    sqs.send_message(QueueUrl=url, MessageBody="order")
    older, newest = (
        sqs.receive_message(QueueUrl=url, VisibilityTimeout=seconds)["Messages"][0]["ReceiptHandle"]
        for seconds in (0, 600)
    )
    changed = said(
        sqs.change_message_visibility, QueueUrl=url, ReceiptHandle=older, VisibilityTimeout=500
    )
    deleted = [said(sqs.delete_message, QueueUrl=url, ReceiptHandle=one) for one in (older, newest)]
    entries = [{"Id": "gone", "ReceiptHandle": newest}, {"Id": "none", "ReceiptHandle": "nonsense"}]
    batch = sqs.delete_message_batch(QueueUrl=url, Entries=entries)
    late = sqs.change_message_visibility_batch(
        QueueUrl=url, Entries=[{**entry, "VisibilityTimeout": 1} for entry in entries]
    )
    return (
        "-" not in older
        and [changed, *deleted] == ["", "", ""]
        and [one["Id"] for one in batch["Successful"]] == ["gone"]
        and [one["Code"] for one in batch["Failed"]] == ["ReceiptHandleIsInvalid"]
        and [one["Code"] for one in late["Failed"]]
        == ["InvalidParameterValue", "ReceiptHandleIsInvalid"]
    )


def sqs_receipt_handles__fifo(client: Clients) -> bool:
    """A handle of a FIFO queue ends with its visibility timeout; deleted twice is deleted."""
    sqs, url = client("sqs"), queue(client, ".fifo", FifoQueue="true")
    sqs.send_message(
        QueueUrl=url, MessageBody="order", MessageGroupId="g", MessageDeduplicationId="d"
    )

    def received(seconds: int) -> dict[str, str]:
        (message,) = sqs.receive_message(QueueUrl=url, VisibilityTimeout=seconds)["Messages"]
        return {"QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"]}

    ended = received(0)
    before = said(sqs.delete_message, **ended)
    if not before.endswith("Reason: The receipt handle has expired."):
        return False
    newest = received(600)
    return said(sqs.delete_message, **ended) == before and not any(
        said(sqs.delete_message, **newest) for _ in range(2)
    )


def sqs_refusals__queues(client: Clients) -> bool:
    """Names, attributes and dead-letter queues that AWS refuses; booleans in any case are taken."""
    sqs, name = client("sqs"), f"gap-{uuid.uuid4().hex[:8]}"
    dead, closed, fifo = queue(client), queue(client), queue(client, ".fifo", FifoQueue="True")
    sqs.set_queue_attributes(
        QueueUrl=closed,
        Attributes={"RedriveAllowPolicy": json.dumps({"redrivePermission": "denyAll"})},
    )

    def made(named: str, **attributes: str) -> str:
        return said(sqs.create_queue, QueueName=named, Attributes=attributes)

    def redriven(arn: str, count: int = 5) -> str:
        policy = {"deadLetterTargetArn": arn, "maxReceiveCount": count}
        return made(f"{name}-source", RedrivePolicy=json.dumps(policy)).partition("Reason: ")[2]

    return [
        made(f"{name}.fifo"),
        made("a" * 81),
        made(name, FifoQueue="true"),
        made(name, ContentBasedDeduplication="true"),
        made(name, DelaySeconds="901"),
        made(name, Colour="red"),
        redriven(arn_of(client, fifo)),
        redriven(arn_of(client, dead) + "-gone"),
        redriven(arn_of(client, dead), 0),
        bool(redriven(arn_of(client, closed))),
        redriven(arn_of(client, dead)),
    ] == [
        PLAIN_NAME,
        PLAIN_NAME,
        "The name of a FIFO queue can only include alphanumeric characters, hyphens, or"
        " underscores, must end with .fifo suffix and be 1 to 80 in length",
        "You can specify the ContentBasedDeduplication only when FifoQueue is set to true.",
        "Invalid value for the parameter DelaySeconds.",
        "Unknown Attribute Colour.",
        "Dead-letter queue must be same type of queue as the source.",
        "Dead letter target does not exist.",
        "Invalid value for maxReceiveCount: 0, valid values are from 1 to 1000 both inclusive.",
        True,
        "",
    ]


PLAIN_NAME = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"


def sqs_refusals__messages(client: Clients) -> bool:
    """Numbers, ids and attributes of messages that AWS refuses."""
    sqs, url = client("sqs"), queue(client)
    fifo = queue(client, ".fifo", FifoQueue="true", ContentBasedDeduplication="true")

    def sent(target: str = url, **more: Any) -> str:
        return said(sqs.send_message, QueueUrl=target, MessageBody="order", **more)

    def attributes(kind: str, value: str, count: int = 1) -> dict[str, Any]:
        one = {"DataType": kind, "StringValue": value}
        return {"MessageAttributes": {f"a{number}": one for number in range(count)}}

    refused = [
        sent(DelaySeconds=901),
        sent(MessageDeduplicationId="d"),
        sent(fifo, MessageGroupId="with space"),
        sent(fifo, MessageGroupId="g" * 129),
        sent(**attributes("String", "")),
        sent(**attributes("Text", "x")),
        sent(**attributes("Number", "many")),
        sent(**attributes("String", "x", count=11)),
        said(sqs.receive_message, QueueUrl=url, WaitTimeSeconds=21),
        said(sqs.receive_message, QueueUrl=url, VisibilityTimeout=43201),
    ]
    entry = {"Id": "1", "MessageBody": "order", **attributes("String", "")}
    batch = sqs.send_message_batch(QueueUrl=url, Entries=[entry])
    taken = [
        sent(MessageGroupId="fair"),
        sent(fifo, MessageGroupId="g.1/x"),
        sent(**attributes("Number.float", "-1.5e3")),
    ]
    return (
        all(refused)
        and refused[4]
        == "Message (user) attribute 'a0' must contain a non-empty value of type 'String'."
        and refused[8].endswith("Reason: Must be >= 0 and <= 20, if provided.")
        and [one["Code"] for one in batch.get("Failed", [])] == ["InvalidParameterValue"]
        and not any(taken)
    )


def sqs_refusals__too_soon(client: Clients) -> bool:
    """Within 60 s of SQS time no second purge and no queue of a deleted one's name."""
    sqs = client("sqs")
    url = queue(client, ".fifo", FifoQueue="true", ContentBasedDeduplication="true")
    name, group = url.rpartition("/")[2], {"MessageGroupId": "g"}
    fifo = {"QueueName": name, "Attributes": {"FifoQueue": "true"}}
    sqs.send_message(QueueUrl=url, MessageBody="order", **group)
    sqs.purge_queue(QueueUrl=url)
    again = said(sqs.purge_queue, QueueUrl=url)
    sqs.send_message(QueueUrl=url, MessageBody="order", **group)  # no duplicate: forgotten
    kept = bool(sqs.receive_message(QueueUrl=url).get("Messages"))
    sqs.delete_queue(QueueUrl=url)
    at_once = said(sqs.create_queue, **fifo)
    return (
        again == f"Only one PurgeQueue operation on {name} is allowed every 60 seconds."
        and kept
        and at_once.startswith("You must wait 60 seconds")
        and soon(lambda: not said(sqs.create_queue, **fifo))
    )


def sqs_refusals__templates(client: Clients) -> bool:
    """A template's queue is refused for the same reasons, and where its name is taken."""
    taken = queue(client).rpartition("/")[2]
    return not any(
        deployed(client, properties)
        for properties in (
            {"QueueName": taken},
            {"QueueName": "not a name"},
            {"ContentBasedDeduplication": True},
            {"DelaySeconds": 901},
        )
    )


def deployed(client: Clients, properties: dict[str, Any]) -> bool:
    """Whether CloudFormation makes a queue of these properties."""
    try:
        deploy(client, {"Queue": {"Type": "AWS::SQS::Queue", "Properties": properties}})
    except AssertionError:
        return False
    return True


def sqs_fifo_groups(client: Clients) -> bool:
    """Two messages of interleaved groups that are received together are of one group."""
    sqs = client("sqs")
    url = queue(client, ".fifo", FifoQueue="true", ContentBasedDeduplication="true")
    for number in range(4):
        sqs.send_message(QueueUrl=url, MessageBody=str(number), MessageGroupId="ab"[number % 2])

    def received() -> list[str]:
        answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=2)
        return [one["Body"] for one in answer.get("Messages", [])]

    return [received(), received()] == [["0", "2"], ["1", "3"]]


def sqs_dead_letter_sources(client: Clients) -> bool:
    """A dead-letter queue's sources are listed."""
    sqs, dead = client("sqs"), queue(client)
    policy = {"deadLetterTargetArn": arn_of(client, dead), "maxReceiveCount": 5}
    sources = {queue(client, RedrivePolicy=json.dumps(policy)) for _ in range(3)}
    try:
        pages = list(
            sqs.get_paginator("list_dead_letter_source_queues").paginate(
                QueueUrl=dead, PaginationConfig={"PageSize": 2}
            )
        )
    except ClientError:
        return False
    return len(pages) == 2 and {url for page in pages for url in page["queueUrls"]} == sources


def arn_of(client: Clients, url: str) -> str:
    """A queue's ARN."""
    found = client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return found["Attributes"]["QueueArn"]


def said(call: Callable[..., Any], **parameters: Any) -> str:
    """What AWS says against a call; nothing if it takes it."""
    try:
        call(**parameters)
    except ClientError as error:
        return error.response["Error"]["Message"]
    return ""


def queue(client: Clients, ends: str = "", **attributes: str) -> str:
    """The URL of a new queue."""
    name = f"gap-{uuid.uuid4().hex[:8]}{ends}"
    return client("sqs").create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
