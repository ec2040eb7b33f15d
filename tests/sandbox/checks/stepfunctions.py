"""Gaps of Step Functions, and of what starts, stops and watches workflows."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from botocore.config import Config

from tests.sandbox.cloud import PATIENCE, Clients, function, role, soon

NOBODY = {"Type": "Task", "Resource": "arn:aws:lambda:us-east-1:000000000000:function:nobody"}


EXECUTIONS = ("ExecutionsStarted", "ExecutionsSucceeded", "ExecutionsFailed")


def role_that_may(client: Clients, *actions: str) -> str:
    """The ARN of a role that Step Functions may assume, and that may do these actions."""
    arn = f"arn:aws:iam::000000000000:role/{role(client, 'states.amazonaws.com')}"
    if actions:
        let(client, arn, *actions)
    return arn


def let(client: Clients, role_arn: str, *actions: str) -> None:
    """Let a role do these actions."""
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    client("iam").put_role_policy(
        RoleName=role_arn.rpartition("/")[2],
        PolicyName="may",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": statement}),
    )


def machine(client: Clients, state: dict[str, Any], role_arn: str = "", **fields: Any) -> str:
    """The ARN of a state machine of one state."""
    definition = {"StartAt": "Only", "States": {"Only": {"End": True, **state}}, **fields}
    return client("stepfunctions").create_state_machine(
        name=f"machine-{uuid.uuid4().hex[:8]}",
        definition=json.dumps(definition),
        roleArn=role_arn or role_that_may(client, "lambda:InvokeFunction"),
    )["stateMachineArn"]


def ended(client: Clients, execution: str, seconds: float = PATIENCE) -> dict[str, Any]:
    """An execution as soon as it has ended, or as it is when time is up."""
    sfn, found = client("stepfunctions"), {}

    def over() -> bool:
        found.update(sfn.describe_execution(executionArn=execution))
        return found["status"] != "RUNNING"

    soon(over, seconds)
    return found


def run(client: Clients, arn: str, seconds: float = PATIENCE) -> dict[str, Any]:
    """An execution of a state machine, ended if it ends in time."""
    started = client("stepfunctions").start_execution(stateMachineArn=arn)
    return ended(client, started["executionArn"], seconds)


def policy(service: str, action: str, resource: str, source: str) -> str:
    """A resource policy that lets a service act for one source."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": action,
        "Resource": resource,
        "Condition": {"ArnEquals": {"aws:SourceArn": source}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def overheard(client: Clients, detail: dict[str, Any]) -> str:
    """The URL of a new queue to which EventBridge sends what Step Functions tells of this."""
    events, sqs, name = client("events"), client("sqs"), f"states-{uuid.uuid4().hex[:8]}"
    url, arn = (
        sqs.create_queue(QueueName=name)["QueueUrl"],
        f"arn:aws:sqs:us-east-1:000000000000:{name}",
    )
    pattern = json.dumps({"source": ["aws.states"], "detail": detail})
    rule = events.put_rule(Name=name, EventPattern=pattern)["RuleArn"]
    admits = policy("events.amazonaws.com", "sqs:SendMessage", arn, rule)
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": admits})
    events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
    return url


def cloudwatch_states_metrics(client: Clients) -> bool:
    """How a state machine's executions end is counted as metrics of that state machine."""
    cloudwatch = client("cloudwatch")
    passes, fails = machine(client, {"Type": "Pass"}), machine(client, NOBODY)
    assert run(client, passes)["status"] == "SUCCEEDED" and run(client, fails)["status"] == "FAILED"

    def count(arn: str, metric: str) -> float:
        points = cloudwatch.get_metric_statistics(
            Namespace="AWS/States",
            MetricName=metric,
            Dimensions=[{"Name": "StateMachineArn", "Value": arn}],
            StartTime=time.time() - 300,
            EndTime=time.time() + 60,
            Period=60,
            Statistics=["Sum"],
        )["Datapoints"]
        return sum(point["Sum"] for point in points)

    return [count(passes, name) for name in EXECUTIONS] == [1, 1, 0] and [
        count(fails, name) for name in EXECUTIONS
    ] == [1, 0, 1]


def lambda_errors(client: Clients) -> bool:
    """The exception's class reaches the caller and the workflow; the environment lives on."""
    name = function(
        client,
        "calls = 0\n"
        "class CardDeclined(Exception): pass\n"
        "def handler(event, context):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    raise CardDeclined(calls)\n",
    )
    lambda_ = client("lambda")
    for call in ("1", "2"):
        answer = lambda_.invoke(FunctionName=name)
        error = json.loads(answer["Payload"].read())
        if (error["errorType"], error["errorMessage"]) != ("CardDeclined", call):
            return False
        assert answer["FunctionError"] == "Unhandled" and "index.py" in error["stackTrace"][0]
    arn = lambda_.get_function(FunctionName=name)["Configuration"]["FunctionArn"]
    return (
        run(client, machine(client, {"Type": "Task", "Resource": arn}))["error"]
        == error["errorType"]
    )


def stepfunctions_interpreter__endings(client: Clients) -> bool:
    """The workflow's timeout ends an execution and is told; nothing happens in a stopped one."""
    sfn, sqs, waits = client("stepfunctions"), client("sqs"), {"Type": "Wait", "Seconds": 2}
    cut_off = machine(client, waits, TimeoutSeconds=1)
    url = overheard(client, {"stateMachineArn": [cut_off], "status": ["TIMED_OUT"]})
    late = run(client, cut_off)
    if late["status"] != "TIMED_OUT" or late.keys() & {"error", "cause", "output"}:
        return False

    def told() -> bool:
        messages = sqs.receive_message(QueueUrl=url).get("Messages", [])
        return any(late["executionArn"] in one["Body"] for one in messages)

    if not soon(told):
        return False
    unsent = sqs.create_queue(QueueName=f"unsent-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    sends = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage",
        "Parameters": {"QueueUrl": unsent, "MessageBody": "too late"},
        "End": True,
    }
    branch = {"StartAt": "Wait", "States": {"Wait": waits | {"Next": "Send"}, "Send": sends}}
    pause = {"StartAt": "Pause", "States": {"Pause": waits | {"End": True}}}
    both = {"Type": "Parallel", "Branches": [branch, pause]}
    arn = machine(client, both, role_that_may(client, "sqs:SendMessage"))
    stopped = sfn.start_execution(stateMachineArn=arn)["executionArn"]

    def history() -> list[str]:
        events = sfn.get_execution_history(executionArn=stopped)["events"]
        return [event["type"] for event in events]

    assert soon(lambda: history().count("WaitStateEntered") == 2)
    sfn.stop_execution(executionArn=stopped, error="E", cause="C")
    time.sleep(2.5)
    found = sfn.describe_execution(executionArn=stopped)
    return (
        (found["status"], found["error"], found["cause"]) == ("ABORTED", "E", "C")
        and history()[-1] == "ExecutionAborted"
        and "Messages" not in sqs.receive_message(QueueUrl=unsent)
    )


def stepfunctions_interpreter__retry_delay(client: Clients) -> bool:
    """A wait of a minute is capped at two seconds; with full jitter some waits are short."""
    retrier = {"ErrorEquals": ["States.ALL"], "MaxAttempts": 2, "BackoffRate": 60}
    capped = machine(client, NOBODY | {"Retry": [retrier | {"MaxDelaySeconds": 2}]})
    began = time.monotonic()
    if run(client, capped)["status"] != "FAILED" or time.monotonic() - began < 1 + 2:
        return False
    retrier = retrier | {"MaxAttempts": 1, "IntervalSeconds": 12, "JitterStrategy": "FULL"}
    jittery, sfn = machine(client, NOBODY | {"Retry": [retrier]}), client("stepfunctions")
    started = [sfn.start_execution(stateMachineArn=jittery)["executionArn"] for _ in range(40)]
    time.sleep(PATIENCE)
    failed = [one for one in started if ended(client, one, seconds=0)["status"] == "FAILED"]
    return 0 < len(failed) < len(started)


def outcome(client: Clients, state: dict[str, Any], given: Any = None, **fields: Any) -> Any:
    """What a machine of one state comes to: its output, or the name of its error."""
    sfn = client("stepfunctions")
    arn = machine(client, state, **fields)
    started = sfn.start_execution(stateMachineArn=arn, input=json.dumps(given or {}))
    found = ended(client, started["executionArn"])
    return json.loads(found["output"]) if "output" in found else found.get("error")


def stepfunctions_interpreter__paths(client: Clients) -> bool:
    """A path that is not there fails; filters, slices and $$ come to what they find."""
    given = {"items": [{"n": 1}, {"n": 2}, {"n": 3}]}
    selects = {
        "some.$": "$.items[?(@.n > 1)].n",
        "last.$": "$.items[-1:]",
        "name.$": "$$.State.Name",
        "all.$": "$$",
    }
    found = outcome(client, {"Type": "Pass", "Parameters": selects}, given)
    return (
        outcome(client, {"Type": "Pass", "Parameters": {"x.$": "$.missing"}}) == "States.Runtime"
        and outcome(client, {"Type": "Pass", "OutputPath": "$.missing"}) == "States.Runtime"
        and (found["some"], found["last"], found["name"]) == ([2, 3], [{"n": 3}], "Only")
        and found["all"]["Execution"]["Input"] == given
    )


def stepfunctions_interpreter__maps(client: Clients) -> bool:
    """A Map needs an array, in both languages."""
    processor = {"StartAt": "Each", "States": {"Each": {"Type": "Pass", "End": True}}}
    over = {"Type": "Map", "ItemProcessor": processor}
    query = over | {"QueryLanguage": "JSONata", "Items": "{% $states.input.text %}"}
    return (
        outcome(client, over | {"ItemsPath": "$.text"}, {"text": "x"}) == "States.Runtime"
        and outcome(client, query, {"text": "x"}) == "States.QueryEvaluationError"
        and outcome(client, over | {"ItemsPath": "$.list"}, {"list": [1, 2]}) == [1, 2]
    )


def stepfunctions_interpreter__choices(client: Clients) -> bool:
    """Comparisons by path are made, and no value passes for one of another type."""

    def chosen(given: dict[str, Any], **comparison: Any) -> bool:
        rule = {"Variable": "$.v", "Next": "Yes", **comparison}
        states = {
            "Only": {"Type": "Choice", "Choices": [rule], "Default": "No"},
            "Yes": {"Type": "Pass", "Result": True, "End": True},
            "No": {"Type": "Pass", "Result": False, "End": True},
        }
        return outcome(client, {"Type": "Pass"}, given, States=states)

    early, late = "2023-02-24T13:00:00Z", "2023-02-24T15:00:00+01:00"
    return (
        chosen({"v": "a", "w": "b"}, StringLessThanPath="$.w")
        and chosen({"v": early, "w": late}, TimestampLessThanPath="$.w")
        and chosen({"v": None}, IsPresent=True)
        and not chosen({"v": 1}, BooleanEquals=True)
        and not chosen({"v": True}, IsNumeric=True)
    )


def stepfunctions_interpreter__variables(client: Clients) -> bool:
    """A variable of a JSONPath state can be read in those that follow."""
    states = {
        "Only": {"Type": "Pass", "Assign": {"v.$": "$.n"}, "Result": {"n": 7}, "Next": "Then"},
        "Then": {"Type": "Pass", "Parameters": {"v.$": "$v", "w.$": "States.MathAdd($v, 1)"},
                 "End": True},
    }  # fmt: skip
    return outcome(client, {"Type": "Pass"}, States=states) == {"v": 7, "w": 8}


def stepfunctions_interpreter__timestamps(client: Clients) -> bool:
    """A Wait until a moment without seconds or a zone fails."""
    waits = {"Type": "Wait", "TimestampPath": "$.at"}
    return all(
        outcome(client, waits, {"at": stamp}) == "States.Runtime"
        for stamp in ("2016-03-14T01:59Z", "2016-03-14T01:59:00")
    ) and outcome(client, waits, {"at": "2016-03-14T01:59:00Z"}) == {"at": "2016-03-14T01:59:00Z"}


def stepfunctions_interpreter__limits(client: Clients) -> bool:
    """An output over 256 KiB fails the state."""
    doubles = {"Type": "Pass", "Parameters": {"a.$": "$", "b.$": "$"}}
    return outcome(client, doubles, "x" * 140_000) == "States.DataLimitExceeded"


def stepfunctions_interpreter__task_timeouts(client: Clients) -> bool:
    """A task's timeout by path or JSONata ends it, and a catcher sees no cause."""
    slow = function(client, "import time\ndef handler(event, context):\n    time.sleep(5)\n")
    task = {"Type": "Task", "Resource": slow, "Next": "Then",
            "Catch": [{"ErrorEquals": ["States.Timeout"], "Next": "Then"}]}  # fmt: skip

    def caught(**fields: Any) -> Any:
        states = {"Only": task | fields, "Then": {"Type": "Succeed"}}
        return outcome(client, {"Type": "Pass"}, {"limit": 1}, States=states)

    return (
        caught(TimeoutSecondsPath="$.limit")
        == {"Error": "States.Timeout"}
        == caught(QueryLanguage="JSONata", TimeoutSeconds="{% $states.input.limit %}")
    )


def stepfunctions_interpreter__heartbeats(client: Clients) -> bool:
    """Whoever has a task must go on beating, with an activity and with a callback."""
    sfn = client("stepfunctions")
    activity = sfn.create_activity(name=f"activity-{uuid.uuid4().hex[:8]}")["activityArn"]
    url = client("sqs").create_queue(QueueName=f"calls-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    call = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        "Parameters": {"QueueUrl": url, "MessageBody.$": "$$.Task.Token"},
    }
    begun = {}
    for name, state in (
        ("heartbeat", {"Type": "Task", "Resource": activity, "HeartbeatSeconds": 1}),
        ("timeout", {"Type": "Task", "Resource": activity, "TimeoutSeconds": 1}),
        ("callback", call | {"HeartbeatSecondsPath": "$.beat", "TimeoutSeconds": 60}),
    ):
        arn = machine(client, state, role_that_may(client, "sqs:SendMessage"))
        begun[name] = sfn.start_execution(stateMachineArn=arn, input='{"beat": 1}')["executionArn"]
    for _ in range(2):
        sfn.get_activity_task(activityArn=activity)
    return all(
        (found["status"], found.get("error"), found.get("cause"))
        == ("FAILED", "States.Timeout", None)
        for found in (ended(client, execution) for execution in begun.values())
    )


def stepfunctions_interpreter__express(client: Clients) -> bool:
    """A synchronous execution that fails says why and has no output; EventBridge hears nothing."""
    sfn, iam_role = client("stepfunctions"), role_that_may(client)
    fails = {"StartAt": "Only", "States": {"Only": {"Type": "Fail", "Error": "E", "Cause": "C"}}}
    arn = sfn.create_state_machine(
        name=f"machine-{uuid.uuid4().hex[:8]}",
        type="EXPRESS",
        definition=json.dumps(fails),
        roleArn=iam_role,
    )["stateMachineArn"]
    url = overheard(client, {"stateMachineArn": [arn]})
    sfn.start_execution(stateMachineArn=arn)
    # boto3 would put "sync-" before the host's name.
    sync = client("stepfunctions", config=Config(inject_host_prefix=False))
    answer = sync.start_sync_execution(stateMachineArn=arn)
    return (
        (answer["status"], answer.get("error"), answer.get("cause")) == ("FAILED", "E", "C")
        and "output" not in answer
        and "Messages" not in client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=1)
    )


