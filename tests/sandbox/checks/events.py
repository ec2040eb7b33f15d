"""Gaps of EventBridge, EventBridge Scheduler, S3 notifications and alarms."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from botocore.exceptions import ClientError

from tests.sandbox.checks.stepfunctions import machine
from tests.sandbox.cloud import Clients, allow, deploy, function, listen, role, soon

ACCOUNT = "000000000000"
EVENTS = "events.amazonaws.com"


def statement(
    service: str, action: str, resource: str, source: str = "", **more: Any
) -> dict[str, Any]:
    """A statement of a resource's policy that admits a service, for one source if there is one."""
    made = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": action,
        "Resource": resource,
        **more,
    }
    if source:
        made["Condition"] = {"ArnEquals": {"aws:SourceArn": source}}
    return made


def document(*statements: dict[str, Any]) -> str:
    """A policy of these statements."""
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


class Bench:
    """A rule of its own with its dead-letter queue, and what arrives where."""

    def __init__(self, client: Clients) -> None:
        self.client, self.name = client, f"rule-{uuid.uuid4().hex[:8]}"
        self.events, self.sqs = client("events"), client("sqs")
        pattern = json.dumps({"source": [self.name]})
        self.rule = self.events.put_rule(Name=self.name, EventPattern=pattern)["RuleArn"]
        self.dead, self.dead_arn = self.queue("dead")
        self.admit(self.dead, self.dead_arn, self.rule)

    def queue(self, name: str) -> tuple[str, str]:
        """The URL and the ARN of a new queue."""
        name = f"{self.name}-{name}"
        url = self.sqs.create_queue(QueueName=name)["QueueUrl"]
        return url, f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"

    def admit(self, url: str, arn: str, source: str, service: str = EVENTS) -> None:
        """Let a service send to a queue."""
        policy = document(statement(service, "sqs:SendMessage", arn, source))
        self.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})

    def target(self, arn: str, **more: Any) -> None:
        """Make this the rule's one target."""
        target = {"Id": "one", "Arn": arn, "DeadLetterConfig": {"Arn": self.dead_arn}, **more}
        self.events.put_targets(Rule=self.name, Targets=[target])

    def put(self, said: str) -> None:
        """Send one event that the rule matches."""
        detail = json.dumps({"is": said})
        self.events.put_events(
            Entries=[
                {
                    "Source": self.name,
                    "DetailType": "Test",
                    "Detail": detail,
                    "Resources": ["shop"],
                }
            ]
        )

    def received(self, url: str) -> list[dict[str, Any]]:
        """What has come to a queue, at most ten messages."""
        answer = self.sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], WaitTimeSeconds=1
        )
        messages = answer.get("Messages", [])
        for one in messages:
            self.sqs.delete_message(QueueUrl=url, ReceiptHandle=one["ReceiptHandle"])
        return messages

    def codes(self) -> list[str]:
        """The error codes of the dead events."""
        attributes = [one["MessageAttributes"] for one in self.received(self.dead)]
        return [one["ERROR_CODE"]["StringValue"] for one in attributes]


def arn_of(name: str) -> str:
    """The ARN of a role."""
    return f"arn:aws:iam::{ACCOUNT}:role/{name}"


def eventbridge_delivery__topics(client: Clients) -> bool:
    """An event that the topic's policy keeps out is in the dead-letter queue; no other is.

    A statement with a condition does not let EventBridge in.
    """
    bench, sns = Bench(client), client("sns")
    topic = sns.create_topic(Name=bench.name)["TopicArn"]
    heard, heard_arn = bench.queue("heard")
    bench.admit(heard, heard_arn, topic, "sns.amazonaws.com")
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=heard_arn)
    bench.target(topic)

    def publish(policy: str, said: str) -> None:
        sns.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=policy)
        bench.put(said)

    publish(document(statement("s3.amazonaws.com", "sns:Publish", topic)), "kept out")
    publish(document(statement(EVENTS, "sns:Publish", topic, bench.rule)), "conditional")
    publish(document(statement(EVENTS, "sns:Publish", topic)), "let in")
    dead, told = bench.received(bench.dead), bench.received(heard)
    if [json.loads(one["Body"])["detail"]["is"] for one in dead] != ["kept out", "conditional"]:
        return False
    attributes = {name: one["StringValue"] for name, one in dead[0]["MessageAttributes"].items()}
    assert attributes.pop("ERROR_MESSAGE")
    return ["let in" in one["Body"] for one in told] == [True] and attributes == {
        "RULE_ARN": bench.rule,
        "TARGET_ARN": topic,
        "ERROR_CODE": "NO_PERMISSIONS",
    }


