"""AWS::EC2::FlowLog in templates.

Seen in MiniStack 1.5.33: the API keeps flow logs, but CloudFormation does not know the type. No
traffic passes through MiniStack's networks, so there is nothing to log.
"""

import re

from ministack.services import ec2
from ministack.services.cloudformation import provisioners

PATCHES = (
    "services.ec2._create_flow_logs",
    "services.ec2._delete_flow_logs",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
)


def close() -> None:
    """Add the type's handlers; all that can change but tags replaces a flow log."""
    provisioners._RESOURCE_HANDLERS["AWS::EC2::FlowLog"] = {"create": _create, "delete": _delete}


def _create(_logical_id: str, properties: dict, _stack: str) -> tuple[str, dict]:
    _, _, body = ec2._create_flow_logs(
        {
            "ResourceId.1": [properties["ResourceId"]],
            **{
                name: [str(properties[name])]
                for name in (
                    "ResourceType",
                    "TrafficType",
                    "LogDestinationType",
                    "LogDestination",
                    "LogGroupName",
                )
                if name in properties
            },
        }
    )
    text = body.decode() if isinstance(body, bytes) else body
    found = re.search(r"<flowLogIdSet><item>(.+?)</item>", text)
    if not found:
        raise ValueError(f"no flow log was made: {text}")
    return found[1], {"Id": found[1]}


def _delete(flow_log_id: str, _properties: dict) -> None:
    ec2._delete_flow_logs({"FlowLogId.1": [flow_log_id]})
