"""Gaps in what state machines call, and in what they wait for."""

from __future__ import annotations

import json
import threading
import uuid
from typing import Any

from botocore.exceptions import ClientError

from tests.sandbox.checks.stepfunctions import ended, machine, role_that_may, run
from tests.sandbox.cloud import Clients, deploy, listen, soon

HERE = "us-east-1:000000000000"
EVERYTHING = (
    *("dynamodb:*", "events:*", "lambda:*", "s3:*", "sns:*", "sqs:*", "states:*"),
    "s3:ListBucket",
)


def calls(client: Clients, resource: str, **parameters: Any) -> dict[str, Any]:
    """What becomes of an execution with one task, whose role may do anything."""
    state = {"Type": "Task", "Resource": f"arn:aws:states:::{resource}", "Parameters": parameters}
    try:
        arn = machine(client, state, role_that_may(client, *EVERYTHING))
    except ClientError as error:
        return {"error": error.response["Error"]["Code"]}
    return run(client, arn)


def stepfunctions_tasks__errors(client: Clients) -> bool:
    """Errors have the names that AWS gives them, by which Retry and Catch know them."""
    table = client("dynamodb").create_table(
        TableName=f"tasks-{uuid.uuid4().hex[:8]}",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )["TableDescription"]["TableName"]
    bucket = f"tasks-{uuid.uuid4().hex[:8]}"
    client("s3").create_bucket(Bucket=bucket)
    no_machine = f"arn:aws:states:{HERE}:stateMachine:nowhere"
    key, wrong = {"id": {"S": "1"}}, {"id": {"N": "1"}}
    entry = {"Source": "shop", "DetailType": "order", "Detail": "no object"}
    found = {
        name: calls(client, resource, **parameters).get("error")
        for name, resource, parameters in (
            (
                "SNS.NotFoundException",
                "sns:publish",
                {"TopicArn": f"arn:aws:sns:{HERE}:nowhere", "Message": "order"},
            ),
            (
                "SQS.AmazonSQSException",
                "sqs:sendMessage",
                {"QueueUrl": f"{client.url}/000000000000/nowhere", "MessageBody": "order"},
            ),
            (
                "DynamoDB.ResourceNotFoundException",
                "dynamodb:getItem",
                {"TableName": "nowhere", "Key": key},
            ),
            (
                "DynamoDB.AmazonDynamoDBException",
                "dynamodb:getItem",
                {"TableName": table, "Key": wrong},
            ),
            (
                "DynamoDb.ResourceNotFoundException",
                "aws-sdk:dynamodb:getItem",
                {"TableName": "nowhere", "Key": key},
            ),
            (
                "DynamoDb.DynamoDbException",
                "aws-sdk:dynamodb:getItem",
                {"TableName": table, "Key": wrong},
            ),
            (
                "StepFunctions.StateMachineDoesNotExistException",
                "states:startExecution",
                {"StateMachineArn": no_machine},
            ),
            (
                "Sfn.StateMachineDoesNotExistException",
                "aws-sdk:sfn:startExecution",
                {"StateMachineArn": no_machine},
            ),
            ("S3.NoSuchKeyException", "aws-sdk:s3:getObject", {"Bucket": bucket, "Key": "none"}),
            ("Lambda.ResourceNotFoundException", "lambda:invoke", {"FunctionName": "nowhere"}),
            ("EventBridge.FailedEntry", "events:putEvents", {"Entries": [entry]}),
        )
    }
    return all(name == error for name, error in found.items())


def stepfunctions_tasks__results(client: Clients) -> bool:
    """Results are spelled by the SDK that an integration uses, and objects reach and leave S3."""
    bucket, sqs = f"tasks-{uuid.uuid4().hex[:8]}", client("sqs")
    client("s3").create_bucket(Bucket=bucket)
    url = sqs.create_queue(QueueName=bucket)["QueueUrl"]

    def output(resource: str, **parameters: Any) -> dict[str, Any]:
        return json.loads(calls(client, resource, **parameters).get("output") or "{}")

    sent = [
        output(f"{kind}sqs:sendMessage", QueueUrl=url, MessageBody={"order": 1})
        for kind in ("", "aws-sdk:")
    ]
    bodies = [
        json.loads(one["Body"])
        for one in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    ]
    output("aws-sdk:s3:putObject", Bucket=bucket, Key="order", Body={"order": 2})
    got = output("aws-sdk:s3:getObject", Bucket=bucket, Key="order")
    return (
        "MD5OfMessageBody" in sent[0]
        and "SdkHttpMetadata" in sent[0]
        and set(sent[1]) == {"MessageId", "Md5OfMessageBody"}
        and bodies[:1] == [{"order": 1}]
        and json.loads(got.get("Body", "{}")) == {"order": 2}
        and "ETag" in got
    )