def eventbridge_delivery__queues(client: Clients) -> bool:
    """A queue's policy is asked, or the target's role; a queue that is gone has no permissions."""
    bench = Bench(client)
    url, arn = bench.queue("orders")
    bench.target(arn)
    bench.put("kept out")
    bench.admit(url, arn, bench.rule)
    bench.put("let in")
    if bench.codes() != ["NO_PERMISSIONS"] or len(bench.received(url)) != 1:
        return False
    bench.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": ""})
    name = role(client, EVENTS)
    bench.target(arn, RoleArn=arn_of(name))
    bench.put("kept out")
    allow(client, name, "sqs:SendMessage", arn)
    bench.put("let in")
    if bench.codes() != ["NO_PERMISSIONS"] or len(bench.received(url)) != 1:
        return False
    bench.sqs.delete_queue(QueueUrl=url)
    bench.put("nowhere")
    return bench.codes() == ["NO_RESOURCE"]


def eventbridge_delivery__functions(client: Clients) -> bool:
    """A function's policy is asked, and one that fails is tried again by Lambda."""
    bench, lambda_ = Bench(client), client("lambda")
    arn = function(client, "def handler(event, context):\n    raise ValueError('no')\n")
    failed, failed_arn = bench.queue("failed")
    allow(client, lambda_.get_function_configuration(FunctionName=arn)["Role"].split("/")[1],
          "sqs:SendMessage", failed_arn)  # fmt: skip
    lambda_.update_function_configuration(
        FunctionName=arn, DeadLetterConfig={"TargetArn": failed_arn}
    )
    lambda_.put_function_event_invoke_config(FunctionName=arn, MaximumRetryAttempts=0)
    bench.target(arn)
    bench.put("kept out")
    lambda_.add_permission(
        FunctionName=arn,
        StatementId="rule",
        Action="lambda:InvokeFunction",
        Principal=EVENTS,
        SourceArn=bench.rule,
    )
    bench.put("let in")
    return bench.codes() == ["NO_PERMISSIONS"] and soon(
        lambda: ["let in" in one["Body"] for one in bench.received(failed)] == [True]
    )


def eventbridge_delivery__roles(client: Clients) -> bool:
    """A target's role starts the machine if it may; if it may not, the event is dead."""
    bench, sfn = Bench(client), client("stepfunctions")
    arn, name = machine(client, {"Type": "Pass"}), role(client, EVENTS)
    bench.target(arn, RoleArn=arn_of(name))
    bench.put("kept out")
    allow(client, name, "states:StartExecution", arn)
    bench.put("let in")
    trust = document({"Effect": "Allow", "Action": "sts:AssumeRole",
                      "Principal": {"Service": "states.amazonaws.com"}})  # fmt: skip
    client("iam").update_assume_role_policy(RoleName=name, PolicyDocument=trust)
    bench.put("no role")
    started = sfn.list_executions(stateMachineArn=arn)["executions"]
    return len(started) == 1 and bench.codes() == ["NO_PERMISSIONS", "FAILED_TO_ASSUME_ROLE"]


def eventbridge_delivery__logs(client: Clients) -> bool:
    """A log group gets what the account's policy for logs admits."""
    bench, logs = Bench(client), client("logs")
    group = f"/aws/events/{bench.name}"
    logs.create_log_group(logGroupName=group)
    arn = f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{group}"
    bench.target(arn)
    bench.put("kept out")
    policy = document(statement(EVENTS, "logs:PutLogEvents", f"{arn}:*"))
    logs.put_resource_policy(policyName=bench.name, policyDocument=policy)
    bench.put("let in")
    logs.delete_resource_policy(policyName=bench.name)
    said = logs.filter_log_events(logGroupName=group)["events"]
    return bench.codes() == ["NO_PERMISSIONS"] and ["let in" in one["message"] for one in said] == [
        True
    ]


