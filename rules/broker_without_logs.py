"""A broker that says nothing."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import UNKNOWN, Finding, Reference, Rule, World, at, truth


class BrokerWithoutLogs(Rule):
    """Without logs a refused login or a full disk is a guess."""

    id = "E9703"
    shortdesc = "Turn the broker's general logs on, or a refused client remains a guess."
    description = (
        "Amazon MQ writes a broker's log to CloudWatch only if Logs.General is true. ActiveMQ has"
        " Logs.Audit as well, which says who did what."
    )
    source_url = (
        "https://docs.aws.amazon.com/amazon-mq/latest/developer-guide/"
        "security-logging-monitoring.html"
    )
    tags = ["amazonmq"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each broker."""
        for broker in world.of("AWS::AmazonMQ::Broker"):
            general = at(broker["Logs"], "General")
            if general is not UNKNOWN and not isinstance(general, Reference) and not truth(general):
                yield broker.path("Logs"), f"Set Logs.General of {broker.id} to true."
