"""A FIFO queue gives batches of ten at most."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, number, truth


class FifoBatchTooLarge(Rule):
    """A FIFO queue's mapping takes no more than ten and no window."""

    id = "E9109"
    shortdesc = "Take at most ten messages a batch, and no batching window, from a FIFO queue."
    description = (
        "Lambda refuses an event source mapping of a FIFO queue with a batch size above 10 or with"
        " a batching window, and only when the stack is deployed."
    )
    source_url = "https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"
    tags = ["sqs", "lambda"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each event source mapping of a FIFO queue."""
        for mapping, queue, _ in world.event_sources:
            if not truth(queue["FifoQueue"]):
                continue
            size, window = (
                number(mapping[name]) for name in ("BatchSize", "MaximumBatchingWindowInSeconds")
            )
            if size is not None and size > 10:
                yield (
                    mapping.path("BatchSize"),
                    f"Lower BatchSize of {mapping.id} from {size:g} to 10: {queue.id} is FIFO.",
                )
            if window:
                yield (
                    mapping.path("MaximumBatchingWindowInSeconds"),
                    f"Remove the batching window of {mapping.id}: {queue.id} is FIFO.",
                )
