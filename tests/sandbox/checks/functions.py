"""Gaps of Lambda: event source mappings, asynchronous invocations, what it refuses."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.sandbox.cloud import (
    FAILS,
    LOGS,
    Clients,
    allow,
    archive,
    deploy,
    done,
    function,
    highest,
    role,
    role_of,
    soon,
)

ANSWERS = """
import json
def handler(event, context):
    return json.loads(event["Records"][0]["body"])
"""


class Consumer:
    """A function, a queue of its name that it may consume, and the mapping between them."""

    def __init__(self, client: Clients, code: str, *bodies: str) -> None:
        """The bodies are in the queue before there is a mapping."""
        self.sqs, self.lambda_ = client("sqs"), client("lambda")
        self.function = function(client, code)
        self.name = self.function.rpartition(":")[2]
        # A visibility timeout that outlives the check: what is not deleted stays in work.
        made = self.sqs.create_queue(QueueName=self.name, Attributes={"VisibilityTimeout": "900"})
        self.url, self.queue = made["QueueUrl"], f"arn:aws:sqs:us-east-1:000000000000:{self.name}"
        allow(client, role_of(client, self.function), "sqs:*", self.queue)
        for first in range(0, len(bodies), 10):
            entries = [
                {"Id": uuid.uuid4().hex, "MessageBody": body} for body in bodies[first : first + 10]
            ]
            self.sqs.send_message_batch(QueueUrl=self.url, Entries=entries)

    def map(self, **settings: Any) -> None:
        """Make the mapping."""
        self.mapping = self.lambda_.create_event_source_mapping(
            FunctionName=self.name, EventSourceArn=self.queue, **settings
        )["UUID"]

    def stop(self) -> None:
        """Delete the mapping: functions that go on failing slow down what comes next."""
        self.lambda_.delete_event_source_mapping(UUID=self.mapping)

    def remain(self, count: int) -> bool:
        """Whether all have been in work and this many were not deleted, nor are a second later."""
        settled = soon(lambda: self.counts() == (0, count), seconds=10)
        time.sleep(1)
        return settled and self.counts() == (0, count)

    def counts(self) -> tuple[int, ...]:
        """How many messages wait, and how many are in work."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        return tuple(int(found["Attributes"][name]) for name in names)


def lambda_batch_responses(client: Clients) -> bool:
    """Answers that name no message of the batch bring it back; answers without failures do not."""
    bad: list[Any] = [
        {"batchItemFailures": [{"itemIdentifier": ""}]},
        {"batchItemFailures": [{"itemIdentifier": None}]},
        {"batchItemFailures": [{"itemIdentifier": "of another batch"}]},
        {"batchItemFailures": [{"id": "a"}]},
        {"batchItemFailures": "a"},
    ]
    good: list[Any] = [{"batchItemFailures": None}, {"batchItemFailures": []}, {}, None]
    consumer = Consumer(client, ANSWERS, *map(json.dumps, [*bad, *good]))
    consumer.map(BatchSize=1, FunctionResponseTypes=["ReportBatchItemFailures"])
    remain = consumer.remain(len(bad))
    consumer.stop()
    return remain


def lambda_batch_responses__metrics(client: Clients) -> bool:
    """A function that fails on a batch of its queue has an error and an invocation."""
    consumer = Consumer(client, FAILS, "one")
    consumer.map()
    counted = soon(
        lambda: all(
            highest(client, "AWS/Lambda", metric, FunctionName=consumer.name) == 1
            for metric in ("Errors", "Invocations")
        )
    )
    consumer.stop()
    return counted


def filters(*patterns: Any) -> dict[str, Any]:
    """FilterCriteria of these patterns."""
    return {"Filters": [{"Pattern": json.dumps(pattern)} for pattern in patterns]}


