"""A pipe takes messages from a queue, filters and enriches them, and hands them to its target.

Seen in MiniStack 1.5.33: a pipe is made and nothing flows but from DynamoDB to SNS and Step
Functions; parameters are dropped, and nobody asks the role. Here a thread for each running pipe
from a queue does what the guide says, by calls that are judged by the pipe's role. What filters
drop and what the target took is deleted; what failed comes back after the queue's visibility
timeout, and so gets to the queue's own dead-letter queue. A pipe that cannot run here is refused
when it is made. Batching windows are in the wall clock's time; a pipe's own log is not written.
"""

import contextvars
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import batch_responses
import pipe_events
import ranges
import roles
from botocore.exceptions import BotoCoreError, ClientError
from gaps import lambda_event_filters
from ministack.core.responses import get_account_id, get_region
from ministack.services import eventbridge, pipes, sqs, stepfunctions
from ministack.services.cloudformation import provisioners

PATCHES = (
    *roles.NEEDS,
    *lambda_event_filters.PATCHES,
    "services.pipes._create_pipe",
    "services.pipes._describe_response",
    "services.pipes._error",
    "services.pipes._json_resp",
    "services.pipes._lifecycle_response",
    "services.pipes._pipes",
    "services.pipes._set_state",
    "services.pipes._update_pipe",
    "services.sqs._queue_url_for_account",
    "services.stepfunctions._state_machines",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
    "services.cloudformation.provisioners._physical_name",
)

PRINCIPAL = "pipes.amazonaws.com"
NEEDED = ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")
KEPT = (
    "SourceParameters",
    "Enrichment",
    "EnrichmentParameters",
    "TargetParameters",
    "LogConfiguration",
    "KmsKeyIdentifier",
)
_log = logging.getLogger("gaps.pipes_from_sqs")
_threads: dict[int, threading.Thread] = {}


class Refused(Exception):
    """A target or an enrichment did not take the events; they come back."""


def close() -> None:
    """Check pipes when they are made and changed, keep all of them, and run those that run."""
    create, update = pipes._create_pipe, pipes._update_pipe
    describe, set_state = pipes._describe_response, pipes._set_state
    handlers = provisioners._RESOURCE_HANDLERS["AWS::Pipes::Pipe"]
    by_template, by_update = handlers["create"], handlers["update"]

    def create_checked(name: str, body: dict[str, Any]) -> Any:
        if refused := _problem({**body, "Name": name}, "CreatePipe"):
            return pipes._error(400, "ValidationException", refused)
        answer = create(name, body)
        if answer[0] != 200:
            return answer
        pipe = pipes._pipes[name]
        pipe.update({key: body[key] for key in KEPT if key in body})
        if reason := _denied(name, body):
            pipe.update(CurrentState="CREATE_FAILED", StateReason=reason)
        _run(pipe)
        # AWS makes it in the background.
        told = pipes._lifecycle_response(pipe) | {"CurrentState": "CREATING"}
        return pipes._json_resp(200, told)

    def update_checked(name: str, body: dict[str, Any]) -> Any:
        pipe = pipes._pipes.get(name)
        if pipe and (refused := _problem({**pipe, **body, "Name": name}, "UpdatePipe")):
            return pipes._error(400, "ValidationException", refused)
        answer = update(name, body)
        if pipe and answer[0] == 200:
            pipe.update({key: body[key] for key in KEPT if key in body})
            _run(pipe)
        return answer

    def describe_all(pipe: dict[str, Any]) -> dict[str, Any]:
        return describe(pipe) | {key: pipe[key] for key in KEPT if pipe.get(key)}

    def set_and_run(name: str, desired: str) -> Any:
        answer = set_state(name, desired)
        if answer[0] == 200:
            _run(pipes._pipes[name])
        return answer

    def create_of_template(logical_id: str, properties: dict[str, Any], stack: str) -> Any:
        name = properties.get("Name") or provisioners._physical_name(stack, logical_id, max_len=64)
        _check_template(name, properties)
        return _kept(by_template(logical_id, {**properties, "Name": name}, stack), properties)

    def update_of_template(
        physical_id: str, old: dict[str, Any], new: dict[str, Any], *more: Any, **named: Any
    ) -> Any:
        _check_template(physical_id, new)
        return _kept(by_update(physical_id, old, new, *more, **named), new)

    pipes._create_pipe, pipes._update_pipe = create_checked, update_checked
    pipes._describe_response, pipes._set_state = describe_all, set_and_run
    handlers["create"], handlers["update"] = create_of_template, update_of_template


