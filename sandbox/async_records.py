"""What Lambda writes of an event that a function took asynchronously, and when it tries again.

The record is that of Lambda's guide, "Capturing records of Lambda asynchronous invocations".
"""

from datetime import UTC, datetime
from typing import Any

RETRY_SECONDS = 60  # between attempts one and two; twice that before the third
THROTTLED_SECONDS = 60  # before a throttled event is tried again: 1 s to 5 min on AWS
MOST_RETRIES = 2
LONGEST_AGE = 21_600  # seconds


def plan(failures: int, throttled: bool, age: float, settings: dict[str, Any]) -> tuple[float, str]:
    """(Seconds until the next attempt, "") or (0, why there is none).

    `failures` counts the attempts that failed, `age` is the event's in seconds, `settings` are the
    function's EventInvokeConfig.
    """
    retries = settings.get("MaximumRetryAttempts")
    if not throttled and failures > int(MOST_RETRIES if retries is None else retries):
        return 0, "RetriesExhausted"
    wait = THROTTLED_SECONDS if throttled else RETRY_SECONDS * failures
    if age + wait > int(settings.get("MaximumEventAgeInSeconds") or LONGEST_AGE):
        return 0, "EventAgeExceeded"
    return wait, ""


def record(
    *,
    request: str,
    function: str,
    version: str,
    condition: str,
    attempts: int,
    payload: Any,
    result: dict[str, Any] | None,
) -> dict[str, Any]:
    """What a destination gets. `function` is a qualified ARN; `result` None: not called."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
    made: dict[str, Any] = {
        "version": "1.0",
        "timestamp": f"{now}Z",
        "requestContext": {
            "requestId": request,
            "functionArn": function,
            "condition": condition,
            "approximateInvokeCount": attempts,
        },
        "requestPayload": payload,
    }
    if result is not None:
        made["responseContext"] = {"statusCode": 200, "executedVersion": version}
        if condition != "Success":
            made["responseContext"]["functionError"] = "Unhandled"
        made["responsePayload"] = result.get("body")
    return made


def attributes(request: str, result: dict[str, Any] | None) -> dict[str, dict[str, str]]:
    """What a dead-letter queue or topic is told beside the payload, which it gets as it was."""
    body = (result or {}).get("body")
    message = body.get("errorMessage", "") if isinstance(body, dict) else str(body or "")
    code = "200"
    if result is None:
        code, message = "429", "Rate Exceeded."
    told = {"RequestID": request, "ErrorCode": code, "ErrorMessage": message[:1024] or "-"}
    return {
        name: {
            "DataType": "Number" if name == "ErrorCode" else "String",
            "StringValue": value,
        }
        for name, value in told.items()
    }
