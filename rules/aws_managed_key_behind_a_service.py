"""A service cannot use the key `alias/aws/sqs`, nor `alias/aws/sns`."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World


class AwsManagedKeyBehindAService(Rule):
    """What SNS or S3 sends to such a queue is dropped in silence (FACTS 7)."""

    id = "E9110"
    shortdesc = "Use SSE-SQS or a key of your own where an AWS service sends to the queue or topic."
    description = (
        "The policy of an AWS-managed key (alias/aws/sqs, alias/aws/sns) admits no service and"
        " cannot be changed: messages of SNS, S3, EventBridge and CloudWatch are dropped in"
        " silence. SSE-SQS needs no key; a customer-managed key needs a statement for the sender."
    )
    source_url = (
        "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/"
        "sqs-key-management.html"
    )
    tags = ["sqs", "sns", "kms"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each queue and topic that a service sends to."""
        for target in world.of("AWS::SQS::Queue", "AWS::SNS::Topic"):
            key = target["KmsMasterKeyId"]
            if isinstance(key, str) and key.endswith(("alias/aws/sqs", "alias/aws/sns")):
                for service in sorted(world.senders(target)):
                    yield (
                        target.path("KmsMasterKeyId"),
                        f"Encrypt {target.id} with SSE-SQS or a key of your own: {service} sends"
                        f" to it and may not use {key}, so its messages are dropped in silence."
                        if target.type == "AWS::SQS::Queue"
                        else f"Encrypt {target.id} with a key of your own: {service} sends to it"
                        f" and may not use {key}, so its messages are dropped in silence.",
                    )
