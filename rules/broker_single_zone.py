"""A broker that stops with its Availability Zone."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World


class BrokerSingleZone(Rule):
    """One instance is for development."""

    id = "W9702"
    shortdesc = (
        "Run the broker over several Availability Zones; a single instance is for development."
    )
    description = (
        "SINGLE_INSTANCE stops with its zone and in every maintenance window. RabbitMQ has"
        " CLUSTER_MULTI_AZ, ActiveMQ ACTIVE_STANDBY_MULTI_AZ."
    )
    source_url = (
        "https://docs.aws.amazon.com/amazon-mq/latest/developer-guide/"
        "amazon-mq-broker-architecture.html"
    )
    tags = ["amazonmq"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each broker."""
        for broker in world.of("AWS::AmazonMQ::Broker"):
            if broker["DeploymentMode"] == "SINGLE_INSTANCE":
                kind = str(broker["EngineType"]).upper()
                mode = "CLUSTER" if kind == "RABBITMQ" else "ACTIVE_STANDBY"
                yield (
                    broker.path("DeploymentMode"),
                    f"Set DeploymentMode of {broker.id} to {mode}_MULTI_AZ: a single instance stops"
                    " with its zone and at every maintenance.",
                )
