"""A batch of more than ten is collected over time."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import UNKNOWN, Finding, Rule, World, number, truth


class BatchWithoutWindow(Rule):
    """SQS gives ten messages at a time: more take a window."""

    id = "E9108"
    shortdesc = "Set a batching window of 1 s or more for batches of more than ten messages."
    description = (
        "Lambda refuses a batch size above 10 on a standard queue unless"
        " MaximumBatchingWindowInSeconds is 1 or more, and only when the stack is deployed."
    )
    source_url = "https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"
    tags = ["sqs", "lambda"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each event source mapping of a standard queue."""
        for mapping, queue, _ in world.event_sources:
            if queue["FifoQueue"] is UNKNOWN or truth(queue["FifoQueue"]):
                continue
            size = number(mapping["BatchSize"], 10)
            window = number(mapping["MaximumBatchingWindowInSeconds"], 0)
            if size is not None and size > 10 and window is not None and window < 1:
                yield (
                    mapping.path("BatchSize"),
                    f"Set MaximumBatchingWindowInSeconds of {mapping.id} to 1 or more, or BatchSize"
                    f" to 10 or less: it is {size:g}.",
                )