def stepfunctions_interpreter__versions(client: Clients) -> bool:
    """A version, and an alias of it, goes on as it was published."""
    sfn, arn = client("stepfunctions"), machine(client, {"Type": "Pass", "Result": "old"})
    version = sfn.publish_state_machine_version(stateMachineArn=arn)["stateMachineVersionArn"]
    alias = sfn.create_state_machine_alias(
        name="live", routingConfiguration=[{"stateMachineVersionArn": version, "weight": 100}]
    )["stateMachineAliasArn"]
    definition = sfn.describe_state_machine(stateMachineArn=arn)["definition"]
    sfn.update_state_machine(stateMachineArn=arn, definition=definition.replace("old", "new"))
    found = [run(client, one) for one in (arn, version, alias)]
    return [one["output"] for one in found] == ['"new"', '"old"', '"old"'] and [
        (one.get("stateMachineVersionArn"), one.get("stateMachineAliasArn")) for one in found
    ] == [(None, None), (version, None), (version, alias)]


def stepfunctions_interpreter__history(client: Clients) -> bool:
    """Each event says which one it follows."""
    sfn, arn = client("stepfunctions"), machine(client, {"Type": "Pass"})
    execution = run(client, arn)["executionArn"]
    events = sfn.get_execution_history(executionArn=execution)["events"]
    return [(one["type"], one.get("previousEventId")) for one in events] == [
        ("ExecutionStarted", 0),
        ("PassStateEntered", 0),
        ("PassStateExited", 2),
        ("ExecutionSucceeded", 3),
    ]


