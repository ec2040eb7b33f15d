"""What performs the tasks of state machines, and the tokens and activities that they wait for.

Seen in MiniStack 1.5.33: a task calls services as root, whatever its role may, by code of its own
for each service; message attributes, S3's objects and many actions are lost; errors have names
that AWS does not use, so that Retry and Catch take another way; a failed `.sync` child fails with
its own error; CloudFormation knows no activity. Here a task is a request of the role's own,
so the role's policies and the resource's are asked, and errors are the service's.
"""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import roles
from botocore.exceptions import BotoCoreError, ClientError
from gaps import stepfunctions_interpreter
from ministack.core.responses import error_response_json, json_response, new_uuid
from ministack.services import stepfunctions
from ministack.services.cloudformation import provisioners
from states import services, times
from states.faults import text
from states.task import StatesError, Task

PATCHES = (
    "services.stepfunctions._activities",
    "services.stepfunctions._activity_tasks",
    "services.stepfunctions._executions",
    "services.stepfunctions._task_tokens",
    *roles.NEEDS,
    "services.stepfunctions._send_task_success",
    "services.stepfunctions._send_task_failure",
    "services.stepfunctions._send_task_heartbeat",
    "services.stepfunctions._create_activity",
    "services.stepfunctions._delete_activity",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
    "services.cloudformation.provisioners._physical_name",
)


LOOK = 0.1  # seconds between two looks at what is waited for
over: set[str] = set()  # tokens that nobody waits for any more


def close() -> None:
    """Perform tasks by ours, know tokens that are over, and make activities by template."""
    stepfunctions_interpreter.perform = perform
    for verb in ("success", "failure", "heartbeat"):
        name = f"_send_task_{verb}"
        setattr(stepfunctions, name, _known_token(getattr(stepfunctions, name), verb))
    provisioners._RESOURCE_HANDLERS["AWS::StepFunctions::Activity"] = {
        "create": _create,
        "update": lambda arn, _old, _new, _stack: (arn, _attributes(arn)),
        "delete": lambda arn, _properties: stepfunctions._delete_activity({"activityArn": arn}),
    }


def _known_token(send: Any, verb: str) -> Any:
    def sent(data: dict[str, Any]) -> Any:
        token = data.get("taskToken")
        waiting = stepfunctions._task_tokens.get(token)
        if token in over or (waiting and waiting["event"].is_set()):
            said = "Task Timed Out: 'Provided task does not exist anymore'"
            return error_response_json("TaskTimedOut", said, 400)
        if not waiting:
            return error_response_json("InvalidToken", "Invalid Token: 'Invalid token'", 400)
        if verb == "failure":  # which may carry neither
            waiting["error"] = {"Error": data.get("error"), "Cause": data.get("cause")}
            waiting["event"].set()
            return json_response({})
        if verb == "success":
            try:
                json.loads(data.get("output", ""))
            except ValueError as error:
                said = f"Invalid Output: 'Invalid JSON: {error}'"
                return error_response_json("InvalidOutput", said, 400)
        return send(data)

    return sent


