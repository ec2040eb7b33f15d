"""A queue's visibility timeout against the timeout of the function that works it off."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, number


class VisibilityTimeoutTooShort(Rule):
    """Lambda retries a throttled batch within the visibility timeout, so it needs room."""

    id = "E9101"
    shortdesc = "Set the visibility timeout to at least six times the consuming function's timeout."
    description = (
        "Lambda needs room to retry a batch when the function is throttled; with less, messages"
        " come back while they are still being worked on, and are done twice or parked."
    )
    source_url = "https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"
    tags = ["sqs", "lambda"]

    options: ClassVar = {"factor": {"type": "integer", "default": 6}}

    def check(self, world: World) -> Iterator[Finding]:
        """Each queue with an event source mapping."""
        for _, queue, function in world.event_sources:
            if function is None:
                continue
            timeout = number(function["Timeout"], 3)
            visibility = number(queue["VisibilityTimeout"], 30)
            if timeout is None or visibility is None:
                continue
            least = timeout * self.config["factor"]
            if visibility < least:
                yield (
                    queue.path("VisibilityTimeout"),
                    f"Raise the visibility timeout of {queue.id} from {visibility:g} s to"
                    f" {least:g} s: {self.config['factor']} times the {timeout:g} s of"
                    f" {function.id}.",
                )
