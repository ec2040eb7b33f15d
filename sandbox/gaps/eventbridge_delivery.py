"""A rule delivers what its target's policy, or the target's role, admits; the rest is dead.

The policy of a queue, topic or function is asked, or the role of the target, if it has one; state
machines, streams, buses and API destinations are reached with a role only. What is not admitted, or
has no target any more, is in the target's dead-letter queue at once, if that queue admits the rule:
AWS does not try again without permission or target. EventBridge's guide says that a topic's policy
may have no conditions for it: a statement with one does not count.

Seen in MiniStack 1.5.33 with AUTH=true: nobody is asked, DeadLetterConfig is kept but not used, a
function is called once only, and nothing is delivered to Firehose, Kinesis and log groups. A Detail
that is a string, which no caller may send, and templates that come to no JSON are delivered.

Endpoints are called again as the target's RetryPolicy says. All others take an event at once or not
at all here, so nothing is retried.
"""

import base64
import contextvars
import itertools
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import event_rules
import roles
from ministack.core import iam_evaluator
from ministack.core.arn import parse_arn
from ministack.core.responses import get_account_id, get_region
from ministack.services import (
    cloudwatch_logs,
    eventbridge,
    firehose,
    kinesis,
    lambda_svc,
    sns,
    sqs,
    stepfunctions,
)

PATCHES = (
    *roles.NEEDS,
    "services.eventbridge._invoke_target",
    "services.eventbridge._pattern_event_view",
    "services.eventbridge._render_input_template",
    "services.eventbridge._event_buses",
    "services.eventbridge._api_destinations",
    "services.eventbridge._dispatch_to_event_bus",
    "services.eventbridge._connections",
    "services.eventbridge._build_api_destination_request",
    "services.eventbridge._connection_auth_headers",
    "services.eventbridge._api_destination_send_sync",
    "services.eventbridge._resolve_http_parameters",
    "services.eventbridge._resolve_http_parameter",
    "services.sns.publish_internal",
    "services.sns.topic_policy_for_arn",
    "services.sns._topic_by_arn_any_scope",
    "services.sns.SnsPublishError",
    "services.sqs._queue_by_arn",
    "services.sqs._act_send_message",
    "services.sqs._queue_url",
    "services.sqs._Err",
    "services.lambda_svc._get_func_record_for_ref",
    "services.lambda_svc._execution_record_for_config",
    "services.lambda_svc.invoke_async_with_retry",
    "services.stepfunctions._resolve_state_machine_arn",
    "services.stepfunctions._start_execution",
    "services.firehose._streams",
    "services.firehose._put_record",
    "services.kinesis._streams",
    "services.kinesis._put_record",
    "services.cloudwatch_logs._log_groups",
    "services.cloudwatch_logs._resource_policies",
    "services.cloudwatch_logs._create_log_stream",
    "services.cloudwatch_logs._put_log_events",
)

SERVICE = "events.amazonaws.com"
logger = logging.getLogger("gaps.eventbridge_delivery")


class Undelivered(Exception):
    """Why an event cannot be delivered: AWS's code for it, and what else its dead letter says."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.more: dict[str, str] = {}


def close() -> None:
    """Deliver by EventBridge's rules."""
    eventbridge._invoke_target = invoke


def invoke(target: dict, event: dict, rule: dict, view: Any = None) -> None:
    """Deliver one event to one target of a rule, or to the target's dead-letter queue."""
    view = view or eventbridge._pattern_event_view(event)
    context = contextvars.copy_context()
    # AWS's services speak TLS among themselves, whoever caused the event.
    context.run(iam_evaluator.pin_request_origin, "127.0.0.1", True)
    try:
        context.run(deliver, target, event, rule, view)
    except Undelivered as problem:
        context.run(bury, problem, target, rule, view)
    except Exception:
        logger.exception("rule %s cannot reach %s", rule["Arn"], target["Arn"])


