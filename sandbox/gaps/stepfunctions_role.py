"""The role of a state machine decides what its tasks may call.

Seen in MiniStack 1.5.33 with AUTH=true: tasks call services without asking anybody. Here a call to
a Lambda function or an SNS topic is judged by the policies of the state machine's role and of the
resource, and a denied one fails with the error name that AWS uses. Other integrations still pass
without a check: add a line to ACTIONS when a pattern needs one.
"""

from contextvars import ContextVar

import roles
from ministack.core.responses import get_account_id, get_region
from ministack.services import stepfunctions

PATCHES = (
    "services.stepfunctions._executions",
    "services.stepfunctions._state_machines",
    "services.stepfunctions._run_execution",
    "services.stepfunctions._invoke_resource",
    "services.stepfunctions._ExecutionError",
    *roles.NEEDS,
)

# Part of a task's Resource to (action, parameter that names the resource, error of a denied call).
ACTIONS = {
    "states:::lambda:invoke": (
        "lambda:InvokeFunction",
        "FunctionName",
        "Lambda.AWSLambdaException",
    ),
    ":function:": ("lambda:InvokeFunction", None, "Lambda.AWSLambdaException"),
    "states:::sns:publish": ("sns:Publish", "TopicArn", "SNS.AuthorizationErrorException"),
}
_execution: ContextVar[str] = ContextVar("gap_stepfunctions_role", default="")


def close() -> None:
    """Remember whose execution runs, and ask its role before each call."""
    run, invoke = stepfunctions._run_execution, stepfunctions._invoke_resource

    def run_as_role(arn: str) -> None:
        token = _execution.set(arn)
        try:
            run(arn)
        finally:
            _execution.reset(token)

    def invoke_as_role(resource: str, input_data: dict):
        authorize(resource, input_data)
        return invoke(resource, input_data)

    stepfunctions._run_execution = run_as_role
    stepfunctions._invoke_resource = invoke_as_role


def authorize(resource: str, input_data: dict) -> None:
    """Raise the task's error if the role of the running execution may not make this call."""
    call = next((call for part, call in ACTIONS.items() if part in resource), None)
    if not (call and session()):
        return
    action, parameter, error = call
    target = input_data.get(parameter, "") if parameter else resource
    service = action.partition(":")[0]
    if service == "lambda" and not target.startswith("arn:"):
        target = f"arn:aws:lambda:{get_region()}:{get_account_id()}:function:{target}"
    if not roles.permits(session(), action, target):
        raise stepfunctions._ExecutionError(
            error,
            f"User: {session()} is not authorized to perform: {action} on resource: {target}",
        )


def session() -> str:
    """The ARN under which the execution that runs here calls services; empty if none runs here."""
    execution = stepfunctions._executions.get(_execution.get())
    if not execution:
        return ""
    role = stepfunctions._state_machines[execution["stateMachineArn"]]["roleArn"]
    name = role.rpartition("/")[2]
    return f"arn:aws:sts::{get_account_id()}:assumed-role/{name}/{execution['name']}"
