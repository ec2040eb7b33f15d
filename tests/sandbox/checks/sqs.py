"""Gaps between queues, those who may use them, and the functions on them."""

from __future__ import annotations

from tests.sandbox.cloud import FAILS, Clients, allow, function, highest, soon


def lambda_mapping_metrics(client: Clients) -> bool:
    """A function that fails on a batch of its queue has an error and an invocation."""
    arn, sqs = function(client, FAILS), client("sqs")
    name = arn.rpartition(":")[2]
    url = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "900"})["QueueUrl"]
    queue = f"arn:aws:sqs:us-east-1:000000000000:{name}"
    role = client("lambda").get_function_configuration(FunctionName=name)["Role"].split("/")[1]
    allow(client, role, "sqs:*", queue)
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
