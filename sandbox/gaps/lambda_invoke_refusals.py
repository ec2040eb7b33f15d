"""What a function may be told and may answer.

On AWS a payload is JSON of at most 6 MB, of 1 MB for an event; so is an answer, of 6 MB. Seen in
MiniStack 1.5.33: a payload that is no JSON is taken for an empty one, and there are no limits.
"""

import json
from typing import Any

import ranges
from ministack.services import lambda_svc
from refusals import Refused

PATCHES = ("services.lambda_svc._execute_function", "services.lambda_svc.handle_request")

# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html, in bytes
LARGEST = {"RequestResponse": 6_291_456, "Event": 1_048_576}
LARGEST_ANSWER = 6_291_556  # as its error says


def close() -> None:
    """Look at payloads and answers."""
    serve, execute = lambda_svc.handle_request, lambda_svc._execute_function

    async def served(method: str, path: str, headers: dict, body: bytes, query: dict) -> Any:
        if method == "POST" and path.rstrip("/").endswith("/invocations"):
            try:
                check(headers, body)
            except Refused as refused:
                return refused.answer()
        return await serve(method, path, headers, body, query)

    def executed(function: dict[str, Any], event: Any) -> dict[str, Any]:
        result = execute(function, event)
        answer = result.get("body")
        size = len(answer if isinstance(answer, str | bytes) else json.dumps(answer))
        if result.get("error") or size <= LARGEST_ANSWER:
            return result
        said = (
            f"Response payload size exceeded maximum allowed payload size ({LARGEST_ANSWER} bytes)."
        )
        error = {"errorType": "Function.ResponseSizeTooLarge", "errorMessage": said}
        return {**result, "error": True, "body": error}

    lambda_svc.handle_request, lambda_svc._execute_function = served, executed


def check(headers: dict[str, str], payload: bytes) -> None:
    """Invoke, by its headers and payload."""
    kind = headers.get("x-amz-invocation-type") or "RequestResponse"
    sent = {"InvocationType": kind, "LogType": headers.get("x-amz-log-type") or None}
    if problem := ranges.problem("lambda", "Invoke", sent, required=False):
        raise Refused(problem, "ValidationException")
    largest = LARGEST.get(kind, LARGEST["RequestResponse"])
    if len(payload) > largest:
        raise Refused(
            f"Request must be smaller than {largest} bytes for the InvokeFunction operation",
            "RequestEntityTooLargeException",
            413,
        )
    try:
        json.loads(payload or b"{}")
    except ValueError as error:
        raise Refused(
            f"Could not parse request body into json: Could not parse payload into json: {error}",
            "InvalidRequestContentException",
        ) from error
