"""TimeToLiveSpecification of a table made by CloudFormation.

Seen in MiniStack 1.5.33: UpdateTimeToLive works, but a template's specification is dropped, so
items never expire.
"""

from typing import Any

import resources
from ministack.services import dynamodb
from ministack.services.cloudformation import provisioners

PATCHES = (
    *resources.NEEDS,
    "services.dynamodb._ttl_settings",
)


def close() -> None:
    """Set the time to live after a table is created or updated."""
    for kind in ("AWS::DynamoDB::Table", "AWS::DynamoDB::GlobalTable"):
        resources.finish(kind, _set)


def _set(table: str, properties: dict[str, Any]) -> None:
    specification = properties.get("TimeToLiveSpecification") or {}
    if "AttributeName" in specification:
        enabled = provisioners._cfn_bool(specification.get("Enabled", False))
        dynamodb._ttl_settings[table] = {
            "TimeToLiveStatus": "ENABLED" if enabled else "DISABLED",
            "AttributeName": specification["AttributeName"],
        }