def lambda_event_filters(client: Clients) -> bool:
    """What a filter drops is deleted at once, though the function fails at its batch."""
    bodies = ('{"kind": "order"}', '{"kind": "other"}', "order", "[1]")
    consumer = Consumer(client, FAILS, *bodies)
    consumer.map(FilterCriteria=filters({"body": {"kind": ["order"]}}))
    remain = consumer.remain(1)
    consumer.stop()
    return remain


def lambda_event_filters__operators(client: Clients) -> bool:
    """Filters have the operators of event patterns; those on a string drop JSON."""
    patterns = (
        {"body": {"name": [{"equals-ignore-case": "alice"}]}},
        {"body": {"$or": [{"total": [{"numeric": [">", 5]}]}, {"gift": [True]}]}},
        {"body": {"place": [{"anything-but": {"prefix": "us-"}}]}},
        {"body": [{"prefix": "plain"}, {"prefix": "{"}]},
    )
    kept = ('{"name": "ALICE"}', '{"gift": true}', '{"place": "eu-1"}', "plain text")
    dropped = ('{"name": "Bob"}', '{"total": 5}', '{"place": "us-1"}', '{"plain": 1}', "text")
    consumer = Consumer(client, FAILS, *kept, *dropped)
    consumer.map(FilterCriteria=filters(*patterns))
    remain = consumer.remain(len(kept))
    consumer.stop()
    return remain


def lambda_sqs_batches__filtered(client: Clients) -> bool:
    """What filters drop is no part of a batch, which is called for when it is full without it."""
    wanted, other = ['{"kind": "order"}'] * 12, ['{"kind": "other"}'] * 8
    consumer = Consumer(client, FAILS, *wanted[:6], *other, *wanted[6:])
    consumer.map(
        BatchSize=12,
        MaximumBatchingWindowInSeconds=300,
        FilterCriteria=filters({"body": {"kind": ["order"]}}),
    )
    remain = consumer.remain(12)
    consumer.stop()
    return remain


def refused(call: Any, text: str, **sent: Any) -> bool:
    """Whether a call is refused with these words; one that is taken must leave nothing behind."""
    try:
        made = call(**sent)
    except ClientError as error:
        return text in str(error)
    if "UUID" in made:
        call.__self__.delete_event_source_mapping(UUID=made["UUID"])
    return False


def lambda_sqs_batches__size(client: Clients) -> bool:
    """A batch ends at 6 MB: of seven messages of 1 MB, five come and then two."""
    code = "def handler(event, context):\n    print('got', len(event['Records']))\n"
    consumer = Consumer(client, code)
    for _ in range(7):
        consumer.sqs.send_message(QueueUrl=consumer.url, MessageBody="x" * 1_048_576)
    consumer.map()
    emptied, group = consumer.remain(0), f"/aws/lambda/{consumer.name}"
    consumer.stop()
    found = client("logs").filter_log_events(logGroupName=group, filterPattern="got")["events"]
    return emptied and sorted(event["message"].split()[1] for event in found) == ["2", "5"]


def lambda_mapping_role(client: Clients) -> bool:
    """Messages stay while the role may not receive, and come back while it may not delete."""
    consumer = Consumer(client, "def handler(event, context):\n    pass\n")
    consumer.map()
    own = role_of(client, consumer.function)
    allow(client, own, "sqs:GetQueueAttributes", consumer.queue)
    consumer.sqs.send_message(QueueUrl=consumer.url, MessageBody="order")
    time.sleep(1.5)
    if consumer.counts() != (1, 0):
        return False
    allow(client, own, "sqs:ReceiveMessage", consumer.queue)
    remain = consumer.remain(1)
    consumer.stop()
    return remain