def eventbridge_delivery__buses(client: Clients) -> bool:
    """A target's role forwards to another bus and puts on a stream, if it may."""
    bench, kinesis = Bench(client), client("kinesis")
    url, arn = bench.queue("orders")
    bus = bench.events.create_event_bus(Name=bench.name)["EventBusArn"]
    second = bench.events.put_rule(
        Name="all", EventBusName=bench.name, EventPattern=json.dumps({"source": [bench.name]})
    )["RuleArn"]
    bench.admit(url, arn, second)
    bench.events.put_targets(
        Rule="all", EventBusName=bench.name, Targets=[{"Id": "one", "Arn": arn}]
    )
    kinesis.create_stream(StreamName=bench.name, ShardCount=1)
    stream = f"arn:aws:kinesis:us-east-1:{ACCOUNT}:stream/{bench.name}"
    name = role(client, EVENTS)
    for target in (bus, stream):
        bench.target(target, RoleArn=arn_of(name))
        bench.put("kept out")
    if bench.codes() != ["NO_PERMISSIONS"] * 2:
        return False
    allow(client, name, "*", bus, stream)
    for target in (stream, bus):
        bench.target(target, RoleArn=arn_of(name))
        bench.put("let in")
    (shard,) = kinesis.list_shards(StreamName=bench.name)["Shards"]
    at = kinesis.get_shard_iterator(
        StreamName=bench.name, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    records = kinesis.get_records(ShardIterator=at)["Records"]
    return len(records) == 1 and ["let in" in one["Body"] for one in bench.received(url)] == [True]


def eventbridge_delivery__endpoints(client: Clients) -> bool:
    """An endpoint that nobody answers at is called again, and then the event is dead."""
    bench, name = Bench(client), role(client, EVENTS)
    basic = {"BasicAuthParameters": {"Username": "shop", "Password": "secret"}}
    connection = bench.events.create_connection(
        Name=bench.name, AuthorizationType="BASIC", AuthParameters=basic
    )["ConnectionArn"]
    arn = bench.events.create_api_destination(
        Name=bench.name,
        ConnectionArn=connection,
        HttpMethod="POST",
        InvocationEndpoint="https://localhost:9/orders",
    )["ApiDestinationArn"]
    bench.target(arn, RoleArn=arn_of(name), RetryPolicy={"MaximumRetryAttempts": 1})
    bench.put("kept out")
    allow(client, name, "events:InvokeApiDestination", arn)
    bench.put("let in")
    dead: list[dict[str, Any]] = []

    def dying() -> bool:
        dead.extend(bench.received(bench.dead))
        return len(dead) == 2

    if not soon(dying):
        return False
    found = [
        {name: one["MessageAttributes"].get(name, {}).get("StringValue") for name in (
            "ERROR_CODE", "EXHAUSTED_RETRY_CONDITION", "RETRY_ATTEMPTS")}
        for one in dead
    ]  # fmt: skip
    return [list(one.values()) for one in found] == [
        ["NO_PERMISSIONS", None, None],
        ["CONNECTION_FAILURE", "MaximumRetryAttempts", "1"],
    ]


def eventbridge_delivery__templates(client: Clients) -> bool:
    """An object within a string of a JSON template comes to no JSON: nothing is delivered."""
    bench = Bench(client)
    url, arn = bench.queue("orders")
    bench.admit(url, arn, bench.rule)
    own = '{"type": <aws.events.event>, "first": <first>}'
    for template in ('{"bad": "<detail>"}', '{"good": <detail>}', own):
        paths = {"detail": "$.detail", "first": "$.resources[0]"}
        bench.target(arn, InputTransformer={"InputPathsMap": paths, "InputTemplate": template})
        bench.put("object")
    told = [json.loads(one["Body"]) for one in bench.received(url)]
    return (
        told[0] == {"good": {"is": "object"}}
        and (told[1]["type"]["detailType"], told[1]["first"]) == ("Test", "shop")
        and bench.codes() == ["INVALID_JSON"]
    )


def cloudwatch_alarm_topics(client: Clients) -> bool:
    """An alarm reaches the topics that admit it: those with the default policy do."""
    cloudwatch, sns, sqs = client("cloudwatch"), client("sns"), client("sqs")
    name = f"alarm-{uuid.uuid4().hex[:8]}"
    policies = {
        "default": "",
        "closed": document(statement("s3.amazonaws.com", "sns:Publish", "*")),
        "open": document(statement("cloudwatch.amazonaws.com", "sns:Publish", "*",
                                   f"arn:aws:cloudwatch:us-east-1:{ACCOUNT}:alarm:{name}")),
    }  # fmt: skip
    urls, topics = {}, []
    for kind, policy in policies.items():
        urls[kind] = sqs.create_queue(QueueName=f"{name}-{kind}")["QueueUrl"]
        topic = sns.create_topic(Name=f"{name}-{kind}")["TopicArn"]
        listen(client, topic, urls[kind])
        if policy:
            sns.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=policy)
        topics.append(topic)
    cloudwatch.put_metric_alarm(
        AlarmName=name,
        AlarmActions=topics,
        Namespace="Test",
        MetricName=name,
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        TreatMissingData="notBreaching",
    )
    cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="asked")

    def told(kind: str) -> bool:
        answer = sqs.receive_message(QueueUrl=urls[kind], VisibilityTimeout=0)
        return "Messages" in answer

    return soon(lambda: told("default") and told("open")) and not told("closed")


