"""A delivery policy where SNS has its own."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World


class DeliveryPolicyIgnored(Rule):
    """Only HTTP and HTTPS subscriptions take a delivery policy."""

    id = "E9203"
    shortdesc = (
        "Remove the delivery policy: only HTTP and HTTPS subscriptions have one of their own."
    )
    description = (
        "SNS retries every other protocol by a policy that cannot be changed (100,015 attempts"
        " over 23 days for SQS, Lambda and Firehose; 50 over 6 hours for e-mail, SMS and push)."
    )
    source_url = "https://docs.aws.amazon.com/sns/latest/dg/sns-message-delivery-retries.html"
    tags = ["sns"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each subscription with a delivery policy."""
        for one, path, settings, _ in world.subscriptions:
            protocol = settings.get("Protocol")
            if (
                isinstance(protocol, str)
                and protocol not in ("http", "https")
                and settings.get("DeliveryPolicy")
            ):
                yield (
                    [*path, "DeliveryPolicy"],
                    f"Remove the DeliveryPolicy of {one.id}: {protocol} is retried by SNS's own.",
                )
