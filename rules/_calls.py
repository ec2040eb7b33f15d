"""What a Task state calls, and whether Step Functions can call that.

The optimized integrations are those of the developer guide ("Integrating optimized services"); of
AWS SDK integrations botocore's models tell the actions, where they are asked and installed.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

# Service to actions, each with the waits it has besides request and response. A service that is
# not here is not judged.
SYNC, CALLBACK = ("sync",), ("waitForTaskToken",)
OPTIMIZED: dict[str, dict[str, tuple[str, ...]]] = {
    "apigateway": {"invoke": CALLBACK},
    "athena": {
        **dict.fromkeys(("getQueryExecution", "getQueryResults", "stopQueryExecution"), ()),
        "startQueryExecution": SYNC,
    },
    "batch": {"submitJob": SYNC},
    "codebuild": {
        **dict.fromkeys(("startBuild", "startBuildBatch", "retryBuildBatch"), SYNC),
        **dict.fromkeys(("batchDeleteBuilds", "batchGetReports", "deleteBuildBatch"), ()),
        **dict.fromkeys(("stopBuild", "stopBuildBatch"), ()),
    },
    "databrew": {"startJobRun": SYNC},
    "dynamodb": dict.fromkeys(("deleteItem", "getItem", "putItem", "updateItem"), ()),
    "ecs": {"runTask": SYNC + CALLBACK},
    "eks": {
        **dict.fromkeys(("createCluster", "createFargateProfile", "createNodegroup"), SYNC),
        **dict.fromkeys(("deleteCluster", "deleteFargateProfile", "deleteNodegroup"), SYNC),
        **{"call": (), "runJob": SYNC},
    },
    "elasticmapreduce": {
        **dict.fromkeys(("addStep", "createCluster", "terminateCluster"), SYNC),
        **dict.fromkeys(("modifyInstanceFleetByName", "modifyInstanceGroupByName"), ()),
        **dict.fromkeys(("cancelStep", "setClusterTerminationProtection"), ()),
    },
    "emr-containers": {
        **dict.fromkeys(("deleteVirtualCluster", "startJobRun"), SYNC),
        "createVirtualCluster": (),
    },
    "events": {"putEvents": CALLBACK},
    "glue": {"startJobRun": SYNC},
    "http": {"invoke": ()},
    "lambda": {"invoke": CALLBACK},
    "mediaconvert": {"createJob": SYNC},
    "sns": {"publish": CALLBACK},
    "sqs": {"sendMessage": CALLBACK},
    "states": {"startExecution": ("sync", "sync:2", "waitForTaskToken")},
}
# How the SDK for Java names a service whose folder in botocore is another.
FOLDERS = {
    "cloudwatchlogs": "logs",
    "cognitoidentityprovider": "cognito-idp",
    "costexplorer": "ce",
    "eventbridge": "events",
    "sfn": "stepfunctions",
}
# Optimized integrations whose parameters are the API's, and those of two that every flow has.
AS_THE_API = ("dynamodb", "events", "sns", "sqs")
PARAMETERS = {
    "lambda:invoke": (
        *("ClientContext", "DurableExecutionName", "FunctionName", "InvocationType", "LogType"),
        *("Payload", "Qualifier", "TenantId"),
    ),
    "states:startExecution": ("Input", "Name", "StateMachineArn", "TraceHeader"),
}
NOT_RECOGNIZED = (
    "The resource provided {} is not recognized. The value is not a valid resource ARN, or the"
    " resource is not available in this region."
)


class Call(NamedTuple):
    """What a Task's Resource names.

    kind: "function" and "activity" by their ARN, "optimized", "sdk", or "" where it is no ARN that
    Step Functions knows. wait: "", "sync", "sync:2" or "waitForTaskToken".
    """

    kind: str
    service: str = ""
    action: str = ""
    wait: str = ""


def call(resource: str) -> Call | None:
    """What a Resource names; None where a placeholder hides it."""
    text = re.sub(r"\$\{AWS::(\w+)\}", lambda match: match[1].lower(), resource)
    if "${" in text and not re.match(r"arn:[^:]*:states:[^$]*$", text):
        return None
    name, _, wait = text.partition(".")
    parts = name.split(":")
    match parts:
        case ["arn", _, "lambda", _, _, "function", *_]:
            return Call("function", "lambda", "invoke")
        case ["arn", _, "states", _, _, "activity", _]:
            return Call("activity")
        case ["arn", _, "states", _, _, "aws-sdk", service, action]:
            return Call("sdk", service, action, wait)
        case ["arn", _, "states", _, _, service, action]:
            return Call("optimized", service, action, wait)
    return Call("")


def exists(found: Call, models: bool) -> bool:
    """Whether there is such a call, as far as is known; models: botocore is asked for the SDK's."""
    if found.kind == "optimized" and found.service in OPTIMIZED:
        waits = OPTIMIZED[found.service].get(found.action)
        return waits is not None and found.wait in ("", *waits)
    if found.kind == "sdk":
        known = actions(found.service) if models else None
        return found.wait in ("", *CALLBACK) and (known is None or found.action.lower() in known)
    return bool(found.kind)


def misnamed(found: Call, arguments: dict[str, Any], models: bool) -> list[str]:
    """The parameters that a call does not know by this name."""
    given = [key.removesuffix(".$") for key in arguments if "${" not in key]
    name = f"{found.service}:{found.action}"
    if found.kind == "optimized" and name in PARAMETERS:
        return [one for one in given if one not in PARAMETERS[name]]
    known = None
    as_the_api = found.kind == "optimized" and found.service in AS_THE_API
    if models and (found.kind == "sdk" or as_the_api):
        known = members(found.service, found.action.lower())
    if known is None:
        return []
    spelled = {one.lower() for one in known}
    return [one for one in given if one.lower() not in spelled or one[:1].islower()]


@cache
def actions(service: str) -> frozenset[str] | None:
    """The actions of a service as the SDK for Java names it, in lower case; None if not known."""
    model = _model(service)
    return model and frozenset(one.lower() for one in model.operation_names)


@cache
def members(service: str, action: str) -> frozenset[str] | None:
    """The parameters of an action; both names as for actions()."""
    model = _model(service)
    for one in model.operation_names if model else ():
        if one.lower() == action:
            shape = model.operation_model(one).input_shape
            return frozenset(shape.members if shape else ())
    return None


@cache
def _model(service: str) -> Any:
    """The model of a service by the name in a Resource, or None."""
    try:
        import botocore.session
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return None
    session = botocore.session.get_session()
    folder = FOLDERS.get(service, service)
    try:
        if folder not in session.get_component("data_loader").list_available_services("service-2"):
            return None
        return session.get_service_model(folder)
    except BotoCoreError:
        return None
