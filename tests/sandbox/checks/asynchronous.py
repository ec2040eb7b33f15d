"""What becomes of events that functions take asynchronously."""

from __future__ import annotations

import json
import uuid
from typing import Any

from tests.sandbox.checks.functions import refused, stack_status
from tests.sandbox.cloud import (
    FAILS,
    Clients,
    allow,
    archive,
    deploy,
    function,
    highest,
    role_of,
    soon,
)

ACCOUNT = "us-east-1:000000000000"
ECHOES = "def handler(event, context):\n    return event\n"


class Handler:
    """A function that is called asynchronously, and a queue of its name that hears of it."""

    def __init__(self, client: Clients, code: str) -> None:
        self.client, self.sqs, self.lambda_ = client, client("sqs"), client("lambda")
        self.arn = function(client, code)
        self.name = self.arn.rpartition(":")[2]
        self.role, self.url = role_of(client, self.arn), self.sqs.create_queue(QueueName=self.name)
        self.url, self.queue = self.url["QueueUrl"], f"arn:aws:sqs:{ACCOUNT}:{self.name}"

    def may(self, *resources: str) -> None:
        """Let the function's role do anything to these."""
        allow(self.client, self.role, "*", *resources)

    def configure(self, **settings: Any) -> None:
        """Set where it tells what came of its events, without retries unless told otherwise."""
        self.lambda_.put_function_event_invoke_config(
            FunctionName=self.name, **{"MaximumRetryAttempts": 0, **settings}
        )

    def call(self, payload: Any) -> None:
        """Give it an event."""
        self.lambda_.invoke(
            FunctionName=self.name, InvocationType="Event", Payload=json.dumps(payload)
        )

    def hears(self) -> dict[str, Any]:
        """The next message of its queue, with its attributes; empty if none comes."""
        heard: list[dict[str, Any]] = []

        def arrived() -> bool:
            heard.extend(
                self.sqs.receive_message(
                    QueueUrl=self.url, VisibilityTimeout=900, MessageAttributeNames=["All"]
                ).get("Messages", [])
            )
            return bool(heard)

        return heard[0] if soon(arrived, 10) else {}


def on(failure: str = "", success: str = "") -> dict[str, Any]:
    """A DestinationConfig."""
    config = {"OnFailure": failure, "OnSuccess": success}
    return {
        "DestinationConfig": {
            outcome: {"Destination": arn} for outcome, arn in config.items() if arn
        }
    }


def lambda_async_invocations(client: Clients) -> bool:
    """A function's dead-letter queue, one of a template too, gets the payload and says why."""
    handler = Handler(client, FAILS)
    handler.may(handler.queue)
    described = handler.lambda_.get_function(FunctionName=handler.name)["Configuration"]
    properties = {
        "Code": {"ZipFile": FAILS},
        "Handler": "index.handler",
        "Runtime": "python3.14",
        "Role": described["Role"],
        "DeadLetterConfig": {"TargetArn": handler.queue},
    }
    made = deploy(client, {"Order": {"Type": "AWS::Lambda::Function", "Properties": properties}})
    dead_letters = {"TargetArn": handler.queue}
    handler.lambda_.update_function_configuration(
        FunctionName=handler.name, DeadLetterConfig=dead_letters
    )
    for name in (handler.name, made["Order"]):
        handler.lambda_.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
        handler.lambda_.invoke(FunctionName=name, InvocationType="Event", Payload=b'{"order": 1}')
        message = handler.hears()
        attributes = message.get("MessageAttributes", {})
        said = {key: value["StringValue"] for key, value in attributes.items()}
        if message.get("Body") != '{"order": 1}' or len(said.pop("RequestID", "")) != 36:
            return False
        if said != {"ErrorCode": "200", "ErrorMessage": "no"}:
            return False
    return True