def lambda_mapping_refusals(client: Clients) -> bool:
    """What is out of range, joins no two that fit or is there already is no mapping."""
    consumer, lambda_ = Consumer(client, FAILS), client("lambda")
    fifo, short = f"{consumer.name}.fifo", f"{consumer.name}-short"
    attributes = {"VisibilityTimeout": "2"}
    consumer.sqs.create_queue(QueueName=short, Attributes=attributes)
    consumer.sqs.create_queue(QueueName=fifo, Attributes={"FifoQueue": "true"})
    queue = consumer.queue.rpartition(":")[0]
    allow(client, role_of(client, consumer.function), "sqs:*", f"{consumer.queue}*")
    pair = {"FunctionName": consumer.name, "EventSourceArn": consumer.queue}
    create = lambda_.create_event_source_mapping
    settings: list[tuple[dict[str, Any], str]] = [
        ({"BatchSize": 10_001}, "Value '10001' at 'batchSize' failed to satisfy constraint"),
        ({"BatchSize": 11}, "Maximum batch window in seconds must be greater than 0"),
        ({"MaximumBatchingWindowInSeconds": 301}, "less than or equal to 300"),
        ({"FilterCriteria": filters({"body": "order"})}, "Invalid filter pattern definition."),
        ({"FilterCriteria": filters(*[{"body": ["a"]}] * 6)}, "at most 5 filters"),
        ({"FilterCriteria": {"Filters": [{"Pattern": "simple"}]}}, "Invalid filter pattern"),
        ({"StartingPosition": "LATEST"}, "StartingPosition is not valid for SQS event sources."),
        ({"FunctionName": "nobody"}, "Function does not exist"),
        ({"EventSourceArn": f"{queue}:nowhere"}, "AWS.SimpleQueueService.NonExistentQueue"),
        (
            {"EventSourceArn": f"{queue}:{short}"},
            "Queue visibility timeout: 2 seconds is less than Function timeout: 3 seconds",
        ),
        (
            {"EventSourceArn": f"{queue}:{fifo}", "MaximumBatchingWindowInSeconds": 1},
            "Batching window is not supported for FIFO queues",
        ),
        (
            {"EventSourceArn": queue.replace(":sqs:", ":kafka:") + ":cluster/a/b"},
            "The sandbox polls no event source of kafka",
        ),
    ]
    if not all(refused(create, text, **{**pair, **one}) for one, text in settings):
        return False
    mapping = create(**pair)["UUID"]
    update = lambda_.update_event_source_mapping
    for one, text in settings[:7]:
        if "StartingPosition" not in one:
            assert refused(update, text, UUID=mapping, **one)
    assert update(UUID=mapping, BatchSize=20, MaximumBatchingWindowInSeconds=1)["BatchSize"] == 20
    assert refused(update, "must be greater than 0", UUID=mapping, MaximumBatchingWindowInSeconds=0)
    return refused(
        create,
        f'An event source mapping with SQS arn (" {consumer.queue} ") and function'
        f' (" {consumer.name} ") already exists. Please update or delete the existing mapping with'
        f" UUID {mapping}",
        **pair,
    )


