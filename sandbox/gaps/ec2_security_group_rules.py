"""AWS::EC2::SecurityGroupIngress and AWS::EC2::SecurityGroupEgress in templates.

Seen in MiniStack 1.5.33: CloudFormation knows the rules inside a security group, but not those that
stand beside it, which is how the CDK writes every rule between two groups.
"""

from collections.abc import Callable

from ministack.core.responses import new_uuid
from ministack.services import ec2
from ministack.services.cloudformation import provisioners

PATCHES = (
    "services.ec2._security_groups",
    "services.cloudformation.provisioners._ec2_sg_permissions",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
)


def close() -> None:
    """Add both types' handlers; what changes a rule replaces it."""
    for kind, side in (("Ingress", "IpPermissions"), ("Egress", "IpPermissionsEgress")):
        provisioners._RESOURCE_HANDLERS[f"AWS::EC2::SecurityGroup{kind}"] = {
            "create": _creator(side),
            "delete": _deleter(side),
        }


def _creator(side: str) -> Callable:
    def create(_logical_id: str, properties: dict, _stack: str) -> tuple[str, dict]:
        group = ec2._security_groups.get(properties["GroupId"])
        if group is None:
            raise ValueError(f"The security group '{properties['GroupId']}' does not exist")
        (rule,) = provisioners._ec2_sg_permissions([properties])
        if rule in group[side]:
            raise ValueError("the specified rule already exists")
        group[side].append(rule)
        rule_id = f"sgr-{new_uuid().replace('-', '')[:17]}"
        return rule_id, {"Id": rule_id}

    return create


def _deleter(side: str) -> Callable:
    def delete(_rule_id: str, properties: dict) -> None:
        group = ec2._security_groups.get(properties.get("GroupId", ""))
        if group:
            (rule,) = provisioners._ec2_sg_permissions([properties])
            group[side] = [one for one in group[side] if one != rule]

    return delete
