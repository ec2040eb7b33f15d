"""An HTTP API calls AWS services by the subtypes of its integrations, as the role it is told.

Seen in MiniStack 1.5.33: subtype and role are dropped, and a call answers that a function is not
found. Here the parameters are mapped, the request is signed as the role and sent, and the service's
answer is the API's. What cannot run is refused when it is made, in the words of AWS or in one line
that names the sandbox.
"""

import asyncio
import contextvars
import json
from typing import Any

import api_calls
import http_api_calls
import roles
import urllib3
from gaps import apigateway_services
from ministack.core.responses import get_account_id, get_region, new_uuid
from ministack.services import apigateway
from ministack.services.cloudformation import provisioners

PATCHES = (
    *apigateway_services.PATCHES,
    "services.apigateway._apis",
    "services.apigateway._apigw_error",
    "services.apigateway._create_integration",
    "services.apigateway._get_stage_variables",
    "services.apigateway._integrations",
    "services.apigateway._invoke_lambda_proxy",
    "services.apigateway._update_integration",
    "services.cloudformation.provisioners._apigw_v2_integration_props",
)
KEPT = ("integrationSubtype", "credentialsArn")


def close() -> None:
    """Keep subtype and role, refuse what cannot run, and call the service."""
    create, update = apigateway._create_integration, apigateway._update_integration
    call, of_template = apigateway._invoke_lambda_proxy, provisioners._apigw_v2_integration_props
    handlers = provisioners._RESOURCE_HANDLERS["AWS::ApiGatewayV2::Integration"]
    apis = provisioners._RESOURCE_HANDLERS["AWS::ApiGatewayV2::Api"]
    make = apis["create"]

    def create_if_runs(api: str, data: dict[str, Any]) -> Any:
        if refused := _problem(api, data):
            return apigateway._apigw_error("BadRequestException", refused, 400)
        status, headers, answer = create(api, data)
        return _with_kept(api, data, status, headers, answer)

    def update_if_runs(api: str, integration: str, data: dict[str, Any]) -> Any:
        known = (apigateway._integrations.get(api) or {}).get(integration) or {}
        if known and (refused := _problem(api, known | data)):
            return apigateway._apigw_error("BadRequestException", refused, 400)
        status, headers, answer = update(api, integration, data)
        return _with_kept(api, data, status, headers, answer)

    def template_with_kept(properties: dict[str, Any]) -> dict[str, Any]:
        kept = {name: properties.get(name[0].upper() + name[1:]) for name in KEPT}
        return {**of_template(properties), **{name: of for name, of in kept.items() if of}}

    def checked(handler: Any, properties_at: int) -> Any:
        def run(*arguments: Any, **named: Any) -> Any:
            properties = arguments[properties_at]
            if refused := _problem(properties.get("ApiId", ""), template_with_kept(properties)):
                raise ValueError(refused)
            return handler(*arguments, **named)

        return run

    def make_if_known(logical_id: str, properties: dict[str, Any], stack: str) -> Any:
        # MiniStack drops them, and the API would have no routes.
        for dropped in ("Body", "BodyS3Location", "Target"):
            if properties.get(dropped):
                raise ValueError(f"The sandbox cannot make an API's routes from its {dropped}")
        return make(logical_id, properties, stack)

    async def call_service_or_function(
        integration: dict[str, Any], *given: Any, **more: Any
    ) -> Any:
        if not integration.get("integrationSubtype"):
            return await call(integration, *given, **more)
        context, loop = contextvars.copy_context(), asyncio.get_running_loop()
        return await loop.run_in_executor(
            apigateway_services.calls, context.run, _call, integration, given, more
        )

    apigateway._create_integration = create_if_runs
    apigateway._update_integration = update_if_runs
    apigateway._invoke_lambda_proxy = call_service_or_function
    provisioners._apigw_v2_integration_props = template_with_kept
    apis["create"] = make_if_known
    handlers["create"] = checked(handlers["create"], 1)
    handlers["update"] = checked(handlers["update"], 2)


def _problem(api: str, integration: dict[str, Any]) -> str:
    of = apigateway._apis.get(api) or {}
    return http_api_calls.problem(integration) if of.get("protocolType") == "HTTP" else ""


def _with_kept(api: str, data: dict[str, Any], status: int, headers: Any, answer: bytes) -> Any:
    """An answer about an integration that tells what MiniStack dropped, which is kept with it."""
    if status >= 400:
        return status, headers, answer
    told = json.loads(answer)
    kept = apigateway._integrations[api][told["integrationId"]]
    kept.update({name: data[name] for name in KEPT if data.get(name)})
    told |= {name: kept[name] for name in KEPT if name in kept}
    return status, headers, json.dumps(told).encode()


def _call(
    integration: dict[str, Any], given: tuple[Any, ...], more: dict[str, Any]
) -> tuple[int, dict[str, str], bytes]:
    api, stage, path, method, headers, body, query, route, path_parameters = given
    request = api_calls.Request(
        method,
        {"": path, **(path_parameters or {})},
        {name: [of] if isinstance(of, str) else of for name, of in (query or {}).items()},
        headers,
        body.decode(errors="replace"),
    )
    authorizer: dict[str, Any] = {}
    if (claims := more.get("authorizer_claims")) is not None:
        authorizer = {"jwt": {"claims": claims}, "claims": claims}
    elif lambda_context := more.get("authorizer_lambda_context"):
        authorizer = {"lambda": lambda_context, **lambda_context}
    context = {
        "accountId": get_account_id(),
        "apiId": api,
        "authorizer": authorizer,
        "httpMethod": method,
        "identity": {"sourceIp": "127.0.0.1", "userAgent": headers.get("user-agent", "")},
        "path": path,
        "requestId": new_uuid(),
        "routeKey": route,
        "stage": stage,
    }
    values = http_api_calls.mapped(
        integration.get("requestParameters") or {},
        request,
        context,
        apigateway._get_stage_variables(api, stage),
    )
    subtype = http_api_calls.SUBTYPES[integration["integrationSubtype"]]
    target = api_calls.Target(values.get("Region") or get_region(), subtype.service, "path", "")
    sent_headers, payload = http_api_calls.call(subtype, values)
    sent = api_calls.Request("POST", {"": "/"}, {}, sent_headers, payload)
    try:
        signer = roles.credentials(
            integration["credentialsArn"],
            apigateway_services.PRINCIPAL,
            apigateway_services.SESSION,
        )
        seconds = int(integration.get("timeoutInMillis") or 30_000) / 1000
        status, told, answer = apigateway_services.send(
            target, sent, payload.encode(), signer, seconds
        )
    except urllib3.exceptions.TimeoutError:
        return _failed(503, "Service Unavailable")
    except (roles.Denied, urllib3.exceptions.HTTPError):
        return _failed(500, "Internal Server Error")
    kind = "text/xml" if subtype.service == "sqs" else "application/json"
    return (
        status,
        {"Content-Type": kind if status < 300 else told.get("content-type", kind)},
        answer,
    )


def _failed(status: int, message: str) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps({"message": message}).encode()
