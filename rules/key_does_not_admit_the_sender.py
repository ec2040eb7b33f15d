"""A customer-managed key and the services that send through it."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import UNKNOWN, Finding, Rule, World, admits, allows, statements


class KeyDoesNotAdmitTheSender(Rule):
    """The sending service must decrypt and make data keys (FACTS 7)."""

    id = "E9111"
    shortdesc = "Let the key's policy admit the service that sends to the encrypted queue or topic."
    description = (
        "A service that sends to a queue or topic under a customer-managed key calls"
        " kms:GenerateDataKey and kms:Decrypt as itself. Without a statement for its principal"
        " the message is dropped. The CDK adds it for a subscribed queue, but not for a key on a"
        " subscription's dead-letter queue."
    )
    source_url = (
        "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/"
        "sqs-key-management.html"
    )
    tags = ["sqs", "sns", "kms"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each queue and topic under a key of the template."""
        for target in world.of("AWS::SQS::Queue", "AWS::SNS::Topic"):
            key = world.key(target["KmsMasterKeyId"])
            if key is None or key["KeyPolicy"] in (None, UNKNOWN):
                continue
            policy = statements(key["KeyPolicy"])
            for service in sorted(world.senders(target)):
                refused = [
                    action
                    for action in ("kms:GenerateDataKey", "kms:Decrypt")
                    if not any(
                        admits(one, service) and allows(one, action, unknown=True) for one in policy
                    )
                ]
                if refused:
                    yield (
                        key.path("KeyPolicy"),
                        f"Allow {service} {' and '.join(refused)} in the policy of {key.id}: it"
                        f" sends to {target.id}, and its messages are dropped.",
                    )
