"""What Lambda does with an event that a function takes asynchronously, beside calling it.

On AWS the function's dead-letter queue or topic gets the payload as it was, with attributes that
say why; its destinations on failure and on success get a record. Lambda writes to both with the
function's role, and refuses a function or a configuration whose role may not. Seen in MiniStack
1.5.33: the dead-letter queue gets a record; a template's is dropped; the record has three fields
and always three attempts; a success goes nowhere, and nothing to EventBridge or S3; no role is
asked; settings of an alias or a version are passed over; attempts are not in the metrics, and call
the code of the first.

The two retries are a minute and two after each other on AWS, and a second and two here.
"""

import contextvars
import json
import logging
import threading
import time
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import async_records
import ranges
import resources
import roles
from ministack.core.responses import _request_account_id, _request_region
from ministack.services import cloudwatch, lambda_svc, sns, sqs
from ministack.services.cloudformation import provisioners
from refusals import Refused, before, before_made

PATCHES = (
    *roles.NEEDS,
    *resources.NEEDS,
    "services.lambda_svc.invoke_async_with_retry",
    "services.lambda_svc._LAMBDA_ASYNC_RETRY_BASE_SECONDS",
    "services.lambda_svc._account_region_from_function_config",
    "services.lambda_svc._create_function",
    "services.lambda_svc._emit_lambda_metrics",
    "services.lambda_svc._execute_function",
    "services.lambda_svc._execute_function_dispatch",
    "services.lambda_svc._execution_record_for_config",
    "services.lambda_svc._functions",
    "services.lambda_svc._get_func_record_for_ref",
    "services.lambda_svc._invoke",
    "services.lambda_svc._put_event_invoke_config",
    "services.lambda_svc._resolve_name_and_qualifier",
    "services.lambda_svc._update_config",
    "services.sns._topics",
    "services.sqs._queue_by_arn",
    "services.sqs._queue_url_for_account",
    "core.responses._request_account_id",
    "core.responses._request_region",
)

ACTIONS = {  # what Lambda does to a destination, by the service in its ARN
    "sqs": "SendMessage",
    "sns": "Publish",
    "lambda": "InvokeFunction",
    "events": "PutEvents",
    "s3": "PutObject",
}
OUTCOMES = ("OnSuccess", "OnFailure")

logger = logging.getLogger("gaps.lambda_async_invocations")
_request = ContextVar("request", default="")  # the id of all attempts at an event
_queued = ContextVar("queued", default=False)


def close() -> None:
    """Queue events by AWS's rules, and ask roles when a function or its settings are made."""
    dispatch, emit = lambda_svc._execute_function_dispatch, lambda_svc._emit_lambda_metrics
    invoke = lambda_svc._invoke

    def dispatched(func: dict, config: dict, event: dict, request: str, started: float) -> dict:
        return dispatch(func, config, event, _request.get() or request, started)

    async def invoked(name: str, event: Any, headers: dict, *more: Any) -> Any:
        _queued.set(headers.get("x-amz-invocation-type") == "Event")
        return await invoke(name, event, headers, *more)

    def emitted(*arguments: Any, **named: Any) -> None:
        if not _queued.get():  # a call that is queued: its attempts are counted instead
            emit(*arguments, **named)

    find = lambda_svc._get_func_record_for_ref

    def found(reference: str) -> tuple[Any, Any, str]:
        record, config, name = find(reference)
        if config and (qualifier := lambda_svc._resolve_name_and_qualifier(reference)[1]):
            config = {**config, "FunctionArn": f"{_unqualified(config)}:{qualifier}"}
        return record, config, name

    lambda_svc._get_func_record_for_ref = found  # what was called says whose settings count
    lambda_svc._execute_function_dispatch = dispatched
    lambda_svc._emit_lambda_metrics, lambda_svc._invoke = emitted, invoked
    lambda_svc.invoke_async_with_retry = queue
    lambda_svc._put_event_invoke_config = before(lambda_svc._put_event_invoke_config, settings_fit)
    lambda_svc._create_function = before(lambda_svc._create_function, dead_letters_fit)
    lambda_svc._update_config = before(
        lambda_svc._update_config,
        lambda name, changes: dead_letters_fit({**_config(name), **changes}),
    )
    handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
    for verb, properties_at in (("create", 1), ("update", 2)):
        handlers[verb] = before_made(
            handlers[verb], lambda *told, at=properties_at, **_: dead_letters_fit(told[at])
        )
    resources.finish("AWS::Lambda::Function", _keep_dead_letters)


