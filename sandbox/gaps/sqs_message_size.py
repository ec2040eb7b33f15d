"""Message attributes count towards the size of a message.

AWS counts the name, the type and the value of each attribute with the body, for a message and for
a batch. Seen in MiniStack 1.5.33: it counts the body only, so that a message which AWS refuses is
taken.
"""

import base64
from typing import Any

from ministack.services import sqs

PATCHES = (
    "services.sqs._act_send_message",
    "services.sqs._act_send_message_batch",
    "services.sqs._queues",
    "services.sqs._HANDLERS",
    "services.sqs._Err",
)
LIMIT = 1024 * 1024


def close() -> None:
    """Refuse what is too large before MiniStack looks at it; it sends a batch's one by one."""
    send, send_batch = sqs._act_send_message, sqs._act_send_message_batch

    def send_counted(data: dict, url: str) -> dict:
        queue = sqs._queues.get(data.get("QueueUrl", url))
        most = int(queue["attributes"].get("MaximumMessageSize", LIMIT)) if queue else LIMIT
        if _size(data) > most:
            reason = f"Message must be shorter than {most} bytes."
            raise sqs._Err(
                "InvalidParameterValue", f"One or more parameters are invalid. Reason: {reason}"
            )
        return send(data, url)

    def send_batch_counted(data: dict, url: str) -> dict:
        total = sum(map(_size, data.get("Entries", [])))
        if total > LIMIT:
            raise sqs._Err(
                "BatchRequestTooLong",
                f"Batch requests cannot be longer than {LIMIT} bytes. You have sent {total} bytes.",
            )
        return send_batch(data, url)

    sqs._act_send_message = send_counted
    sqs._HANDLERS.update(SendMessage=send_counted, SendMessageBatch=send_batch_counted)


def _size(message: dict[str, Any]) -> int:
    """Bytes of a message: its body, and the name, type and value of each attribute."""
    size = len((message.get("MessageBody") or "").encode())
    for name, attribute in (message.get("MessageAttributes") or {}).items():
        binary = attribute.get("BinaryValue") or b""
        size += len(name.encode()) + len((attribute.get("DataType") or "").encode())
        size += len((attribute.get("StringValue") or "").encode())
        size += len(base64.b64decode(binary) if isinstance(binary, str) else binary)
    return size