def lambda_async_invocations__records(client: Clients) -> bool:
    """Destinations on failure and on success get a record of what came of the event."""
    fails, echoes = Handler(client, FAILS), Handler(client, ECHOES)
    for handler in (fails, echoes):
        handler.may(handler.queue)
        handler.configure(**on(failure=handler.queue, success=handler.queue))
        handler.call({"order": 1})
    failed, succeeded = (json.loads(one.hears().get("Body", "{}")) for one in (fails, echoes))
    if not (failed.get("version") == succeeded.get("version") == "1.0"):
        return False
    assert failed["requestContext"].pop("requestId") == failed["responsePayload"]["requestId"]
    assert succeeded["requestContext"].pop("requestId") and succeeded["timestamp"].endswith("Z")
    version = {"statusCode": 200, "executedVersion": "$LATEST"}
    assert failed["responseContext"] == {**version, "functionError": "Unhandled"}
    assert failed["responsePayload"]["errorType"] == "ValueError"
    assert succeeded["responseContext"] == version
    assert failed["requestPayload"] == succeeded["responsePayload"] == {"order": 1}
    return (failed["requestContext"], succeeded["requestContext"]) == tuple(
        {
            "functionArn": f"{handler.arn}:$LATEST",
            "condition": condition,
            "approximateInvokeCount": 1,
        }
        for handler, condition in ((fails, "RetriesExhausted"), (echoes, "Success"))
    )


def lambda_async_invocations__targets(client: Clients) -> bool:
    """A record reaches a topic, a bus, a function and a bucket as well as a queue."""
    fails, other = Handler(client, FAILS), Handler(client, FAILS)
    events, s3, sns = client("events"), client("s3"), client("sns")
    topic, bus = (
        sns.create_topic(Name=fails.name)["TopicArn"],
        f"arn:aws:events:{ACCOUNT}:event-bus",
    )
    policy = {"Effect": "Allow", "Principal": "*", "Action": "sqs:*", "Resource": fails.queue}
    fails.sqs.set_queue_attributes(
        QueueUrl=fails.url,
        Attributes={"Policy": json.dumps({"Version": "2012-10-17", "Statement": [policy]})},
    )
    sns.subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=fails.queue,
        Attributes={"RawMessageDelivery": "true"},
    )
    events.put_rule(
        Name=fails.name,
        EventPattern=json.dumps(
            {
                "source": ["lambda"],
                "detail-type": ["Lambda Function Invocation Result - Failure"],
                "resources": [f"{fails.arn}:$LATEST"],
            }
        ),
    )
    events.put_targets(Rule=fails.name, Targets=[{"Id": "queue", "Arn": fails.queue}])
    s3.create_bucket(Bucket=fails.name)
    other.may(fails.queue)
    other.lambda_.update_function_configuration(
        FunctionName=other.name, DeadLetterConfig={"TargetArn": fails.queue}
    )
    other.configure()
    bucket = f"arn:aws:s3:::{fails.name}"
    fails.may(topic, f"{bus}/default", other.arn, f"{bucket}/*")
    for target in (topic, f"{bus}/default", other.arn):
        fails.configure(**on(failure=target))
        fails.call({"to": target})
        record = json.loads(fails.hears().get("Body", "{}"))
        if record.get("detail", record).get("requestPayload") != {"to": target}:
            return False
    fails.configure(**on(failure=bucket))
    fails.call({"to": bucket})

    def written() -> list[dict[str, Any]]:
        return s3.list_objects_v2(Bucket=fails.name).get("Contents", [])

    return soon(lambda: bool(written())) and written()[0]["Key"].startswith(
        f"aws/lambda/async/{fails.name}/20"
    )


def lambda_async_invocations__age(client: Clients) -> bool:
    """No attempt is made when its time would be over; each attempt is in the metrics."""
    fails = Handler(client, FAILS)
    fails.may(fails.queue)
    fails.configure(MaximumRetryAttempts=2, MaximumEventAgeInSeconds=100, **on(failure=fails.queue))
    fails.call({})
    context = json.loads(fails.hears().get("Body", "{}")).get("requestContext", {})
    if (context.get("condition"), context.get("approximateInvokeCount")) != (
        "EventAgeExceeded",
        2,
    ):
        return False
    return soon(lambda: highest(client, "AWS/Lambda", "Errors", FunctionName=fails.name) == 1)


