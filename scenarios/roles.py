"""Acting as somebody who may do less than the scenario itself, and taking rights away."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.exceptions import ClientError

from scenarios.stage import Stage

# To be tried until it is allowed: a call that the role's policies allow and that changes nothing.
Call = Callable[[boto3.Session], Any]
SETTLED = 30  # seconds after which AWS knows a changed policy everywhere


def assume(stage: Stage, arn: str, allowed: Call, **limits: str) -> boto3.Session:
    """A session of a role, as soon as AWS lets it do what it may.

    On AWS a new role can be assumed some seconds before its policies hold everywhere. `allowed`
    may return False or be refused while they do not. limits: such as Policy, as assume_role has.
    """
    sessions: list[boto3.Session] = []

    def acts() -> bool:
        try:
            if not sessions:
                given = stage.client("sts").assume_role(
                    RoleArn=arn, RoleSessionName=f"scenario-{uuid.uuid4().hex[:8]}", **limits
                )["Credentials"]
                keys = given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]
                sessions.append(boto3.Session(*keys))
            return allowed(sessions[0]) is not False
        except ClientError as error:
            if not denied_by(error):
                raise
            return False

    stage.until(f"the role {arn.rpartition('/')[2]} allowed to act", acts, seconds=60)
    return sessions[0]


@contextmanager
def role_with(
    stage: Stage, allowed: Call, *, managed: str = "", inline: dict[str, Any] | None = None
) -> Generator[boto3.Session]:
    """A session of a new role that has these rights and no other, for as long as the block runs.

    managed: the ARN of a managed policy. inline: policy documents by name, such as another role's.
    """
    iam, name = stage.client("iam"), f"scenario-{uuid.uuid4().hex[:8]}"
    caller = stage.client("sts").get_caller_identity()
    everybody = f"arn:{caller['Arn'].split(':')[1]}:iam::{caller['Account']}:root"
    trust = {"Effect": "Allow", "Principal": {"AWS": everybody}, "Action": "sts:AssumeRole"}
    role = iam.create_role(
        RoleName=name,
        AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
    )["Role"]["Arn"]
    try:
        if managed:
            iam.attach_role_policy(RoleName=name, PolicyArn=managed)
        for policy, document in (inline or {}).items():
            text = json.dumps(document)
            iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=text)
        yield assume(stage, role, allowed)
    finally:
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
            iam.delete_role_policy(RoleName=name, PolicyName=policy)
        for policy in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
            iam.detach_role_policy(RoleName=name, PolicyArn=policy["PolicyArn"])
        iam.delete_role(RoleName=name)


@contextmanager
def denied(stage: Stage, role: str, action: str, resource: str) -> Generator[None]:
    """Deny an action on a resource to a role, by its name, for as long as the block runs."""
    iam, name = stage.client("iam"), f"scenario-{uuid.uuid4().hex[:8]}"
    statement = {"Effect": "Deny", "Action": action, "Resource": resource}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=document)
    try:
        settle(stage)
        yield
    finally:
        iam.delete_role_policy(RoleName=role, PolicyName=name)
        settle(stage)


def settle(stage: Stage) -> None:
    """Wait until a changed policy is known everywhere, which an embedded AWS's is at once."""
    if stage.on_aws:
        time.sleep(SETTLED)


def denied_by(error: ClientError) -> bool:
    """Whether AWS said no for want of a right, or because it does not know the role yet."""
    code = error.response["Error"]["Code"]
    return code in ("InvalidClientTokenId", "NotAuthorized") or code.startswith("AccessDenied")


def keys(session: boto3.Session) -> dict[str, str]:
    """A session's credentials as a process finds them in its environment."""
    given = session.get_credentials().get_frozen_credentials()
    return {
        "AWS_ACCESS_KEY_ID": given.access_key,
        "AWS_SECRET_ACCESS_KEY": given.secret_key,
        "AWS_SESSION_TOKEN": given.token,
    }
