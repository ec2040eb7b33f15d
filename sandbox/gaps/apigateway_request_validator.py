"""A template's request validator: what it does not let through is answered with 400.

Seen in MiniStack 1.5.33: validators made through the API are enforced, but CloudFormation makes up
an id for AWS::ApiGateway::RestApi's validator without making the validator, and drops a method's
RequestValidatorId, so that every body passes.
"""

import json
from typing import Any

import resources
from ministack.services import apigateway_v1
from ministack.services.cloudformation import provisioners

PATCHES = (
    *resources.NEEDS,
    "services.apigateway_v1._create_request_validator",
    "services.apigateway_v1._delete_request_validator",
    "services.apigateway_v1._resources",
)


def close() -> None:
    """Make validators, and tell each method which one is its own."""
    provisioners._RESOURCE_HANDLERS["AWS::ApiGateway::RequestValidator"] = {
        "create": _create,
        "update": _update,
        "delete": _delete,
    }
    resources.finish("AWS::ApiGateway::Method", _validate)


def _create(logical_id: str, properties: dict[str, Any], _stack: str) -> tuple[str, dict[str, str]]:
    answer = apigateway_v1._create_request_validator(
        properties["RestApiId"],
        {
            "name": properties.get("Name", logical_id),
            "validateRequestBody": _true(properties.get("ValidateRequestBody")),
            "validateRequestParameters": _true(properties.get("ValidateRequestParameters")),
        },
    )
    made = json.loads(answer[2])["id"]
    return made, {"RequestValidatorId": made}


def _update(
    physical_id: str, old: dict[str, Any], new: dict[str, Any], stack: str
) -> tuple[str, dict[str, str]]:
    _delete(physical_id, old)
    return _create(physical_id, new, stack)


def _delete(physical_id: str, properties: dict[str, Any]) -> None:
    apigateway_v1._delete_request_validator(properties["RestApiId"], physical_id)


def _validate(_method_id: str, properties: dict[str, Any]) -> None:
    resource = apigateway_v1._resources[properties["RestApiId"]][properties["ResourceId"]]
    method = resource["resourceMethods"][properties["HttpMethod"]]
    method["requestValidatorId"] = properties.get("RequestValidatorId")


def _true(value: Any) -> bool:
    """CloudFormation's booleans may come as strings."""
    return str(value).lower() == "true"
