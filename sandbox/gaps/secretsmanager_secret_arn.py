"""What Ref of a secret in a template gives.

Seen in MiniStack 1.5.33: the secret's name, where CloudFormation gives its ARN, so a policy or an
event source mapping that the CDK writes names no secret. Here it is the ARN.
"""

from typing import Any

from ministack.services import secretsmanager
from ministack.services.cloudformation import provisioners

PATCHES = (
    "services.secretsmanager._resolve",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
)


def close() -> None:
    """Turn names into ARNs around the type's own handlers, which know the name."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::SecretsManager::Secret"]
    create, update, delete = (handlers[verb] for verb in ("create", "update", "delete"))

    def named(arn: str) -> str:
        return secretsmanager._resolve(arn)[0] or arn

    def by_arn(result: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
        return result[1]["Arn"], result[1]

    handlers["create"] = lambda *arguments: by_arn(create(*arguments))
    handlers["update"] = lambda arn, *arguments: by_arn(update(named(arn), *arguments))
    handlers["delete"] = lambda arn, properties: delete(named(arn), properties)
