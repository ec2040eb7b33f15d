"""What AWS refuses of a function, when it is made and when it is changed, by API and by template.

Values out of range, variables that are reserved or together larger than 4 KB, a role that Lambda
may not assume, code that is not in its bucket, more reserved concurrency than an account has, a
name that is taken. Seen in MiniStack 1.5.33: by API only, a role that is missing and a name that is
taken are refused. A function without code answers "Mock response"; what a template reserves is
dropped, and a function of its name is overwritten.
"""

from typing import Any

import ranges
import resources
import roles
from ministack.services import lambda_svc, s3
from ministack.services.cloudformation import provisioners
from refusals import Refused, before, before_made

PATCHES = (
    *roles.NEEDS,
    *resources.NEEDS,
    "services.lambda_svc._create_function",
    "services.lambda_svc._fetch_code_from_s3",
    "services.lambda_svc._functions",
    "services.lambda_svc._put_function_concurrency",
    "services.lambda_svc._update_code",
    "services.lambda_svc._update_config",
    "services.s3._buckets",
)

# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html; the model has what
# managed instances may have, too. Seconds, MB, MB.
ORDINARY = {
    "Timeout": {"max": 900},
    "MemorySize": {"max": 10_240},
    "EphemeralStorageSize": {"max": 10_240},
}
LONGEST_NAME = 64
LARGEST_ENVIRONMENT = 4_096  # bytes of all names and values
# https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
RESERVED = {
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
}
CONCURRENCY, UNRESERVED = 1000, 100  # executions of an account, and what must stay for all


def close() -> None:
    """Check before a function is made or changed."""
    lambda_svc._create_function = before(
        lambda_svc._create_function, lambda sent: check("CreateFunction", sent)
    )
    lambda_svc._update_config = before(
        lambda_svc._update_config,
        lambda name, sent: check("UpdateFunctionConfiguration", {**sent, "FunctionName": name}),
    )
    lambda_svc._update_code = before(lambda_svc._update_code, lambda _, sent: code_is_there(sent))
    lambda_svc._put_function_concurrency = before(
        lambda_svc._put_function_concurrency,
        lambda name, sent: concurrency_is_left(name, sent.get("ReservedConcurrentExecutions")),
    )
    handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
    handlers["create"] = before_made(handlers["create"], made_by_template)
    handlers["update"] = before_made(handlers["update"], lambda *told: by_template(told[2]))
    resources.finish("AWS::Lambda::Function", _keep_reserved)


def made_by_template(_: str, properties: dict[str, Any], __: str) -> None:
    """A resource that is made; MiniStack takes over a function of that name."""
    if (name := properties.get("FunctionName")) in lambda_svc._functions:
        raise Refused(f"Function already exist: {name}", "ResourceConflictException", 409)
    by_template(properties)


def by_template(properties: dict[str, Any]) -> None:
    """A resource that is made or changed."""
    check("CreateFunction", properties)
    concurrency_is_left(
        properties.get("FunctionName"), properties.get("ReservedConcurrentExecutions")
    )


def check(operation: str, sent: dict[str, Any]) -> None:
    """A function as it is to be."""
    narrower: dict[str, Any] = {} if sent.get("CapacityProviderConfig") else dict(ORDINARY)
    if not str(sent.get("FunctionName") or "").startswith("arn:"):
        narrower["FunctionName"] = {"max": LONGEST_NAME}
    if problem := ranges.problem("lambda", operation, sent, narrower, required=False):
        raise Refused(problem, "ValidationException")
    variables = (sent.get("Environment") or {}).get("Variables") or {}
    unable = (
        "Lambda was unable to configure your environment variables because the environment"
        " variables you have provided"
    )
    if reserved := sorted(RESERVED & variables.keys()):
        raise Refused(
            f"{unable} contains reserved keys that are currently not supported for modification."
            f" Reserved keys used in this request: {', '.join(reserved)}"
        )
    size = sum(len(f"{name}{value}".encode()) for name, value in variables.items())
    if size > LARGEST_ENVIRONMENT:
        raise Refused(f"{unable} exceeded the 4KB limit. String measured: {size}")
    if sent.get("Role") and not roles.trusts(sent["Role"], "lambda.amazonaws.com"):
        raise Refused("The role defined for the function cannot be assumed by Lambda.")
    code_is_there(sent.get("Code") or {})


def code_is_there(code: dict[str, Any]) -> None:
    """Whether code that is to be taken from a bucket is in it."""
    bucket, key = code.get("S3Bucket"), code.get("S3Key")
    if not bucket or not key:
        return
    if lambda_svc._fetch_code_from_s3(bucket, key, version_id=code.get("S3ObjectVersion")) is None:
        missing = "NoSuchKey. S3 Error Message: The specified key does not exist."
        if bucket not in s3._buckets:
            missing = "NoSuchBucket. S3 Error Message: The specified bucket does not exist"
        raise Refused(f"Error occurred while GetObject. S3 Error Code: {missing}")


def concurrency_is_left(name: str | None, wanted: Any) -> None:
    """Whether enough of the account's concurrency stays for functions that reserve none."""
    others = sum(
        int(function["concurrency"] or 0)
        for other, function in lambda_svc._functions.items()
        if other != name
    )
    if wanted is not None and others + int(wanted) > CONCURRENCY - UNRESERVED:
        raise Refused(
            "Specified ReservedConcurrentExecutions for function decreases account's"
            f" UnreservedConcurrentExecution below its minimum value of [{UNRESERVED}]."
        )


def _keep_reserved(name: str, properties: dict[str, Any]) -> None:
    wanted = properties.get("ReservedConcurrentExecutions")
    lambda_svc._functions[name]["concurrency"] = None if wanted is None else int(wanted)
