"""A REST API calls AWS services by its integrations: as its role, by parameters and templates.

Seen in MiniStack 1.5.33: only SQS is called, by a form alone and whatever the role is; other
services get a 504, a Lambda function gets an event instead of what the template makes of the
request, HTTP is HTTP_PROXY, MOCK answers with a template as it is written, templates know a part
of Velocity, an empty body is empty, and an OpenAPI document's integrations lose all but their URI.
Here the request is mapped, signed as the role and sent; what the service answers, errors too, goes
through the integration's responses. An integration that cannot run is refused when it is made, in
the words of AWS or in one line that names the sandbox.
"""

import asyncio
import contextvars
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import api_calls
import mapping_templates
import roles
import urllib3
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from ministack.services import apigateway_v1
from ministack.services.cloudformation import provisioners

PATCHES = (
    *roles.NEEDS,
    "services.apigateway_v1._build_lambda_event_v1",
    "services.apigateway_v1._check_passthrough_behavior",
    "services.apigateway_v1._check_request_validation",
    "services.apigateway_v1._gw_error",
    "services.apigateway_v1._import_operation",
    "services.apigateway_v1._invoke_http_proxy_v1",
    "services.apigateway_v1._invoke_lambda_custom_v1",
    "services.apigateway_v1._invoke_mock_v1",
    "services.apigateway_v1._invoke_sqs_v1",
    "services.apigateway_v1._media_type_matches",
    "services.apigateway_v1._put_integration",
    "services.apigateway_v1._put_integration_response",
    "services.apigateway_v1._v1_error",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
)

MAPPED = ("AWS", "HTTP", "MOCK")  # the types whose requests and responses are mapped
PRINCIPAL, SESSION = "apigateway.amazonaws.com", "BackplaneAssumeRoleSession"
# A pool of its own: the server's would wait for itself.
calls = ThreadPoolExecutor(64, thread_name_prefix="api-calls")
_exchange: contextvars.ContextVar["_Exchange"] = contextvars.ContextVar("gap_apigateway_services")


