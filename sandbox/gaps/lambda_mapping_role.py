"""The role of a function must let Lambda consume the queue of an event source mapping.

AWS refuses to create a mapping where the role does not. Seen in MiniStack 1.5.33 with AUTH=true:
it creates and polls one without asking. Here the role is asked once, when the mapping is made by
CloudFormation or by the API; one that loses a permission later goes on.
"""

from typing import Any

import roles
from ministack.core.responses import error_response_json
from ministack.services import lambda_svc
from ministack.services.cloudformation import provisioners

PATCHES = (
    *roles.NEEDS,
    "services.lambda_svc._create_esm",
    "services.lambda_svc._functions",
    "services.lambda_svc._resolve_name_and_qualifier",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
    "services.cloudformation.provisioners._lambda_esm_create",
)

ACTIONS = ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")


def close() -> None:
    """Ask before a mapping is made."""
    by_api = lambda_svc._create_esm
    handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::EventSourceMapping"]

    def create(mapping: dict[str, Any]) -> Any:
        if problem := _problem(mapping):
            return error_response_json("InvalidParameterValueException", problem, 400)
        return by_api(mapping)

    lambda_svc._create_esm = create
    handlers["create"] = _asked(handlers["create"])
    # What an update calls that must replace a mapping.
    provisioners._lambda_esm_create = _asked(provisioners._lambda_esm_create)


def _asked(create: Any) -> Any:
    def create_asked(logical_id: str, properties: dict[str, Any], stack: str) -> Any:
        if problem := _problem(properties):
            raise ValueError(problem)
        return create(logical_id, properties, stack)

    return create_asked


def _problem(mapping: dict[str, Any]) -> str:
    """What AWS says of a queue that the function's role may not consume."""
    queue = mapping.get("EventSourceArn") or ""
    name, _ = lambda_svc._resolve_name_and_qualifier(mapping.get("FunctionName", ""))
    function = lambda_svc._functions.get(name)
    if ":sqs:" not in queue or not function:
        return ""
    role = function["config"]["Role"]
    denied = (
        action
        for action in ACTIONS
        if not roles.allows(role, "lambda.amazonaws.com", f"sqs:{action}", queue)
    )
    action = next(denied, "")
    return action and (
        f"The provided execution role does not have permissions to call {action} on SQS"
    )
