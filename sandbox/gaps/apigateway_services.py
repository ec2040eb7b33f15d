"""A REST API calls AWS services by its integrations: as its role, by parameters and templates.

Seen in MiniStack 1.5.33: only SQS is called, by a form alone and whatever the role is; other
services get a 504, a Lambda function gets an event instead of what the template makes of the
request, templates know a part of Velocity, and an empty body is empty. Here the request is mapped,
signed as the role and sent; what the service answers, errors too, goes through the integration's
responses. An integration that cannot run is refused when it is made, in the words of AWS or in one
line that names the sandbox.
"""

import asyncio
import contextvars
import json
import os
import urllib.parse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import api_calls
import mapping_templates
import roles
import urllib3
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from ministack.core.responses import get_account_id
from ministack.services import apigateway_v1
from ministack.services.cloudformation import provisioners

PATCHES = (
    *roles.NEEDS,
    "services.apigateway_v1._build_lambda_event_v1",
    "services.apigateway_v1._check_passthrough_behavior",
    "services.apigateway_v1._gw_error",
    "services.apigateway_v1._invoke_lambda_custom_v1",
    "services.apigateway_v1._invoke_sqs_v1",
    "services.apigateway_v1._media_type_matches",
    "services.apigateway_v1._put_integration",
    "services.apigateway_v1._v1_error",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
)

PRINCIPAL, SESSION = "apigateway.amazonaws.com", "BackplaneAssumeRoleSession"
# A pool of its own: the server's would wait for itself.
calls = ThreadPoolExecutor(64, thread_name_prefix="api-calls")


def close() -> None:
    """Call services our way, and refuse what cannot be called."""
    apigateway_v1._invoke_sqs_v1 = apigateway_v1._invoke_lambda_custom_v1 = invoke
    passes, put = apigateway_v1._check_passthrough_behavior, apigateway_v1._put_integration

    def passes_unless_service(integration: dict[str, Any], headers: dict[str, Any]) -> Any:
        # invoke() decides it for services.
        return None if integration.get("type") == "AWS" else passes(integration, headers)

    def put_if_runs(api: str, resource: str, method: str, data: dict[str, Any]) -> Any:
        refused = _problem(data.get("type"), data.get("uri"), data.get("credentials"))
        if refused:
            return apigateway_v1._v1_error("BadRequestException", refused, 400)
        return put(api, resource, method, data)

    apigateway_v1._check_passthrough_behavior = passes_unless_service
    apigateway_v1._put_integration = put_if_runs
    handlers = provisioners._RESOURCE_HANDLERS["AWS::ApiGateway::Method"]
    handlers["create"] = _checked(handlers["create"], 1)
    handlers["update"] = _checked(handlers["update"], 2)


def _checked(handler: Any, properties_at: int) -> Any:
    def checked(*arguments: Any, **named: Any) -> Any:
        made = arguments[properties_at].get("Integration") or {}
        if refused := _problem(made.get("Type"), made.get("Uri"), made.get("Credentials")):
            raise ValueError(refused)
        return handler(*arguments, **named)

    return checked


def _problem(kind: Any, uri: Any, credentials: Any) -> str:
    return api_calls.problem(str(kind), uri or "", credentials or "")


async def invoke(integration: dict[str, Any], *arguments: Any, **about: Any) -> Any:
    """Answer a request by what a service answers: (status, headers, body) or a gateway error."""
    _, _, stage, _, _, method, _, body, query, path = arguments
    known = {name: about.get(name) for name in ("authorizer_context", "caller_identity")}
    event = apigateway_v1._build_lambda_event_v1(*arguments, **known)
    text = body.decode(errors="replace")
    request = api_calls.Request(method, path or {}, query or {}, event["headers"], text)
    binary = about.get("binary_media_types") or []
    exchange = _Exchange(
        integration, request, event["requestContext"], stage.get("variables") or {}, binary
    )
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(calls, context.run, exchange.answer, body)


