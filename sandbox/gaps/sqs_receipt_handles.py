"""What a receipt handle is good for, and how long.

On AWS a handle is Base64. On a standard queue an older one serves as well as the newest, and a
message can be deleted twice; the visibility timeout of what is deleted cannot be changed. On a FIFO
queue a handle ends with its visibility timeout. Seen in MiniStack 1.5.33: handles have hyphens, at
which AWS's own extended client breaks them; only the newest is known, and it never ends.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Any

from ministack.core.responses import new_uuid
from ministack.services import sqs

PATCHES = (
    "services.sqs._collect_msgs",
    "services.sqs._get_q",
    "services.sqs._HANDLERS",
    "services.sqs._Err",
    "services.sqs._act_delete_message",
    "services.sqs._act_change_visibility",
    "services.sqs._validate_batch_entries",
)
Action = Callable[[dict[str, Any], str], dict[str, Any]]


def close() -> None:
    """Give out such handles, and take them for the newest one of their message."""
    collect = sqs._collect_msgs

    def collected(queue: dict, *limits: Any) -> list[dict]:
        messages = collect(queue, *limits)
        for message in messages:
            message["receipt_handle"] = _handle(queue, message["id"])
        return messages

    sqs._collect_msgs = collected
    for action, single in (
        ("DeleteMessage", sqs._act_delete_message),
        ("ChangeMessageVisibility", sqs._act_change_visibility),
    ):
        with_newest = _with_newest(single, action)
        sqs._HANDLERS[action] = with_newest
        sqs._HANDLERS[f"{action}Batch"] = _batch(with_newest, action)


def _handle(queue: dict, message_id: str) -> str:
    text = f"{queue['attributes']['QueueArn']} {message_id} {new_uuid()}"
    return base64.b64encode(text.encode()).decode()


def _with_newest(act: Action, action: str) -> Action:
    def acted(data: dict[str, Any], url: str) -> dict[str, Any]:
        queue = sqs._get_q(data.get("QueueUrl", url), f"sqs:{action}")
        if not (handle := data.get("ReceiptHandle")):
            return act(data, url)  # which says so
        message = _message(queue, handle)
        if message is None and action == "DeleteMessage":
            return {}
        if message is None:
            raise _invalid(
                handle,
                "Message does not exist or is not available for visibility timeout change.",
            )
        newest = message["receipt_handle"]
        ended = newest != handle or message["visible_at"] <= sqs.time.time()
        if queue["is_fifo"] and ended:
            raise _invalid(handle, "The receipt handle has expired.")
        return act({**data, "ReceiptHandle": newest}, url)

    return acted


def _message(queue: dict, handle: str) -> dict | None:
    """The message that this queue gave the handle for, or None if it is gone."""
    try:
        arn, message_id, _ = base64.b64decode(handle, validate=True).decode().split()
    except (binascii.Error, ValueError):
        arn, message_id = "", ""
    if arn != queue["attributes"]["QueueArn"]:
        raise sqs._Err("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
    return next((one for one in queue["messages"] if one["id"] == message_id), None)


def _invalid(handle: str, reason: str) -> Exception:
    return sqs._Err(
        "InvalidParameterValue",
        f"Value {handle} for parameter ReceiptHandle is invalid. Reason: {reason}",
    )


def _batch(single: Action, action: str) -> Action:
    def acted(data: dict[str, Any], url: str) -> dict[str, Any]:
        queue_url, entries = data.get("QueueUrl", url), data.get("Entries", [])
        sqs._get_q(queue_url, f"sqs:{action}")
        sqs._validate_batch_entries(entries, f"{action}BatchRequestEntry")
        done, failed = [], []
        for entry in entries:
            try:
                single({**entry, "QueueUrl": queue_url}, url)
                done.append({"Id": entry["Id"]})
            except sqs._Err as error:
                failed.append(
                    {
                        "Id": entry["Id"],
                        "Code": error.code,
                        "Message": error.message,
                        "SenderFault": True,
                    }
                )
        return {"Successful": done, "Failed": failed}

    return acted
