"""What a service may do with a role that it works with, as MiniStack's own IAM evaluator says.

MiniStack 1.5.33 evaluates the requests that clients sign, and not what its services do for each
other. A gap that acts for a service asks here: for a client that works with a role, whose every
request is then judged like anybody's, or whether a resource lets a service in.
"""

import os
import threading
from functools import cache, lru_cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.credentials import Credentials
from ministack.core import iam_evaluator
from ministack.core.lambda_runtime import execution_credentials
from ministack.core.responses import get_region
from ministack.services import iam

# For the PATCHES of a gap that asks.
NEEDS = (
    "services.iam._roles",
    "core.lambda_runtime.execution_credentials",
    "core.iam_evaluator._gather_role_policies",
    "core.iam_evaluator._gather_user_policies",
    "core.iam_evaluator._resource_policy",
    "core.iam_evaluator.combine_resource_policy",
    "core.iam_evaluator.parse_policy_document",
)


class Denied(Exception):
    """AWS would refuse; the text says who may not do what."""


_making = threading.Lock()  # a session makes one client at a time


def client(service: str, role: str, principal: str, session: str, **sent: str) -> Any:
    """A boto3 client that calls this server as `role`, an ARN, in a session of that name.

    What it calls is judged by the role's policies and the resource's. It asks once, without retries
    and without a look at the parameters of its own: errors are the service's. It must not be used
    on the server's own event loop. Denied if the role does not trust the principal, such as
    "states.amazonaws.com"; `sent` is what the service says about itself, as for allows().
    """
    _trusted(role, principal, sent)
    with _making:
        return _client(service, role, session[:64], get_region())


def credentials(role: str, principal: str, session: str, **sent: str) -> Credentials:
    """What to sign a request to this server with, for those who write one themselves.

    Denied as for client().
    """
    _trusted(role, principal, sent)
    return Credentials(*_keys(role, session[:64], get_region()))


def _trusted(role: str, principal: str, sent: dict[str, str]) -> None:
    if not trusts(role, principal, **sent):
        raise Denied(f"The role {role} does not trust {principal}")


def _keys(role: str, session: str, region: str) -> tuple[str, str, str]:
    account = role.split(":")[4]
    function = f"arn:aws:lambda:{region}:{account}:function:{session}"
    keys = execution_credentials({"Role": role, "FunctionName": session, "FunctionArn": function})
    return keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], keys["AWS_SESSION_TOKEN"]


@lru_cache(maxsize=512)
def _client(service: str, role: str, session: str, region: str) -> Any:
    key, secret, token = _keys(role, session, region)
    return _session().client(
        service,
        region_name=region,
        endpoint_url=f"https://localhost:{os.environ['GATEWAY_PORT']}",
        verify=os.environ["AWS_CA_BUNDLE"],
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
        config=Config(
            parameter_validation=False, retries={"total_max_attempts": 1}, read_timeout=900
        ),
    )


@cache
def _session() -> boto3.Session:
    return boto3.Session()


def trusts(role: str, principal: str, **sent: str) -> bool:
    """Whether a role exists and lets this service principal assume it."""
    found = iam._roles.get_scoped(role.split(":")[4], None, role.rpartition("/")[2])
    return found is not None and policy_admits(
        found["AssumeRolePolicyDocument"], principal, "sts:AssumeRole", role, sent
    )


def admits(principal: str, action: str, resource: str, **sent: str) -> bool:
    """Whether the resource's own policy lets a service principal do this without a role.

    `sent` is what the service says about itself, such as aws_SourceArn. False without a policy.
    """
    policy = iam_evaluator._resource_policy(action.partition(":")[0], resource)
    return bool(policy) and policy_admits(policy[0], principal, action, resource, sent)


def policy_admits(
    policy: Any, principal: str, action: str, resource: str, sent: dict[str, str]
) -> bool:
    """Whether such a policy lets a service principal do this; `sent` as for admits()."""
    keys = {key.replace("_", ":").lower(): value for key, value in sent.items()}
    context = _context(("Service", "*", ""), action, resource, keys)
    decision = iam_evaluator.evaluate_resource_policy(policy, context, service=principal)
    return decision.decision == "Allow"


def allows(role: str, service: str, action: str, resource: str, **sent: str) -> bool:
    """Whether the role (an ARN) trusts the service principal and may do this to the resource.

    `sent` is what the service says about itself when it assumes the role, by condition key with
    "_" for ":", such as aws_SourceAccount. A resource's own policy counts as well.
    """
    if not trusts(role, service, **sent):
        return False
    account, name = role.split(":")[4], role.rpartition("/")[2]
    session = f"arn:aws:sts::{account}:assumed-role/{name}/{service.partition('.')[0]}"
    context = _context(("AssumedRole", session, account), action, resource, {})
    decision = iam_evaluator.evaluate(context, iam_evaluator._gather_role_policies(name, account))
    policy = iam_evaluator._resource_policy(action.partition(":")[0], resource)
    if policy:
        decision = iam_evaluator.combine_resource_policy(decision, context, *policy)
    return decision.decision == "Allow"


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
