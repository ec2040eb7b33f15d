"""What a template says of an event source mapping on a broker.

Seen in MiniStack 1.5.33: CloudFormation makes the mapping but drops Queues and
SourceAccessConfigurations, and a mapping that the template has disabled is enabled. Here all three
are kept. Nobody polls brokers here: who starts a real one beside it does.
"""

from typing import Any

from ministack.services import lambda_svc
from ministack.services.cloudformation import provisioners

PATCHES = (
    "services.lambda_svc._esms",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
)


def close() -> None:
    """Finish what the type's own handlers make."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::EventSourceMapping"]
    for verb, properties_at in (("create", 1), ("update", 2)):
        handlers[verb] = _then_keep(handlers[verb], properties_at)


def _then_keep(handler: Any, properties_at: int) -> Any:
    def wrapped(*arguments: Any) -> Any:
        result, properties = handler(*arguments), arguments[properties_at]
        mapping = lambda_svc._esms[result[0]]
        for name in ("Queues", "SourceAccessConfigurations"):
            if name in properties:
                mapping[name] = properties[name]
        enabled = provisioners._cfn_bool(properties.get("Enabled", True))
        mapping.update(Enabled=enabled, State="Enabled" if enabled else "Disabled")
        return result

    return wrapped