def _check_template(name: str, properties: dict[str, Any]) -> None:
    """ValueError with what CloudFormation says of a pipe that cannot be made."""
    if refused := _problem({**properties, "Name": name}, "CreatePipe"):
        raise ValueError(refused)
    if reason := _denied(name, properties):
        raise ValueError(
            f"Resource of type 'AWS::Pipes::Pipe' with identifier '{name}' did not stabilize."
            f" Status Reason is {reason}"
        )


def _kept(made: Any, properties: dict[str, Any]) -> Any:
    """Keep of a template's pipe what MiniStack drops, and run it."""
    pipe = pipes._pipes[made[0]]
    for key in KEPT:
        pipe.pop(key, None)
    pipe.update({key: properties[key] for key in KEPT if properties.get(key)})
    _run(pipe)
    return made


def _problem(pipe: dict[str, Any], operation: str) -> str:
    """Why AWS or the sandbox refuses a pipe."""
    broken = ranges.problem("pipes", operation, pipe)
    if broken or (refused := pipe_events.problem(pipe)):
        return broken or refused
    parameters = pipe.get("SourceParameters") or {}
    for one in (parameters.get("FilterCriteria") or {}).get("Filters") or []:
        if not eventbridge._compiled_pattern(one.get("Pattern") or "{}"):
            return "Invalid filter pattern: Event pattern is not valid."
    if ":stateMachine:" in pipe["Target"] and _synchronous(pipe) and not _express(pipe["Target"]):
        return "REQUEST_RESPONSE is not supported for STANDARD state machine workflows"
    enrichment = pipe.get("Enrichment") or ""
    if ":stateMachine:" in enrichment and not _express(enrichment):
        return "Only Express state machines are supported as an enrichment"
    return ""


def _express(machine: str) -> bool:
    """False for a machine that is known as a Standard one."""
    found = stepfunctions._state_machines.get(machine) or {}
    return found.get("type", "EXPRESS") == "EXPRESS"


def _synchronous(pipe: dict[str, Any]) -> bool:
    parameters = pipe.get("TargetParameters") or {}
    kind = "Lambda" if ":lambda:" in pipe["Target"] else "StepFunctionStateMachine"
    name = "LambdaFunctionParameters" if kind == "Lambda" else f"{kind}Parameters"
    return (parameters.get(name) or {}).get("InvocationType") != "FIRE_AND_FORGET"


def _denied(name: str, pipe: dict[str, Any]) -> str:
    """What AWS says of a pipe whose role may not read its queue."""
    if pipe_events.service(pipe["Source"]) != "sqs":
        return ""
    reason = "Input parameter is invalid from the request due to : "
    role, sent = pipe["RoleArn"], _sent(name)
    if not roles.trusts(role, PRINCIPAL, **sent):
        return f"{reason}The provided customer role cannot be assumed by principal '{PRINCIPAL}'"
    for action in NEEDED:
        if not roles.allows(role, PRINCIPAL, f"sqs:{action}", pipe["Source"], **sent):
            return (
                f"{reason}The provided customer role does not have permissions to call {action}"
                " on SQS"
            )
    return ""


def _sent(name: str) -> dict[str, str]:
    account = get_account_id()
    arn = f"arn:aws:pipes:{get_region()}:{account}:pipe/{name}"
    return {"aws_SourceArn": arn, "aws_SourceAccount": account}


def _run(pipe: dict[str, Any]) -> None:
    """Start a pipe's thread, unless it runs, or is not to."""
    thread = _threads.get(id(pipe))
    if pipe_events.service(pipe["Source"]) != "sqs" or pipe["CurrentState"] != "RUNNING":
        return
    if thread is None or not thread.is_alive():
        # The thread must know the account and Region, which are context variables.
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(_flow, pipe), daemon=True)
        _threads[id(pipe)] = thread
        thread.start()


def _alive(pipe: dict[str, Any]) -> bool:
    return pipes._pipes.get(pipe["Name"]) is pipe and pipe["CurrentState"] == "RUNNING"


def _flow(pipe: dict[str, Any]) -> None:
    """Hand on batches as long as the pipe runs."""
    while _alive(pipe):
        try:
            if messages := _receive(pipe):
                _hand_on(pipe, messages)
        except (BotoCoreError, ClientError, roles.Denied, Refused) as error:
            _log.warning("Pipe %s: %s", pipe["Name"], error)
            time.sleep(0.5)
        except Exception:
            _log.exception("Pipe %s", pipe["Name"])
            time.sleep(1)
    _threads.pop(id(pipe), None)