def notified(client: Clients, name: str, *events: str) -> tuple[str, Any]:
    """A new bucket that tells a queue of these events, and what tells what has come there."""
    s3, sqs = client("s3"), client("sqs")
    s3.create_bucket(Bucket=name)
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"
    policy = document(statement("s3.amazonaws.com", "sqs:SendMessage", arn, f"arn:aws:s3:::{name}"))
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    configure(client, name, Queue=(arn, *events))
    told: list[dict[str, Any]] = []

    def records() -> list[dict[str, Any]]:
        answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)
        bodies = [json.loads(one["Body"]) for one in answer.get("Messages", [])]
        told.extend(record for one in bodies for record in one.get("Records", []))
        return told

    return name, records


def configure(client: Clients, bucket: str, **destinations: tuple[str, ...]) -> str:
    """Put a configuration: Queue, Topic or LambdaFunction to its ARN and events; the refusal."""
    kinds = {
        f"{kind}Configurations": [{f"{kind}Arn": arn, "Events": list(events)}]
        for kind, (arn, *events) in destinations.items()
    }
    return refusal(
        client("s3").put_bucket_notification_configuration,
        Bucket=bucket,
        NotificationConfiguration=kinds,
    )


def refusal(call: Any, **parameters: Any) -> str:
    """The error code and text that a call is refused with; "" if it is not."""
    try:
        call(**parameters)
    except ClientError as refused:
        error = refused.response["Error"]
        return f"{error['Code']}: {error['Message']}"
    return ""


def s3_notifications__permissions(client: Clients) -> bool:
    """A function, queue or topic that does not admit the bucket is refused, and told nothing."""
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    s3, sqs, lambda_ = client("s3"), client("sqs"), client("lambda")
    s3.create_bucket(Bucket=name)
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    queue = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"
    topic = client("sns").create_topic(Name=name)["TopicArn"]
    policy = document(statement(EVENTS, "sns:Publish", topic))
    client("sns").set_topic_attributes(
        TopicArn=topic, AttributeName="Policy", AttributeValue=policy
    )
    failing = function(client, "def handler(event, context):\n    raise ValueError('no')\n")
    refused = "InvalidArgument: Unable to validate the following destination configurations"
    created = "s3:ObjectCreated:*"
    if any(
        configure(client, name, **{kind: (arn, created)}) != refused
        for kind, arn in (("Queue", queue), ("Topic", topic), ("LambdaFunction", failing))
    ):
        return False
    allow(client, lambda_.get_function_configuration(FunctionName=failing)["Role"].split("/")[1],
          "sqs:SendMessage", queue)  # fmt: skip
    lambda_.update_function_configuration(
        FunctionName=failing, DeadLetterConfig={"TargetArn": queue}
    )
    lambda_.put_function_event_invoke_config(FunctionName=failing, MaximumRetryAttempts=0)
    lambda_.add_permission(
        FunctionName=failing,
        StatementId="bucket",
        Action="lambda:InvokeFunction",
        Principal="s3.amazonaws.com",
        SourceArn=f"arn:aws:s3:::{name}",
        SourceAccount=ACCOUNT,
    )
    if configure(client, name, LambdaFunction=(failing, created)):
        return False

    def dead() -> list[str]:
        return [
            json.loads(one["Body"])["Records"][0]["s3"]["object"]["key"]
            for one in sqs.receive_message(QueueUrl=url, VisibilityTimeout=0).get("Messages", [])
        ]

    s3.put_object(Bucket=name, Key="one")
    if not soon(lambda: dead() == ["one"]):
        return False
    lambda_.remove_permission(FunctionName=failing, StatementId="bucket")
    s3.put_object(Bucket=name, Key="two")
    return not soon(lambda: len(dead()) > 1, 1)


