"""ListDeadLetterSourceQueues, which MiniStack 1.5.33 does not know."""

import json
from typing import Any

from ministack.services import sqs

PATCHES = ("services.sqs._HANDLERS", "services.sqs._queues", "services.sqs._get_q")


def close() -> None:
    """Add the action."""
    sqs._HANDLERS["ListDeadLetterSourceQueues"] = _sources


def _sources(data: dict[str, Any], url: str) -> dict[str, Any]:
    queue = sqs._get_q(data.get("QueueUrl", url), "sqs:ListDeadLetterSourceQueues")
    arn = queue["attributes"]["QueueArn"]
    urls = [
        source
        for source, one in sqs._queues.items()
        if json.loads(one["attributes"].get("RedrivePolicy") or "{}").get("deadLetterTargetArn")
        == arn
    ]
    start, most = int(data.get("NextToken") or 0), int(data.get("MaxResults") or 1000)
    more = {"NextToken": str(start + most)} if start + most < len(urls) else {}
    return {"queueUrls": urls[start : start + most], **more}