def lambda_mapping_properties(client: Clients) -> bool:
    """A mapping that a template's update moves to a version calls that version."""
    code = "def handler(event, context):\n    assert context.function_version == '1'\n"
    consumer, cloudformation = Consumer(client, code), client("cloudformation")
    consumer.lambda_.get_waiter("function_active_v2").wait(FunctionName=consumer.name)
    consumer.lambda_.publish_version(FunctionName=consumer.name)
    mapping: dict[str, Any] = {"FunctionName": consumer.name, "EventSourceArn": consumer.queue}
    mapped = {"Mapping": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": mapping}}
    consumer.mapping = deploy(client, mapped, consumer.name)["Mapping"]
    mapping["FunctionName"] = f"{consumer.function}:1"
    cloudformation.update_stack(
        StackName=consumer.name, TemplateBody=json.dumps({"Resources": mapped})
    )
    assert soon(lambda: stack_status(client, consumer.name) == "UPDATE_COMPLETE")
    consumer.sqs.send_message(QueueUrl=consumer.url, MessageBody="order")
    remain = consumer.remain(0)
    consumer.stop()
    return remain


def lambda_mapping_refusals__template(client: Clients) -> bool:
    """Neither is a template's mapping made, nor changed, to what AWS refuses."""
    consumer, cloudformation = Consumer(client, FAILS), client("cloudformation")
    mapping: dict[str, Any] = {"FunctionName": consumer.name, "EventSourceArn": consumer.queue}
    mapped = {"Mapping": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": mapping}}
    mapping["BatchSize"] = "11"
    try:
        deploy(client, mapped)
        return False
    except AssertionError:
        mapping["BatchSize"] = "10"
    deploy(client, mapped, consumer.name)
    mapping["BatchSize"] = 10_001
    cloudformation.update_stack(
        StackName=consumer.name, TemplateBody=json.dumps({"Resources": mapped})
    )
    return soon(lambda: stack_status(client, consumer.name) == "UPDATE_ROLLBACK_COMPLETE")


def stack_status(client: Clients, name: str) -> str:
    """The status of a stack."""
    return client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]


def lambda_invoke_refusals(client: Clients) -> bool:
    """Payloads that are no JSON or too large, and answers that are too large."""
    code = "def handler(event, context):\n    return 'x' * 6_300_000\n"
    name, lambda_ = function(client, code).rpartition(":")[2], client("lambda")
    payload = json.dumps("x" * 1_048_576)

    def invoke(sent: str, kind: str = "RequestResponse") -> Any:
        return lambda_.invoke(FunctionName=name, InvocationType=kind, Payload=sent)

    if not refused(invoke, "Could not parse request body into json", sent="{not"):
        return False
    too_large = "Request must be smaller than {} bytes for the InvokeFunction operation"
    answer = json.load(invoke(payload)["Payload"])
    return answer["errorType"] == "Function.ResponseSizeTooLarge" and all(
        (
            refused(invoke, too_large.format(1_048_576), sent=payload, kind="Event"),
            refused(invoke, too_large.format(6_291_456), sent=payload * 6),
            refused(invoke, "Member must satisfy enum value set", sent="{}", kind="Later"),
        )
    )


def lambda_errors__runtime(client: Clients) -> bool:
    """What the runtime fails at has the runtime's names; decimal numbers are numbers."""
    lambda_ = client("lambda")
    codes = {
        "import nothing_there": "Runtime.ImportModuleError",
        "def handler(": "Runtime.UserCodeSyntaxError",
        "other = 1": "Runtime.HandlerNotFound",
        "1 / 0": "ZeroDivisionError",
        "def handler(event, context):\n    return {1}": "Runtime.MarshalError",
        "import os\ndef handler(event, context):\n    os._exit(1)": "Runtime.ExitError",
    }
    for code, name in codes.items():
        arn = function(client, f"{code}\n")
        for _ in range(2):  # the second finds nothing of the first
            error = json.load(lambda_.invoke(FunctionName=arn)["Payload"])
            if error["errorType"] != name:
                return False
    numbers = "import decimal\ndef handler(event, context):\n    return decimal.Decimal('1.5')\n"
    return json.load(lambda_.invoke(FunctionName=function(client, numbers))["Payload"]) == 1.5


def lambda_log_role(client: Clients) -> bool:
    """A function leaves a log if its role may write one, where there is a group to write to."""
    logs, lambda_ = client("logs"), client("lambda")
    arn = function(client, "def handler(event, context):\n    print('said')\n")
    own, group = role_of(client, arn), f"/aws/lambda/{arn.rpartition(':')[2]}"
    client("iam").detach_role_policy(RoleName=own, PolicyArn=LOGS)
    streams = f"arn:aws:logs:us-east-1:000000000000:log-group:{group}:*"
    client("iam").put_role_policy(
        RoleName=own,
        PolicyName="log",
        PolicyDocument=json.dumps(
            {
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
                        "Resource": streams,
                    }
                ]
            }
        ),
    )
    lambda_.invoke(FunctionName=arn)
    if logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
        return False
    logs.create_log_group(logGroupName=group)
    lambda_.invoke(FunctionName=arn)
    found = logs.filter_log_events(logGroupName=group, filterPattern="said")["events"]
    return len(found) == 1