def deliver(target: dict, event: dict, rule: dict, view: Any) -> None:
    """Hand an event over as the rule may; Undelivered if it may not."""
    arn = target["Arn"]
    service, resource = arn.split(":")[2], arn.split(":", 5)[5]
    payload = transformed(target, rule, view)
    if service == "events" and resource.startswith("api-destination/"):
        service = "api-destination"
    action, exists, hand_over = KINDS[service]
    if not exists(arn):
        raise Undelivered("NO_RESOURCE", f"{arn} does not exist")
    ask(target, rule, action)
    hand_over(target, payload, (event, rule, view))


def transformed(target: dict, rule: dict, view: Any) -> str:
    """What the target gets: the event, or what the target's input makes of it, as JSON."""
    event = view.event_with_detail()
    if transformer := target.get("InputTransformer"):
        return rendered(transformer, rule, view)
    if path := target.get("InputPath"):
        with suppress(LookupError):
            event = event_rules.at(event, path)
    return target.get("Input") or json.dumps(event)


def rendered(transformer: dict, rule: dict, view: Any) -> str:
    """An input template with its values; what is not there is empty.

    AWS delivers nothing where an object is put within a string of a JSON template.
    """
    event, template = view.event_with_detail(), transformer["InputTemplate"]
    values: dict[str, Any] = {}
    for name, path in (transformer.get("InputPathsMap") or {}).items():
        try:
            values[name] = event_rules.at(event, path)
        except LookupError:
            values[name] = ""
    values |= {
        "aws.events.rule-arn": rule["Arn"],
        "aws.events.rule-name": rule["Name"],
        "aws.events.event.ingestion-time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "aws.events.event.json": event,
        "aws.events.event": {  # the one place where it is detailType
            "detailType" if name == "detail-type" else name: value
            for name, value in view.envelope().items()
        },
    }
    made = eventbridge._render_input_template(template, values)
    if template.lstrip()[:1] in {"{", "["}:
        for text in re.findall(r'"(?:\\.|[^"\\])*"', template):
            for name in re.findall("<([^<>]*)>", text):
                if isinstance(values.get(name), dict | list):
                    raise Undelivered("INVALID_JSON", f"<{name}> is an object within a string")
        try:
            json.loads(made)
        except ValueError as error:
            raise Undelivered("INVALID_JSON", f"The input is no JSON: {error}") from None
    return made


def ask(target: dict, rule: dict, action: str) -> None:
    """Undelivered where neither the target's role nor its policy admits the rule."""
    arn, rule_arn = target["Arn"], rule["Arn"]
    sent = {"aws_SourceArn": rule_arn, "aws_SourceAccount": rule_arn.split(":")[4]}
    if role := target.get("RoleArn"):
        if not roles.trusts(role, SERVICE, **sent):
            raise Undelivered("FAILED_TO_ASSUME_ROLE", f"{SERVICE} may not assume {role}")
        if not roles.allows(role, SERVICE, action, arn, **sent):
            text = f"{role} is not authorized to perform: {action} on resource: {arn}"
            raise Undelivered("NO_PERMISSIONS", text)
    elif not admitted(action, arn, sent):
        text = f"{SERVICE} is not authorized to perform: {action} on resource: {arn}"
        raise Undelivered("NO_PERMISSIONS", text)


def admitted(action: str, arn: str, sent: dict[str, str]) -> bool:
    """Whether the policy of a queue, topic, function or log group admits the rule."""
    if action == "sns:Publish":
        policy = json.loads(sns.topic_policy_for_arn(arn)[0] or "{}")
        statements = policy.get("Statement", [])
        statements = [statements] if isinstance(statements, dict) else statements
        counts = [one for one in statements if one["Effect"] == "Deny" or not one.get("Condition")]
        return roles.policy_admits({"Statement": counts}, SERVICE, action, arn, sent)
    if action == "logs:PutLogEvents":
        stream = arn.removesuffix(":*") + ":log-stream:events"
        return any(
            roles.policy_admits(one["policyDocument"], SERVICE, action, stream, sent)
            for one in cloudwatch_logs._resource_policies.values()
        )
    return roles.admits(SERVICE, action, arn, **sent)


