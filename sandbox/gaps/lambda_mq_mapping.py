"""What a template says of an event source mapping on a broker.

Seen in MiniStack 1.5.33: CloudFormation makes the mapping but drops Queues and
SourceAccessConfigurations, and a mapping that the template has disabled is enabled. Here all three
are kept. The broker's own process polls (mq_brokers).
"""

from typing import Any

import resources
from ministack.services import lambda_svc
from ministack.services.cloudformation import provisioners

PATCHES = (
    *resources.NEEDS,
    "services.lambda_svc._esms",
)


def close() -> None:
    """Finish what the type's own handlers make."""
    resources.finish("AWS::Lambda::EventSourceMapping", _keep)


def _keep(mapping_id: str, properties: dict[str, Any]) -> None:
    mapping = lambda_svc._esms[mapping_id]
    for name in ("Queues", "SourceAccessConfigurations"):
        if name in properties:
            mapping[name] = properties[name]
    enabled = provisioners._cfn_bool(properties.get("Enabled", True))
    mapping.update(Enabled=enabled, State="Enabled" if enabled else "Disabled")
