"""Which messages of a batch come back, by what the function answered.

The rules are those of Lambda's guide for SQS, "Implementing partial batch responses".
"""

import json
from typing import Any


def failed(answer: Any, sent: list[str]) -> set[str]:
    """The ids out of `sent` that come back, where the mapping has ReportBatchItemFailures.

    An answer that is empty, or has no failures, is a complete success; one with an identifier that
    is none of the batch's, or that cannot be read, is a complete failure.
    """
    try:
        answer = json.loads(answer) if isinstance(answer, str) and answer else answer
        failures = answer.get("batchItemFailures") if answer else []
        named = [one["itemIdentifier"] for one in failures or []]
    except (ValueError, AttributeError, TypeError, KeyError):
        return set(sent)
    return set(named) if all(name in sent for name in named) else set(sent)
