"""Gaps of EventBridge Pipes."""

from __future__ import annotations

import json
import uuid
from typing import Any

from tests.sandbox.checks.apigateway import queue, refused
from tests.sandbox.cloud import Clients, allow, deploy, function, role, soon

QUEUE = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")


def permit(client: Clients, name: str, statements: dict[str, list[str]]) -> None:
    """Give a role its one policy: resource to actions."""
    policy = [
        {"Effect": "Allow", "Action": actions, "Resource": resource}
        for resource, actions in statements.items()
    ]
    client("iam").put_role_policy(
        RoleName=name, PolicyName="one", PolicyDocument=json.dumps({"Statement": policy})
    )


def pipe(source: str, target: str, sender: str, **more: Any) -> dict[str, Any]:
    """The resource of a pipe."""
    return {
        "Pipe": {
            "Type": "AWS::Pipes::Pipe",
            "Properties": {
                "Source": source,
                "Target": target,
                "RoleArn": f"arn:aws:iam::000000000000:role/{sender}",
                **more,
            },
        }
    }


def received(client: Clients, url: str, number: int = 1, seconds: float = 10) -> list[str]:
    """The bodies of that many messages, or of what came in time; they are deleted."""
    found: list[str] = []

    def enough() -> bool:
        answer = client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10)
        for message in answer.get("Messages", []):
            found.append(message["Body"])
            client("sqs").delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return len(found) >= number

    soon(enough, seconds)
    return found


def left(client: Clients, url: str) -> int:
    """How many messages a queue has, in work or waiting."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)


def pipes_from_sqs(client: Clients) -> bool:
    """A pipe hands on what its filter takes, as its template says, and deletes the rest.

    What its role may not hand on comes back, and gets to the queue's dead-letter queue.
    """
    sqs = client("sqs")
    source, arn, _ = queue(client)
    target, target_arn, _ = queue(client)
    parked, parked_arn, _ = queue(client)
    redrive = {"deadLetterTargetArn": parked_arn, "maxReceiveCount": 1}
    sqs.set_queue_attributes(
        QueueUrl=source,
        Attributes={"VisibilityTimeout": "40", "RedrivePolicy": json.dumps(redrive)},
    )
    sender = role(client, "pipes.amazonaws.com")
    permit(client, sender, {arn: [*QUEUE]})
    template = '{"id": <$.body.id>, "by": "<aws.pipes.source-arn>", "none": <$.body.no>}'
    made = pipe(
        arn,
        target_arn,
        sender,
        SourceParameters={"FilterCriteria": {"Filters": [{"Pattern": '{"body":{"id":[1,2]}}'}]}},
        TargetParameters={"InputTemplate": template},
    )
    deploy(client, made)
    sqs.send_message(QueueUrl=source, MessageBody='{"id": 1}')
    if received(client, parked) != ['{"id": 1}']:
        return False
    permit(client, sender, {arn: [*QUEUE], target_arn: ["sqs:SendMessage"]})
    for body in ('{"id": 3}', "no JSON", '{"id": 2}'):
        sqs.send_message(QueueUrl=source, MessageBody=body)
    bodies = [json.loads(body) for body in received(client, target)]
    return (
        bodies == [{"id": 2, "by": arn}]
        and soon(lambda: left(client, source) == 0)
        and left(client, parked) == 0
    )


ENRICHES = """
import json
def handler(records, context):
    return [{"seen": json.loads(one["body"])["id"]} for one in records if "1" not in one["body"]]
