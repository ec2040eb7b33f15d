"""The condition key cloudwatch:namespace of PutMetricData.

Seen in MiniStack 1.5.33: a policy that holds PutMetricData, which accepts no resource, to one
namespace denies every call, because the request's namespace is not put before the evaluator.
"""

import json
from typing import Any
from urllib.parse import parse_qs

from ministack.core import iam_actions

PATCHES = ("core.iam_actions.request_tag_context",)


def close() -> None:
    """Add the namespace to what the evaluator knows of a request."""
    of_tags = iam_actions.request_tag_context

    def context(service: str, action: str, body: bytes, parameters: dict) -> dict[str, Any]:
        found = of_tags(service, action, body, parameters)
        if action == "cloudwatch:PutMetricData" and (name := _namespace(body)):
            return {**found, "cloudwatch:namespace": name}
        return found

    iam_actions.request_tag_context = context


def _namespace(body: bytes) -> str | None:
    """The namespace in JSON, which botocore sends, or in a form."""
    try:
        return json.loads(body)["Namespace"]
    except ValueError:
        return parse_qs(body.decode(errors="replace")).get("Namespace", [None])[0]
