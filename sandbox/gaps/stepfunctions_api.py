"""Step Functions' API answers as AWS's: what it refuses, and what may be asked twice.

Seen in MiniStack 1.5.33: no range, no ARN, no name and no input is checked; errors have words of
MiniStack's own; starting a running execution again with the same name and input, creating an
activity again, and deleting what is gone are errors; Express executions are named, listed and
described as Standard ones; StartSyncExecution runs Standard machines and bills nothing; an update
that changes nothing gives a new revision; a failed execution has an output. Here it is as recorded
on AWS. Names of closed executions are taken for as long as the sandbox runs (AWS: 90 days).
"""

import json
import math
import threading
from collections.abc import Callable
from contextvars import copy_context
from datetime import datetime
from typing import Any

import botocore.session
import ranges
from botocore import xform_name
from ministack.core.responses import (
    error_response_json,
    get_account_id,
    get_region,
    json_response,
    new_uuid,
    now_iso,
)
from ministack.services import stepfunctions
from states import requests

PATCHES = (
    "services.stepfunctions.handle_request",
    "services.stepfunctions._SM_INTERNAL_KEYS",
    "services.stepfunctions._activities",
    "services.stepfunctions._executions",
    "services.stepfunctions._state_machines",
    "services.stepfunctions._tags",
    "services.stepfunctions._create_activity",
    "services.stepfunctions._create_state_machine",
    "services.stepfunctions._default_encryption",
    "services.stepfunctions._delete_activity",
    "services.stepfunctions._delete_state_machine",
    "services.stepfunctions._describe_execution",
    "services.stepfunctions._describe_state_machine",
    "services.stepfunctions._emit_execution_status_event",
    "services.stepfunctions._execution_version_arn",
    "services.stepfunctions._list_activities",
    "services.stepfunctions._list_executions",
    "services.stepfunctions._list_state_machines",
    "services.stepfunctions._resolve_state_machine_arn",
    "services.stepfunctions._run_execution",
    "services.stepfunctions._start_execution",
    "services.stepfunctions._start_sync_execution",
    "services.stepfunctions._state_machine_aliases",
    "services.stepfunctions._state_machine_versions",
    "services.stepfunctions._update_state_machine",
)

PAGE = 100  # of a list, where the caller does not say (model)
# Error to AWS's words and the member that names what does not exist, or does already.
WORDS = {
    "ActivityDoesNotExist": ("Activity Does Not Exist", "activityArn"),
    "ExecutionDoesNotExist": ("Execution Does Not Exist", "executionArn"),
    "StateMachineDoesNotExist": ("State Machine Does Not Exist", "stateMachineArn"),
}
# Names are asked of after the ranges, and answered with an error of their own.
ANY_LENGTH = {"Name": {"max": 1_000_000, "min": 0}}


def close() -> None:
    """Ask before each operation, and change those that answer otherwise than AWS."""
    handle, operations = stepfunctions.handle_request, botocore.session.get_session()
    known = operations.get_service_model("stepfunctions").operation_names

    async def handle_as_aws(
        method: str, path: str, headers: dict, body: bytes, query_params: dict
    ) -> Any:
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        try:
            data = json.loads(body or b"{}")
        except ValueError:
            data = None
        if operation in known and isinstance(data, dict):
            if refused := refusal(operation, data):
                return error_response_json(*refused, 400)
            answer = await handle(method, path, headers, body, query_params)
            return _in_awss_words(answer, data)
        return await handle(method, path, headers, body, query_params)

    stepfunctions.handle_request = handle_as_aws
    stepfunctions._SM_INTERNAL_KEYS |= {"revised"}
    stepfunctions._start_execution = start
    stepfunctions._start_sync_execution = start_and_wait
    stepfunctions._list_activities = list_activities
    stepfunctions._list_state_machines = list_machines
    for name, change in {
        "CreateActivity": create_activity,
        "CreateStateMachine": create_machine,
        "UpdateStateMachine": update_machine,
        "DescribeStateMachine": describe_machine,
        "DescribeExecution": describe_execution,
        "ListExecutions": list_executions,
        "DeleteActivity": delete_again,
        "DeleteStateMachine": delete_again,
    }.items():
        _change(f"_{xform_name(name)}", change)