"""


def pipes_from_sqs__enriched(client: Clients) -> bool:
    """An enrichment decides what the target gets; what an Express machine names comes back."""
    sqs, states = client("sqs"), client("stepfunctions")
    source, arn, _ = queue(client)
    parked, parked_arn, _ = queue(client)
    redrive = {"deadLetterTargetArn": parked_arn, "maxReceiveCount": 1}
    sqs.set_queue_attributes(
        QueueUrl=source,
        Attributes={"VisibilityTimeout": "20", "RedrivePolicy": json.dumps(redrive)},
    )
    other, other_arn, _ = queue(client)
    target, target_arn, _ = queue(client)
    sender = role(client, "pipes.amazonaws.com")
    allow(client, sender, "*", "*")
    enrichment = function(client, ENRICHES)
    named = {"batchItemFailures": [{"itemIdentifier.$": "$[0].messageId"}]}
    machine = states.create_state_machine(
        name=f"gap-{uuid.uuid4().hex[:8]}",
        type="EXPRESS",
        roleArn=f"arn:aws:iam::000000000000:role/{role(client, 'states.amazonaws.com')}",
        definition=json.dumps(
            {
                "StartAt": "Only",
                "States": {"Only": {"Type": "Pass", "Parameters": named, "End": True}},
            }
        ),
    )["stateMachineArn"]
    deploy(client, pipe(arn, machine, sender))
    deploy(client, pipe(other_arn, target_arn, sender, Enrichment=enrichment))
    sqs.send_message(QueueUrl=source, MessageBody="comes back")
    for number in (1, 2):
        sqs.send_message(QueueUrl=other, MessageBody=json.dumps({"id": number}))
    return (
        received(client, parked) == ["comes back"]
        and received(client, target) == ['{"seen": 2}']
        and soon(lambda: left(client, other) == 0)
    )


def pipes_from_sqs__bus(client: Clients) -> bool:
    """An event bus gets a pipe's events under the pipe's name, and a topic gets them too."""
    events, sqs = client("events"), client("sqs")
    source, arn, _ = queue(client)
    target, target_arn, _ = queue(client)
    rule = f"gap-{uuid.uuid4().hex[:8]}"
    rule_arn = events.put_rule(
        Name=rule, EventPattern=json.dumps({"detail-type": ["Event from aws:sqs"]})
    )["RuleArn"]
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": target_arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": rule_arn}},
    }
    sqs.set_queue_attributes(
        QueueUrl=target, Attributes={"Policy": json.dumps({"Statement": [statement]})}
    )
    events.put_targets(Rule=rule, Targets=[{"Id": "queue", "Arn": target_arn}])
    sender = role(client, "pipes.amazonaws.com")
    allow(client, sender, "*", "*")
    bus = "arn:aws:events:us-east-1:000000000000:event-bus/default"
    made = deploy(client, pipe(arn, bus, sender, Name=rule))
    sqs.send_message(QueueUrl=source, MessageBody='{"id": 1}')
    (event,) = received(client, target) or ["{}"]
    told = json.loads(event)
    return (told.get("source"), (told.get("detail") or {}).get("body")) == (
        f"Pipe {made['Pipe']}",
        '{"id": 1}',
    )


def pipes_from_sqs__refused(client: Clients) -> bool:
    """What cannot run is refused in one line, and so is a role that may not read the queue."""
    _, arn, _ = queue(client)
    sender = role(client, "pipes.amazonaws.com")
    foreign = role(client, "lambda.amazonaws.com")
    for name in (sender, foreign):
        permit(client, name, {arn: ["sqs:DeleteMessage", "sqs:GetQueueAttributes"]})
    api = client("pipes")
    at = f"arn:aws:iam::000000000000:role/{sender}"
    name = f"gap-{uuid.uuid4().hex[:8]}"
    api.create_pipe(Name=name, Source=arn, Target=arn, RoleArn=at)
    told = api.describe_pipe(Name=name)
    gateway = "arn:aws:execute-api:us-east-1:000000000000:abc/prod/POST/orders"
    words = "role does not have permissions to call ReceiveMessage on SQS"
    return (
        told["CurrentState"] == "CREATE_FAILED"
        and words in told["StateReason"]
        and words in refused(client, pipe(arn, arn, sender))
        and "cannot be assumed" in refused(client, pipe(arn, arn, foreign))
        and "The sandbox cannot run a pipe to execute-api"
        in refused(client, pipe(arn, gateway, sender))
        and "Invalid filter pattern"
        in refused(
            client,
            pipe(
                arn,
                arn,
                sender,
                SourceParameters={"FilterCriteria": {"Filters": [{"Pattern": '{"body": 1}'}]}},
            ),
        )
    )