def s3_notifications__configurations(client: Clients) -> bool:
    """Two destinations for one event and key, and events that S3 does not know, are refused."""
    name, _ = notified(client, f"bucket-{uuid.uuid4().hex[:8]}", "s3:ObjectCreated:*")
    queue = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"
    topic = client("sns").create_topic(Name=name)["TopicArn"]
    both = configure(
        client, name, Queue=(queue, "s3:ObjectCreated:Put"), Topic=(topic, "s3:ObjectCreated:*")
    )
    apart = configure(
        client, name, Queue=(queue, "s3:ObjectCreated:Put"), Topic=(topic, "s3:ObjectRemoved:*")
    )
    unknown = configure(client, name, Queue=(queue, "s3:ObjectCreated:Made"))
    return (
        "cannot share a common event type" in both
        and not apart
        and "The event 's3:ObjectCreated:Made' is not supported" in unknown
    )


def s3_notifications__events(client: Clients) -> bool:
    """Changed tags and ACLs are events, and each key that DeleteObjects is asked for is one."""
    s3 = client("s3")
    asked = ("s3:ObjectTagging:*", "s3:ObjectAcl:Put", "s3:ObjectRemoved:*")
    name, records = notified(client, f"bucket-{uuid.uuid4().hex[:8]}", *asked)
    s3.put_object(Bucket=name, Key="here", Body=b"it is")
    s3.delete_public_access_block(Bucket=name)
    s3.put_bucket_ownership_controls(
        Bucket=name, OwnershipControls={"Rules": [{"ObjectOwnership": "ObjectWriter"}]}
    )
    s3.put_object_tagging(
        Bucket=name, Key="here", Tagging={"TagSet": [{"Key": "kind", "Value": "order"}]}
    )
    s3.delete_object_tagging(Bucket=name, Key="here")
    for _ in range(2):  # the second changes nothing
        s3.put_object_acl(Bucket=name, Key="here", ACL="authenticated-read")
    s3.delete_objects(
        Bucket=name, Delete={"Objects": [{"Key": key} for key in ("here", "gone", "never")]}
    )
    if not soon(lambda: len(records()) >= 6):
        return False
    told = sorted((one["eventName"], one["s3"]["object"]["key"]) for one in records())
    removed = [one["s3"]["object"] for one in records() if "Removed" in one["eventName"]]
    return told == [
        ("ObjectAcl:Put", "here"),
        ("ObjectRemoved:Delete", "gone"),
        ("ObjectRemoved:Delete", "here"),
        ("ObjectRemoved:Delete", "never"),
        ("ObjectTagging:Delete", "here"),
        ("ObjectTagging:Put", "here"),
    ] and all(one.keys() == {"key", "sequencer"} for one in removed)


def eventbridge_refusals__entries(client: Clients) -> bool:
    """Entries fail one by one, a request that is too large as a whole; the Time is kept."""
    bench = Bench(client)
    url, arn = bench.queue("orders")
    bench.admit(url, arn, bench.rule)
    bench.target(arn)
    good = {"Source": bench.name, "DetailType": "Test", "Detail": '{"good": true}'}
    moment = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    entries = [
        {name: value for name, value in good.items() if name != "Source"},
        {name: value for name, value in good.items() if name != "DetailType"},
        {name: value for name, value in good.items() if name != "Detail"},
        good | {"Detail": '"text"'},
        good | {"Time": moment},
    ]
    answer = bench.events.put_events(Entries=entries)
    codes = [one.get("ErrorCode") for one in answer["Entries"]]
    if codes != [*["InvalidArgument"] * 3, "MalformedDetail", None]:
        return False
    large = [good | {"Detail": json.dumps({"x": "x" * 600_000})}] * 2
    told = [json.loads(one["Body"]) for one in bench.received(url)]
    return (
        answer["FailedEntryCount"] == 4
        and [one["time"] for one in told] == ["2020-01-02T03:04:05Z"]
        and refusal(bench.events.put_events, Entries=large)
        == "ValidationException: Total size of the entries in the request is over the limit."
    )


