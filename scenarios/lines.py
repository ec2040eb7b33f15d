"""What one can do with a deployed stack: AWS CLI commands to copy, by what the stack has."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from string import Template

import boto3

# What to look at, by type of resource: (what it is for, the command).
LOOKS = {
    "AWS::SQS::Queue": (
        "how many messages wait",
        "aws sqs get-queue-attributes --queue-url '{id}'"
        " --attribute-names ApproximateNumberOfMessages",
    ),
    "AWS::DynamoDB::Table": ("its rows", "aws dynamodb scan --table-name '{id}' --max-items 10"),
    "AWS::S3::Bucket": ("its objects", "aws s3 ls --recursive 's3://{id}'"),
    "AWS::Logs::LogGroup": ("what is logged", "aws logs tail '{id}' --since 1h"),
    "AWS::StepFunctions::StateMachine": (
        "its executions",
        "aws stepfunctions list-executions --state-machine-arn '{id}' --max-items 10",
    ),
}
READ = (
    "aws sqs receive-message --queue-url '{id}' --max-number-of-messages 10 --visibility-timeout 0"
)
ALARMS = (
    "aws cloudwatch describe-alarms --alarm-name-prefix '{stack}-'"
    " --query 'MetricAlarms[].[AlarmName,StateValue]' --output text"
)


def lines(stem: str, stack: str) -> Iterator[tuple[str, str]]:
    """(what it does, the command) for each thing that can be sent or looked at.

    Clients take their endpoint from the environment. botocore's ClientError if the stack is not
    deployed.
    """
    cloudformation = boto3.client("cloudformation")
    deployed = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in deployed.get("Outputs", [])}
    module = importlib.import_module(f"scenarios.{stem}")
    for what, command in getattr(module, "SEND", {}).items():
        yield what, Template(command).substitute(outputs)
    pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack)
    resources = [one for page in pages for one in page["StackResourceSummaries"]]
    for kind, (what, command) in LOOKS.items():
        for one in resources:
            if one["ResourceType"] == kind:
                name = one["LogicalResourceId"][:-8]  # less the hash that the CDK adds
                yield f"{name}: {what}", command.format(id=one["PhysicalResourceId"])
    for one in resources:
        if one["ResourceType"] == "AWS::SQS::Queue" and is_dead_letter(one["PhysicalResourceId"]):
            yield (
                f"{one['LogicalResourceId'][:-8]}: read, and leave it there",
                READ.format(id=one["PhysicalResourceId"]),
            )
    yield "all alarms", ALARMS.format(stack=stack)


def is_dead_letter(url: str) -> bool:
    """Whether a queue says who may redrive to it: reading it is nobody's attempt at the work."""
    names = ["RedriveAllowPolicy"]
    found = boto3.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)
    return bool(found.get("Attributes"))
