"""Who may send, delete or hide one message may do so with a batch of them.

Seen in MiniStack 1.5.33: SendMessageBatch, DeleteMessageBatch and ChangeMessageVisibilityBatch ask
for permissions of these names. AWS has none such: the permission for the single action is the
permission for its batch.
"""

from typing import Any

from ministack.core import iam_actions

PATCHES = ("core.iam_actions.extract_iam_action",)

BATCHES = {
    f"sqs:{action}Batch": f"sqs:{action}"
    for action in ("SendMessage", "DeleteMessage", "ChangeMessageVisibility")
}


def close() -> None:
    """Put the single action before the evaluator."""
    of_request = iam_actions.extract_iam_action

    def action(*request: Any) -> str | None:
        found = of_request(*request)
        return BATCHES.get(found or "", found)

    iam_actions.extract_iam_action = action
