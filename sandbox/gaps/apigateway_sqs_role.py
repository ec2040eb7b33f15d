"""The role of an API's integration decides whether it may send to a queue.

Seen in MiniStack 1.5.33 with AUTH=true: an integration with SQS reaches the queue whatever its
credentials are. Here the call is judged by the role, which must trust API Gateway, and by the
queue's policy. A denied one is SQS's 403, which the integration's responses map as on AWS.
"""

from typing import Any

import roles
from ministack.services import apigateway_v1

PATCHES = (
    *roles.NEEDS,
    "services.apigateway_v1._invoke_sqs_v1",
    "services.apigateway_v1._parse_service_integration_uri",
    "services.apigateway_v1._service_integration_response",
)

DENIED = '{"Error":{"Code":"AccessDenied","Message":"Access to the resource is denied."}}'


def close() -> None:
    """Ask the role before each message."""
    send = apigateway_v1._invoke_sqs_v1

    async def send_as_role(integration: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        region, _, _, path = apigateway_v1._parse_service_integration_uri(integration["uri"])
        account, _, queue = path.rpartition("/")
        arn = f"arn:aws:sqs:{region}:{account or named['owner_account_id']}:{queue}"
        role = integration.get("credentials") or ""
        if role and roles.allows(role, "apigateway.amazonaws.com", "sqs:SendMessage", arn):
            return await send(integration, *arguments, **named)
        return apigateway_v1._service_integration_response(
            integration, 403, DENIED, "application/json", {}
        )

    apigateway_v1._invoke_sqs_v1 = send_as_role