def eventbridge_refusals__rules(client: Clients) -> bool:
    """Schedules, buses, names and targets of a rule are checked."""
    bench, events = Bench(client), client("events")
    name = bench.name
    events.create_event_bus(Name=name)
    every = "rate(1 minute)"
    _, arn = bench.queue("orders")
    targets = [{"Id": str(n), "Arn": arn} for n in range(6)]
    events.put_targets(Rule=name, Targets=targets[:5])
    found = [
        refusal(events.put_rule, Name=name, ScheduleExpression="rate(0 minutes)"),
        refusal(events.put_rule, Name=name, ScheduleExpression="cron(71 8 1 * ? *)"),
        refusal(events.put_rule, Name=name, EventBusName=name, ScheduleExpression=every),
        refusal(events.put_rule, Name="a b", ScheduleExpression=every),
        refusal(events.put_targets, Rule=name, Targets=targets[5:]),
        refusal(events.delete_rule, Name=name),
        refusal(events.enable_rule, Name=f"{name}-gone"),
    ]
    return found == [
        "ValidationException: Parameter ScheduleExpression is not valid.",
        "ValidationException: Parameter ScheduleExpression is not valid.",
        "ValidationException: ScheduleExpression is supported only on the default event bus.",
        "ValidationException: 1 validation error detected: Value 'a b' at 'name' failed to satisfy"
        " constraint: Member must satisfy regular expression pattern: [\\.\\-_A-Za-z0-9]+",
        "LimitExceededException: The requested resource exceeds the maximum number allowed.",
        "ValidationException: Rule can't be deleted since it has targets.",
        f"ResourceNotFoundException: Rule {name}-gone does not exist on EventBus default.",
    ]


def eventbridge_refusals__buses(client: Clients) -> bool:
    """Buses that are there already or not at all, and statements that are in no policy."""
    events, name = client("events"), f"bus-{uuid.uuid4().hex[:8]}"
    arn = events.create_event_bus(Name=name)["EventBusArn"]
    found = [
        refusal(events.create_event_bus, Name=name),
        refusal(events.create_event_bus, Name="a b").partition(":")[0],
        refusal(events.delete_event_bus, Name="default"),
        refusal(events.describe_event_bus, Name=f"{name}-gone"),
        refusal(events.remove_permission, EventBusName=name, StatementId="none"),
        refusal(events.describe_event_bus, Name=arn),
    ]
    return found == [
        f"ResourceAlreadyExistsException: Event bus {name} already exists.",
        "ValidationException",
        "ValidationException: Cannot delete event bus default.",
        f"ResourceNotFoundException: Event bus {name}-gone does not exist.",
        "ResourceNotFoundException: Statement with the provided id does not exist.",
        "",
    ]


def eventbridge_refusals__targets(client: Clients) -> bool:
    """Inputs, roles and dead-letter queues of targets, and those that nothing is delivered to."""
    bench = Bench(client)
    _, arn = bench.queue("orders")
    cluster = f"arn:aws:ecs:us-east-1:{ACCOUNT}:cluster/orders"
    passing, closed = role(client, EVENTS), role(client, "lambda.amazonaws.com")

    def put(**target: Any) -> str:
        targets = [{"Id": "one", "Arn": arn, **target}]
        return refusal(bench.events.put_targets, Rule=bench.name, Targets=targets)

    return (
        "Only one of Input" in put(Input="{}", InputPath="$")
        and "invalid placeholder id" in put(InputTransformer={"InputTemplate": '"<id>"'})
        and "cannot be assumed by principal" in put(RoleArn=arn_of(closed))
        and "RoleArn is required" in put(Arn=cluster)
        and "SQS FIFO" in put(DeadLetterConfig={"Arn": f"{arn}.fifo"})
        and "delivers no events to targets of ecs" in put(Arn=cluster, RoleArn=arn_of(passing))
        and not put()
    )


def eventbridge_refusals__templates(client: Clients) -> bool:
    """What the API refuses of a rule fails a stack too."""
    arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:orders"
    pattern = {"source": ["shop"]}
    bad = [
        {"ScheduleExpression": "rate(1 minutes)"},
        {"EventPattern": {"source": "shop"}},
        {"EventPattern": pattern, "EventBusName": f"bus-{uuid.uuid4().hex[:8]}"},
        {"EventPattern": pattern, "Targets": [{"Id": "a b", "Arn": arn}]},
        {"EventPattern": pattern, "Targets": [{"Id": str(n), "Arn": arn} for n in range(6)]},
    ]
    resources = [{"Type": "AWS::Events::Rule", "Properties": one} for one in bad]
    return all(fails(client, one) for one in resources)


def fails(client: Clients, resource: dict[str, Any]) -> str:
    """Why a stack of one resource fails; "" if it does not."""
    cloudformation, name = client("cloudformation"), f"gap-{uuid.uuid4().hex[:8]}"
    cloudformation.create_stack(
        StackName=name, TemplateBody=json.dumps({"Resources": {"Only": resource}})
    )

    def status() -> str:
        return cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]

    assert soon(lambda: not status().endswith("_IN_PROGRESS"))
    events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    return next(
        (one["ResourceStatusReason"] for one in events if one["ResourceStatus"] == "CREATE_FAILED"),
        "",
    )


