"""A table's maximum of write request units, beyond which DynamoDB throttles.

On AWS a table on demand with MaxWriteRequestUnits refuses what exceeds them within a second:
BatchWriteItem returns the refused items as UnprocessedItems, or a ThrottlingException if it could
take none, and a single write gets the exception. AWS keeps the maximum as well as it can, and may
let more pass for a moment. Seen in MiniStack 1.5.33: CloudFormation drops the maximum, and nothing
keeps one that UpdateTable has set. Here each table has a bucket that holds one second's units.
TransactWriteItems, PartiQL and reads are not counted: no pattern has a maximum for them.
"""

import json
import time
from typing import Any

import resources
from ministack.core.responses import error_response_json
from ministack.services import dynamodb

PATCHES = (
    *resources.NEEDS,
    "services.dynamodb._batch_write_item",
    "services.dynamodb._put_item",
    "services.dynamodb._update_item",
    "services.dynamodb._delete_item",
    "services.dynamodb._update_table",
    "services.dynamodb._tables",
    "services.dynamodb._normalize_table_name",
    "services.dynamodb._item_size_bytes",
    "services.dynamodb._capacity_kb",
)

_buckets: dict[str, tuple[float, float]] = {}  # table's ARN to (units left, when)


def close() -> None:
    """Keep a template's maximum, and count what is written against it."""
    resources.finish("AWS::DynamoDB::Table", _limit)
    for single in ("_put_item", "_update_item", "_delete_item"):
        setattr(dynamodb, single, _unless_throttled(getattr(dynamodb, single)))
    dynamodb._batch_write_item = _what_fits(dynamodb._batch_write_item)


def _limit(table: str, properties: dict[str, Any]) -> None:
    limits = properties.get("OnDemandThroughput") or {}
    if limits or "OnDemandThroughput" in (dynamodb._tables.get(table) or {}):
        asked = {
            name: limits.get(name, -1) for name in ("MaxReadRequestUnits", "MaxWriteRequestUnits")
        }
        dynamodb._update_table({"TableName": table, "OnDemandThroughput": asked})


def _unless_throttled(write: Any) -> Any:
    def wrapped(data: dict[str, Any]) -> Any:
        if not _takes(data.get("TableName", ""), data.get("Item")):
            return _throttled()
        return write(data)

    return wrapped


def _what_fits(write: Any) -> Any:
    def wrapped(data: dict[str, Any]) -> Any:
        asked = data.get("RequestItems") or {}
        taken: dict[str, list[Any]] = {}
        refused: dict[str, list[Any]] = {}
        for table, requests in asked.items():
            for request in requests:
                fits = _takes(table, request.get("PutRequest", {}).get("Item"))
                (taken if fits else refused).setdefault(table, []).append(request)
        if not refused:
            return write(data)
        if not taken:
            return _throttled()
        status, headers, body = write({**data, "RequestItems": taken})
        if status != 200:
            return status, headers, body
        answer = json.loads(body) | {"UnprocessedItems": refused}
        return status, headers, json.dumps(answer).encode()

    return wrapped


def _takes(name: str, item: dict[str, Any] | None) -> bool:
    """Whether the table has units left for a write, which then are gone."""
    table = dynamodb._tables.get(dynamodb._normalize_table_name(name)) or {}
    most = int((table.get("OnDemandThroughput") or {}).get("MaxWriteRequestUnits", -1))
    if most < 1:
        return True
    now = time.monotonic()
    left, when = _buckets.get(table["TableArn"], (float(most), now))
    left = min(float(most), left + (now - when) * most)
    units = dynamodb._capacity_kb(dynamodb._item_size_bytes(item or {}))
    fits = left >= min(units, most)
    _buckets[table["TableArn"]] = (left - units if fits else left, now)
    return fits


def _throttled() -> Any:
    return error_response_json(
        "ThrottlingException",
        "Throughput exceeds the maximum OnDemandThroughput configured on table or index",
        400,
    )