def queue(func: dict[str, Any], event: Any) -> None:
    """Take an event for a function; a thread of its own calls it, and tells what came of it."""
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(_handle, func, event), daemon=True).start()


def _handle(func: dict[str, Any], event: Any) -> None:
    config = func.get("config") or func
    account, region = lambda_svc._account_region_from_function_config(config)
    _request_account_id.set(account)
    _request_region.set(region)
    _queued.set(False)
    request = str(uuid.uuid4())
    _request.set(request)
    settings, arn = _settings(config)
    result, condition, attempts = _attempt(func, event, settings)
    outcome = "OnSuccess" if condition == "Success" else "OnFailure"
    destination = (settings.get("DestinationConfig") or {}).get(outcome) or {}
    if target := destination.get("Destination"):
        record = async_records.record(
            request=request,
            function=arn,
            version=config["Version"],
            condition=condition,
            attempts=attempts,
            payload=event,
            result=result,
        )
        _send(config, target, json.dumps(record), {}, "DestinationDeliveryFailures")
    target = (config.get("DeadLetterConfig") or {}).get("TargetArn")
    if target and condition != "Success":
        attributes = async_records.attributes(request, result)
        _send(config, target, json.dumps(event), attributes, "DeadLetterErrors")


def _attempt(
    func: dict[str, Any], event: Any, settings: dict[str, Any]
) -> tuple[dict[str, Any] | None, str, int]:
    """(The last result, the condition, the number of attempts) of an event."""
    config = func.get("config") or func
    began, slept, attempts = time.monotonic(), 0.0, 0
    while True:
        started = time.time()
        result = lambda_svc._execute_function(_current(func), event)
        if throttled := bool(result.get("throttle")):
            if _reserved(config) == 0:
                return None, "ZeroReservedConcurrency", attempts
        else:
            attempts += 1
            lambda_svc._emit_lambda_metrics(
                config["FunctionName"],
                duration_ms=(time.time() - started) * 1000,
                error=bool(result.get("error")),
                throttle=False,
            )
        if not result.get("error"):
            return result, "Success", attempts
        age = time.monotonic() - began + slept
        wait, condition = async_records.plan(attempts, throttled, age, settings)
        if condition:
            return result, condition, attempts
        pause = wait / async_records.RETRY_SECONDS * lambda_svc._LAMBDA_ASYNC_RETRY_BASE_SECONDS
        slept += wait - pause
        time.sleep(pause)


def _current(func: dict[str, Any]) -> dict[str, Any]:
    """A function as it is by now: an attempt calls the code of its time."""
    arn = (func.get("config") or func)["FunctionArn"]
    record, config, _ = lambda_svc._get_func_record_for_ref(arn)
    return lambda_svc._execution_record_for_config(record, config) if config else func


