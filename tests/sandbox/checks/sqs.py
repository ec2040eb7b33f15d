"""Gaps between queues, those who may use them, and the functions on them."""

from __future__ import annotations

from tests.sandbox.cloud import Clients, function


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
