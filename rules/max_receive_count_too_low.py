"""How often a function may be throttled before good messages are parked."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, at, number


class MaxReceiveCountTooLow(Rule):
    """With a Lambda consumer a throttled batch counts as a receive."""

    id = "W9106"
    shortdesc = "Set maxReceiveCount to 5 or more where a Lambda function consumes the queue."
    description = (
        "A batch that comes back because the function is throttled counts as received: with a low"
        " maxReceiveCount good messages are parked. The option `least` is AWS's 5."
    )
    source_url = "https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"
    tags = ["sqs", "lambda"]

    options: ClassVar = {"least": {"type": "integer", "default": 5}}

    def check(self, world: World) -> Iterator[Finding]:
        """Each queue with an event source mapping."""
        for _, queue, _ in world.event_sources:
            receives = number(at(queue["RedrivePolicy"], "maxReceiveCount"))
            if receives is not None and receives < self.config["least"]:
                yield (
                    queue.path("RedrivePolicy"),
                    f"Raise maxReceiveCount of {queue.id} from {receives:g} to"
                    f" {self.config['least']}: a throttled function also counts as a receive.",
                )
