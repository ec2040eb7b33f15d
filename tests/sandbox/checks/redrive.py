"""Gaps of redriving a dead-letter queue, by hand and by a state machine."""

from __future__ import annotations

import json
import uuid
from typing import Any

from botocore.exceptions import ClientError

from tests.sandbox.checks.stepfunctions import let, machine, role_that_may, run
from tests.sandbox.cloud import Clients, soon

MOVES = ("sqs:StartMessageMoveTask", "sqs:ReceiveMessage", "sqs:DeleteMessage")


class Pair:
    """A queue and its dead-letter queue, in which messages wait that failed once."""

    def __init__(self, client: Clients, *bodies: str) -> None:
        self.sqs, name = client("sqs"), f"redrive-{uuid.uuid4().hex[:8]}"
        self.dead_url = self.sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
        self.dead = f"arn:aws:sqs:us-east-1:000000000000:{name}-dead"
        policy = json.dumps({"deadLetterTargetArn": self.dead, "maxReceiveCount": 1})
        self.url = self.sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy})[
            "QueueUrl"
        ]
        self.arn = f"arn:aws:sqs:us-east-1:000000000000:{name}"
        self.sent = {self.send(self.url, body) for body in bodies}
        for _ in range(2):  # the second receive parks what the first has received
            self.receive(self.url, VisibilityTimeout=0)

    def send(self, url: str, body: str) -> str:
        return self.sqs.send_message(QueueUrl=url, MessageBody=body)["MessageId"]

    def receive(self, url: str, **settings: int) -> list[dict[str, Any]]:
        answer = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, **settings)
        return answer.get("Messages", [])

    def start(self, **settings: Any) -> str:
        return self.sqs.start_message_move_task(SourceArn=self.dead, **settings)["TaskHandle"]

    def task(self) -> dict[str, Any]:
        return self.sqs.list_message_move_tasks(SourceArn=self.dead)["Results"][0]

    def becomes(self, status: str) -> bool:
        return soon(lambda: self.task()["Status"] == status)

    def refused(self, action: str, **parameters: Any) -> str:
        """The code and the message of a refusal; empty if there was none."""
        try:
            getattr(self.sqs, action)(**parameters)
        except ClientError as error:
            return f"{error.response['Error']['Code']}: {error.response['Error']['Message']}"
        return ""


def sqs_message_move_tasks(client: Clients) -> bool:
    """One task at a time, at the pace asked for, until cancelled; then all, as new messages."""
    pair = Pair(client, "a", "b", "c", "d")
    if pair.refused("list_message_move_tasks", SourceArn=pair.dead):
        return False
    refused = pair.refused("start_message_move_task", SourceArn=pair.arn)
    assert refused.startswith("InvalidParameterValue: Source queue must be")
    handle = pair.start(MaxNumberOfMessagesPerSecond=1)
    assert "already a task running" in pair.refused("start_message_move_task", SourceArn=pair.dead)
    assert soon(lambda: pair.task()["ApproximateNumberOfMessagesMoved"] == 2)
    assert pair.task()["TaskHandle"] == handle
    assert pair.sqs.cancel_message_move_task(TaskHandle=handle)[
        "ApproximateNumberOfMessagesMoved"
    ] in (2, 3)
    assert pair.becomes("CANCELLED") and "TaskHandle" not in pair.task()
    assert pair.refused("cancel_message_move_task", TaskHandle=handle)
    moved = pair.task()["ApproximateNumberOfMessagesMoved"]
    pair.start()
    assert pair.becomes("COMPLETED")
    assert pair.task()["ApproximateNumberOfMessagesMoved"] == 4 - moved
    back = pair.receive(pair.url, WaitTimeSeconds=1)
    pair.send(pair.dead_url, "sent to the dead-letter queue itself")
    pair.start()
    return (
        sorted(message["Body"] for message in back) == ["a", "b", "c", "d"]
        and pair.sent.isdisjoint(message["MessageId"] for message in back)
        and pair.becomes("FAILED")
        and pair.task()["FailureReason"] == "CouldNotDetermineMessageSource"
        and len(pair.receive(pair.dead_url)) == 1
    )


def stepfunctions_tasks__sdk_sqs(client: Clients) -> bool:
    """A workflow redrives as its role: each grant is needed, and the answer comes back."""
    pair, role = Pair(client, "a"), role_that_may(client)

    def calls(action: str) -> str:
        parameters = {"SourceArn": pair.dead}
        resource = f"arn:aws:states:::aws-sdk:sqs:{action}"
        return machine(
            client, {"Type": "Task", "Resource": resource, "Parameters": parameters}, role
        )

    starts, lists = calls("startMessageMoveTask"), calls("listMessageMoveTasks")
    let(client, role, *MOVES)  # but not GetQueueAttributes
    denied = run(client, starts)
    if (
        denied.get("error") != "Sqs.SqsException"
        or "not authorized to perform: sqs:GetQueueAttributes" not in denied["cause"]
    ):
        return False
    let(client, role, *MOVES, "sqs:GetQueueAttributes")
    assert run(client, starts)["status"] == "SUCCEEDED"
    assert pair.becomes("FAILED") and pair.task()["FailureReason"] == "AccessDenied"
    let(client, role, *MOVES, "sqs:GetQueueAttributes", "sqs:SendMessage")
    assert "TaskHandle" in json.loads(run(client, starts)["output"])
    assert pair.becomes("COMPLETED")
    assert run(client, lists)["error"] == "Sqs.SqsException"
    let(client, role, "sqs:ListMessageMoveTasks", "sqs:GetQueueAttributes")
    (task,) = json.loads(run(client, lists)["output"])["Results"]
    return (task["Status"], task["ApproximateNumberOfMessagesMoved"]) == ("COMPLETED", 1)