def bury(problem: Undelivered, target: dict, rule: dict, view: Any) -> None:
    """Send the event, as it came, to the target's dead-letter queue, if that admits the rule."""
    queue = (target.get("DeadLetterConfig") or {}).get("Arn", "")
    sent = {"aws_SourceArn": rule["Arn"], "aws_SourceAccount": rule["Arn"].split(":")[4]}
    if not queue or not roles.admits(SERVICE, "sqs:SendMessage", queue, **sent):
        logger.warning("an event of rule %s is lost: %s", rule["Arn"], problem)
        return
    attributes = {
        "RULE_ARN": rule["Arn"],
        "TARGET_ARN": target["Arn"],
        "ERROR_CODE": problem.code,
        "ERROR_MESSAGE": str(problem),
        **problem.more,
    }
    sqs._act_send_message(
        {
            "MessageBody": json.dumps(view.event_with_detail()),
            "MessageAttributes": {
                name: {"DataType": "String", "StringValue": value}
                for name, value in attributes.items()
            },
        },
        sqs._queue_url(_name(queue)),
    )


def _to_queue(target: dict, payload: str, _: Any) -> None:
    message = {"MessageBody": payload}
    if target["Arn"].endswith(".fifo"):
        message["MessageGroupId"] = (target.get("SqsParameters") or {}).get("MessageGroupId", "")
    try:
        sqs._act_send_message(message, sqs._queue_url(_name(target["Arn"])))
    except sqs._Err as refused:
        raise Undelivered("INVALID_PARAMETER", refused.message) from None


def _to_topic(target: dict, payload: str, _: Any) -> None:
    try:
        sns.publish_internal(target["Arn"], payload)
    except sns.SnsPublishError as refused:
        raise Undelivered("INVALID_PARAMETER", str(refused)) from None


def _to_function(target: dict, payload: str, _: Any) -> None:
    function, config, _ = lambda_svc._get_func_record_for_ref(target["Arn"])
    record = lambda_svc._execution_record_for_config(function, config)
    try:
        given = json.loads(payload)
    except ValueError:
        given = payload
    lambda_svc.invoke_async_with_retry(record, given)


def _to_machine(target: dict, payload: str, _: Any) -> None:
    answer = stepfunctions._start_execution({"stateMachineArn": target["Arn"], "input": payload})
    _taken(answer)


def _to_firehose(target: dict, payload: str, _: Any) -> None:
    data = base64.b64encode(payload.encode()).decode()
    name = target["Arn"].rpartition("/")[2]
    _taken(firehose._put_record({"DeliveryStreamName": name, "Record": {"Data": data}}))


def _to_kinesis(target: dict, payload: str, delivery: Any) -> None:
    key = delivery[0]["EventId"]
    if path := (target.get("KinesisParameters") or {}).get("PartitionKeyPath"):
        found = eventbridge._resolve_http_parameter(path, delivery[2].event_with_detail())
        key = str(found or key)
    data = base64.b64encode(payload.encode()).decode()
    _taken(kinesis._put_record({"StreamARN": target["Arn"], "PartitionKey": key, "Data": data}))


def _to_log_group(target: dict, payload: str, delivery: Any) -> None:
    group, stream = _log_group(target["Arn"]), delivery[0]["EventId"]
    cloudwatch_logs._create_log_stream({"logGroupName": group, "logStreamName": stream})
    _taken(
        cloudwatch_logs._put_log_events(
            {
                "logGroupName": group,
                "logStreamName": stream,
                "logEvents": [{"timestamp": int(time.time() * 1000), "message": payload}],
            }
        )
    )


def _to_bus(target: dict, payload: str, delivery: Any) -> None:
    event, rule, _ = delivery
    changed = any(target.get(name) for name in INPUTS)
    eventbridge._dispatch_to_event_bus(
        parse_arn(target["Arn"]),
        event,
        rule,
        set(event.get("_DispatchPath") or []),
        payload if changed else None,
    )


def _to_endpoint(target: dict, payload: str, delivery: Any) -> None:
    given = target.get("HttpParameters") or {}
    parameters = eventbridge._resolve_http_parameters(given, delivery[2].event_with_detail())
    destination = eventbridge._api_destinations[target["Arn"].split("/")[1]]
    name = destination["ConnectionArn"].split("/")[1]
    connection = eventbridge._connections.get(name) or {}
    if connection.get("ConnectionState") != "AUTHORIZED":
        raise Undelivered("NO_PERMISSIONS", f"The connection {name} is not authorized")
    request = eventbridge._build_api_destination_request(
        destination, connection, parameters, payload
    )
    run = contextvars.copy_context().run
    called = (target, request, dict(connection), delivery)
    threading.Thread(target=run, args=(_call, *called), daemon=True).start()