class Schedules:
    """Schedules of one group, with a role of their own and a dead-letter queue."""

    def __init__(self, client: Clients) -> None:
        self.client, self.name = client, f"schedule-{uuid.uuid4().hex[:8]}"
        self.api, self.sqs = client("scheduler"), client("sqs")
        self.role = role(client, "scheduler.amazonaws.com")
        self.url = self.sqs.create_queue(QueueName=self.name)["QueueUrl"]
        self.arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{self.name}"
        self.dead = self.sqs.create_queue(QueueName=f"{self.name}-dead")["QueueUrl"]
        allow(client, self.role, "sqs:SendMessage", f"{self.arn}-dead")

    def put(self, arn: str, name: str = "", target: Any = None, **more: Any) -> str:
        """Make a schedule; why it is refused, or ""."""
        sent = {"Arn": arn, "RoleArn": arn_of(self.role), **(target or {})}
        sent.setdefault("DeadLetterConfig", {"Arn": f"{self.arn}-dead"})
        given = {
            "Name": name or f"{self.name}-{uuid.uuid4().hex[:8]}",
            "ScheduleExpression": "rate(1 hour)",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": sent,
            **more,
        }
        return refusal(self.api.create_schedule, **given)

    def come(self, url: str) -> list[dict[str, Any]]:
        """What is in a queue, at most ten messages."""
        answer = self.sqs.receive_message(
            QueueUrl=url, VisibilityTimeout=0, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        )
        return answer.get("Messages", [])


def scheduler_targets__roles(client: Clients) -> bool:
    """A target is invoked if the schedule's role may; else what was due is in the dead letters.

    A rate begins at once.
    """
    made, now = Schedules(client), datetime.now(UTC) - timedelta(seconds=5)
    at = f"at({now.astimezone(ZoneInfo('Asia/Tokyo')):%Y-%m-%dT%H:%M:%S})"
    more = {"ScheduleExpression": at, "ScheduleExpressionTimezone": "Asia/Tokyo"}
    assert not made.put(made.arn, target={"Input": '{"is": "kept out"}'}, **more)
    if not soon(lambda: bool(made.come(made.dead))):
        return False
    (dead,) = made.come(made.dead)
    allow(client, made.role, "sqs:SendMessage", f"{made.arn}*")
    late = {"ScheduleExpression": f"at({datetime.now(UTC):%Y-%m-%d}T00:00:00)"}
    arn = f"arn:aws:scheduler:us-east-1:{ACCOUNT}:schedule/default/{made.name}-in"
    told = {"Input": '{"is": "<aws.scheduler.schedule-arn>"}'}
    assert not made.put(made.arn, f"{made.name}-in", told, **late)
    assert not made.put(made.arn, target={"Input": "text, at once"})
    attributes = {name: one["StringValue"] for name, one in dead["MessageAttributes"].items()}
    return (
        dead["Body"] == '{"is": "kept out"}'
        and (attributes["TARGET_ARN"], attributes["RETRY_ATTEMPTS"]) == (made.arn, "0")
        and "AccessDenied" in attributes["ERROR_CODE"]
        and attributes["SCHEDULED_TIME"] == f"{now:%Y-%m-%dT%H:%M:%SZ}"
        and soon(lambda: len(made.come(made.url)) == 2)
        and sorted(one["Body"] for one in made.come(made.url))
        == ["text, at once", f'{{"is": "{arn}"}}']
    )


def scheduler_targets__universal(client: Clients) -> bool:
    """A universal target is an operation of any API, and done after completion."""
    made, sfn = Schedules(client), client("stepfunctions")
    arn = machine(client, {"Type": "Pass"})
    allow(client, made.role, "states:StartExecution", arn)
    universal = "arn:aws:scheduler:::aws-sdk:sfn:startExecution"
    given = {"Input": json.dumps({"StateMachineArn": arn, "Input": "{}"})}
    past = f"at({datetime.now(UTC):%Y-%m-%d}T00:00:00)"
    name = f"{made.name}-once"
    made.put(universal, name, given, ScheduleExpression=past, ActionAfterCompletion="DELETE")

    def done() -> bool:
        return bool(sfn.list_executions(stateMachineArn=arn)["executions"]) and "Resource" in (
            refusal(made.api.get_schedule, Name=name)
        )

    return soon(done)