class Lake:
    """A bucket with data sets, and a role of Step Functions that may do some actions on S3."""

    def __init__(self, client: Clients, *actions: str) -> None:
        self.client, self.s3 = client, client("s3")
        self.bucket = f"lake-{uuid.uuid4().hex[:8]}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.role = role_that_may(client, *actions)
        for key, body in (
            ("orders.csv", "id,what\n1,tea\n2\n"),
            ("orders.jsonl", '{"id": 1}\n{"id": 2}\n'),
            ("orders.json", '{"orders": [1, 2, 3, 4, 5]}'),
        ):
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)

    def reader(self, key: str, **config: Any) -> dict[str, Any]:
        """An ItemReader of one object."""
        parameters = {"Bucket": self.bucket, "Key": key}
        return {"Resource": "arn:aws:states:::s3:getObject", "Parameters": parameters,
                "ReaderConfig": config}  # fmt: skip

    def run(self, each: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """An execution of a distributed Map with this state for each item."""
        processor = {"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
                     "StartAt": "Each", "States": {"Each": {"End": True, **each}}}  # fmt: skip
        state = {"Type": "Map", "ItemProcessor": processor, **fields}
        return run(self.client, machine(self.client, state, self.role))

    def json(self, key: str) -> Any:
        """What an object holds."""
        return json.loads(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())


def stepfunctions_map_runs__readers(client: Clients) -> bool:
    """CSV, JSON, JSONL and lists of objects are read if the role may."""
    lake, each = Lake(client, "s3:GetObject", "s3:ListBucket"), {"Type": "Pass"}

    def items(**fields: Any) -> Any:
        return json.loads(lake.run(each, **fields)["output"])

    listing = {"Resource": "arn:aws:states:::s3:listObjectsV2",
               "Parameters": {"Bucket": lake.bucket, "Prefix": "orders.j"}}  # fmt: skip
    denied = Lake(client, "s3:PutObject")
    refused = denied.run(each, ItemReader=denied.reader("orders.json", InputType="JSON"))
    return (
        refused.get("error") == "States.ItemReaderFailed"
        and items(ItemReader=lake.reader("orders.csv", InputType="CSV"))
        == [{"id": "1", "what": "tea"}, {"id": "2", "what": ""}]
        and items(ItemReader=lake.reader("orders.jsonl", InputType="JSONL", MaxItems=1))
        == [{"id": 1}]
        and [one["Key"] for one in items(ItemReader=listing)] == ["orders.json", "orders.jsonl"]
    )  # fmt: skip


def stepfunctions_map_runs__batches(client: Clients) -> bool:
    """Items come in batches with what all of them share."""
    lake = Lake(client, "s3:GetObject")
    batcher = {"MaxItemsPerBatch": 2, "BatchInput": {"run.$": "$$.Execution.Name"}}
    reader = lake.reader("orders.json", InputType="JSON", ItemsPointer="/orders")
    found = lake.run({"Type": "Pass"}, ItemReader=reader, ItemBatcher=batcher)
    return json.loads(found["output"]) == [
        {"BatchInput": {"run": found["name"]}, "Items": items} for items in ([1, 2], [3, 4], [5])
    ]


def stepfunctions_map_runs__results(client: Clients) -> bool:
    """A ResultWriter leaves a manifest and what it names; what fails is tolerated up to a count."""
    lake, sfn = Lake(client, "s3:GetObject", "s3:PutObject"), client("stepfunctions")
    choice = {"Type": "Choice", "Choices": [{"Variable": "$", "NumericGreaterThan": 3,
                                             "Next": "No"}], "Default": "Yes"}  # fmt: skip
    each = {"Each": choice, "Yes": {"Type": "Succeed"}, "No": {"Type": "Fail", "Error": "E"}}
    processor = {"ProcessorConfig": {"Mode": "DISTRIBUTED"}, "StartAt": "Each", "States": each}
    writer = {"Resource": "arn:aws:states:::s3:putObject",
              "Parameters": {"Bucket": lake.bucket, "Prefix": "results"}}  # fmt: skip
    fields = {"ItemReader": lake.reader("orders.json", InputType="JSON", ItemsPointer="/orders"),
              "ItemProcessor": processor, "ResultWriter": writer}  # fmt: skip
    strict = lake.run({}, **fields, ToleratedFailureCount=1)
    found = lake.run({}, **fields, ToleratedFailurePercentage=40)
    if "output" not in found or "ResultWriterDetails" not in found["output"]:
        return False
    told = json.loads(found["output"])
    manifest = lake.json(told["ResultWriterDetails"]["Key"])
    succeeded, failed = (
        [lake.json(file["Key"]) for file in manifest["ResultFiles"][status]]
        for status in ("SUCCEEDED", "FAILED")
    )
    counted = sfn.describe_map_run(mapRunArn=told["MapRunArn"])
    children = sfn.list_executions(mapRunArn=told["MapRunArn"])["executions"]
    history = sfn.get_execution_history(executionArn=children[0]["executionArn"])["events"]
    return (
        strict["error"] == "States.ExceedToleratedFailureThreshold"
        and sorted(one["Output"] for one in succeeded[0]) == ["1", "2", "3"]
        and [one["Error"] for one in failed[0]] == ["E", "E"]
        and (counted["status"], counted["itemCounts"]["failed"]) == ("SUCCEEDED", 2)
        and len(children) == 5
        and history[0]["type"] == "ExecutionStarted"
    )


def stepfunctions_tasks__role(client: Clients) -> bool:
    """A task may publish only if the state machine's role may."""
    topic = client("sns").create_topic(Name=f"role-{uuid.uuid4().hex[:8]}")["TopicArn"]
    arguments = {"TopicArn": topic, "Message": "told"}
    publishes = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sns:publish",
        "Parameters": arguments,
    }
    role_arn = role_that_may(client)
    arn = machine(client, publishes, role_arn)
    denied = run(client, arn)
    let(client, role_arn, "sns:Publish")
    return (
        denied.get("error") == "SNS.AuthorizationErrorException"
        and "not authorized to perform: sns:Publish" in denied["cause"]
        and run(client, arn)["status"] == "SUCCEEDED"
    )
