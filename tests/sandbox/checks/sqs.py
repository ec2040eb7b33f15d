"""Gaps between queues, those who may use them, and the functions on them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from tests.sandbox.cloud import Clients, function


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
