"""Each gap: stock MiniStack fails its check and ours passes. One that passes on stock is closed."""

from __future__ import annotations

import io
import json
import pkgutil
import time
import uuid
import zipfile
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import boto3
import pytest

from sandbox import gaps, server

Clients = Callable[[str], Any]
PATIENCE = 6  # real seconds in which a check must pass; on stock it is waited out


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Generator[server.Server]:
    """MiniStack as it is, but with IAM and TLS on."""
    folder = tmp_path_factory.mktemp("stock") / "run"
    yield server.start(folder, gaps=False)
    server.stop(folder)


def clients(target: server.Server) -> Clients:
    """Clients for one server, without changing this process's environment."""
    environment = target.environment()
    return partial(
        boto3.client,
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        verify=environment["AWS_CA_BUNDLE"],
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def soon(probe: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether `probe` comes true in time."""
    deadline = time.monotonic() + seconds
    while not (result := probe()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return result


def deploy(client: Clients, resources: dict[str, Any]) -> dict[str, str]:
    """A stack of these resources: logical id to physical id."""
    cloudformation, name = client("cloudformation"), f"gap-{uuid.uuid4().hex[:8]}"
    cloudformation.create_stack(StackName=name, TemplateBody=json.dumps({"Resources": resources}))

    def status() -> str:
        return cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]

    assert soon(lambda: not status().endswith("_IN_PROGRESS")) and status() == "CREATE_COMPLETE"
    described = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
    return {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in described}


def role(client: Clients, *actions: str) -> str:
    """The ARN of a role that may do these actions."""
    iam, name = client("iam"), f"role-{uuid.uuid4().hex[:8]}"
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    if actions:
        allow(client, arn, *actions)
    return arn


def allow(client: Clients, role_arn: str, *actions: str) -> None:
    """Let a role do these actions."""
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    client("iam").put_role_policy(
        RoleName=role_arn.rpartition("/")[2],
        PolicyName="may",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": statement}),
    )


def function(client: Clients, code: str) -> str:
    """The name of a function with this code in its module index."""
    name, content = f"function-{uuid.uuid4().hex[:8]}", io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("index.py", code)
    client("lambda").create_function(
        FunctionName=name,
        Runtime="python3.14",
        Role=role(client),
        Handler="index.handler",
        Code={"ZipFile": content.getvalue()},
    )
    return name


def machine(client: Clients, state: dict[str, Any], role_arn: str = "", **fields: Any) -> str:
    """The ARN of a state machine of one state."""
    definition = {"StartAt": "Only", "States": {"Only": {"End": True, **state}}, **fields}
    return client("stepfunctions").create_state_machine(
        name=f"machine-{uuid.uuid4().hex[:8]}",
        definition=json.dumps(definition),
        roleArn=role_arn or role(client, "lambda:InvokeFunction"),
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


def powertools_layer(client: Clients) -> bool:
    """The public parameter leads to a layer that a function of any account may use."""
    ssm, lambda_ = client("ssm"), client("lambda")
    name = "/aws/service/powertools/python/arm64/python3.14/latest"
    found = ssm.get_parameters(Names=[name])["Parameters"]
    if not found:
        return False
    arn = found[0]["Value"]
    assert arn.startswith("arn:aws:lambda:us-east-1:017000801446:layer:AWSLambdaPowertools")
    return lambda_.get_layer_version_by_arn(Arn=arn)["Content"]["CodeSize"] > 0


def sqs_clock(client: Clients) -> bool:
    """A message under a visibility timeout of 40 s is back within the check's few seconds."""
    sqs = client("sqs")
    url = sqs.create_queue(QueueName=f"clock-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="again")
    assert sqs.receive_message(QueueUrl=url, VisibilityTimeout=40)["Messages"]
    return soon(lambda: "Messages" in sqs.receive_message(QueueUrl=url))


def dynamodb_ttl(client: Clients) -> bool:
    """A template's time to live is on, after an update too."""
    made = deploy(
        client,
        {
            "Records": {
                "Type": "AWS::DynamoDB::Table",
                "Properties": {
                    "BillingMode": "PAY_PER_REQUEST",
                    "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
                    "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
                    "TimeToLiveSpecification": {"AttributeName": "expires", "Enabled": True},
                },
            }
        },
    )
    described = client("dynamodb").describe_time_to_live(TableName=made["Records"])
    return described["TimeToLiveDescription"] == {
        "TimeToLiveStatus": "ENABLED",
        "AttributeName": "expires",
    }


def cloudwatch_sqs_metrics(client: Clients) -> bool:
    """A queue's depth and age are metrics of that queue."""
    sqs, cloudwatch = client("sqs"), client("cloudwatch")
    name = f"metrics-{uuid.uuid4().hex[:8]}"
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    for body in ("one", "two"):
        sqs.send_message(QueueUrl=url, MessageBody=body)

    def highest(metric: str) -> float:
        now = time.time()
        points = cloudwatch.get_metric_statistics(
            Namespace="AWS/SQS",
            MetricName=metric,
            Dimensions=[{"Name": "QueueName", "Value": name}],
            StartTime=now - 300,
            EndTime=now + 60,
            Period=60,
            Statistics=["Maximum"],
        )["Datapoints"]
        return max((point["Maximum"] for point in points), default=0)

    return soon(
        lambda: (
            highest("ApproximateNumberOfMessagesVisible") == 2
            and highest("ApproximateAgeOfOldestMessage") > 0
        )
    )


def cloudwatch_alarms(client: Clients) -> bool:
    """An alarm sees its own function's errors without a PutMetricData, and no other's."""
    cloudwatch, lambda_ = client("cloudwatch"), client("lambda")
    fails = function(client, "def handler(event, context):\n    raise ValueError('no')\n")
    other = f"other-{uuid.uuid4().hex[:8]}"
    for name in (fails, other):
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            Namespace="AWS/Lambda",
            MetricName="Errors",
            Dimensions=[{"Name": "FunctionName", "Value": name}],
            Statistic="Sum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=1,
            ComparisonOperator="GreaterThanOrEqualToThreshold",
            TreatMissingData="notBreaching",
        )
    assert lambda_.invoke(FunctionName=fails)["FunctionError"]

    def state(name: str) -> str:
        described = cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]
        return described[0]["StateValue"]

    return soon(lambda: state(fails) == "ALARM") and state(other) == "OK"


def cloudwatch_states_metrics(client: Clients) -> bool:
    """How a state machine's executions end is counted as metrics of that state machine."""
    cloudwatch = client("cloudwatch")
    passes, fails = machine(client, {"Type": "Pass"}), machine(client, FAILS)
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


EXECUTIONS = ("ExecutionsStarted", "ExecutionsSucceeded", "ExecutionsFailed")
FAILS = {"Type": "Task", "Resource": "arn:aws:lambda:us-east-1:000000000000:function:nobody"}


def eventbridge_dead_letters(client: Clients) -> bool:
    """An event that the topic's policy keeps out is in the dead-letter queue; no other is."""
    events, sns, sqs = client("events"), client("sns"), client("sqs")
    name = f"dead-{uuid.uuid4().hex[:8]}"
    topic = sns.create_topic(Name=name)["TopicArn"]
    rule = events.put_rule(Name=name, EventPattern=json.dumps({"source": [name]}))["RuleArn"]

    def queue(service: str, source: str) -> tuple[str, str]:
        url = sqs.create_queue(QueueName=f"{name}-{service}")["QueueUrl"]
        arn = f"arn:aws:sqs:us-east-1:000000000000:{name}-{service}"
        admits = policy(f"{service}.amazonaws.com", "sqs:SendMessage", arn, source)
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": admits})
        return url, arn

    dead, dead_arn = queue("events", rule)
    heard, heard_arn = queue("sns", topic)
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=heard_arn)
    target = {"Id": "topic", "Arn": topic, "DeadLetterConfig": {"Arn": dead_arn}}
    events.put_targets(Rule=name, Targets=[target])

    def publish(policy_document: str, detail: str) -> None:
        sns.set_topic_attributes(
            TopicArn=topic, AttributeName="Policy", AttributeValue=policy_document
        )
        entry = {"Source": name, "DetailType": "Test", "Detail": json.dumps({"is": detail})}
        events.put_events(Entries=[entry])

    def messages(url: str) -> list[dict[str, Any]]:
        answer = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], WaitTimeSeconds=1
        )
        return answer.get("Messages", [])

    publish(policy("events.amazonaws.com", "sns:Publish", topic, f"{rule}-other"), "kept out")
    publish(policy("events.amazonaws.com", "sns:Publish", topic, rule), "let in")
    lost, told = messages(dead), messages(heard)
    return (
        [json.loads(one["Body"])["detail"]["is"] for one in lost] == ["kept out"]
        and lost[0]["MessageAttributes"]["RULE_ARN"]["StringValue"] == rule
        and ["let in" in one["Body"] for one in told] == [True]
    )


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


