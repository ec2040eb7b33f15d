"""Gaps of FIFO queues and their consumers."""

from __future__ import annotations

import json
import time
import uuid

from tests.sandbox.cloud import Clients, allow, function, role_of, soon

SLOW = "import time\ndef handler(event, context):\n    time.sleep(2.5)\n"


def lambda_fifo_batches(client: Clients) -> bool:
    """While a group's message is in work its next one waits, and another group's is taken."""
    sqs, lambda_ = client("sqs"), client("lambda")
    url = sqs.create_queue(
        QueueName=f"gap-{uuid.uuid4().hex[:8]}.fifo",
        Attributes={"FifoQueue": "true", "VisibilityTimeout": "900"},
    )["QueueUrl"]
    described = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    arn = described["Attributes"]["QueueArn"]
    name = function(client, SLOW)
    allow(client, role_of(client, name), "sqs:*", arn)
    mapping = lambda_.create_event_source_mapping(
        FunctionName=name, EventSourceArn=arn, BatchSize=1
    )["UUID"]

    def send(body: str, group: str) -> None:
        sqs.send_message(
            QueueUrl=url, MessageBody=body, MessageGroupId=group, MessageDeduplicationId=body
        )

    def in_work() -> int:
        attribute = "ApproximateNumberOfMessagesNotVisible"
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[attribute])
        return int(found["Attributes"][attribute])

    send("1", "a")
    send("2", "a")
    assert soon(lambda: in_work() > 0)
    time.sleep(0.5)
    apart = in_work() == 1
    send("3", "b")
    together = soon(lambda: in_work() == 2)
    lambda_.delete_event_source_mapping(UUID=mapping)
    return apart and together


def sqs_fifo_dead_letters(client: Clients) -> bool:
    """A message keeps its deduplication id until it is a dead letter; then that is its own id."""
    sqs, name = client("sqs"), f"gap-{uuid.uuid4().hex[:8]}"
    dead = sqs.create_queue(QueueName=f"{name}-dead.fifo", Attributes={"FifoQueue": "true"})
    policy = {
        "deadLetterTargetArn": f"arn:aws:sqs:us-east-1:000000000000:{name}-dead.fifo",
        "maxReceiveCount": 1,
    }
    alive = sqs.create_queue(
        QueueName=f"{name}.fifo",
        Attributes={
            "FifoQueue": "true",
            "VisibilityTimeout": "0",
            "RedrivePolicy": json.dumps(policy),
        },
    )
    sent = sqs.send_message(
        QueueUrl=alive["QueueUrl"],
        MessageBody="one",
        MessageGroupId="a",
        MessageDeduplicationId="mine",
    )["MessageId"]

    def ids(queue: dict[str, str]) -> list[str]:
        messages = sqs.receive_message(
            QueueUrl=queue["QueueUrl"],
            VisibilityTimeout=0,
            MessageSystemAttributeNames=["MessageDeduplicationId"],
        ).get("Messages", [])
        return [one["Attributes"]["MessageDeduplicationId"] for one in messages]

    assert ids(alive) == ["mine"]
    assert ids(alive) == []  # moved
    return ids(dead) == [sent]