def _client(pipe: dict[str, Any], service: str) -> Any:
    return roles.client(service, pipe["RoleArn"], PRINCIPAL, pipe["Name"], **_sent(pipe["Name"]))


def _url(arn: str) -> str:
    account, name = arn.split(":")[4:6]
    return sqs._queue_url_for_account(account, name)


def _receive(pipe: dict[str, Any]) -> list[dict[str, Any]]:
    """A batch: full, or what came until the window ended."""
    parameters = (pipe.get("SourceParameters") or {}).get("SqsQueueParameters") or {}
    wanted = int(parameters.get("BatchSize") or pipe_events.BATCH)
    window = int(parameters.get("MaximumBatchingWindowInSeconds") or 0)
    if pipe["Source"].endswith(".fifo"):
        window = 0
    client, messages = _client(pipe, "sqs"), []
    wait = max(1, min(20, int(float(os.environ["SANDBOX_CLOCK"]))))  # about a second
    deadline = 0.0
    while _alive(pipe):
        answer = client.receive_message(
            QueueUrl=_url(pipe["Source"]),
            MaxNumberOfMessages=min(10, wanted - len(messages)),
            WaitTimeSeconds=wait,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        messages += answer.get("Messages", [])
        deadline = deadline or (time.monotonic() + window if messages else 0.0)
        if len(messages) >= wanted or not messages or time.monotonic() >= deadline:
            break
    return messages


def _hand_on(pipe: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    """Filter, enrich, deliver, and delete what is done with."""
    records = [pipe_events.record(message, pipe["Source"]) for message in messages]
    kept = [
        one
        for one in records
        if lambda_event_filters.passes(one, pipe.get("SourceParameters") or {})
    ]
    ids = [one["messageId"] for one in kept]
    _delete(pipe, [one for one in messages if one["MessageId"] not in ids])
    if not kept:
        return
    events = _enriched(pipe, kept)
    failed = _deliver(pipe, events, ids) if events else set()
    _delete(pipe, [one for one in messages if one["MessageId"] in set(ids) - failed])


def _delete(pipe: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    for first in range(0, len(messages), 10):
        _client(pipe, "sqs").delete_message_batch(
            QueueUrl=_url(pipe["Source"]),
            Entries=[
                {"Id": str(number), "ReceiptHandle": one["ReceiptHandle"]}
                for number, one in enumerate(messages[first : first + 10])
            ],
        )


def _enriched(pipe: dict[str, Any], records: list[Any]) -> list[Any]:
    """What the enrichment makes of a batch; an empty answer leaves nothing for the target."""
    arn = pipe.get("Enrichment")
    if not arn:
        return records
    template = (pipe.get("EnrichmentParameters") or {}).get("InputTemplate") or ""
    texts = [pipe_events.transformed(template, one, pipe) for one in records]
    answer = _ask(pipe, arn, texts)
    if not answer:
        return []
    return answer if isinstance(answer, list) else [answer]


def _ask(pipe: dict[str, Any], arn: str, texts: list[str]) -> Any:
    """What a function or an Express machine answers to an array of events."""
    try:
        payload = json.dumps([json.loads(text) for text in texts])
    except ValueError:
        raise Refused(f"the input for {arn} is no JSON: {texts[0][:100]}") from None
    if ":lambda:" in arn:
        answer = _client(pipe, "lambda").invoke(FunctionName=arn, Payload=payload.encode())
        output = answer["Payload"].read().decode()
        if answer.get("FunctionError"):
            raise Refused(f"{arn} failed: {output[:200]}")
    else:
        answer = _client(pipe, "stepfunctions").start_sync_execution(
            stateMachineArn=arn, input=payload
        )
        if answer["status"] != "SUCCEEDED":
            raise Refused(f"{arn} {answer['status']}: {answer.get('error')}")
        output = answer.get("output") or ""
    return json.loads(output) if output else None


def _deliver(pipe: dict[str, Any], events: list[Any], ids: list[str]) -> set[str]:
    """Hand events to the target; the ids of the messages that come back."""
    target = pipe["Target"]
    parameters = pipe.get("TargetParameters") or {}
    template = parameters.get("InputTemplate") or ""
    texts = [pipe_events.transformed(template, one, pipe) for one in events]
    kind = pipe_events.service(target)
    if kind in {"lambda", "states"}:
        if _synchronous(pipe):
            return batch_responses.failed(_ask(pipe, target, texts), ids)
        _start(pipe, texts)
        return set()
    most = pipe_events.TARGETS[kind]
    if most and len(texts) > most:
        raise Refused(f"{len(texts)} events are too many for {target}")
    failed = BATCHES[kind](pipe, texts, events)
    # Which message an event is of is known only where nothing was enriched.
    if pipe.get("Enrichment"):
        return set(ids) if failed else set()
    return {ids[number] for number in failed}


def _start(pipe: dict[str, Any], texts: list[str]) -> None:
    try:
        payload = json.dumps([json.loads(text) for text in texts])
    except ValueError:
        raise Refused(f"the input for {pipe['Target']} is no JSON: {texts[0][:100]}") from None
    if ":lambda:" in pipe["Target"]:
        _client(pipe, "lambda").invoke(
            FunctionName=pipe["Target"], Payload=payload.encode(), InvocationType="Event"
        )
    else:
        _client(pipe, "stepfunctions").start_execution(
            stateMachineArn=pipe["Target"], input=payload
        )


def _given(pipe: dict[str, Any], kind: str, event: Any) -> dict[str, Any]:
    """The parameters of a target for one event, without those that its paths do not find."""
    parameters = (pipe.get("TargetParameters") or {}).get(kind) or {}
    found = {key: pipe_events.parameter(value, event) for key, value in parameters.items()}
    return {key: value for key, value in found.items() if value is not None}


def _to_sqs(pipe: dict[str, Any], texts: list[str], events: list[Any]) -> set[int]:
    entries = [
        {"Id": str(number), "MessageBody": text, **_given(pipe, "SqsQueueParameters", event)}
        for number, (text, event) in enumerate(zip(texts, events, strict=True))
    ]
    answer = _client(pipe, "sqs").send_message_batch(QueueUrl=_url(pipe["Target"]), Entries=entries)
    return {int(one["Id"]) for one in answer.get("Failed", [])}


def _to_sns(pipe: dict[str, Any], texts: list[str], _events: list[Any]) -> set[int]:
    entries = [{"Id": str(number), "Message": text} for number, text in enumerate(texts)]
    answer = _client(pipe, "sns").publish_batch(
        TopicArn=pipe["Target"], PublishBatchRequestEntries=entries
    )
    return {int(one["Id"]) for one in answer.get("Failed", [])}


def _to_events(pipe: dict[str, Any], texts: list[str], events: list[Any]) -> set[int]:
    entries = []
    for text, event in zip(texts, events, strict=True):
        given = _given(pipe, "EventBridgeEventBusParameters", event)
        given.pop("EndpointId", None)
        about = {"Source": f"Pipe {pipe['Name']}", "DetailType": "Event from aws:sqs"}
        entries.append({**about, **given, "Detail": text, "EventBusName": pipe["Target"]})
    answer = _client(pipe, "events").put_events(Entries=entries)
    return {number for number, one in enumerate(answer["Entries"]) if "ErrorCode" in one}


def _to_firehose(pipe: dict[str, Any], texts: list[str], _events: list[Any]) -> set[int]:
    answer = _client(pipe, "firehose").put_record_batch(
        DeliveryStreamName=pipe["Target"].rpartition("/")[2],
        Records=[{"Data": text.encode()} for text in texts],
    )
    told = answer["RequestResponses"]
    return {number for number, one in enumerate(told) if "ErrorCode" in one}


def _to_kinesis(pipe: dict[str, Any], texts: list[str], events: list[Any]) -> set[int]:
    answer = _client(pipe, "kinesis").put_records(
        StreamName=pipe["Target"].rpartition("/")[2],
        Records=[
            {"Data": text.encode(), **_given(pipe, "KinesisStreamParameters", event)}
            for text, event in zip(texts, events, strict=True)
        ],
    )
    return {number for number, one in enumerate(answer["Records"]) if one.get("ErrorCode")}


def _to_logs(pipe: dict[str, Any], texts: list[str], events: list[Any]) -> set[int]:
    client, group = _client(pipe, "logs"), pipe["Target"].split(":log-group:")[1].removesuffix(":*")
    for text, event in zip(texts, events, strict=True):
        given = _given(pipe, "CloudWatchLogsParameters", event)
        client.put_log_events(
            logGroupName=group,
            logStreamName=given["LogStreamName"],
            logEvents=[
                {"message": text, "timestamp": int(given.get("Timestamp") or time.time() * 1000)}
            ],
        )
    return set()


# The numbers of the events that a target did not take.
BATCHES: dict[str, Callable[[dict[str, Any], list[str], list[Any]], set[int]]] = {
    "events": _to_events,
    "firehose": _to_firehose,
    "kinesis": _to_kinesis,
    "logs": _to_logs,
    "sns": _to_sns,
    "sqs": _to_sqs,
}