def close() -> None:
    """Call services our way, and refuse what cannot be called."""
    apigateway_v1._invoke_sqs_v1 = apigateway_v1._invoke_lambda_custom_v1 = invoke
    apigateway_v1._invoke_mock_v1 = lambda _integration: _exchange.get().mock()
    passes, put = apigateway_v1._check_passthrough_behavior, apigateway_v1._put_integration
    validate, proxy = apigateway_v1._check_request_validation, apigateway_v1._invoke_http_proxy_v1
    import_operation = apigateway_v1._import_operation

    def passes_unless_mapped(integration: dict[str, Any], headers: dict[str, Any]) -> Any:
        # An exchange decides it for what is mapped.
        return None if integration.get("type") in MAPPED else passes(integration, headers)

    def put_if_runs(api: str, resource: str, method: str, data: dict[str, Any]) -> Any:
        refused = _problem(*(data.get(name) for name in ("type", "uri", "credentials")))
        if refused or (refused := _no_link(data.get("connectionType"))):
            return apigateway_v1._v1_error("BadRequestException", refused, 400)
        return put(api, resource, method, data)

    def validate_and_remember(method: dict[str, Any], api: str, about: dict, *sent: Any) -> Any:
        # The calls for MOCK and HTTP are told less than what maps them needs.
        integration = method["methodIntegration"]
        if integration.get("type") in {"MOCK", "HTTP"}:
            path, (headers, body, query) = about["resource_path"], sent
            known = (api, about["stage_name"], about["stage"], {"path": path, "id": ""}, path)
            request = (method["httpMethod"], headers, body, query, about["path_params"])
            _exchange.set(_Exchange.of(integration, (*known, *request), {}))
        return validate(method, api, about, *sent)

    async def http(integration: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        if integration.get("type") != "HTTP":
            return await proxy(integration, *arguments, **named)
        return await _in_thread(_exchange.get().http)

    def import_all(
        api: str, resource: str, method: str, operation: dict[str, Any], *more: Any, **named: Any
    ) -> None:
        import_operation(api, resource, method, operation, *more, **named)
        if imported := operation.get("x-amazon-apigateway-integration"):
            _import(api, resource, method, imported)

    apigateway_v1._check_passthrough_behavior = passes_unless_mapped
    apigateway_v1._check_request_validation = validate_and_remember
    apigateway_v1._import_operation = import_all
    apigateway_v1._invoke_http_proxy_v1 = http
    apigateway_v1._put_integration = put_if_runs
    handlers = provisioners._RESOURCE_HANDLERS["AWS::ApiGateway::Method"]
    apis = provisioners._RESOURCE_HANDLERS["AWS::ApiGateway::RestApi"]
    make = apis["create"]

    def make_if_known(logical_id: str, properties: dict[str, Any], stack: str) -> Any:
        if properties.get("BodyS3Location"):
            raise ValueError("The sandbox cannot make an API's methods from its BodyS3Location")
        return make(logical_id, properties, stack)

    apis["create"] = make_if_known
    handlers["create"] = _checked(handlers["create"], 1)
    handlers["update"] = _checked(handlers["update"], 2)


def _checked(handler: Any, properties_at: int) -> Any:
    def checked(*arguments: Any, **named: Any) -> Any:
        made = arguments[properties_at].get("Integration") or {}
        refused = _problem(*(made.get(name) for name in ("Type", "Uri", "Credentials")))
        if refused or (refused := _no_link(made.get("ConnectionType"))):
            raise ValueError(refused)
        return handler(*arguments, **named)

    return checked


def _problem(kind: Any, uri: Any, credentials: Any) -> str:
    return api_calls.problem(str(kind), uri or "", credentials or "")


def _no_link(connection: Any) -> str:
    cannot = "The sandbox cannot run an integration through a VPC link"
    return cannot if connection == "VPC_LINK" else ""


def _import(api: str, resource: str, method: str, imported: dict[str, Any]) -> None:
    """Put all of an integration in an OpenAPI document; ValueError if it is refused."""
    data = {**imported, "type": str(imported.get("type")).upper()}
    data["passthroughBehavior"] = (data.get("passthroughBehavior") or "WHEN_NO_MATCH").upper()
    responses = data.pop("responses", {})
    status, _, answer = apigateway_v1._put_integration(api, resource, method, data)
    if status >= 400:
        raise ValueError(json.loads(answer)["message"])
    for pattern, response in responses.items():
        selection = "" if pattern == "default" else pattern
        apigateway_v1._put_integration_response(
            api,
            resource,
            method,
            str(response["statusCode"]),
            {**response, "selectionPattern": selection},
        )


async def invoke(integration: dict[str, Any], *arguments: Any, **about: Any) -> Any:
    """Answer a request by what a service answers: (status, headers, body) or a gateway error."""
    return await _in_thread(_Exchange.of(integration, arguments, about).aws)


async def _in_thread(work: Callable[[], Any]) -> Any:
    context, loop = contextvars.copy_context(), asyncio.get_running_loop()
    return await loop.run_in_executor(calls, context.run, work)


@dataclass
class _Exchange:
    """One request to an API and the integration that answers it.

    context: the variables of $context. binary: the media types that are no text.
    """

    integration: dict[str, Any]
    request: api_calls.Request
    body: bytes
    context: Any
    stage_variables: dict[str, str]
    binary: list[str]

    @classmethod
    def of(
        cls, integration: dict[str, Any], arguments: tuple[Any, ...], about: dict[str, Any]
    ) -> "_Exchange":
        """That of a request as MiniStack tells it to what answers it."""
        _, _, stage, _, _, method, _, body, query, path = arguments
        known = {name: about.get(name) for name in ("authorizer_context", "caller_identity")}
        event = apigateway_v1._build_lambda_event_v1(*arguments, **known)
        text = body.decode(errors="replace")
        overrides = {
            "requestOverride": {"header": {}, "querystring": {}, "path": {}},
            "responseOverride": {"header": {}},
        }
        return cls(
            integration,
            api_calls.Request(method, path or {}, query or {}, event["headers"], text),
            body,
            mapping_templates.velocity(event["requestContext"] | overrides),
            stage.get("variables") or {},
            about.get("binary_media_types") or [],
        )

    def aws(self) -> Any:
        """Map the request, call the service, map what it answers."""
        return self._answer(self._call)

    def http(self) -> Any:
        """The same with an address of HTTP."""
        return self._answer(self._call_http)

    def mock(self) -> Any:
        """The response for the status that the request's template says."""
        return self._answer(self._mocked)

    def _answer(self, call: Callable[[api_calls.Mapped, bytes], Any]) -> Any:
        try:
            parameters = api_calls.mapped(
                self.integration.get("requestParameters") or {},
                self.request,
                self.context,
                self.stage_variables,
            )
            payload = self._payload(self.body)
        except (api_calls.InvalidBody, mapping_templates.InvalidBody) as error:
            return apigateway_v1._gw_error("BAD_REQUEST_BODY", str(error))
        except mapping_templates.operators.TemplateError:
            return _misconfigured()
        if payload is None:
            return apigateway_v1._gw_error("UNSUPPORTED_MEDIA_TYPE", "Unsupported Media Type")
        override = self.context["requestOverride"]
        parameters.header |= {name: str(value) for name, value in override["header"].items()}
        parameters.querystring |= override["querystring"]
        parameters.path |= override["path"]
        try:
            return call(parameters, payload)
        except urllib3.exceptions.TimeoutError:
            return apigateway_v1._gw_error("INTEGRATION_TIMEOUT", "Endpoint request timed out")
        except urllib3.exceptions.HTTPError:
            return apigateway_v1._gw_error("INTEGRATION_FAILURE", "Internal server error")

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
        target = api_calls.target(self._with_stage(self.integration["uri"]))
        role = self._with_stage(self.integration.get("credentials") or "")
        if target is None:
            return _misconfigured()
        try:
            signer = (
                roles.credentials(role, PRINCIPAL, SESSION)
                if role
                else Credentials(
                    os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
                )
            )
        except roles.Denied:
            return _misconfigured()
        sent = api_calls.call(target, self._method(), parameters, "")
        status, headers, answer = send(target, sent, payload, signer, self._seconds())
        if target.function and status >= 400:
            return apigateway_v1._gw_error("INTEGRATION_FAILURE", "Internal server error")
        text = api_calls.in_json(target, sent, answer.decode(errors="replace"))
        failed = target.function and "x-amz-function-error" in headers
        told = (_error_message(text) if failed else "") or str(status)
        return self._respond(told, headers, text, answer)

    def _call_http(self, parameters: api_calls.Mapped, payload: bytes) -> Any:
        uri = self._with_stage(self.integration["uri"])
        for name, value in parameters.path.items():
            uri = uri.replace("{" + name + "}", urllib.parse.quote(value))
        if parameters.querystring:
            uri += ("&" if "?" in uri else "?") + urllib.parse.urlencode(
                parameters.querystring, doseq=True
            )
        answer = _outside().request(
            self._method(),
            uri,
            body=payload,
            headers={"Content-Type": "application/json", **parameters.header},
            timeout=self._seconds(),
        )
        headers = {name.lower(): value for name, value in answer.headers.items()}
        text = answer.data.decode(errors="replace")
        return self._respond(str(answer.status), headers, text, answer.data)

    def _mocked(self, _parameters: api_calls.Mapped, payload: bytes) -> Any:
        # AWS takes it without quotes too, as the CDK's preflights have it.
        status = re.search(r"""["']?statusCode["']?\s*:\s*["']?(\d{3})""", payload.decode())
        return self._respond(status[1], {}, "", b"") if status else _misconfigured()

    def _method(self) -> str:
        method = self.integration.get("httpMethod") or "POST"
        return self.request.method if method == "ANY" else method

    def _seconds(self) -> float:
        return int(self.integration.get("timeoutInMillis") or 29_000) / 1000

    def _respond(self, told: str, headers: Mapping[str, str], text: str, answer: bytes) -> Any:
        """The response that `told`, a status or a function's error, selects."""
        response = api_calls.selected(self.integration.get("integrationResponses") or {}, told)
        if response is None:
            return _misconfigured()
        try:
            found = api_calls.response_headers(
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
            found.setdefault("Content-Type", kind or "application/json")
            if kind:
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
def _outside() -> urllib3.PoolManager:
    return urllib3.PoolManager(retries=False)


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