def lambda_async_invocations__mended(client: Clients) -> bool:
    """A function that is mended between two attempts succeeds at the next."""
    handler = Handler(client, FAILS)
    handler.may(handler.queue)
    handler.configure(MaximumRetryAttempts=2, **on(success=handler.queue))
    handler.call({"order": 1})
    if not soon(lambda: highest(client, "AWS/Lambda", "Errors", FunctionName=handler.name) == 1):
        return False
    handler.lambda_.update_function_code(FunctionName=handler.name, ZipFile=archive(ECHOES))
    record = json.loads(handler.hears().get("Body", "{}"))
    return record.get("responsePayload") == {"order": 1}


def lambda_async_invocations__alias(client: Clients) -> bool:
    """An alias that SNS calls has settings of its own."""
    echoes, sns = Handler(client, ECHOES), client("sns")
    echoes.may(echoes.queue)
    echoes.lambda_.get_waiter("function_active_v2").wait(FunctionName=echoes.name)
    version = echoes.lambda_.publish_version(FunctionName=echoes.name)["Version"]
    alias = echoes.lambda_.create_alias(
        FunctionName=echoes.name, Name="live", FunctionVersion=version
    )["AliasArn"]
    echoes.configure(Qualifier="live", **on(success=echoes.queue))
    topic = sns.create_topic(Name=echoes.name)["TopicArn"]
    echoes.lambda_.add_permission(
        FunctionName=echoes.name,
        Qualifier="live",
        StatementId="sns",
        Action="lambda:InvokeFunction",
        Principal="sns.amazonaws.com",
        SourceArn=topic,
    )
    sns.subscribe(TopicArn=topic, Protocol="lambda", Endpoint=alias)
    sns.publish(TopicArn=topic, Message="order")
    record = json.loads(echoes.hears().get("Body", "{}"))
    return (
        record.get("requestContext", {}).get("functionArn") == alias
        and record["responseContext"]["executedVersion"] == version
    )


def lambda_async_invocations__lost(client: Clients) -> bool:
    """What the role may no longer write is lost, and counted."""
    fails = Handler(client, FAILS)
    fails.may(fails.queue)
    fails.configure(**on(failure=fails.queue))
    fails.may("arn:aws:sqs:us-east-1:000000000000:another")
    fails.call({})
    metric = "DestinationDeliveryFailures"
    return soon(lambda: highest(client, "AWS/Lambda", metric, FunctionName=fails.name) == 1, 10)


def lambda_async_invocations__refusals(client: Clients) -> bool:
    """No settings, by API or by template, that are out of range or that the role cannot keep."""
    fails = Handler(client, FAILS)
    put = fails.lambda_.put_function_event_invoke_config
    name = {"FunctionName": fails.name}
    no_call = "role does not have permissions to call SendMessage on"
    if not all(
        (
            refused(put, f"{no_call} {fails.queue}", **name, **on(failure=fails.queue)),
            refused(put, "less than or equal to 2", **name, MaximumRetryAttempts=3),
            refused(put, "less than or equal to 21600", **name, MaximumEventAgeInSeconds=21_601),
            refused(put, "You must specify at least one of", **name),
            refused(put, "You can't specify the function as", **name, **on(success=fails.arn)),
            refused(put, "is invalid.", **name, **on(success=f"{fails.queue}-none")),
            refused(
                fails.lambda_.update_function_configuration,
                f"The provided execution {no_call} SQS",
                **name,
                DeadLetterConfig={"TargetArn": fails.queue},
            ),
        )
    ):
        return False
    properties = {**name, "Qualifier": "$LATEST", **on(failure=fails.queue)}
    resource = {"Type": "AWS::Lambda::EventInvokeConfig", "Properties": properties}
    stack = f"gap-{uuid.uuid4().hex[:8]}"
    client("cloudformation").create_stack(
        StackName=stack, TemplateBody=json.dumps({"Resources": {"Settings": resource}})
    )
    return soon(lambda: stack_status(client, stack) == "ROLLBACK_COMPLETE")