def _change(name: str, change: Callable[..., Any]) -> None:
    """Let `change` answer in the place of a function of MiniStack's, which it is given first."""
    stock = getattr(stepfunctions, name)
    setattr(stepfunctions, name, lambda data: change(stock, data))


def refusal(operation: str, data: dict[str, Any]) -> tuple[str, str] | None:
    """AWS's error code and words for a request that it refuses; None for one that it takes."""
    if problem := ranges.problem("stepfunctions", operation, data, ANY_LENGTH):
        return "ValidationException", problem
    if refused := requests.refusal(operation, data):
        return refused
    machine = stepfunctions._state_machines.get(data.get("stateMachineArn")) or {}
    wrong = {"ListExecutions": "EXPRESS", "StartSyncExecution": "STANDARD"}.get(operation)
    if machine and machine["type"] == wrong:
        return (
            "StateMachineTypeNotSupported",
            "This operation is not supported by this type of state machine",
        )
    return None


def _in_awss_words(answer: Any, data: dict[str, Any]) -> Any:
    """An error about what does not exist as AWS words it."""
    status, _, body = answer
    if status != 400:
        return answer
    code = json.loads(body).get("__type", "")
    if code == "StateMachineAlreadyExists":
        said = f"State Machine Already Exists: '{_arn('stateMachine', data['name'])}'"
        return error_response_json(code, said, status)
    what, member = WORDS.get(code, ("", ""))
    if member in data:
        return error_response_json(code, f"{what}: '{data[member]}'", status)
    return answer


def _arn(kind: str, name: str) -> str:
    return f"arn:aws:states:{get_region()}:{get_account_id()}:{kind}:{name}"


def _answered(answer: Any) -> dict[str, Any] | None:
    """What a function of MiniStack's answers; None if it refuses."""
    return json.loads(answer[2]) if answer[0] == 200 else None


# ---- executions


def start(data: dict[str, Any]) -> Any:
    """StartExecution, also for a service or a task; by one name an Express machine starts often."""
    if refused := refusal("StartExecution", data):
        return error_response_json(*refused, 400)
    arn = data.get("stateMachineArn", "").partition("#")[0]
    found = stepfunctions._resolve_state_machine_arn(arn)
    if found is None:
        said = f"State Machine Does Not Exist: '{arn}'"
        return error_response_json("StateMachineDoesNotExist", said, 400)
    machine, name = stepfunctions._state_machines[found], data.get("name") or new_uuid()
    standard = machine["type"] != "EXPRESS"
    was = stepfunctions._executions.get(_arn("execution", f"{machine['name']}:{name}"))
    if standard and was:
        if (was["status"], was["input"]) == ("RUNNING", data.get("input", "{}")):
            told = {"executionArn": was["executionArn"], "startDate": was["startDate"]}
            return json_response(told)
        said = f"Execution Already Exists: '{was['executionArn']}'"
        return error_response_json("ExecutionAlreadyExists", said, 400)
    execution = _begin(machine, name, data, arn)
    stepfunctions._emit_execution_status_event(execution)
    # The execution's thread must know the account and Region, which are context variables.
    arguments = (stepfunctions._run_execution, execution["executionArn"])
    threading.Thread(target=copy_context().run, args=arguments, daemon=True).start()
    told = {"executionArn": execution["executionArn"], "startDate": execution["startDate"]}
    return json_response(told)


