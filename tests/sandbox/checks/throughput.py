"""Gaps of how much is written and handled at once."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
from botocore.config import Config

from tests.sandbox.cloud import Clients, allow, deploy, function, role_of, soon


def dynamodb_max_throughput(client: Clients) -> bool:
    """A template's maximum is kept: the rest of a batch is unprocessed, then nothing is taken."""
    once = Config(retries={"total_max_attempts": 1})
    dynamodb = client("dynamodb", config=once)
    properties: dict[str, Any] = {
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "OnDemandThroughput": {"MaxWriteRequestUnits": 1},
    }
    table = deploy(client, {"Orders": {"Type": "AWS::DynamoDB::Table", "Properties": properties}})[
        "Orders"
    ]

    def unprocessed(size: int = 1) -> int:
        puts = [
            {"PutRequest": {"Item": {"id": {"S": str(number)}, "text": {"S": "x" * size}}}}
            for number in range(25)
        ]
        answer = dynamodb.batch_write_item(RequestItems={table: puts})
        return len(answer["UnprocessedItems"].get(table, []))

    if dynamodb.describe_table(TableName=table)["Table"].get("OnDemandThroughput") is None:
        return False
    first = unprocessed()
    with pytest.raises(dynamodb.exceptions.ClientError, match="ThrottlingException"):
        unprocessed()
    with pytest.raises(dynamodb.exceptions.ClientError, match="ThrottlingException"):
        dynamodb.put_item(TableName=table, Item={"id": {"S": "one more"}})
    there = dynamodb.scan(TableName=table)["Count"]
    dynamodb.update_table(TableName=table, OnDemandThroughput={"MaxWriteRequestUnits": 50})
    time.sleep(1.1)  # 50 units have come in by now
    large = unprocessed(size=2500)  # three units each
    dynamodb.update_table(TableName=table, OnDemandThroughput={"MaxWriteRequestUnits": -1})
    return (first, there, large, unprocessed()) == (24, 1, 25 - 50 // 3, 0)


def lambda_sqs_batches(client: Clients) -> bool:
    """More than ten messages come in one batch; a batch that is not full comes after its window."""
    sqs, name = client("sqs"), f"gap-{uuid.uuid4().hex[:8]}"
    orders = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "600"})["QueueUrl"]
    seen = sqs.create_queue(QueueName=f"{name}-seen")["QueueUrl"]
    code = (
        "import boto3\n"
        "sqs = boto3.client('sqs')\n"
        "def handler(event, context):\n"
        f"    sqs.send_message(QueueUrl='{seen}', MessageBody=str(len(event['Records'])))\n"
    )
    lambda_, arn = client("lambda"), function(client, code)
    queue = f"arn:aws:sqs:us-east-1:000000000000:{name}"
    allow(client, role_of(client, arn), "sqs:*", queue, f"{queue}-seen")
    for first in range(0, 30, 10):
        sqs.send_message_batch(
            QueueUrl=orders,
            Entries=[
                {"Id": str(number), "MessageBody": "order"} for number in range(first, first + 10)
            ],
        )
    lambda_.create_event_source_mapping(
        FunctionName=arn,
        EventSourceArn=queue,
        BatchSize=20,
        MaximumBatchingWindowInSeconds=1,
    )
    sizes: list[int] = []

    def all_handled() -> bool:
        found = sqs.receive_message(
            QueueUrl=seen, MaxNumberOfMessages=10, VisibilityTimeout=600
        ).get("Messages", [])
        sizes.extend(int(message["Body"]) for message in found)
        return sum(sizes) >= 30

    assert soon(all_handled, seconds=20)
    return sorted(sizes) == [10, 20]
