"""What a service may do with a role that it works with, as MiniStack's own IAM evaluator says.

MiniStack 1.5.33 evaluates the requests that clients sign, and not what its services do for each
other. A gap that acts for a service asks here.
"""

from ministack.core import iam_evaluator
from ministack.core.responses import get_region
from ministack.services import iam

# For the PATCHES of a gap that asks.
NEEDS = (
    "services.iam._roles",
    "core.iam_evaluator._gather_role_policies",
    "core.iam_evaluator._gather_user_policies",
    "core.iam_evaluator._resource_policy",
    "core.iam_evaluator.combine_resource_policy",
    "core.iam_evaluator.parse_policy_document",
)


def allows(role: str, service: str, action: str, resource: str, **sent: str) -> bool:
    """Whether the role (an ARN) trusts the service principal and may do this to the resource.

    `sent` is what the service says about itself when it assumes the role, by condition key with
    "_" for ":", such as aws_SourceAccount. A resource's own policy counts as well.
    """
    account, name = role.split(":")[4], role.rpartition("/")[2]
    found = iam._roles.get_scoped(account, None, name)
    if found is None:
        return False
    trusted = iam_evaluator.evaluate_resource_policy(
        found["AssumeRolePolicyDocument"],
        _context(
            ("Service", "*", ""),
            "sts:AssumeRole",
            role,
            {key.replace("_", ":").lower(): value for key, value in sent.items()},
        ),
        service=service,
    )
    session = f"arn:aws:sts::{account}:assumed-role/{name}/{service.partition('.')[0]}"
    context = _context(("AssumedRole", session, account), action, resource, {})
    decision = iam_evaluator.evaluate(context, iam_evaluator._gather_role_policies(name, account))
    policy = iam_evaluator._resource_policy(action.partition(":")[0], resource)
    if policy:
        decision = iam_evaluator.combine_resource_policy(decision, context, *policy)
    return trusted.decision == decision.decision == "Allow"


def permits(caller: str, action: str, resource: str) -> bool:
    """Whether a caller of an API, the ARN of a role's session, a user or root, may do this.

    Policies of the caller and of the resource count; boundaries and session policies do not.
    """
    account, (kind, _, rest) = caller.split(":")[4], caller.split(":", 5)[5].partition("/")
    name = rest.partition("/")[0]
    if kind == "assumed-role":
        policies = iam_evaluator._gather_role_policies(name, account)
    elif kind == "user":
        policies = iam_evaluator._gather_user_policies(name, account)
    else:
        everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        policies = [iam_evaluator.parse_policy_document({"Statement": [everything]})]
    types = {"assumed-role": "AssumedRole", "user": "User"}
    context = _context((types.get(kind, "Root"), caller, account), action, resource, {})
    decision = iam_evaluator.evaluate(context, policies)
    if policy := iam_evaluator._resource_policy(action.partition(":")[0], resource):
        decision = iam_evaluator.combine_resource_policy(decision, context, *policy)
    return decision.decision == "Allow"


def _context(
    principal: tuple[str, str, str], action: str, resource: str, keys: dict[str, str]
) -> iam_evaluator.EvalContext:
    kind, arn, account = principal
    return iam_evaluator.EvalContext(
        principal_type=kind,
        principal_arn=arn,
        principal_account=account,
        action=action,
        resource_arn=resource,
        region=get_region(),
        secure_transport=True,
        service_context=keys,
    )