def start_and_wait(data: dict[str, Any]) -> Any:
    """StartSyncExecution of an Express machine."""
    arn = data.get("stateMachineArn", "").partition("#")[0]
    found = stepfunctions._resolve_state_machine_arn(arn)
    if found is None:
        said = f"State Machine Does Not Exist: '{arn}'"
        return error_response_json("StateMachineDoesNotExist", said, 400)
    machine = stepfunctions._state_machines[found]
    execution = _begin(machine, data.get("name") or new_uuid(), data, arn)
    execution["sync"] = True  # EventBridge hears nothing of it
    stepfunctions._run_execution(execution["executionArn"])
    names = ("executionArn", "stateMachineArn", "name", "startDate", "stopDate", "status", "input")
    told = {name: execution[name] for name in names} | {"inputDetails": {"included": True}}
    begun, ended = (datetime.fromisoformat(execution[one]) for one in ("startDate", "stopDate"))
    hundreds = math.ceil((ended - begun).total_seconds() * 10)
    told["billingDetails"] = {
        "billedDurationInMilliseconds": max(hundreds, 1) * 100,
        "billedMemoryUsedInMB": 64,
    }
    return json_response(told | _outcome(execution))


def _begin(machine: dict[str, Any], name: str, data: dict[str, Any], asked: str) -> dict[str, Any]:
    """The record of a new execution; asked: the ARN of the machine, a version or an alias."""
    express, begun = machine["type"] == "EXPRESS", now_iso()
    kind, suffix = ("express", f":{new_uuid()}") if express else ("execution", "")
    arn = _arn(kind, f"{machine['name']}:{name}{suffix}")
    version = stepfunctions._execution_version_arn(asked)
    of = stepfunctions._state_machine_versions.get(version) or machine
    started = {"input": data.get("input", "{}"), "roleArn": machine["roleArn"]}
    execution = {
        "executionArn": arn,
        "stateMachineArn": machine["stateMachineArn"],
        "name": name,
        "status": "RUNNING",
        "startDate": begun,
        "stopDate": None,
        "input": started["input"],
        "inputDetails": {"included": True},
        "output": None,
        "outputDetails": {"included": True},
        "testCase": data.get("stateMachineArn", "").partition("#")[2],
        "mockAttempts": {},
        "encryptionConfiguration": dict(
            of.get("encryptionConfiguration") or stepfunctions._default_encryption()
        ),
        "events": [
            {
                "id": 1,
                "type": "ExecutionStarted",
                "timestamp": begun,
                "executionStartedEventDetails": started,
            }
        ],
    }
    if version:  # AWS says so of an execution that a version or an alias was named for
        execution["stateMachineVersionArn"] = version
    if asked in stepfunctions._state_machine_aliases:
        execution["stateMachineAliasArn"] = asked
    stepfunctions._executions[arn] = execution
    return execution


def _outcome(execution: dict[str, Any]) -> dict[str, Any]:
    """An output with success; an error and a cause where there are."""
    if execution["status"] == "SUCCEEDED":
        return {"output": execution["output"], "outputDetails": {"included": True}}
    return {name: execution[name] for name in ("error", "cause") if execution.get(name) is not None}


def describe_execution(stock: Callable[..., Any], data: dict[str, Any]) -> Any:
    """DescribeExecution, with what may be done again."""
    answer = stock(data)
    if (told := _answered(answer)) is None:
        return answer
    for name in ("output", "outputDetails", "error", "cause"):
        told.pop(name, None)
    execution = stepfunctions._executions[data["executionArn"]]
    told |= _outcome(execution) | {"redriveCount": 0}
    for name in ("stateMachineVersionArn", "stateMachineAliasArn"):
        told[name] = execution.get(name)
    status = told["status"]
    if status in ("RUNNING", "SUCCEEDED"):
        told["redriveStatus"] = "NOT_REDRIVABLE"
        told["redriveStatusReason"] = f"Execution is {status} and cannot be redriven"
    else:
        told["redriveStatus"] = "REDRIVABLE"
    return json_response({name: value for name, value in told.items() if value is not None})


def list_executions(stock: Callable[..., Any], data: dict[str, Any]) -> Any:
    """ListExecutions of a machine that there is."""
    arn = data.get("stateMachineArn")
    if arn and stepfunctions._resolve_state_machine_arn(arn) is None:
        said = f"State Machine Does Not Exist: '{arn}'"
        return error_response_json("StateMachineDoesNotExist", said, 400)
    answer = stock(data | {"maxResults": data.get("maxResults") or PAGE})
    if (told := _answered(answer)) is None:
        return answer
    for one in told["executions"]:
        one["redriveCount"] = 0
        if one["stopDate"] is None:
            del one["stopDate"]
    return json_response(told)


