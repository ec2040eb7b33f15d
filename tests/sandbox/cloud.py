"""What the checks of gaps are made with: clients of one server, and small things to act on."""

from __future__ import annotations

import io
import json
import threading
import time
import uuid
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import boto3

from sandbox import server

LOGS = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
PATIENCE = 6  # real seconds in which a check must pass; on stock it is waited out


class Clients:
    """Clients of one server, each made once, for any thread; this process's environment is left.

    url: the server's. authority: the file that its certificate is trusted by.
    """

    def __init__(self, target: server.Server) -> None:
        environment = target.environment()
        self.url, self.authority = environment["AWS_ENDPOINT_URL"], environment["AWS_CA_BUNDLE"]
        self._session = boto3.Session(target.key_id, target.secret, region_name="us-east-1")
        self.credentials = self._session.get_credentials()
        self._lock = threading.Lock()  # a session makes one client at a time
        self._made: dict[str, Any] = {}

    def __call__(self, service: str, **settings: Any) -> Any:
        """The client of a service; with settings of its own, as boto3 takes them, a new one."""
        made = partial(
            self._session.client, service, endpoint_url=self.url, verify=self.authority, **settings
        )
        with self._lock:
            if settings:
                return made()
            if service not in self._made:
                self._made[service] = made()
            return self._made[service]


def soon(probe: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether `probe` comes true in time."""
    deadline = time.monotonic() + seconds
    while not (result := probe()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return result


def deploy(client: Clients, resources: dict[str, Any], name: str = "") -> dict[str, str]:
    """A new stack of these resources: logical id to physical id."""
    cloudformation, name = client("cloudformation"), name or f"gap-{uuid.uuid4().hex[:8]}"
    cloudformation.create_stack(StackName=name, TemplateBody=json.dumps({"Resources": resources}))

    def status() -> str:
        return cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]

    assert soon(lambda: not status().endswith("_IN_PROGRESS")) and status() == "CREATE_COMPLETE"
    described = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
    return {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in described}


def listen(client: Clients, topic: str, url: str, **attributes: str) -> str:
    """Subscribe a queue to a topic, and let it; the queue's ARN."""
    sqs = client("sqs")
    described = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    arn = described["Attributes"]["QueueArn"]
    admit(client, topic, url, arn)
    client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes=attributes)
    return arn


def admit(client: Clients, topic: str, url: str, arn: str) -> None:
    """Let a topic send to a queue."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    client("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})


def highest(client: Clients, namespace: str, metric: str, **dimensions: str) -> float:
    """The highest value of a metric in the last five minutes; 0 if there is none."""
    now = time.time()
    points = client("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
        StartTime=now - 300,
        EndTime=now + 60,
        Period=60,
        Statistics=["Maximum"],
    )["Datapoints"]
    return max((point["Maximum"] for point in points), default=0)


def role(client: Clients, service: str) -> str:
    """The name of a role that this service may assume and that may do nothing yet."""
    name = f"role-{uuid.uuid4().hex[:8]}"
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": service}}
    client("iam").create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps({"Statement": [trust]})
    )
    return name


def allow(client: Clients, name: str, action: str, *resources: str) -> None:
    """Give a role its one policy."""
    statement = {"Effect": "Allow", "Action": action, "Resource": resources}
    client("iam").put_role_policy(
        RoleName=name, PolicyName="one", PolicyDocument=json.dumps({"Statement": [statement]})
    )


def function(client: Clients, code: str, runtime: str = "python3.14") -> str:
    """The ARN of a new function whose module is this code with a `handler`; it writes a log."""
    own = role(client, "lambda.amazonaws.com")
    client("iam").attach_role_policy(RoleName=own, PolicyArn=LOGS)
    made = client("lambda").create_function(
        FunctionName=f"function-{uuid.uuid4().hex[:8]}",
        Runtime=runtime,
        Role=f"arn:aws:iam::000000000000:role/{own}",
        Handler="index.handler",
        Code={"ZipFile": archive(code, "index.py" if "python" in runtime else "index.js")},
    )["FunctionArn"]
    assert soon(lambda: done(client, made))
    return made


def archive(code: str, module: str = "index.py") -> bytes:
    """A deployment package whose module is this code."""
    archived = io.BytesIO()
    with zipfile.ZipFile(archived, "w") as package:
        package.writestr(module, code)
    return archived.getvalue()


def done(client: Clients, arn: str) -> bool:
    """Whether a function is made and its last change is done."""
    found = client("lambda").get_function_configuration(FunctionName=arn)
    return (found["State"], found["LastUpdateStatus"]) == ("Active", "Successful")


def role_of(client: Clients, arn: str) -> str:
    """The name of a function's role."""
    return client("lambda").get_function_configuration(FunctionName=arn)["Role"].split("/")[1]


FAILS = "def handler(event, context):\n    raise ValueError('no')\n"
