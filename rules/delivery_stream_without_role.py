"""A subscription of a delivery stream that says no role."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World


class DeliveryStreamWithoutRole(Rule):
    """SNS writes to Firehose with a role, and refuses a subscription without one."""

    id = "E9205"
    shortdesc = "Name the role with which SNS writes to a delivery stream (SubscriptionRoleArn)."
    description = (
        "A subscription of Firehose needs SubscriptionRoleArn: a role that trusts sns.amazonaws.com"
        " and may put records into the stream. Without it the deployment fails."
    )
    source_url = "https://docs.aws.amazon.com/sns/latest/dg/prereqs-kinesis-data-firehose.html"
    tags = ["sns", "firehose"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each subscription of a delivery stream."""
        for one, path, settings, _ in world.subscriptions:
            if settings.get("Protocol") == "firehose" and not settings.get("SubscriptionRoleArn"):
                yield (
                    [*path, "Protocol"],
                    f"Give {one.id} a SubscriptionRoleArn: SNS writes to a delivery stream as a"
                    " role.",
                )
