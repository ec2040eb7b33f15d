"""What pipes make of messages, and which pipes are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox import pipe_events

QUEUE = "arn:aws:sqs:us-east-1:1:orders"
PIPE = {"Name": "p", "Arn": "arn:aws:pipes:us-east-1:1:pipe/p", "Source": QUEUE, "Target": QUEUE}


def event(body: str) -> dict[str, Any]:
    message = {
        "MessageId": "m",
        "ReceiptHandle": "h",
        "Body": body,
        "MD5OfBody": "5",
        "Attributes": {"SenderId": "me"},
        "MessageAttributes": {
            "text": {"DataType": "String", "StringValue": "v"},
            "bytes": {"DataType": "Binary", "BinaryValue": b"ab"},
        },
    }
    return pipe_events.record(message, QUEUE)


def test_an_event_is_a_message_as_lambda_gets_it() -> None:
    assert event("text") == {
        "messageId": "m",
        "receiptHandle": "h",
        "body": "text",
        "attributes": {"SenderId": "me"},
        "messageAttributes": {
            "text": {
                "stringValue": "v",
                "dataType": "String",
                "stringListValues": [],
                "binaryListValues": [],
            },
            "bytes": {
                "binaryValue": "YWI=",
                "dataType": "Binary",
                "stringListValues": [],
                "binaryListValues": [],
            },
        },
        "md5OfBody": "5",
        "eventSource": "aws:sqs",
        "eventSourceARN": QUEUE,
        "awsRegion": "us-east-1",
    }


BODY = '{"key": "value", "n": 5, "list": [{"a": 1}, {"a": 2}], "some-key": true}'


# After the guide's page on input transformation, whose words the names are.
@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("Hello, sender", "Hello, sender"),
        ("<$.attributes.SenderId>", "me"),
        ("Hello, <$.attributes.SenderId>", "Hello, me"),
        # Quotes are added to strings, not to objects; they are permitted around strings.
        ('{"k": <$.body.key>, "l": "<$.body.key>"}', '{"k": "value", "l": "value"}'),
        ('{"n": <$.body.n>, "o": <$.body.list[1]>}', '{"n": 5, "o": {"a": 2}}'),
        ('{"every": <$.body.list[*].a>, "d": <$.body.some-key>}', '{"every": [1, 2], "d": true}'),
        # A variable that is not there does not appear in the output.
        ('{"k": <$.body.no>, "n": <$.body.n>}', '{"n": 5}'),
        ("[<$.body.no>]", "[]"),
        ("no <$.body.no>", "no "),
        # An object in a string loses its quotes; as a field it keeps them.
        ("<$.body.list[0]>", "{a: 1}"),
        ('{"body": "<$.body.list[0]>"}', '{"body": "{a: 1}"}'),
        (
            '{"by": <aws.pipes.pipe-name>, "at": "<aws.pipes.source-arn>"}',
            f'{{"by": "p", "at": "{QUEUE}"}}',
        ),
        ("<not.a.variable> < 5", "<not.a.variable> < 5"),
    ],
)
def test_an_input_template(template: str, made: str) -> None:
    assert pipe_events.transformed(template, event(BODY), PIPE) == made


def test_the_whole_event() -> None:
    came = event(BODY)
    assert json.loads(pipe_events.transformed("", came, PIPE)) == came
    whole = json.loads(pipe_events.transformed('{"e": <aws.pipes.event.json>}', came, PIPE))
    assert whole["e"] == came | {"body": json.loads(BODY)}


def test_a_parameter_may_be_a_path() -> None:
    assert pipe_events.parameter("group", event(BODY)) == "group"
    assert pipe_events.parameter("$.body.key", event(BODY)) == "value"
    assert pipe_events.parameter("$.body.n", event(BODY)) == "5"
    assert pipe_events.parameter("$.body.key", event("text")) is None


TABLE = "arn:aws:dynamodb:us-east-1:1:table/t/stream/s"
MACHINE = "arn:aws:states:us-east-1:1:stateMachine:m"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"Target": MACHINE}, ""),
        ({"Target": "arn:aws:events:us-east-1:1:event-bus/default"}, ""),
        ({"Target": "arn:aws:events:us-east-1:1:api-destination/a/b"}, "to api-destination"),
        ({"Source": "arn:aws:kafka:us-east-1:1:cluster/c"}, "from kafka"),
        ({"Source": "smk://broker:9092"}, "from smk"),
        ({"Enrichment": "arn:aws:execute-api:us-east-1:1:a/b/GET/"}, "enrichment by execute-api"),
        ({"SourceParameters": {"SqsQueueParameters": {"BatchSize": 11}}}, "to sqs is 10"),
        (
            {
                "Source": f"{QUEUE}.fifo",
                "Target": MACHINE,
                "SourceParameters": {"SqsQueueParameters": {"BatchSize": 11}},
            },
            "FIFO queue is 10",
        ),
        ({"Source": TABLE, "Target": MACHINE}, ""),
        ({"Source": TABLE}, "from DynamoDB"),
        (
            {"Source": TABLE, "Target": MACHINE, "TargetParameters": {"InputTemplate": "x"}},
            "from DynamoDB",
        ),
    ],
)
def test_a_pipe_is_refused_when_it_is_made(changed: dict[str, Any], words: str) -> None:
    problem = pipe_events.problem(PIPE | changed)
    assert words in problem and bool(words) == bool(problem)