# ---- machines and activities


def create_machine(stock: Callable[..., Any], data: dict[str, Any]) -> Any:
    """CreateStateMachine, which keeps whether traces are on and what logs say by default."""
    if logs := data.get("loggingConfiguration"):
        logs = {"level": "OFF", "includeExecutionData": False} | logs
        data = data | {"loggingConfiguration": logs}
    answer = stock(data)
    if told := _answered(answer):
        machine = stepfunctions._state_machines[told["stateMachineArn"]]
        machine.setdefault("tracingConfiguration", data.get("tracingConfiguration"))
    return answer


def update_machine(stock: Callable[..., Any], data: dict[str, Any]) -> Any:
    """UpdateStateMachine: a new revision only if something is new."""
    machine = stepfunctions._state_machines.get(data.get("stateMachineArn"))
    if machine is None:
        return stock(data)
    names = ("definition", "roleArn", "loggingConfiguration", "encryptionConfiguration")
    names += ("tracingConfiguration",)
    before, revision = {name: machine.get(name) for name in names}, machine["revisionId"]
    answer = stock(data)
    told = _answered(answer)
    if told is None:
        return answer
    if "tracingConfiguration" in data:
        machine["tracingConfiguration"] = data["tracingConfiguration"]
    if before == {name: machine.get(name) for name in names}:
        machine["revisionId"] = revision
    else:
        machine["revised"] = True
    if machine.get("revised"):
        told["revisionId"] = machine["revisionId"]
    return json_response(told)


def describe_machine(stock: Callable[..., Any], data: dict[str, Any]) -> Any:
    """DescribeStateMachine: a machine that was never updated has no revision yet."""
    answer = stock(data)
    if (told := _answered(answer)) is None:
        return answer
    told["tracingConfiguration"] = told.get("tracingConfiguration") or {"enabled": False}
    machine = stepfunctions._state_machines.get(data.get("stateMachineArn"))
    if machine and not machine.get("revised"):
        told.pop("revisionId", None)
    return json_response(told)


def create_activity(stock: Callable[..., Any], data: dict[str, Any]) -> Any:
    """CreateActivity: the one that there is, if there is."""
    arn = _arn("activity", data["name"])
    if was := stepfunctions._activities.get(arn):
        return json_response({"activityArn": arn, "creationDate": was["creationDate"]})
    return stock(data)


def delete_again(stock: Callable[..., Any], data: dict[str, Any]) -> Any:
    """DeleteActivity and DeleteStateMachine: what is gone is gone."""
    answer = stock(data)
    missing = answer[0] == 400 and json.loads(answer[2])["__type"].endswith("DoesNotExist")
    return json_response({}) if missing else answer


def list_machines(data: dict[str, Any]) -> Any:
    """ListStateMachines, by name."""
    names = ("stateMachineArn", "name", "type", "creationDate")
    found = [
        {name: machine[name] for name in names}
        for machine in stepfunctions._state_machines.values()
    ]
    return _page("stateMachines", found, data)


def list_activities(data: dict[str, Any]) -> Any:
    """ListActivities, by name."""
    names = ("activityArn", "name", "creationDate")
    found = [{name: one[name] for name in names} for one in stepfunctions._activities.values()]
    return _page("activities", found, data)


def _page(key: str, found: list[dict[str, Any]], data: dict[str, Any]) -> Any:
    """One page of what is sorted by name; a token is the last name before the next page."""
    token = data.get("nextToken", "")
    rest = [one for one in sorted(found, key=lambda one: one["name"]) if one["name"] > token]
    most = data.get("maxResults") or PAGE
    more = {"nextToken": rest[most - 1]["name"]} if len(rest) > most else {}
    return json_response({key: rest[:most]} | more)