def _call(target: dict, request: dict, connection: dict, delivery: Any) -> None:
    """Call an endpoint until it takes the event, as the target's retry policy says."""
    policy, began = target.get("RetryPolicy") or {}, time.monotonic()
    most = int(policy.get("MaximumRetryAttempts", 185))
    oldest = int(policy.get("MaximumEventAgeInSeconds", 86_400))
    for attempt in itertools.count():
        problem, again = _called(request, connection)
        if not problem:
            return
        last = attempt == most
        if not again or last or time.monotonic() - began >= oldest:
            if again:
                condition = "MaximumRetryAttempts" if last else "MaximumEventAgeInSeconds"
                problem.more["EXHAUSTED_RETRY_CONDITION"] = condition
                problem.more["RETRY_ATTEMPTS"] = str(attempt)
            bury(problem, target, *delivery[1:])
            return
        time.sleep(min(2**attempt, 60))


def _called(request: dict, connection: dict) -> tuple[Undelivered | None, bool]:
    """What went wrong with one call of an endpoint, and whether EventBridge tries again."""
    key = (get_account_id(), get_region(), connection["Name"])
    try:
        headers = eventbridge._connection_auth_headers(connection, key)
        status = eventbridge._api_destination_send_sync(request, headers)
        if status in {401, 407} and connection["AuthorizationType"] == "OAUTH_CLIENT_CREDENTIALS":
            headers = eventbridge._connection_auth_headers(connection, key, force_refresh=True)
            status = eventbridge._api_destination_send_sync(request, headers)
    except Exception as error:
        return Undelivered("CONNECTION_FAILURE", str(error)), True
    if 200 <= status < 300:
        return None, False
    text = f"The endpoint answered with status {status}"
    return Undelivered("ERROR_FROM_TARGET", text), status in {401, 407, 409, 429} or status >= 500


def _taken(answer: Any) -> None:
    """Undelivered where a service's own answer is an error."""
    if answer[0] >= 400:
        body = json.loads(answer[2])
        text = body.get("message") or body.get("Message") or ""
        raise Undelivered("ERROR_FROM_TARGET", f"{body.get('__type', '')}: {text}")


def _name(arn: str) -> str:
    return arn.rpartition(":")[2]


def _log_group(arn: str) -> str:
    return arn.removesuffix(":*").rpartition("log-group:")[2]


# What each kind of target is asked for, whether one is there, and how it gets the event.
INPUTS = ("Input", "InputPath", "InputTransformer")
KINDS: dict[str, tuple[str, Callable[[str], Any], Callable[[dict, str, Any], None]]] = {
    "sqs": ("sqs:SendMessage", sqs._queue_by_arn, _to_queue),
    "sns": ("sns:Publish", sns._topic_by_arn_any_scope, _to_topic),
    "lambda": (
        "lambda:InvokeFunction",
        lambda arn: lambda_svc._get_func_record_for_ref(arn)[1],
        _to_function,
    ),
    "states": (
        "states:StartExecution",
        stepfunctions._resolve_state_machine_arn,
        _to_machine,
    ),
    "firehose": (
        "firehose:PutRecord",
        lambda arn: firehose._streams.get(arn.rpartition("/")[2]),
        _to_firehose,
    ),
    "kinesis": (
        "kinesis:PutRecord",
        lambda arn: kinesis._streams.get(arn.rpartition("/")[2]),
        _to_kinesis,
    ),
    "logs": (
        "logs:PutLogEvents",
        lambda arn: cloudwatch_logs._log_groups.get(_log_group(arn)),
        _to_log_group,
    ),
    "events": (
        "events:PutEvents",
        lambda arn: eventbridge._event_buses.get(arn.rpartition("/")[2]),
        _to_bus,
    ),
    "api-destination": (
        "events:InvokeApiDestination",
        lambda arn: eventbridge._api_destinations.get(arn.split("/")[1]),
        _to_endpoint,
    ),
}
