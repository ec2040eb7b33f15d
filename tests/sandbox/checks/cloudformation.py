"""Gaps of CloudFormation itself."""

from __future__ import annotations

import json
import uuid

from botocore.exceptions import ClientError

from tests.sandbox.cloud import Clients, deploy, function, soon

ANSWERS = """
import json, urllib.request
calls = 0
def handler(event, context):
    global calls
    calls += 1
    if calls < 3:
        raise ConnectionError("not yet")
    answer = {name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")}
    answer |= {"Status": "SUCCESS", "PhysicalResourceId": f"made-in-call-{calls}"}
    body = json.dumps(answer).encode()
    urllib.request.urlopen(urllib.request.Request(event["ResponseURL"], body, method="PUT"))
"""


def custom(client: Clients, code: str) -> dict[str, object]:
    """A template's custom resource whose function has this code."""
    properties = {"ServiceToken": function(client, code), "ServiceTimeout": 20}
    return {"Made": {"Type": "Custom::Shop", "Properties": properties}}


def cloudformation_custom_resources(client: Clients) -> bool:
    """One whose function fails fails soon, and the stack's events say why."""
    cloudformation, name = client("cloudformation"), f"gap-{uuid.uuid4().hex[:8]}"
    resources = custom(client, "def handler(event, context):\n    raise OSError('no such shop')")
    cloudformation.create_stack(StackName=name, TemplateBody=json.dumps({"Resources": resources}))

    def told() -> bool:
        events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        return any("OSError: no such shop" in one.get("ResourceStatusReason", "") for one in events)

    return soon(told)


def cloudformation_custom_resources__further_tries(client: Clients) -> bool:
    """One whose function fails twice and then answers is made."""
    try:
        return deploy(client, custom(client, ANSWERS)) == {"Made": "made-in-call-3"}
    except AssertionError:
        return False


def s3_bucket_tags(client: Clients) -> bool:
    """A template's bucket has the template's tags, and after a change those of the change."""
    cloudformation, s3, name = client("cloudformation"), client("s3"), f"gap-{uuid.uuid4().hex[:8]}"

    def bucket(*tags: str) -> dict[str, object]:
        given = [{"Key": tag, "Value": "true"} for tag in tags]
        return {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"Tags": given}}}

    def tags() -> list[str]:
        try:
            found = s3.get_bucket_tagging(Bucket=made)["TagSet"]
        except ClientError:
            return []
        return sorted(one["Key"] for one in found)

    made = deploy(client, bucket("shop", "shared"), name)["Bucket"]
    first = tags() == ["shared", "shop"]
    cloudformation.update_stack(
        StackName=name, TemplateBody=json.dumps({"Resources": bucket("shop")})
    )
    return first and soon(lambda: tags() == ["shop"])


SEES_NO_TRANSLATOR = """
def handler(event, context):
    try:
        import samtranslator
    except ImportError:
        return "none"
"""


def cloudformation_sam(client: Clients) -> bool:
    """A template of SAM's becomes a function, which sees nothing of the translator."""
    cloudformation, name = client("cloudformation"), f"gap-{uuid.uuid4().hex[:8]}"
    properties = {
        "FunctionName": name,
        "Handler": "index.handler",
        "InlineCode": SEES_NO_TRANSLATOR,
        "Runtime": "python3.14",
        "Policies": [{"SQSPollerPolicy": {"QueueName": "orders"}}],
    }
    template = {
        "Transform": "AWS::Serverless-2016-10-31",
        "Resources": {"Fulfil": {"Type": "AWS::Serverless::Function", "Properties": properties}},
    }
    capabilities = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
    try:
        cloudformation.create_stack(
            StackName=name, TemplateBody=json.dumps(template), Capabilities=capabilities
        )
    except ClientError:
        return False
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName=name, WaiterConfig={"Delay": 0.2}
    )
    return client("lambda").invoke(FunctionName=name)["Payload"].read() == b'"none"'
