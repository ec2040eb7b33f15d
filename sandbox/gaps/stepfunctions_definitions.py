"""A state machine is made only if Step Functions would make it, by API and by CloudFormation.

Seen in MiniStack 1.5.33: any definition is taken, with any role, any log group, and without a right
to what `.sync` needs; ValidateStateMachineDefinition finds nothing; CloudFormation writes over a
machine of the same name. Here definitions are read by rules/_definitions.py and refused in AWS's
words. The role must be of the account and let Step Functions assume it, the log group must be there
and the role allowed to deliver to it, and to make the rule by which `.sync` hears of the end. What
AWS takes and the sandbox cannot run is refused, too, in one line that says so.
"""

import json
from collections.abc import Iterator
from typing import Any

import _calls
import _definitions
import roles
from ministack.core.responses import (
    error_response_json,
    get_account_id,
    get_region,
    json_response,
)
from ministack.services import cloudwatch_logs, stepfunctions
from ministack.services.cloudformation import provisioners
from states import requests, services

PATCHES = (
    "services.stepfunctions._state_machines",
    "services.stepfunctions._create_state_machine",
    "services.stepfunctions._update_state_machine",
    "services.stepfunctions._validate_state_machine_definition",
    "services.stepfunctions._AWS_SDK_SERVICE_MAP",
    "services.cloudwatch_logs._log_groups",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
    "services.cloudformation.provisioners._physical_name",
    "services.cloudformation.provisioners._sfn_definition",
    "services.cloudformation.provisioners._sfn_service_error",
    "services.cloudformation.provisioners._sfn_state_machine_create",
    *roles.NEEDS,
)

# What the role of a machine with logs may do, on everything (dg/cw-logs).
DELIVERY = [
    f"logs:{action}"
    for action in (
        *("CreateLogDelivery", "GetLogDelivery", "UpdateLogDelivery", "DeleteLogDelivery"),
        *("ListLogDeliveries", "PutResourcePolicy", "DescribeResourcePolicies"),
        "DescribeLogGroups",
    )
]
# The managed rule by which a `.sync` task hears that its job has ended
# (dg/service-integration-iam-templates).
RULES = {
    "batch": "StepFunctionsGetEventsForBatchJobsRule",
    "ecs": "StepFunctionsGetEventsForECSTaskRule",
    "states": "StepFunctionsGetEventsForStepFunctionsExecutionRule",
}
# What MiniStack serves, by the names of AWS SDK integrations.
SERVED = {*stepfunctions._AWS_SDK_SERVICE_MAP, "firehose", "scheduler", "pipes", "mq"}
WARNINGS = ("NO_DOLLAR", "PASS_RESULT_IS_STATIC")


class Refused(Exception):
    """AWS's error code and words."""


def close() -> None:
    """Ask before a machine is made or changed."""
    create, update = stepfunctions._create_state_machine, stepfunctions._update_state_machine
    make = provisioners._sfn_state_machine_create

    def create_if_it_can_be(data: dict[str, Any]) -> Any:
        return refusal(data, data.get("name", "")) or create(data)

    def update_if_it_can_be(data: dict[str, Any]) -> Any:
        machine = stepfunctions._state_machines.get(data.get("stateMachineArn"))
        if machine is None:
            return update(data)
        told = {"type": machine["type"], "roleArn": machine["roleArn"]} | data
        if "definition" not in data and "roleArn" in data:
            told["definition"] = machine["definition"]
        return refusal(told, machine["name"]) or update(data)

    def make_if_it_can_be(logical_id: str, properties: dict[str, Any], stack: str) -> Any:
        name = properties.get("StateMachineName")
        data = {
            "definition": provisioners._sfn_definition(properties),
            "type": properties.get("StateMachineType", "STANDARD"),
            "roleArn": properties.get("RoleArn", ""),
            "loggingConfiguration": properties.get("LoggingConfiguration"),
        }
        physical = name or provisioners._physical_name(stack, logical_id, max_len=80)
        refused = _named(name) or refusal(data, physical)
        if refused:
            raise provisioners._sfn_service_error(refused)
        return make(logical_id, properties, stack)

    stepfunctions._create_state_machine = create_if_it_can_be
    stepfunctions._update_state_machine = update_if_it_can_be
    stepfunctions._validate_state_machine_definition = validate
    provisioners._sfn_state_machine_create = make_if_it_can_be
    handlers = provisioners._RESOURCE_HANDLERS["AWS::StepFunctions::StateMachine"]
    handlers["create"] = make_if_it_can_be


def validate(data: dict[str, Any]) -> Any:
    """ValidateStateMachineDefinition."""
    found = _definitions.read(data["definition"], data.get("type") == "EXPRESS", models=True)
    errors = [one for one in found if one.refused]
    told = errors
    if data.get("severity") == "WARNING":
        told = errors + [one for one in found if one.code in WARNINGS]
    most = data.get("maxResults") or 100
    diagnostics = [
        {
            "severity": "ERROR" if one.refused else "WARNING",
            "code": one.code,
            "message": one.message,
        }
        | ({"location": one.location} if one.location else {})
        for one in told
    ]
    return json_response(
        {
            "result": "FAIL" if errors else "OK",
            "diagnostics": diagnostics[:most],
            "truncated": len(diagnostics) > most,
        }
    )


