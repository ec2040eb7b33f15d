"""The mutation table: each rule sees the one thing that was broken in a template of ours."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from rules._definitions import problems
from tests.rules.pack import findings, rules
from tests.synthesis import PATTERNS, synthesized

Resources = dict[str, dict[str, Any]]
FUNCTION, QUEUE, TOPIC = "AWS::Lambda::Function", "AWS::SQS::Queue", "AWS::SNS::Topic"
MAPPING, SUBSCRIPTION = "AWS::Lambda::EventSourceMapping", "AWS::SNS::Subscription"
ALARM, BROKER, RULE = "AWS::CloudWatch::Alarm", "AWS::AmazonMQ::Broker", "AWS::Events::Rule"
MACHINE = "AWS::StepFunctions::StateMachine"


def of(resources: Resources, kind: str, **having: Any) -> Iterator[dict[str, Any]]:
    """Properties of the resources of a type that have these values; ... stands for any."""
    for resource in resources.values():
        properties = resource.get("Properties", {})
        if resource["Type"] == kind and all(
            name in properties if value is ... else properties.get(name) == value
            for name, value in having.items()
        ):
            yield properties


def sources(resources: Resources) -> Iterator[tuple[dict[str, Any], dict[str, Any], Any]]:
    """(mapping, queue, function) of each event source mapping of a queue."""
    for mapping in of(resources, MAPPING):
        queue = resources.get(mapping["EventSourceArn"].get("Fn::GetAtt", [""])[0], {})
        if queue.get("Type") == QUEUE:
            function = resources[mapping["FunctionName"]["Ref"]]["Properties"]
            yield mapping, queue["Properties"], function


def pairs(resources: Resources) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(queue, its dead-letter queue)."""
    for queue in of(resources, QUEUE, RedrivePolicy=...):
        dead = queue["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]
        yield queue, resources[dead]["Properties"]


def too_short(resources: Resources) -> None:
    _, queue, function = next(sources(resources))
    queue["VisibilityTimeout"] = 6 * function["Timeout"] - 1


def no_dead_letter_queue(resources: Resources) -> None:
    del next(of(resources, QUEUE, RedrivePolicy=...))["RedrivePolicy"]


def other_type(resources: Resources) -> None:
    queue, dead = next(pairs(resources))
    dead["FifoQueue"] = not queue.get("FifoQueue", False)


def retention_alike(resources: Resources) -> None:
    queue, dead = next(pairs(resources))
    queue["MessageRetentionPeriod"] = dead["MessageRetentionPeriod"]


def thirteen_days(resources: Resources) -> None:
    _, dead = next(pairs(resources))
    dead["MessageRetentionPeriod"] = 13 * 86400


def three_receives(resources: Resources) -> None:
    _, queue, _ = next(one for one in sources(resources) if "RedrivePolicy" in one[1])
    queue["RedrivePolicy"]["maxReceiveCount"] = 3


def no_partial_failure(resources: Resources) -> None:
    mapping, _, _ = next(sources(resources))
    del mapping["FunctionResponseTypes"]


def batch(*, fifo: bool) -> Callable[[Resources], None]:
    def change(resources: Resources) -> None:
        mapping, _, _ = next(
            one for one in sources(resources) if bool(one[1].get("FifoQueue")) == fifo
        )
        mapping["BatchSize"] = 11
        mapping.pop("MaximumBatchingWindowInSeconds", None)

    return change


def aws_managed_key(resources: Resources) -> None:
    alarm = next(of(resources, ALARM, AlarmActions=...))
    topic = resources[alarm["AlarmActions"][0]["Ref"]]["Properties"]
    topic["KmsMasterKeyId"] = "alias/aws/sns"


def key_for_nobody(resources: Resources) -> None:
    alarm = next(of(resources, ALARM, AlarmActions=...))
    topic = resources[alarm["AlarmActions"][0]["Ref"]]["Properties"]
    key = resources[topic["KmsMasterKeyId"]["Fn::GetAtt"][0]]["Properties"]["KeyPolicy"]
    key["Statement"] = [one for one in key["Statement"] if "Service" not in one["Principal"]]


def any_topic(resources: Resources) -> None:
    statement = next(
        statement
        for policy in of(resources, "AWS::SQS::QueuePolicy")
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Principal"] == {"Service": "sns.amazonaws.com"}
    )
    del statement["Condition"]


def drop(kind: str, name: str, **having: Any) -> Callable[[Resources], None]:
    """Take a property away."""

    def change(resources: Resources) -> None:
        del next(of(resources, kind, **{name: ..., **having}))[name]

    return change


def put(kind: str, name: str, value: Any, **having: Any) -> Callable[[Resources], None]:
    """Give a property another value."""

    def change(resources: Resources) -> None:
        next(of(resources, kind, **having))[name] = value

    return change


def drop_of_target(name: str) -> Callable[[Resources], None]:
    def change(resources: Resources) -> None:
        del next(of(resources, RULE, Targets=...))["Targets"][0][name]

    return change


def function_behind_fifo(resources: Resources) -> None:
    topics = {
        logical_id
        for logical_id, one in resources.items()
        if one["Type"] == TOPIC and one["Properties"].get("FifoTopic")
    }
    next(one for one in of(resources, SUBSCRIPTION) if one["TopicArn"].get("Ref") in topics)[
        "Protocol"
    ] = "lambda"


def notified_twice(resources: Resources) -> None:
    bucket = next(of(resources, "AWS::S3::Bucket", NotificationConfiguration=...))
    ((_, rules_),) = bucket["NotificationConfiguration"].items()
    rules_.append(copy.deepcopy(rules_[0]))


def notify_fifo(resources: Resources) -> None:
    bucket = next(of(resources, "AWS::S3::Bucket", NotificationConfiguration=...))
    bucket["NotificationConfiguration"]["TopicConfigurations"][0]["Topic"] = {"Ref": "Ordered"}
    resources["Ordered"] = {"Type": TOPIC, "Properties": {"FifoTopic": True}}


def definition(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Any:
    """Change (machine, definition): read from its Join, written back as a Sub."""

    def changed(resources: Resources) -> None:
        machine = next(of(resources, MACHINE))
        pieces = machine["DefinitionString"]["Fn::Join"][1]
        text = "".join(
            one
            if isinstance(one, str)
            else f"${{{one['Ref']}}}"
            if "Ref" in one
            else f"${{{'.'.join(one['Fn::GetAtt'])}}}"
            for one in pieces
        )
        parsed = json.loads(text)
        change(machine, parsed)
        machine["DefinitionString"] = {"Fn::Sub": json.dumps(parsed)}

    return changed


def task(parsed: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in parsed["States"].values() if one["Type"] == "Task")


def fragile(machine: dict[str, Any], parsed: dict[str, Any]) -> None:
    for name in ("Retry", "Catch"):
        task(parsed).pop(name, None)
    for problem in problems(parsed):  # what only the Catch led to
        if problem.message.endswith(" is not reachable."):
            del parsed["States"][problem.location.rpartition("/")[2]]


def endless(machine: dict[str, Any], parsed: dict[str, Any]) -> None:
    del parsed["TimeoutSeconds"]
    for state in parsed["States"].values():
        state.pop("TimeoutSeconds", None)


def call(parsed: dict[str, Any], name: str, **arguments: str) -> None:
    """Let the first task, which speaks JSONata, call something else."""
    resource = f"arn:${{AWS::Partition}}:states:::{name}"
    task(parsed).update(Resource=resource, Arguments=arguments)


def waiting(machine: dict[str, Any], parsed: dict[str, Any]) -> None:
    body = "{% $states.context.Task.Token %}"
    call(parsed, "sqs:sendMessage.waitForTaskToken", QueueUrl="x", MessageBody=body)
    task(parsed).pop("TimeoutSeconds", None)


def misspelled(machine: dict[str, Any], parsed: dict[str, Any]) -> None:
    task(parsed)["Next"] = "Chrage"


def express_job(machine: dict[str, Any], parsed: dict[str, Any]) -> None:
    machine["StateMachineType"] = "EXPRESS"
    call(parsed, "states:startExecution.sync:2", StateMachineArn="x")


def express_in_silence(resources: Resources) -> None:
    machine = next(of(resources, MACHINE))
    machine["StateMachineType"] = "EXPRESS"
    del machine["LoggingConfiguration"]


def nobody_looks(resources: Resources) -> None:
    queue, _ = next(pairs(resources))
    dead = queue["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]
    gone = [
        logical_id
        for logical_id, one in resources.items()
        if one["Type"] == ALARM and re.search(rf'"{dead}"', json.dumps(one))
    ]
    for logical_id in gone:
        del resources[logical_id]


MUTATIONS: dict[str, Callable[[Resources], None]] = {
    "E9101": too_short,
    "E9102": no_dead_letter_queue,
    "E9103": other_type,
    "E9104": retention_alike,
    "W9105": thirteen_days,
    "W9106": three_receives,
    "E9107": no_partial_failure,
    "E9108": batch(fifo=False),
    "E9109": batch(fifo=True),
    "E9110": aws_managed_key,
    "E9111": key_for_nobody,
    "E9112": any_topic,
    "E9201": drop(SUBSCRIPTION, "RedrivePolicy"),
    "E9202": function_behind_fifo,
    "E9203": put(SUBSCRIPTION, "DeliveryPolicy", {"healthyRetryPolicy": {}}, Protocol="sqs"),
    "E9204": put(
        TOPIC, "DeliveryPolicy", {"http": {"defaultHealthyRetryPolicy": {"numRetries": 101}}}
    ),
    "E9205": drop(SUBSCRIPTION, "SubscriptionRoleArn"),
    "E9301": notified_twice,
    "E9302": notify_fifo,
    "W9401": definition(fragile),
    "E9402": definition(endless),
    "E9403": definition(waiting),
    "E9404": definition(express_job),
    "E9405": express_in_silence,
    "E9406": definition(misspelled),
    "W9501": drop_of_target("DeadLetterConfig"),
    "W9502": drop_of_target("RetryPolicy"),
    "E9601": drop(ALARM, "AlarmActions"),
    "W9602": nobody_looks,
    "E9701": put(BROKER, "PubliclyAccessible", True),
    "W9702": put(BROKER, "DeploymentMode", "SINGLE_INSTANCE"),
    "E9703": drop(BROKER, "Logs"),
    "W9801": put(TOPIC, "TopicName", "alerts"),
}


@cache
def mutated(rule: str, stem: str) -> dict[str, Any] | None:
    """A template of ours with what this rule forbids; None where the rule does not apply."""
    template = copy.deepcopy(synthesized(stem).template)
    try:
        MUTATIONS[rule](template["Resources"])
    except (StopIteration, KeyError):
        return None
    return template


def test_our_templates_are_clean(stem: str) -> None:
    assert findings(synthesized(stem).template) == set()


def test_each_mutation_is_found_by_its_rule_alone(stem: str) -> None:
    found = {
        rule: {one for one, _ in findings(template)}
        for rule in MUTATIONS
        if (template := mutated(rule, stem))
    }
    assert found == {rule: {rule} for rule in found}
    assert len(found) >= 4


def test_every_rule_is_shown_on_a_template_of_ours() -> None:
    shown = {rule for rule in MUTATIONS for stem in PATTERNS if mutated(rule, stem)}
    assert shown == set(rules())