def scheduler_targets__refusals(client: Clients) -> bool:
    """Expressions, windows, targets, groups, roles and ranges of schedules are checked."""
    made = Schedules(client)
    closed = arn_of(role(client, EVENTS))
    build = f"arn:aws:codebuild:us-east-1:{ACCOUNT}:project/orders"
    window = {"Mode": "FLEXIBLE"}
    return (
        "Invalid Schedule Expression rate(10 seconds)."
        in made.put(made.arn, ScheduleExpression="rate(10 seconds)")
        and "MaximumWindowInMinutes must be" in made.put(made.arn, FlexibleTimeWindow=window)
        and "ScheduleExpressionTimezone" in made.put(made.arn, ScheduleExpressionTimezone="Here")
        and "must allow AWS EventBridge Scheduler" in made.put(made.arn, target={"RoleArn": closed})
        and "maximumRetryAttempts" in made.put(
            made.arn, target={"RetryPolicy": {"MaximumRetryAttempts": 186}})
        and "deadLetterConfig.arn" in made.put(
            made.arn, target={"DeadLetterConfig": {"Arn": f"{made.arn}.fifo"}})
        and "does not exist" in made.put(made.arn, GroupName=made.name)
        and "The sandbox invokes no targets of codebuild" in made.put(build)
        and not made.put(made.arn)
    )  # fmt: skip


def scheduler_targets__templates(client: Clients) -> bool:
    """A template's schedule keeps its time zone, and fails like the API's."""
    made = Schedules(client)
    properties = {
        "Name": made.name,
        "ScheduleExpression": "cron(0 8 ? * MON-FRI *)",
        "ScheduleExpressionTimezone": "Europe/Berlin",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {"Arn": made.arn, "RoleArn": arn_of(made.role)},
    }
    kind = {"Type": "AWS::Scheduler::Schedule"}
    deploy(client, {"Daily": {**kind, "Properties": properties}})
    described = made.api.get_schedule(Name=made.name)
    bad = {**properties, "Name": f"{made.name}-bad", "ScheduleExpression": "cron(0 8 * * * *)"}
    return described["ScheduleExpressionTimezone"] == "Europe/Berlin" and (
        "Invalid Schedule Expression" in fails(client, {**kind, "Properties": bad})
    )


def eventbridge_resources(client: Clients) -> bool:
    """A template makes a bus with a policy, a rule on it, a connection and an API destination."""
    events, name = client("events"), f"bus-{uuid.uuid4().hex[:8]}"
    bus = f"arn:aws:events:us-east-1:{ACCOUNT}:event-bus/{name}"
    basic = {"BasicAuthParameters": {"Username": "shop", "Password": "secret"}}
    admitted = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
                "Action": "events:PutEvents", "Resource": bus}  # fmt: skip
    types: dict[str, dict[str, Any]] = {
        "EventBus": {"Name": name},
        "EventBusPolicy": {
            "EventBusName": {"Ref": "EventBus"},
            "StatementId": "Shops",
            "Statement": admitted,
        },
        "Rule": {
            "Name": name,
            "EventBusName": {"Ref": "EventBus"},
            "EventPattern": {"source": ["shop"]},
        },
        "Connection": {"AuthorizationType": "BASIC", "AuthParameters": basic},
        "ApiDestination": {
            "ConnectionArn": {"Fn::GetAtt": ["Connection", "Arn"]},
            "HttpMethod": "POST",
            "InvocationEndpoint": "https://shop.example/orders",
        },
    }
    try:
        made = deploy(
            client,
            {one: {"Type": f"AWS::Events::{one}", "Properties": types[one]} for one in types},
        )
    except ClientError:
        return False
    policy = json.loads(events.describe_event_bus(Name=name)["Policy"])
    destination = events.describe_api_destination(Name=made["ApiDestination"])
    connection = events.describe_connection(Name=made["Connection"])
    plain = {**types["ApiDestination"], "InvocationEndpoint": "http://shop.example/orders",
             "ConnectionArn": connection["ConnectionArn"], "Name": name}  # fmt: skip
    return (
        made["Rule"] == f"{name}|{name}"
        and policy["Statement"] == [{"Sid": "Shops", **admitted}]
        and destination["ConnectionArn"] == connection["ConnectionArn"]
        and "InvocationEndpoint is not valid" in refusal(events.create_api_destination, **plain)
    )
