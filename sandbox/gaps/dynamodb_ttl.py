"""TimeToLiveSpecification of a table made by CloudFormation.

Seen in MiniStack 1.5.33: UpdateTimeToLive works, but a template's specification is dropped, so
items never expire.
"""

from typing import Any

from ministack.services import dynamodb
from ministack.services.cloudformation import provisioners

PATCHES = (
    "services.dynamodb._ttl_settings",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
)


def close() -> None:
    """Set the time to live after a table is created or updated."""
    for kind in ("AWS::DynamoDB::Table", "AWS::DynamoDB::GlobalTable"):
        handlers = provisioners._RESOURCE_HANDLERS[kind]
        for verb in ("create", "update"):
            if verb in handlers:
                handlers[verb] = _then_set(handlers[verb], 1 if verb == "create" else 2)


def _then_set(handler: Any, properties_at: int) -> Any:
    def wrapped(*arguments: Any) -> Any:
        result = handler(*arguments)
        specification = arguments[properties_at].get("TimeToLiveSpecification") or {}
        if "AttributeName" in specification:
            enabled = provisioners._cfn_bool(specification.get("Enabled", False))
            dynamodb._ttl_settings[result[0]] = {
                "TimeToLiveStatus": "ENABLED" if enabled else "DISABLED",
                "AttributeName": specification["AttributeName"],
            }
        return result

    return wrapped
