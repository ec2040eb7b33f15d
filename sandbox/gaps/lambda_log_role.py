"""A function writes its log with its own role.

On AWS a role without logs:CreateLogStream and logs:PutLogEvents, or without logs:CreateLogGroup
where the group is missing, leaves no log, and no error either. Seen in MiniStack 1.5.33: what a
function says is collected for it, and nobody asks.
"""

from typing import Any

import roles
from ministack.services import cloudwatch_logs, lambda_svc

PATCHES = (
    *roles.NEEDS,
    "services.cloudwatch_logs._log_groups",
    "services.cloudwatch_logs._make_group_arn",
    "services.lambda_svc._emit_lambda_logs",
)


def close() -> None:
    """Ask before anything is written."""
    stock = lambda_svc._emit_lambda_logs

    def emit(function: dict[str, Any], *what: Any, **more: Any) -> None:
        if may_write(function.get("config") or function):
            stock(function, *what, **more)

    lambda_svc._emit_lambda_logs = emit


def may_write(config: dict[str, Any]) -> bool:
    """Whether a function's role may write to the function's log group."""
    settings = config.get("LoggingConfig") or {}
    name = settings.get("LogGroup") or f"/aws/lambda/{config['FunctionName']}"
    group = cloudwatch_logs._make_group_arn(name).removesuffix(":*")
    wanted = {"CreateLogStream": f"{group}:log-stream:a", "PutLogEvents": f"{group}:log-stream:a"}
    if name not in cloudwatch_logs._log_groups:
        wanted["CreateLogGroup"] = group
    return all(
        roles.allows(config["Role"], "lambda.amazonaws.com", f"logs:{action}", arn)
        for action, arn in wanted.items()
    )