def stepfunctions_tasks__attributes(client: Clients) -> bool:
    """A task's message attributes arrive behind a topic."""
    sqs, sns, name = client("sqs"), client("sns"), f"tasks-{uuid.uuid4().hex[:8]}"
    url, topic = (
        sqs.create_queue(QueueName=name)["QueueUrl"],
        sns.create_topic(Name=name)["TopicArn"],
    )
    listen(client, topic, url, RawMessageDelivery="true")
    attribute = {"kind": {"DataType": "String", "StringValue": "gift"}}
    calls(client, "sns:publish", TopicArn=topic, Message="order", MessageAttributes=attribute)
    received = sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"], WaitTimeSeconds=20)
    (message,) = received.get("Messages", [{}])
    return message.get("MessageAttributes") == attribute


def stepfunctions_tasks__callbacks(client: Clients) -> bool:
    """A failure may have no name; a token that is none, and one that is over, are told apart."""
    sfn, sqs = client("stepfunctions"), client("sqs")
    url = sqs.create_queue(QueueName=f"tasks-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    waits = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        "Parameters": {"QueueUrl": url, "MessageBody.$": "$$.Task.Token"},
    }
    arn = machine(client, waits, role_that_may(client, *EVERYTHING))
    execution = sfn.start_execution(stateMachineArn=arn)["executionArn"]
    tokens: list[str] = []

    def asked() -> bool:
        tokens.extend(one["Body"] for one in sqs.receive_message(QueueUrl=url).get("Messages", []))
        return bool(tokens)

    def refused(token: str) -> str:
        try:
            sfn.send_task_success(taskToken=token, output="{}")
        except ClientError as error:
            return error.response["Error"]["Code"]
        return ""

    if not soon(asked):
        return False
    sfn.send_task_failure(taskToken=tokens[0])
    found = ended(client, execution)
    return (
        found["status"] == "FAILED"
        and "error" not in found
        and refused("nonsense") == "InvalidToken"
        and refused(tokens[0]) == "TaskTimedOut"
    )


def stepfunctions_tasks__children(client: Clients) -> bool:
    """A child's failure is States.TaskFailed, and its output an object for .sync:2 only."""
    may = role_that_may(client, *EVERYTHING)
    fails = failing(client, may)
    passes = machine(client, {"Type": "Pass", "Result": {"order": 1}}, may)

    def child(arn: str, wait: str) -> dict[str, Any]:
        return calls(client, f"states:startExecution.{wait}", StateMachineArn=arn, Input={"n": 1})

    failed = child(fails, "sync")
    if failed.get("error") != "States.TaskFailed":
        return False
    outputs = [json.loads(child(passes, wait)["output"])["Output"] for wait in ("sync", "sync:2")]
    cause = json.loads(failed.get("cause") or "{}")
    ends = cause.get("Error"), cause.get("Status")
    return ends == ("Broken", "FAILED") and outputs == ['{"order":1}', {"order": 1}]


def stepfunctions_tasks__activities(client: Clients) -> bool:
    """A template's activity has a worker."""
    sfn = client("stepfunctions")
    try:
        made = deploy(client, {"Work": {"Type": "AWS::StepFunctions::Activity", "Properties": {}}})
    except (AssertionError, ClientError):
        return False
    arn = machine(client, {"Type": "Task", "Resource": made["Work"]}, role_that_may(client))

    def work() -> None:
        task = sfn.get_activity_task(activityArn=made["Work"], workerName="check")
        sfn.send_task_success(taskToken=task["taskToken"], output='{"done": true}')

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    return json.loads(run(client, arn)["output"]) == {"done": True}


def failing(client: Clients, role_arn: str) -> str:
    """The ARN of a state machine that fails."""
    states = {"Fail": {"Type": "Fail", "Error": "Broken", "Cause": "of itself"}}
    return client("stepfunctions").create_state_machine(
        name=f"machine-{uuid.uuid4().hex[:8]}",
        definition=json.dumps({"StartAt": "Fail", "States": states}),
        roleArn=role_arn,
    )["stateMachineArn"]
