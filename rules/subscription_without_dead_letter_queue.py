"""A subscription whose undelivered messages are gone."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, missing


class SubscriptionWithoutDeadLetterQueue(Rule):
    """SNS drops what it cannot deliver unless the subscription has a dead-letter queue."""

    id = "E9201"
    shortdesc = "Give the subscription a dead-letter queue: SNS drops what it cannot deliver."
    description = (
        "Client errors (a deleted queue, a policy that refuses, a deleted function) are not even"
        " retried. The dead-letter queue belongs to the subscription, not to the topic. The option"
        " `protocols` says which subscriptions need one; e-mail is not among them, since SNS does"
        " not learn of a bounce."
    )
    source_url = "https://docs.aws.amazon.com/sns/latest/dg/sns-dead-letter-queues.html"
    tags = ["sns"]

    options: ClassVar = {
        "protocols": {
            "type": "list",
            "itemtype": "string",
            "default": ["application", "firehose", "http", "https", "lambda", "sms", "sqs"],
        }
    }

    def check(self, world: World) -> Iterator[Finding]:
        """Each subscription of these protocols."""
        for one, path, settings, _ in world.subscriptions:
            if settings.get("Protocol") in self.config["protocols"] and missing(
                settings.get("RedrivePolicy")
            ):
                yield (
                    [*path, "RedrivePolicy"],
                    f"Give the {settings['Protocol']} subscription {one.id} a RedrivePolicy with a"
                    " dead-letter queue: what cannot be delivered is dropped."
                    if one.type == "AWS::SNS::Subscription"
                    else f"Make the {settings['Protocol']} subscription inside {one.id} a resource"
                    " of its own with a RedrivePolicy: what cannot be delivered is dropped.",
                )