def lambda_function_state(client: Clients) -> bool:
    """Who does not wait until a function is made, or its change is done, is refused."""
    lambda_ = client("lambda")
    update = lambda_.update_function_configuration
    own = f"arn:aws:iam::000000000000:role/{role(client, 'lambda.amazonaws.com')}"
    pending = "The function is currently in the following state: Pending"

    def hasty() -> bool:
        name = f"function-{uuid.uuid4().hex[:8]}"
        arn = lambda_.create_function(
            FunctionName=name,
            Runtime="python3.14",
            Role=own,
            Handler="index.handler",
            Code={"ZipFile": archive(FAILS)},
        )["FunctionArn"]
        told = [refused(call, pending, FunctionName=name) for call in (lambda_.invoke, update)]
        assert soon(lambda: done(client, name))
        update(FunctionName=name, Timeout=5)
        changing = f"An update is in progress for resource: {arn}"
        told.append(refused(update, changing, FunctionName=name))
        assert lambda_.invoke(FunctionName=name)["FunctionError"]  # while it is changed
        assert soon(lambda: done(client, name))
        return all(told) and bool(update(FunctionName=name))

    # Each state lasts half a second: one attempt may be too slow.
    return any(hasty() for _ in range(3))


def lambda_function_refusals(client: Clients) -> bool:
    """A function that is made or changed has values, variables, a role and code that AWS takes."""
    name, lambda_ = function(client, FAILS).rpartition(":")[2], client("lambda")
    nobody = f"arn:aws:iam::000000000000:role/{role(client, 'states.amazonaws.com')}"
    settings: list[tuple[dict[str, Any], str]] = [
        ({"Timeout": 901}, "Value '901' at 'timeout' failed to satisfy constraint: Member must"),
        ({"MemorySize": 10_241}, "less than or equal to 10240"),
        ({"Description": "x" * 257}, "length less than or equal to 256"),
        ({"Environment": {"Variables": {"AWS_REGION": "a"}}}, "in this request: AWS_REGION"),
        ({"Environment": {"Variables": {"1": "a"}}}, "Map keys must satisfy constraint"),
        ({"Environment": {"Variables": {"A1": "a" * 4_096}}}, "exceeded the 4KB limit"),
        ({"Role": nobody}, "The role defined for the function cannot be assumed by Lambda."),
    ]
    update = lambda_.update_function_configuration
    if not all(refused(update, text, FunctionName=name, **one) for one, text in settings):
        return False
    reserve = lambda_.put_function_concurrency
    code = {"S3Bucket": name, "S3Key": "none"}
    return refused(
        lambda_.update_function_code, "S3 Error Code: NoSuchBucket", FunctionName=name, **code
    ) and refused(
        reserve,
        "below its minimum value of [100]",
        FunctionName=name,
        ReservedConcurrentExecutions=901,
    )


def lambda_function_refusals__template(client: Clients) -> bool:
    """Nor does a template make one without code; what it reserves is reserved."""
    properties: dict[str, Any] = {
        "Code": {"S3Bucket": "nowhere", "S3Key": "none"},
        "Handler": "index.handler",
        "Runtime": "python3.14",
        "Role": f"arn:aws:iam::000000000000:role/{role(client, 'lambda.amazonaws.com')}",
        "ReservedConcurrentExecutions": 3,
    }
    made = {"Order": {"Type": "AWS::Lambda::Function", "Properties": properties}}
    try:
        deploy(client, made)
        return False
    except AssertionError:
        properties["Code"] = {"ZipFile": FAILS}
    name = deploy(client, made)["Order"]
    reserved = client("lambda").get_function_concurrency(FunctionName=name)
    properties["FunctionName"] = name
    try:
        deploy(client, made)
        return False
    except AssertionError:
        return reserved.get("ReservedConcurrentExecutions") == 3


