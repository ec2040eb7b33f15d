"""Gaps between queues, those who may use them, and the functions on them."""

from __future__ import annotations

import json

import pytest

from tests.sandbox.cloud import FAILS, Clients, allow, deploy, function, highest, role_of, soon


def lambda_mapping_metrics(client: Clients) -> bool:
    """A function that fails on a batch of its queue has an error and an invocation."""
    arn, sqs = function(client, FAILS), client("sqs")
    name = arn.rpartition(":")[2]
    url = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "900"})["QueueUrl"]
    queue = f"arn:aws:sqs:us-east-1:000000000000:{name}"
    allow(client, role_of(client, arn), "sqs:*", queue)
    mapping = client("lambda").create_event_source_mapping(FunctionName=name, EventSourceArn=queue)
    sqs.send_message(QueueUrl=url, MessageBody="one")
    try:
        return soon(
            lambda: all(
                highest(client, "AWS/Lambda", metric, FunctionName=name) == 1
                for metric in ("Errors", "Invocations")
            )
        )
    finally:
        client("lambda").delete_event_source_mapping(UUID=mapping["UUID"])


def lambda_mapping_role(client: Clients) -> bool:
    """No mapping, by API or by template, until the function's role may do all that Lambda does."""
    arn, lambda_ = function(client, FAILS), client("lambda")
    name = arn.rpartition(":")[2]
    client("sqs").create_queue(QueueName=name)
    queue = f"arn:aws:sqs:us-east-1:000000000000:{name}"
    role, mapping = role_of(client, arn), {"FunctionName": name, "EventSourceArn": queue}
    allow(client, role, "sqs:ReceiveMessage", queue)
    try:
        lambda_.create_event_source_mapping(**mapping)
        return False
    except lambda_.exceptions.InvalidParameterValueException as refused:
        assert "role does not have permissions to call DeleteMessage on SQS" in str(refused)
    mapped = {"Mapping": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": mapping}}
    with pytest.raises(AssertionError):
        deploy(client, mapped)
    allow(client, role, "sqs:*", queue)
    deploy(client, mapped, name)
    mapping["EventSourceArn"] = f"{queue}-other"  # which makes it another mapping
    cloudformation = client("cloudformation")
    cloudformation.update_stack(StackName=name, TemplateBody=json.dumps({"Resources": mapped}))

    def status() -> str:
        return cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]

    return soon(lambda: status() == "UPDATE_ROLLBACK_COMPLETE")


def lambda_log_lines(client: Clients) -> bool:
    """The last of very many lines that a function writes is in its log."""
    logs = client("logs")
    code = "def handler(event, context):\n    print('\\n' * 1_000_000 + 'the last line')\n"
    name = function(client, code).rpartition(":")[2]
    client("lambda").update_function_configuration(FunctionName=name, Timeout=60)
    assert "FunctionError" not in client("lambda").invoke(FunctionName=name)
    group = f"/aws/lambda/{name}"
    try:
        found = logs.filter_log_events(logGroupName=group, filterPattern='"the last line"')
        return bool(found["events"])
    finally:
        logs.delete_log_group(logGroupName=group)
