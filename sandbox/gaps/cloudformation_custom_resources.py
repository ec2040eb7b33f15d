"""A custom resource whose function fails fails with the function's own words, and soon.

CloudFormation calls the function asynchronously: Lambda tries a failed call twice more, and then
nobody answers for the resource until its ServiceTimeout is over, an hour unless the template says
otherwise. Seen in MiniStack 1.5.33: the call is tried once, and the deployment stands for that hour
without a word, as with a function in Node.js that wants a part of the AWS SDK which is not here.
Here the two further tries come at once, and the hour is not waited out: the answer is known.
"""

from typing import Any

from ministack.services import lambda_svc
from ministack.services.cloudformation import custom_resource

PATCHES = (
    "services.cloudformation.custom_resource._pending",
    "services.cloudformation.custom_resource.deliver_response",
    "services.lambda_svc._execute_function_with_config_scope",
)
TRIES = 3  # developer guide of Lambda, "Error handling for asynchronous invocation": two retries
SILENT = "CloudFormation did not receive a response from your custom resource"  # AWS's own words


def close() -> None:
    """Answer for a function that did not, where the call is CloudFormation's."""
    execute = lambda_svc._execute_function_with_config_scope

    def executed(function: dict, event: Any) -> dict:
        asked = event if isinstance(event, dict) else {}  # a workflow may send any JSON
        token = str(asked.get("ResponseURL")).rpartition("/")[2]
        if token not in custom_resource._pending:
            return execute(function, event)
        for _ in range(TRIES):
            result = execute(function, event)
            if not result.get("error") or custom_resource._pending[token]["event"].is_set():
                return result
        custom_resource.deliver_response(token, {"Status": "FAILED", "Reason": reason(result)})
        return result

    lambda_svc._execute_function_with_config_scope = executed


def reason(result: dict[str, Any]) -> str:
    """What the events of the stack say."""
    body = result.get("body")
    failed = body if isinstance(body, dict) else {"errorMessage": body}
    said = ": ".join(str(failed[key]) for key in ("errorType", "errorMessage") if key in failed)
    return f"{SILENT}: its function failed {TRIES} times, last with {said}"