def lambda_mapping_refusals__role(client: Clients) -> bool:
    """No mapping, by API or by template, until the function's role may do all that Lambda does."""
    arn, lambda_ = function(client, FAILS), client("lambda")
    name = arn.rpartition(":")[2]
    client("sqs").create_queue(QueueName=name)
    queue = f"arn:aws:sqs:us-east-1:000000000000:{name}"
    consumer, mapping = role_of(client, arn), {"FunctionName": name, "EventSourceArn": queue}
    allow(client, consumer, "sqs:ReceiveMessage", queue)
    try:
        lambda_.create_event_source_mapping(**mapping)
        return False
    except lambda_.exceptions.InvalidParameterValueException as refused:
        assert "role does not have permissions to call DeleteMessage on SQS" in str(refused)
    mapped = {"Mapping": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": mapping}}
    with pytest.raises(AssertionError):
        deploy(client, mapped)
    allow(client, consumer, "sqs:*", queue)
    deploy(client, mapped, name)
    mapping["EventSourceArn"] = f"{queue}-other"  # which makes it another mapping
    client("cloudformation").update_stack(
        StackName=name, TemplateBody=json.dumps({"Resources": mapped})
    )
    return soon(lambda: stack_status(client, name) == "UPDATE_ROLLBACK_COMPLETE")


IN_NODE = """
const { S3, S3Client, GetObjectCommand, PutObjectCommand } = require("@aws-sdk/client-s3");
const { SQSClient, SendMessageCommand } = require("@aws-sdk/client-sqs");
const logs = Object.keys(require("@aws-sdk/client-cloudwatch-logs"));
const s3 = new S3Client({ region: "us-east-1" });
exports.handler = async ({ Bucket, QueueUrl }) => {
  const Key = "order", Body = new Uint8Array([0, 255, 10]);
  await s3.send(new PutObjectCommand({ Bucket, Key, Body }));
  const got = await s3.send(new GetObjectCommand({ Bucket, Key }));
  const missing = await new S3({}).getObject({ Bucket, Key: "none" }).catch((error) => error);
  const denied = await new SQSClient({}).send(
    new SendMessageCommand({ QueueUrl, MessageBody: "an order" })
  ).catch((error) => error);
  const health = await fetch(`${process.env.AWS_ENDPOINT_URL}/_ministack/health`);
  return {
    reached: health.status,
    bytes: [...(await got.Body.transformToByteArray())],
    recent: Date.now() - got.LastModified.getTime() < 60000,
    missing: [missing instanceof Error, missing.name, missing.$metadata.httpStatusCode],
    denied: denied.name,
    client: logs.find((name) => name.endsWith("Client")),
  };
};
"""


def lambda_node_sdk(client: Clients) -> bool:
    """A function in Node.js has the SDK's clients, with the rights of its role and no others."""
    bucket, queue = f"node-{uuid.uuid4().hex[:8]}", f"node-{uuid.uuid4().hex[:8]}"
    client("s3").create_bucket(Bucket=bucket)
    url = client("sqs").create_queue(QueueName=queue)["QueueUrl"]
    made = function(client, IN_NODE, "nodejs24.x")
    allow(
        client, role_of(client, made), "s3:*", f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"
    )
    answer = client("lambda").invoke(
        FunctionName=made, Payload=json.dumps({"Bucket": bucket, "QueueUrl": url})
    )
    return json.load(answer["Payload"]) == {
        "reached": 200,
        "bytes": [0, 255, 10],
        "recent": True,
        "missing": [True, "NoSuchKey", 404],
        "denied": "AccessDenied",
        "client": "CloudWatchLogsClient",
    }