def _settings(config: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """(The EventInvokeConfig, the qualified ARN) of what was called."""
    name, qualifier = lambda_svc._resolve_name_and_qualifier(config["FunctionArn"])
    if not qualifier and config["Version"] != "$LATEST":
        qualifier = config["Version"]
    known = (lambda_svc._functions.get(name) or {}).get("event_invoke_configs") or {}
    settings = known.get(qualifier or "$LATEST") or (known.get("") if not qualifier else None)
    return settings or {}, f"{_unqualified(config)}:{qualifier or '$LATEST'}"


def _unqualified(config: dict[str, Any]) -> str:
    """A function's ARN without version and alias."""
    return ":".join(config["FunctionArn"].split(":")[:7])


def _reserved(config: dict[str, Any]) -> Any:
    return (lambda_svc._functions.get(config["FunctionName"]) or {}).get("concurrency")


def _send(
    config: dict[str, Any], arn: str, text: str, attributes: dict[str, Any], lost: str
) -> None:
    """Write to a destination or a dead-letter queue; what cannot be written is counted as lost."""
    name, service = config["FunctionName"], arn.split(":")[2]
    try:
        client = roles.client(service, config["Role"], "lambda.amazonaws.com", name)
        if service == "sqs":
            account, queue_name = arn.split(":")[4:6]
            client.send_message(
                QueueUrl=sqs._queue_url_for_account(account, queue_name),
                MessageBody=text,
                MessageAttributes=attributes,
            )
        elif service == "sns":
            client.publish(TopicArn=arn, Message=text, MessageAttributes=attributes)
        elif service == "lambda":
            client.invoke(FunctionName=arn, InvocationType="Event", Payload=text)
        elif service == "s3":
            now = datetime.now(UTC)
            key = f"{now:%Y/%m/%d/%Y-%m-%dT%H.%M.%S}-{uuid.uuid4()}"
            bucket = arn.rpartition(":")[2].partition("/")[0]
            client.put_object(Bucket=bucket, Key=f"aws/lambda/async/{name}/{key}", Body=text)
        else:
            context = json.loads(text)["requestContext"]
            ending = "Success" if context["condition"] == "Success" else "Failure"
            entry = {
                "Source": "lambda",
                "DetailType": f"Lambda Function Invocation Result - {ending}",
                "Detail": text,
                "EventBusName": arn,
                "Resources": [arn, context["functionArn"]],
            }
            if client.put_events(Entries=[entry])["FailedEntryCount"]:
                raise RuntimeError("EventBridge took no event")
    except Exception as error:
        logger.warning("Lambda lost what it had to tell %s of %s: %s", arn, name, error)
        cloudwatch.record_metric("AWS/Lambda", lost, 1, "Count", {"FunctionName": name})


def _config(name: str) -> dict[str, Any]:
    return (lambda_svc._functions.get(name) or {}).get("config") or {}


def _may(role: str, service: str, arn: str) -> bool:
    resource = f"{arn}/aws/lambda/async" if service == "s3" else arn
    action = f"{service}:{ACTIONS[service]}"
    return roles.allows(role, "lambda.amazonaws.com", action, resource)


def settings_fit(name: str, _: str | None, sent: dict[str, Any]) -> None:
    """PutFunctionEventInvokeConfig, which a template's resource calls as well."""
    with_name = {**sent, "FunctionName": name}
    if problem := ranges.problem("lambda", "PutFunctionEventInvokeConfig", with_name):
        raise Refused(problem, "ValidationException")
    if not sent.keys() & {"DestinationConfig", "MaximumRetryAttempts", "MaximumEventAgeInSeconds"}:
        raise Refused("You must specify at least one of error handling or destination setting.")
    config = _config(name)
    for outcome in OUTCOMES if config else ():
        destination = (sent.get("DestinationConfig") or {}).get(outcome) or {}
        if arn := destination.get("Destination"):
            destination_fits(arn, outcome, config)


def destination_fits(arn: str, outcome: str, config: dict[str, Any]) -> None:
    """Whether a function's destination is there, can be one and may be written to by its role."""
    service = arn.split(":")[2] if arn.count(":") > 4 else ""
    if service == "lambda" and ":".join(arn.split(":")[:7]) == _unqualified(config):
        raise Refused("You can't specify the function as a destination for itself.")
    there = {
        "sqs": lambda: sqs._queue_by_arn(arn),
        "sns": lambda: arn in sns._topics,
        "lambda": lambda: lambda_svc._get_func_record_for_ref(arn)[0],
        "events": lambda: True,
        "s3": lambda: outcome == "OnFailure",
    }
    # Queues and topics are standard ones.
    if service not in there or arn.endswith(".fifo") or not there[service]():
        raise Refused(f"The destination ARN {arn} is invalid.")
    if not _may(config["Role"], service, arn):
        raise Refused(
            "The function's execution role does not have permissions to call"
            f" {ACTIONS[service]} on {arn}"
        )


def dead_letters_fit(function: dict[str, Any]) -> None:
    """Whether a function's role may write to its dead-letter queue or topic."""
    arn = (function.get("DeadLetterConfig") or {}).get("TargetArn") or ""
    service = arn.split(":")[2] if arn.count(":") > 4 else ""
    if service in {"sqs", "sns"} and not _may(function.get("Role") or "", service, arn):
        raise Refused(
            "The provided execution role does not have permissions to call"
            f" {ACTIONS[service]} on {service.upper()}"
        )


def _keep_dead_letters(name: str, properties: dict[str, Any]) -> None:
    config = _config(name)
    config.pop("DeadLetterConfig", None)
    if (properties.get("DeadLetterConfig") or {}).get("TargetArn"):
        config["DeadLetterConfig"] = properties["DeadLetterConfig"]
