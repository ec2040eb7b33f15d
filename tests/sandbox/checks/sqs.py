"""Gaps between queues, those who may use them, and the functions on them."""

from __future__ import annotations

import json
import uuid
from typing import Any

from botocore.exceptions import ClientError

from tests.sandbox.cloud import FAILS, Clients, allow, function, highest, soon


def sqs_batch_permissions(client: Clients) -> bool:
    """A role that may send and delete one message may do so with batches, and hide none."""
    iam, name = client("iam"), f"batches-{uuid.uuid4().hex[:8]}"
    url = client("sqs").create_queue(QueueName=name)["QueueUrl"]
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
        "Action": ["sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage"],
        "Resource": f"arn:aws:sqs:us-east-1:000000000000:{name}",
    }
    iam.put_role_policy(
        RoleName=name,
        PolicyName="use",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
    credentials = client("sts").assume_role(RoleArn=role, RoleSessionName="check")["Credentials"]
    as_role = client(
        "sqs",
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
    )

    def may(call: Any, entry: dict[str, Any]) -> bool:
        try:
            return not call(QueueUrl=url, Entries=[{"Id": "0", **entry}]).get("Failed")
        except ClientError as error:
            assert error.response["Error"]["Code"].startswith("AccessDenied")
            return False

    as_role.send_message(QueueUrl=url, MessageBody="one")
    (message,) = as_role.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"]
    handle = {"ReceiptHandle": message["ReceiptHandle"]}
    return (
        may(as_role.send_message_batch, {"MessageBody": "two"})
        and not may(as_role.change_message_visibility_batch, {**handle, "VisibilityTimeout": 0})
        and may(as_role.delete_message_batch, handle)
    )


def lambda_mapping_metrics(client: Clients) -> bool:
    """A function that fails on a batch of its queue has an error and an invocation."""
    arn, sqs = function(client, FAILS), client("sqs")
    name = arn.rpartition(":")[2]
    url = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "900"})["QueueUrl"]
    queue = f"arn:aws:sqs:us-east-1:000000000000:{name}"
    role = client("lambda").get_function_configuration(FunctionName=name)["Role"].split("/")[1]
    allow(client, role, "sqs:*", queue)
    mapping = client("lambda").create_event_source_mapping(FunctionName=name, EventSourceArn=queue)
    sqs.send_message(QueueUrl=url, MessageBody="one")
    try:
        return soon(
            lambda: all(
                highest(client, "AWS/Lambda", metric, FunctionName=name) == 1
                for metric in ("Errors", "Invocations")
            )
        )
    finally:
        client("lambda").delete_event_source_mapping(UUID=mapping["UUID"])


def lambda_log_lines(client: Clients) -> bool:
    """The last of very many lines that a function writes is in its log."""
    logs = client("logs")
    code = "def handler(event, context):\n    print('\\n' * 300_000 + 'the last line')\n"
    name = function(client, code).rpartition(":")[2]
    client("lambda").update_function_configuration(FunctionName=name, Timeout=60)
    assert "FunctionError" not in client("lambda").invoke(FunctionName=name)
    group = f"/aws/lambda/{name}"
    try:
        found = logs.filter_log_events(logGroupName=group, filterPattern='"the last line"')
        return bool(found["events"])
    finally:
        logs.delete_log_group(logGroupName=group)
