"""What a role needs for a batch of SQS: the permission for one message, there is no other.

Seen in MiniStack 1.5.33: a batch asks for sqs:SendMessageBatch, sqs:DeleteMessageBatch or
sqs:ChangeMessageVisibilityBatch, actions that IAM does not know, so a role that may send, delete or
hide a message is denied.
"""

from typing import Any

from ministack.core import iam_actions

PATCHES = ("core.iam_actions.extract_iam_action",)


def close() -> None:
    """Ask for the action on one message."""
    as_called = iam_actions.extract_iam_action

    def needed(service: str, *request: Any) -> str | None:
        action = as_called(service, *request)
        return action.removesuffix("Batch") if service == "sqs" and action else action

    iam_actions.extract_iam_action = needed