def _create(logical_id: str, properties: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
    name = properties.get("Name") or provisioners._physical_name(stack, logical_id, max_len=80)
    status, _, body = stepfunctions._create_activity(
        {
            "name": name,
            "tags": [
                {"key": tag["Key"], "value": tag["Value"]} for tag in properties.get("Tags", [])
            ],
        }
    )
    made = json.loads(body)
    if status >= 400:
        raise ValueError(made["message"])
    return made["activityArn"], _attributes(made["activityArn"])


def _attributes(arn: str) -> dict[str, Any]:
    return {"Arn": arn, "Name": arn.rpartition(":")[2]}


# ---- one attempt


def perform(task: Task) -> Any:
    """The result of one attempt, as AWS shapes it. StatesError if it fails, Over if it is ended."""
    given, limits = text(task.arguments), {}
    for name, seconds in (("timeout", task.timeout), ("heartbeat", task.heartbeat)):
        if seconds:
            limits[f"{name}InSeconds"] = int(seconds)
    if ":activity:" in task.resource:
        return _activity(task, limits | {"resource": task.resource, "input": given})
    if not task.resource.startswith("arn:aws:states:::"):
        task.tell("LambdaFunctionScheduled", limits | {"resource": task.resource, "input": given})
        task.tell("LambdaFunctionStarted", {})
        return _invoke(task, {"FunctionName": task.resource, "Payload": task.arguments})["Payload"]
    resource, _, wait = task.resource.removeprefix("arn:aws:states:::").partition(".")
    service, _, action = resource.rpartition(":")
    about = {"resourceType": service, "resource": action + (wait and f".{wait}")}
    region = task.execution.split(":")[3]
    task.tell("TaskScheduled", about | limits | {"region": region, "parameters": given})
    task.tell("TaskStarted", about)

    def submitted(result: Any) -> None:
        task.tell("TaskSubmitted", about | {"output": text(result)})

    call = _sdk if service.startswith("aws-sdk:") else _optimized(service, action)
    if wait.startswith("sync"):
        return _child(task, wait, submitted)
    if wait != "waitForTaskToken":
        return call(task, service, action)
    assert task.token
    waiting = stepfunctions._task_tokens[task.token] = _waiting()
    try:
        submitted(call(task, service, action))
        return _answer(task, waiting)
    finally:
        _forget(task.token)


# ---- calls

Call = Callable[[Task, str, str], Any]


def _client(task: Task, service: str) -> Any:
    _, _, _, region, account, *_ = task.execution.split(":")
    machine = stepfunctions._executions[task.execution]["stateMachineArn"]
    sent = {"aws_SourceAccount": account, "aws_SourceArn": machine}
    for principal in ("states.amazonaws.com", f"states.{region}.amazonaws.com"):
        if roles.trusts(task.role, principal, **sent):
            return roles.client(service, task.role, principal, task.name, **sent)
    raise StatesError(
        "States.Runtime",
        "Neither the global service principal states.amazonaws.com, nor the regional one is"
        f" authorized to assume the provided role: {task.role}",
    )


def _asked(task: Task, service: str, action: str, told: Any, optimized: bool) -> dict[str, Any]:
    """A service's answer as botocore has it."""
    client = _client(task, services.folder(service))
    method = client.meta.method_to_api_mapping.items()
    name = services.operation(service, action).name
    call = next(getattr(client, python) for python, api in method if api == name)
    try:
        return call(**told)
    except ClientError as error:
        raise services.failed(service, optimized, error) from None
    except BotoCoreError as error:
        prefix = services.SDK_1[service][0] if optimized else services.sdk_2(service)
        raise StatesError(f"{prefix}.SdkClientException", str(error)) from None


def _sdk(task: Task, service: str, action: str) -> Any:
    """An AWS SDK integration."""
    service = service.removeprefix("aws-sdk:")
    if not (asked := services.operation(service, action)):
        raise StatesError("States.Runtime", f"There is no action {service}:{action}.")
    told = services.told(asked.input_shape, task.arguments) if asked.input_shape else {}
    answer = _asked(task, service, action, told, optimized=False)
    return services.answered(asked.output_shape, answer, sdk=2) or {}


def _optimized(service: str, action: str) -> Call:
    if f"{service}:{action}" == "lambda:invoke":
        return lambda task, _service, _action: _invoke(task, task.arguments)
    if service in services.SDK_1:
        return _request
    raise StatesError(
        "States.Runtime", f"The sandbox cannot run arn:aws:states:::{service}:{action}; AWS can."
    )


def _request(task: Task, service: str, action: str) -> Any:
    """An optimized integration that is a request and its answer."""
    asked = services.operation(service, action)
    told = services.told(asked.input_shape, task.arguments)
    answer = _asked(task, service, action, told, optimized=True)
    result = services.answered(asked.output_shape, answer, sdk=1)
    if result.get("FailedEntryCount"):
        raise StatesError("EventBridge.FailedEntry", text(result))
    return result | services.http(answer["ResponseMetadata"])


def _invoke(task: Task, arguments: dict[str, Any]) -> dict[str, Any]:
    """A Lambda function, whose error is the task's."""
    told = {name: one for name, one in arguments.items() if name != "Payload"}
    if "Payload" in arguments:
        told["Payload"] = text(arguments["Payload"]).encode()
    answer = _asked(task, "lambda", "invoke", told, optimized=True)
    body = answer["Payload"].read().decode()
    payload = json.loads(body) if body else None
    if "FunctionError" in answer:
        kind = payload.get("errorType") if isinstance(payload, dict) else None
        raise StatesError(kind or "Lambda.Unknown", body)
    result = {"ExecutedVersion": answer.get("ExecutedVersion"), "Payload": payload}
    if payload is None and told.get("InvocationType") in ("Event", "DryRun"):
        result = {"Payload": ""}
    return (
        {name: one for name, one in result.items() if one is not None or name == "Payload"}
        | services.http(answer["ResponseMetadata"])
        | {"StatusCode": answer["StatusCode"]}
    )


def _child(task: Task, wait: str, submitted: Callable[[Any], None]) -> Any:
    """Another state machine's execution, to its end; stopped with this one."""
    begun = _request(task, "states", "startExecution")
    submitted(begun)
    client, arn = _client(task, "stepfunctions"), {"executionArn": begun["ExecutionArn"]}
    try:
        while (found := client.describe_execution(**arn))["status"] == "RUNNING":
            if task.ended.wait(LOOK):
                client.stop_execution(**arn)
                raise times.Over
    except ClientError as error:
        raise services.failed("states", True, error) from None
    shape = services.operation("states", "describeExecution").output_shape
    result = services.answered(shape, found, sdk=1)
    for moment in ("StartDate", "StopDate"):
        if moment in result:
            result[moment] = int(found[moment[0].lower() + moment[1:]].timestamp() * 1000)
    if wait == "sync:2":
        for value in ("Input", "Output"):
            if value in result:
                result[value] = json.loads(result[value])
    if found["status"] != "SUCCEEDED":
        raise StatesError("States.TaskFailed", text(result))
    return result


# ---- callbacks and activities


def _activity(task: Task, scheduled: dict[str, Any]) -> Any:
    """Wait for a worker, whose clocks start when it takes the task, and for its answer."""
    if task.resource not in stepfunctions._activities:
        raise StatesError("States.Runtime", f"The activity {task.resource} does not exist.")
    task.tell("ActivityScheduled", scheduled)
    token, tasks = new_uuid(), stepfunctions._activity_tasks[task.resource]
    waiting = stepfunctions._task_tokens[token] = _waiting()
    offered = {"taskToken": token, "input": scheduled["input"]}
    tasks.append(offered)
    try:
        while offered in tasks:
            if task.ended.wait(0.05):
                tasks.remove(offered)
                raise times.Over
        task.tell("ActivityStarted", {})
        return _answer(task, waiting, task.timeout)
    finally:
        _forget(token)


def _forget(token: str) -> None:
    over.add(token)
    stepfunctions._task_tokens.pop(token, None)


def _waiting() -> dict[str, Any]:
    """What MiniStack's SendTask... finds by a token."""
    return {"event": threading.Event(), "result": None, "error": None, "heartbeat": None}


def _answer(task: Task, waiting: dict[str, Any], timeout: float | None = None) -> Any:
    """What is sent for a token, in time and with heartbeats."""
    began = beaten = time.monotonic()
    last = None
    while not waiting["event"].wait(0.05):
        if task.ended.is_set():
            raise times.Over
        if waiting["heartbeat"] != last:
            last, beaten = waiting["heartbeat"], time.monotonic()
        late = task.heartbeat and time.monotonic() - beaten > task.heartbeat
        if late or (timeout and time.monotonic() - began > timeout):
            raise StatesError("States.Timeout")
    if failed := waiting["error"]:
        raise StatesError(failed.get("Error"), failed.get("Cause"))
    return json.loads(waiting["result"])
