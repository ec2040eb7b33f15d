"""SqsLambdaDlq's scenario on a stack with one grant taken out."""

from __future__ import annotations

import re
from pathlib import Path

from sandbox import server
from tests.scenarios.test_scenarios import played_without


def test_without_its_grant_the_scenario_fails_and_says_why(
    sandbox: server.Server, tmp_path: Path
) -> None:
    """A function that may not write its table."""
    why = played_without(
        sandbox,
        "sqs_lambda_dlq",
        tmp_path,
        'fulfilled_orders.grant(fulfil_order_role, "dynamodb:PutItem")',
        instead="",
    )
    assert re.search(r"more parked .*AccessDenied.*dynamodb:PutItem", why)
