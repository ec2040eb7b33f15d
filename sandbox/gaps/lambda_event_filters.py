"""Filter criteria of an event source mapping on a queue.

On AWS they are event patterns, matched against the message as the function would get it; its body
is an object where it is the JSON of one. A filter on fields drops a plain string, and a filter on
a string drops JSON. What no filter of the mapping lets pass is deleted at once. Seen in MiniStack
1.5.33: a matcher of its own with six operators; what a filter drops is deleted with the rest of its
batch, and comes back with it. Here EventBridge's own matcher is asked.
"""

import json
from typing import Any

from ministack.services import eventbridge, lambda_svc, sqs

PATCHES = (
    "services.lambda_svc._apply_filter_criteria",
    "services.lambda_svc._run_sqs_batch",
    "services.lambda_svc._sqs_message_attributes_to_camel_case",
    "services.eventbridge._compiled_pattern",
    "services.eventbridge._matches_detail",
    "services.sqs._delete_messages_for_esm",
)


def close() -> None:
    """Filter by AWS's rules, and delete what is dropped before the function is called."""
    stock, run = lambda_svc._apply_filter_criteria, lambda_svc._run_sqs_batch

    def kept(records: list[dict[str, Any]], mapping: dict[str, Any]) -> list[dict[str, Any]]:
        if ":sqs:" not in mapping["EventSourceArn"]:
            return stock(records, mapping)
        return [record for record in records if passes(record, mapping)]

    def run_kept(
        mapping: dict, function: dict, event: dict, batch: list[dict], url: str, *queue: Any
    ) -> None:
        ids = {record["messageId"] for record in event["Records"]}
        dropped = {message["receipt_handle"] for message in batch if message["id"] not in ids}
        sqs._delete_messages_for_esm(url, dropped)
        run(mapping, function, event, [one for one in batch if one["id"] in ids], url, *queue)

    lambda_svc._apply_filter_criteria, lambda_svc._run_sqs_batch = kept, run_kept


def passes(record: dict[str, Any], mapping: dict[str, Any]) -> bool:
    """Whether any filter of a mapping lets a record pass; all pass where there is none."""
    filters = (mapping.get("FilterCriteria") or {}).get("Filters") or []
    patterns = [
        pattern
        for one in filters
        for pattern in eventbridge._compiled_pattern(one.get("Pattern") or "{}") or []
    ]
    return not filters or any(_matches(record, pattern) for pattern in patterns)


def takes(mapping: dict[str, Any], message: dict[str, Any]) -> bool:
    """Whether a mapping takes a waiting message, by as much of its record as filters ask for."""
    if not mapping.get("FilterCriteria"):
        return True
    attributes = message.get("message_attributes") or {}
    record = {
        "messageId": message["id"],
        "body": message["body"],
        "messageAttributes": lambda_svc._sqs_message_attributes_to_camel_case(attributes),
    }
    return passes(record, mapping)


def _matches(record: dict[str, Any], pattern: dict[str, Any]) -> bool:
    body = _json(record["body"])
    # Fields are asked of JSON only, and a string of nothing else.
    if "body" in pattern and isinstance(pattern["body"], dict) != isinstance(body, dict):
        return False
    return eventbridge._matches_detail({**record, "body": body}, pattern)


def _json(body: str) -> Any:
    try:
        found = json.loads(body)
    except ValueError:
        return body
    return found if isinstance(found, dict) else body
