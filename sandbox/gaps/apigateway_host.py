"""An API answers under the host name that its URL in an output has.

On AWS a stage's URL is https://API.execute-api.REGION.amazonaws.com/STAGE/, and that host is part
of what a caller signs. Seen in MiniStack 1.5.33: outputs hold this URL, but requests with this host
are not taken for the API's; only API.execute-api.localhost and a path of its own are, and the
endpoint of an HTTP API is a host that nothing resolves. Here a client connects to the sandbox as it
would to a proxy and says the host of the URL, so that URL and signature are the same as on AWS.
"""

import json
import re
from typing import Any

from ministack import app
from ministack.core.responses import get_region
from ministack.services import apigateway
from ministack.services.cloudformation import provisioners

PATCHES = (
    "app._EXECUTE_API_RE",
    "services.apigateway._apis",
    "services.apigateway._create_api",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
)


def close() -> None:
    """Know the host by AWS's name too, and say it."""
    by_api = apigateway._create_api
    handlers = provisioners._RESOURCE_HANDLERS["AWS::ApiGatewayV2::Api"]
    by_template = handlers["create"]

    def create(data: dict[str, Any]) -> Any:
        status, headers, answer = by_api(data)
        if status == 201 and (api := _named(json.loads(answer)["apiId"])):
            answer = json.dumps(json.loads(answer) | {"apiEndpoint": api}).encode()
        return status, headers, answer

    def create_of_template(*arguments: Any) -> Any:
        made, attributes = by_template(*arguments)
        if api := _named(made):
            attributes = {**attributes, "ApiEndpoint": api}
        return made, attributes

    apigateway._create_api = create
    handlers["create"] = create_of_template
    stock = app._EXECUTE_API_RE.pattern
    aws = r"^([a-z0-9]{8,10})\.execute-api\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?(?::\d+)?$"
    app._EXECUTE_API_RE = _Either(re.compile(stock), re.compile(aws))


def _named(api: str) -> str:
    """The endpoint of an HTTP API by AWS's name, which it keeps; "" for a WebSocket API's."""
    made = apigateway._apis[api]
    if made["protocolType"] != "HTTP":
        return ""
    made["apiEndpoint"] = f"https://{api}.execute-api.{get_region()}.amazonaws.com"
    return made["apiEndpoint"]


class _Either:
    """Two patterns in the place of one."""

    def __init__(self, *patterns: re.Pattern[str]) -> None:
        self.patterns = patterns

    def match(self, host: str) -> re.Match[str] | None:
        """The first match; its group 1 is the API's id."""
        return next((found for one in self.patterns if (found := one.match(host))), None)
