"""A failed message takes the rest of its batch along."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import UNKNOWN, Finding, Rule, World, number


class NoPartialBatchResponse(Rule):
    """Without ReportBatchItemFailures one poison message repeats nine good ones."""

    id = "E9107"
    shortdesc = (
        "Report batch item failures, so that one bad message does not repeat the whole batch."
    )
    description = (
        "Without FunctionResponseTypes: [ReportBatchItemFailures] one failure brings all messages"
        " of the batch back: good ones are done again and may be parked with the bad one. A batch"
        " of one needs nothing."
    )
    source_url = "https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html"
    tags = ["sqs", "lambda"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each event source mapping of a queue."""
        for mapping in world.of("AWS::Lambda::EventSourceMapping"):
            if not world.reads_a_queue(mapping):
                continue
            size = number(mapping["BatchSize"], 10)
            types = mapping["FunctionResponseTypes"]
            reported = isinstance(types, list) and (
                "ReportBatchItemFailures" in types or UNKNOWN in types
            )
            if size is not None and size > 1 and types is not UNKNOWN and not reported:
                yield (
                    mapping.path("FunctionResponseTypes"),
                    f"Set FunctionResponseTypes of {mapping.id} to [ReportBatchItemFailures], and"
                    " let the function report the messages that failed.",
                )
