"""What a template says of an event source mapping.

Seen in MiniStack 1.5.33: CloudFormation makes the mapping but drops Queues and
SourceAccessConfigurations, and a mapping that the template has disabled is enabled. One that an
update moves to an alias or a version goes on calling what it called before. Here all of them are
kept. Nobody polls brokers here: who starts a real one beside it does.
"""

from typing import Any

import resources
from ministack.services import lambda_svc
from ministack.services.cloudformation import provisioners

PATCHES = (
    *resources.NEEDS,
    "services.lambda_svc._esms",
    "services.lambda_svc._resolve_name_and_qualifier",
)


def close() -> None:
    """Finish what the type's own handlers make."""
    resources.finish("AWS::Lambda::EventSourceMapping", _keep)


def _keep(mapping_id: str, properties: dict[str, Any]) -> None:
    mapping = lambda_svc._esms[mapping_id]
    for name in ("Queues", "SourceAccessConfigurations"):
        if name in properties:
            mapping[name] = properties[name]
    for name in ("BatchSize", "MaximumBatchingWindowInSeconds"):  # strings in an update
        mapping[name] = int(mapping[name])
    enabled = provisioners._cfn_bool(properties.get("Enabled", True))
    mapping.update(Enabled=enabled, State="Enabled" if enabled else "Disabled")
    _, mapping["Qualifier"] = lambda_svc._resolve_name_and_qualifier(properties["FunctionName"])