def stepfunctions_endings(client: Clients) -> bool:
    """The workflow's timeout ends an execution and is told; nothing happens in a stopped one."""
    sfn, sqs, events = client("stepfunctions"), client("sqs"), client("events")
    waits = {"Type": "Wait", "Seconds": 2}
    cut_off, name = machine(client, waits, TimeoutSeconds=1), f"endings-{uuid.uuid4().hex[:8]}"
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    detail = {"stateMachineArn": [cut_off], "status": ["TIMED_OUT"]}
    events.put_rule(
        Name=name, EventPattern=json.dumps({"source": ["aws.states"], "detail": detail})
    )
    target = {"Id": "queue", "Arn": f"arn:aws:sqs:us-east-1:000000000000:{name}"}
    events.put_targets(Rule=name, Targets=[target])
    late = run(client, cut_off)
    if (late["status"], late.get("error")) != ("TIMED_OUT", "States.Timeout"):
        return False
    (told,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=2).get("Messages", [{}])
    if late["executionArn"] not in told.get("Body", ""):
        return False
    stopped = sfn.start_execution(stateMachineArn=machine(client, waits))["executionArn"]

    def history() -> list[str]:
        events = sfn.get_execution_history(executionArn=stopped)["events"]
        return [event["type"] for event in events]

    assert soon(lambda: "WaitStateEntered" in history())
    sfn.stop_execution(executionArn=stopped)
    time.sleep(2.5)
    status = sfn.describe_execution(executionArn=stopped)["status"]
    return status == "ABORTED" and history()[-1] == "ExecutionAborted"