class _Exchange:
    """One request to an API and the integration that answers it."""

    def __init__(
        self,
        integration: dict[str, Any],
        request: api_calls.Request,
        context: dict[str, Any],
        stage_variables: dict[str, str],
        binary: list[str],
    ) -> None:
        self.integration, self.request, self.binary = integration, request, binary
        self.stage_variables = stage_variables
        self.context = mapping_templates.velocity(context)
        self.context["requestOverride"] = mapping_templates.velocity(
            {"header": {}, "querystring": {}, "path": {}}
        )
        self.context["responseOverride"] = mapping_templates.velocity({"header": {}})

    def answer(self, body: bytes) -> Any:
        """Map the request, call the service, map what it answers."""
        try:
            parameters = api_calls.mapped(
                self.integration.get("requestParameters") or {},
                self.request,
                self.context,
                self.stage_variables,
            )
            payload = self._payload(body)
        except api_calls.InvalidBody:
            return apigateway_v1._gw_error("BAD_REQUEST_BODY", "Invalid JSON in request body")
        except mapping_templates.InvalidBody:
            return apigateway_v1._gw_error(
                "BAD_REQUEST_BODY", "Could not parse request body into json."
            )
        except mapping_templates.operators.TemplateError:
            return _misconfigured()
        if payload is None:
            return apigateway_v1._gw_error("UNSUPPORTED_MEDIA_TYPE", "Unsupported Media Type")
        override = self.context["requestOverride"]
        parameters.header |= {name: str(value) for name, value in override["header"].items()}
        parameters.querystring |= override["querystring"]
        parameters.path |= override["path"]
        return self._call(parameters, payload)

    def _payload(self, body: bytes) -> bytes | None:
        """What is sent: the template's text, or the body as it came, or None if neither may be."""
        templates = self.integration.get("requestTemplates") or {}
        content_type = _media_type(self.request.headers.get("content-type"))
        template = next(
            (text for name, text in templates.items() if _media_type(name) == content_type), None
        )
        if template is not None:
            return self._render(template, self.request.body).encode()
        behavior = self.integration.get("passthroughBehavior") or "WHEN_NO_MATCH"
        if behavior == "NEVER" or (behavior == "WHEN_NO_TEMPLATES" and templates):
            return None
        return body

    def _call(self, parameters: api_calls.Mapped, payload: bytes) -> Any:
        uri = self._with_stage(self.integration["uri"])
        target = api_calls.target(uri)
        role = self._with_stage(self.integration.get("credentials") or "")
        method = self.integration.get("httpMethod") or "POST"
        if target is None:
            return _misconfigured()
        if method == "ANY":
            method = self.request.method
        try:
            signer = (
                roles.credentials(role, PRINCIPAL, SESSION)
                if role
                else Credentials(get_account_id(), "test")
            )
        except roles.Denied:
            return _misconfigured()
        sent = api_calls.call(target, method, parameters, "")
        seconds = int(self.integration.get("timeoutInMillis") or 29_000) / 1000
        try:
            status, headers, answer = send(target, sent, payload, signer, seconds)
        except urllib3.exceptions.TimeoutError:
            return apigateway_v1._gw_error("INTEGRATION_TIMEOUT", "Endpoint request timed out")
        except urllib3.exceptions.HTTPError:
            return apigateway_v1._gw_error("INTEGRATION_FAILURE", "Internal server error")
        if target.function and status >= 400:
            return apigateway_v1._gw_error("INTEGRATION_FAILURE", "Internal server error")
        return self._respond(target, sent, status, headers, answer)

    def _respond(
        self,
        target: api_calls.Target,
        sent: api_calls.Request,
        status: int,
        headers: Mapping[str, str],
        answer: bytes,
    ) -> Any:
        text = api_calls.in_json(target, sent, answer.decode(errors="replace"))
        told = str(status)
        if target.function and "x-amz-function-error" in headers:
            told = _error_message(text) or told
        response = api_calls.selected(self.integration.get("integrationResponses") or {}, told)
        if response is None:
            return _misconfigured()
        try:
            found = {"Content-Type": "application/json"} | api_calls.response_headers(
                response.get("responseParameters") or {},
                headers,
                text,
                self.context,
                self.stage_variables,
            )
            templates = response.get("responseTemplates") or {}
            accepted = _media_type(self.request.headers.get("accept"))
            kind = next(
                (one for one in (accepted, "application/json", *templates) if one in templates), ""
            )
            if kind:
                found.setdefault("Content-Type", kind)
                content = self._render(templates[kind], text).encode()
            elif apigateway_v1._media_type_matches(headers.get("content-type"), self.binary):
                content = answer
            else:
                content = text.encode()
        except (
            api_calls.InvalidBody,
            mapping_templates.InvalidBody,
            mapping_templates.operators.TemplateError,
        ):
            return _misconfigured()
        override = self.context["responseOverride"]
        found |= {name: str(value) for name, value in override["header"].items()}
        code = override.get("status")
        if not (isinstance(code, int) and 100 <= code < 600):  # AWS ignores others
            code = int(response["statusCode"])
        return code, found, content

    def _render(self, template: str, body: str) -> str:
        params = {
            "path": self.request.path,
            "querystring": {name: values[-1] for name, values in self.request.query.items()},
            "header": self.request.headers,
        }
        return mapping_templates.render(
            template, body, params, self.context, self.stage_variables
        ).strip()

    def _with_stage(self, text: str) -> str:
        for name, value in self.stage_variables.items():
            text = text.replace("${stageVariables." + name + "}", value)
        return text


def _misconfigured() -> Any:
    return apigateway_v1._gw_error("API_CONFIGURATION_ERROR", "Internal server error")


def _media_type(header: str | None) -> str:
    return (header or "application/json").partition(",")[0].partition(";")[0].strip().lower()


def _error_message(answer: str) -> str:
    """The errorMessage of a function that failed."""
    try:
        return str(json.loads(answer).get("errorMessage") or "")
    except (ValueError, AttributeError):
        return ""


@cache
def _pool() -> urllib3.PoolManager:
    return urllib3.PoolManager(maxsize=64, ca_certs=os.environ["AWS_CA_BUNDLE"], retries=False)


def send(
    target: api_calls.Target,
    sent: api_calls.Request,
    payload: bytes,
    signer: Credentials,
    seconds: float,
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of a service's answer. Never on the server's own event loop."""
    query = urllib.parse.urlencode(sent.query, doseq=True, quote_via=urllib.parse.quote)
    url = f"https://localhost:{os.environ['GATEWAY_PORT']}{urllib.parse.quote(sent.path[''])}"
    if query:
        url += f"?{query}"
    data = b"" if sent.method in {"GET", "HEAD", "OPTIONS"} else payload
    request = AWSRequest(sent.method, url, headers=dict(sent.headers), data=data)
    sign = S3SigV4Auth if target.service == "s3" else SigV4Auth
    sign(signer, target.service, target.region).add_auth(request)
    answer = _pool().request(
        sent.method,
        url,
        body=data,
        headers=dict(request.headers.items()),
        timeout=seconds,
        redirect=False,
    )
    return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.data
