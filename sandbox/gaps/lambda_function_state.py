"""A function that is being made or changed can be neither changed nor, while it is made, called.

On AWS that takes seconds, and who does not wait gets a ResourceConflictException. Seen in MiniStack
1.5.33: the states are told, for half a second, and everything goes. CloudFormation waits by itself.
"""

from contextvars import ContextVar
from typing import Any

import resources
from ministack.services import lambda_svc
from ministack.services.cloudformation import provisioners
from refusals import Refused, before

PATCHES = (
    *resources.NEEDS,
    "services.lambda_svc._functions",
    "services.lambda_svc._invoke",
    "services.lambda_svc._publish_version",
    "services.lambda_svc._update_code",
    "services.lambda_svc._update_config",
)

_by_template = ContextVar("by_template", default=False)


def close() -> None:
    """Look at the function's state first."""
    for name in ("_update_code", "_update_config", "_publish_version"):
        setattr(lambda_svc, name, before(getattr(lambda_svc, name), is_done))
    invoke = lambda_svc._invoke

    async def invoked(name: str, *what: Any) -> Any:
        try:
            is_made(name)
        except Refused as refused:
            return refused.answer()
        return await invoke(name, *what)

    lambda_svc._invoke = invoked
    handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
    update = handlers["update"]

    def updated(*arguments: Any) -> Any:
        token = _by_template.set(True)
        try:
            return update(*arguments)
        finally:
            _by_template.reset(token)

    handlers["update"] = updated
    resources.finish("AWS::Lambda::Function", _is_ready)


def is_made(name: str, _: Any = None) -> None:
    """Whether a function has been made."""
    if _config(name).get("StateReasonCode") == "Creating":
        raise Refused(
            "The operation cannot be performed at this time. The function is currently in the"
            " following state: Pending",
            "ResourceConflictException",
            409,
        )


def is_done(name: str, _: Any = None) -> None:
    """Whether a function has been made and its last change is done."""
    is_made(name)
    config = _config(name)
    if config.get("LastUpdateStatus") == "InProgress" and not _by_template.get():
        raise Refused(
            "The operation cannot be performed at this time. An update is in progress for resource:"
            f" {config['FunctionArn']}",
            "ResourceConflictException",
            409,
        )


def _is_ready(name: str, _: dict[str, Any]) -> None:
    _config(name).update(State="Active", StateReasonCode="", LastUpdateStatus="Successful")


def _config(name: str) -> dict[str, Any]:
    return (lambda_svc._functions.get(name) or {}).get("config") or {}