def stepfunctions_retry_delay(client: Clients) -> bool:
    """A wait of a minute is capped at two seconds; with full jitter some waits are short."""
    retrier = {"ErrorEquals": ["States.ALL"], "MaxAttempts": 2, "BackoffRate": 60}
    capped = machine(client, FAILS | {"Retry": [retrier | {"MaxDelaySeconds": 2}]})
    began = time.monotonic()
    if run(client, capped)["status"] != "FAILED" or time.monotonic() - began < 1 + 2:
        return False
    retrier = retrier | {"MaxAttempts": 1, "IntervalSeconds": 12, "JitterStrategy": "FULL"}
    jittery, sfn = machine(client, FAILS | {"Retry": [retrier]}), client("stepfunctions")
    started = [sfn.start_execution(stateMachineArn=jittery)["executionArn"] for _ in range(40)]
    time.sleep(PATIENCE)
    failed = [one for one in started if ended(client, one, seconds=0)["status"] == "FAILED"]
    return 0 < len(failed) < len(started)


def stepfunctions_role(client: Clients) -> bool:
    """A task may publish only if the state machine's role may."""
    topic = client("sns").create_topic(Name=f"role-{uuid.uuid4().hex[:8]}")["TopicArn"]
    arguments = {"TopicArn": topic, "Message": "told"}
    publishes = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sns:publish",
        "Parameters": arguments,
    }
    role_arn = role(client)
    arn = machine(client, publishes, role_arn)
    denied = run(client, arn)
    allow(client, role_arn, "sns:Publish")
    return (
        denied.get("error") == "SNS.AuthorizationErrorException"
        and "not authorized to perform: sns:Publish" in denied["cause"]
        and run(client, arn)["status"] == "SUCCEEDED"
    )


CHECKS = {
    check.__name__: check
    for check in (
        cloudwatch_alarms,
        cloudwatch_sqs_metrics,
        cloudwatch_states_metrics,
        dynamodb_ttl,
        eventbridge_dead_letters,
        lambda_errors,
        powertools_layer,
        sqs_clock,
        stepfunctions_endings,
        stepfunctions_retry_delay,
        stepfunctions_role,
    )
}


def test_every_gap_has_a_check() -> None:
    assert set(CHECKS) == {module.name for module in pkgutil.iter_modules(gaps.__path__)}


@pytest.mark.xdist_group("sandbox")
@pytest.mark.parametrize("gap", CHECKS)
def test_gap_is_closed_in_ours(gap: str, sandbox: server.Server) -> None:
    assert CHECKS[gap](clients(sandbox))


@pytest.mark.parametrize("gap", CHECKS)
def test_gap_is_open_in_stock(gap: str, stock: server.Server) -> None:
    assert not CHECKS[gap](clients(stock)), f"upstream closed it: delete sandbox/gaps/{gap}.py"
