"""SnsFirehoseS3's scenario on a stack with one grant taken out."""

from __future__ import annotations

import re
from pathlib import Path

from sandbox import server
from tests.scenarios.test_scenarios import played_without


def test_without_its_grant_the_scenario_fails_and_says_why(
    sandbox: server.Server, tmp_path: Path
) -> None:
    """A subscription that may not put records."""
    why = played_without(
        sandbox,
        "sns_firehose_s3",
        tmp_path,
        'order_archive.grant(order_events_role, "firehose:PutRecord", "firehose:PutRecordBatch")',
        instead='order_archive.grant(order_events_role, "firehose:DescribeDeliveryStream")',
    )
    assert re.search("more parked than there can be: 400 of 0", why)
