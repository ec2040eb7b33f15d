"""A broker that the Internet can reach."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, truth


class BrokerPublic(Rule):
    """A broker belongs into private subnets."""

    id = "E9701"
    shortdesc = "Keep the broker private: its producers and consumers reach it inside the VPC."
    description = (
        "PubliclyAccessible gives the broker's endpoints and its console public addresses, with a"
        " password as the only lock."
    )
    source_url = (
        "https://docs.aws.amazon.com/amazon-mq/latest/developer-guide/using-amazon-mq-securely.html"
    )
    tags = ["amazonmq"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each broker."""
        for broker in world.of("AWS::AmazonMQ::Broker"):
            if truth(broker["PubliclyAccessible"]):
                yield (
                    broker.path("PubliclyAccessible"),
                    f"Set PubliclyAccessible of {broker.id} to false and give it subnets and a"
                    " security group.",
                )
