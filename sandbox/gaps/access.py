"""Only whoever started the sandbox can use it.

AWS answers nobody without a signature. Seen in MiniStack 1.5.33: its own paths (/_ministack/reset
and the like) ask for none; the key ids "test", any twelve digits and the server's own are root
whatever the signature; any web page may read what it answers, under whatever host name the page
has reached it; and the keys of a function's role follow from its ARN, which everybody can compute.
Here a request carries the signature of a key that this sandbox made (MiniStack verifies those of
users and sessions, this module the root's), but for

- the question whether it is well;
- APIs, function URLs and load balancers, which ask for what they were told to ask for;
- links that carry a secret of their own: CloudFormation's, and SNS's to confirm a subscription;
- forms for S3, whose signature is in the form.

Other names than localhost's and those of APIs are not known here. A service answers web pages where
it has been told to (the CORS settings of an API, a function URL or a bucket), and nowhere else.
"""

import json
import os
import secrets
from contextvars import ContextVar
from typing import Any

from ministack import app
from ministack.core import iam_evaluator, lambda_runtime, sigv4
from ministack.services import lambda_svc

PATCHES = (
    "app._EXECUTE_API_RE",
    "app._credential_failure",
    "app._handle_options_request",
    "app._handle_post_body_shortcuts",
    "app._handle_pre_body_request",
    "app._is_potential_alb_request",
    "app._parse_cloudfront_dataplane_host",
    "app._parse_execute_api_url",
    "app._parse_lambda_url",
    "app._resolve_custom_domain_request",
    "app._with_data_plane_headers",
    "app.pin_signed_body",
    "app.pin_signed_request",
    "core.iam_evaluator._s3_presigned_query",
    "core.iam_evaluator._signature_attempted",
    "core.iam_evaluator.is_root_access_key",
    "core.lambda_runtime.execution_credentials",
    "core.sigv4.header_signature_failure",
    "services.lambda_svc.execution_credentials",
)
HEALTH = "/_ministack/health"
SECRET_LINKS = ("/_ministack/cfn-response/", "/_ministack/cfn-signal/")
NAMES = ("localhost", "127.0.0.1")

Response = tuple[int, dict[str, str], bytes]
# (path as it was sent, headers as they were sent, body as it was sent) of the request at hand
_sent: ContextVar[tuple[str, dict[str, str], bytes]] = ContextVar("sent", default=("", {}, b""))


def close() -> None:
    """Ask before anything else is done with a request."""
    handle, preflight = app._handle_pre_body_request, app._handle_options_request
    with_headers = app._with_data_plane_headers

    async def asked(
        method: str, path: str, headers: dict[str, str], query: dict[str, Any], request: str
    ) -> Any:
        if problem := refusal(method, path, headers, query):
            return 403, {"Content-Type": "application/json"}, json.dumps(problem).encode()
        return await handle(method, path, headers, query, request)

    pin_request, pin_body = app.pin_signed_request, app.pin_signed_body
    shortcuts = app._handle_post_body_shortcuts

    def pin(method: str, path: str, query: Any, headers: list[tuple[bytes, bytes]]) -> None:
        _sent.set((path, joined(headers), b""))
        pin_request(method, path, query, headers)

    def pin_with_body(body: bytes) -> None:
        _sent.set((*_sent.get()[:2], body))
        pin_body(body)

    async def verified(method: str, path: str, headers: Any, *rest: Any) -> Any:
        _body, query, request = rest
        if problem := false_root(method, query):
            service = app.detect_service(method, path, headers, query)
            return app._credential_failure(service, "", request, problem, headers)
        return await shortcuts(method, path, headers, *rest)

    def without_wildcard(*what: Any) -> Response | None:
        answer = preflight(*what)
        if answer and answer[1].get("Access-Control-Allow-Origin") == "*":
            return 403, {"Content-Type": "text/plain"}, b"the sandbox answers no web page"
        return answer

    def own_headers(response: Any, *what: Any, **more: Any) -> Any:
        return with_headers(response, *what, **{**more, "wildcard_cors": False})

    app._handle_pre_body_request = asked
    app.pin_signed_request, app.pin_signed_body = pin, pin_with_body
    app._handle_post_body_shortcuts = verified
    app._handle_options_request = without_wildcard
    app._with_data_plane_headers = own_headers
    lambda_runtime.execution_credentials = salted(lambda_runtime.execution_credentials)
    lambda_svc.execution_credentials = lambda_runtime.execution_credentials


def refusal(
    method: str, path: str, headers: dict[str, str], query: dict[str, Any]
) -> dict[str, str] | None:
    """Why a request is not answered; None if it is, or if its signature is still to be verified."""
    host = headers.get("host", "")
    name = host.rpartition(":")[0] or host
    own = name in NAMES or name.endswith(".localhost") or app._EXECUTE_API_RE.match(host)
    if not own:
        return {"message": f"The sandbox is not {name}."}
    if path.startswith(("/_ministack/", "/_localstack/", "/health")):
        if path == HEALTH or path.startswith(SECRET_LINKS):
            return None
        return {"message": "The sandbox has no such path."}
    if (
        iam_evaluator._signature_attempted(headers.get("authorization", ""), query)
        or method == "OPTIONS"
        or app._parse_execute_api_url(host, path)
        or app._parse_lambda_url(host, path)
        or app._resolve_custom_domain_request(host, path)
        or app._parse_cloudfront_dataplane_host(host)
        or app._is_potential_alb_request(host, path)
        or (method == "GET" and query.get("Action") in (["ConfirmSubscription"], ["Unsubscribe"]))
        or (method == "POST" and "multipart/form-data" in headers.get("content-type", ""))
    ):
        return None
    return {"__type": "MissingAuthenticationToken", "message": "Missing Authentication Token"}


def joined(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by name; what comes on several lines is signed with bare commas between."""
    together: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), sigv4.decode_header_value(value)
        together[key] = f"{together[key]},{text}" if key in together else text
    return together


def false_root(method: str, query: dict[str, Any]) -> iam_evaluator.AuthError | None:
    """Why a request that says it is root's is not; None if it is, or if it is another's."""
    path, headers, body = _sent.get()
    key = app.extract_access_key_id(headers, query)
    if not key or not iam_evaluator.is_root_access_key(key):
        return None
    if key != os.environ["AWS_ACCESS_KEY_ID"]:
        unknown = iam_evaluator._unknown_access_key()
        return iam_evaluator.AuthError(unknown.code, unknown.message)
    by_header = headers.get("authorization", "").startswith("AWS4-HMAC-SHA256")
    if not by_header and iam_evaluator._s3_presigned_query(query):
        return None  # S3 verifies it
    parse = sigv4.parse_header_signature if by_header else sigv4.parse_query_signature
    signature = parse(headers if by_header else query)
    if isinstance(signature, tuple):
        return iam_evaluator.AuthError(*signature)
    failure = sigv4.request_time_failure(signature) or sigv4.header_signature_failure(
        signature, os.environ["AWS_SECRET_ACCESS_KEY"], method, path, query, headers, body,
        presigned=not by_header,
    )  # fmt: skip
    return iam_evaluator.AuthError(*failure) if failure else None


def salted(stock: Any) -> Any:
    """The keys of a function's role, which follow from its ARN and from a secret of this server.

    MiniStack makes them from two ARNs, of which only the last part is in what a caller is told.
    """
    salt = secrets.token_hex(16)

    def execution_credentials(config: dict[str, Any]) -> dict[str, str]:
        role = config.get("Role", "").replace(":role/", f":role/{salt}/", 1)
        return stock({**config, "Role": role})

    return execution_credentials