def refusal(data: dict[str, Any], name: str) -> Any:
    """The answer to a request for a machine that cannot be; None for one that can."""
    try:
        if "definition" in data:
            _read(data["definition"], data.get("type") == "EXPRESS")
        assumed = _Assumed(data.get("roleArn", ""), name)
        _logs(data.get("loggingConfiguration") or {}, assumed)
        if "definition" in data:
            _rules(data["definition"], assumed)
    except Refused as refused:
        return error_response_json(*refused.args, 400)
    return None


def _named(name: Any) -> Any:
    """The refusal of a name in a template that is none, or another machine's."""
    if name is None:
        return None
    if not requests.is_name(name):
        return error_response_json("InvalidName", f"Invalid Name: '{name}'", 400)
    arn = f"arn:aws:states:{get_region()}:{get_account_id()}:stateMachine:{name}"
    if arn in stepfunctions._state_machines:
        said = f"State Machine Already Exists: '{arn}'"
        return error_response_json("StateMachineAlreadyExists", said, 400)
    return None


def _read(text: str, express: bool) -> None:
    """What Step Functions refuses, and what is beyond the sandbox."""
    found = [str(one) for one in _definitions.read(text, express, models=True) if one.refused]
    found = found or list(_unsubstituted(text))
    if found:
        said = f"Invalid State Machine Definition: '{', '.join(found)}'"
        raise Refused("InvalidDefinition", said)
    for location, resource, call in _tasks(text):
        if not _runs(resource, call):
            what = resource.removeprefix("arn:aws:states:::")
            said = f"The sandbox cannot run {what} at {location}; AWS can"
            raise Refused("InvalidDefinition", said)


def _unsubstituted(text: str) -> Iterator[str]:
    """Resources that are still a placeholder: in a template they may become something, here not."""
    for location, _, state in _definitions.states_in(json.loads(text)):
        if state["Type"] == "Task" and _calls.call(state["Resource"]) is None:
            message = _calls.NOT_RECOGNIZED.format(state["Resource"])
            yield str(_definitions.Problem(_definitions.SCHEMA, message, f"{location}/Resource"))


def _tasks(text: str) -> Iterator[tuple[str, str, _calls.Call]]:
    """(location, resource, what it calls) of each Task."""
    for location, _, state in _definitions.states_in(json.loads(text)):
        if state["Type"] == "Task" and (call := _calls.call(state["Resource"])):
            yield location, state["Resource"], call


def _runs(resource: str, call: _calls.Call) -> bool:
    """Whether something here performs a call."""
    if call.kind in ("optimized", "sdk") and not resource.startswith("arn:aws:states:::"):
        return False
    if call.kind == "sdk":
        return call.service.lower() in SERVED
    return call.kind != "optimized" or call.service in services.SDK_1


class _Assumed:
    """A role as Step Functions assumes it for a machine of this name; Refused if it may not."""

    def __init__(self, role: str, name: str) -> None:
        account, region = get_account_id(), get_region()
        if role.startswith("arn:") and role.split(":")[4] != account:
            raise Refused("AccessDeniedException", "Cross-account pass role is not allowed.")
        arn = f"arn:aws:states:{region}:{account}:stateMachine:{name}"
        self.role, self.sent = role, {"aws_SourceAccount": account, "aws_SourceArn": arn}
        for principal in ("states.amazonaws.com", f"states.{region}.amazonaws.com"):
            if role.startswith("arn:") and roles.trusts(role, principal, **self.sent):
                self.principal = principal
                return
        raise Refused(
            "AccessDeniedException",
            "Neither the global service principal states.amazonaws.com, nor the regional one is"
            " authorized to assume the provided role.",
        )

    def may(self, actions: list[str], resource: str) -> bool:
        """Whether the role may do all of this."""
        return all(
            roles.allows(self.role, self.principal, action, resource, **self.sent)
            for action in actions
        )


def _logs(configuration: dict[str, Any], assumed: _Assumed) -> None:
    """The log group of a machine that has logs; CloudFormation writes its keys in upper case."""
    settings = {key.lower(): value for key, value in configuration.items()}
    destinations = settings.get("destinations") or []
    on = settings.get("level", "OFF") != "OFF"
    arns = [
        group.get("logGroupArn") or group.get("LogGroupArn")
        for one in destinations
        for group in [one.get("cloudWatchLogsLogGroup") or one.get("CloudWatchLogsLogGroup") or {}]
    ]
    if len(destinations) > 1 or (on and len(destinations) != 1) or not all(arns):
        raise Refused(
            "InvalidLoggingConfiguration",
            "Invalid Logging Configuration: Must specify exactly one Log Destination.",
        )
    if not on:
        return
    parts = str(arns[0]).split(":")
    if len(parts) < 7 or parts[6] not in cloudwatch_logs._log_groups:
        raise Refused(
            "InvalidLoggingConfiguration",
            "Invalid Logging Configuration: Log Destination not found.",
        )
    if not assumed.may(DELIVERY, "*"):
        raise Refused(
            "AccessDeniedException",
            "The state machine IAM Role is not authorized to access the Log Destination",
        )


def _rules(text: str, assumed: _Assumed) -> None:
    """The rules that Step Functions makes with the role, to hear of jobs' ends."""
    actions = [f"events:{action}" for action in ("PutTargets", "PutRule", "DescribeRule")]
    for _, _, call in _tasks(text):
        if call.wait.startswith("sync") and call.service in RULES:
            rule = f"arn:aws:events:{get_region()}:{get_account_id()}:rule/{RULES[call.service]}"
            if not assumed.may(actions, rule):
                said = f"'{assumed.role}' is not authorized to create managed-rule."
                raise Refused("AccessDeniedException", said)
