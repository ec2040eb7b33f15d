"""The messages that a worker holds: received, kept from others, settled or given back.

Needs Python 3.9 or newer, Amazon Linux 2023's own, and boto3 1.28 or newer.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

MOST = 10  # messages of one request, SQS's own limit
_one_at_a_time = threading.Lock()


def report(**facts: object) -> None:
    """One line of JSON on standard output, with the time."""
    line = json.dumps({"at": round(time.time(), 3), **facts})
    with _one_at_a_time:
        print(line, flush=True)


@dataclass
class Message:
    """One message in hand."""

    id: str
    receipt: str
    body: str
    receives: int
    taken: float = field(default_factory=time.monotonic)
    begun: bool = False


class Hand:
    """What one worker holds of a queue; its threads share it.

    visibility_timeout: SQS seconds for which a message is kept from others at a time.
    heartbeat: seconds between two extensions, well below the timeout. longest: seconds after which
    a message is extended no more, because an order that takes so long is stuck.
    """

    def __init__(
        self, sqs: Any, url: str, *, visibility_timeout: int, heartbeat: float, longest: float
    ) -> None:
        self.sqs, self.url = sqs, url
        self.visibility_timeout, self.heartbeat, self.longest = (
            visibility_timeout,
            heartbeat,
            longest,
        )
        self.held: dict[str, Message] = {}  # by receipt handle
        self.lock, self.extended = threading.Lock(), time.monotonic()

    def take(self) -> list[Message]:
        """Up to ten messages; waits as long as the queue says when there are none."""
        answer = self.sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=MOST,
            VisibilityTimeout=self.visibility_timeout,
            # MessageSystemAttributeNames is the newer name, which boto3 knows from May 2024 on.
            AttributeNames=["ApproximateReceiveCount"],
        )
        messages = [
            Message(
                one["MessageId"],
                one["ReceiptHandle"],
                one["Body"],
                int(one["Attributes"]["ApproximateReceiveCount"]),
            )
            for one in answer.get("Messages", [])
        ]
        with self.lock:
            self.held.update({message.receipt: message for message in messages})
        if messages:
            report(state="received", messages=[message.id for message in messages])
        return messages

    def begin(self, message: Message) -> bool:
        """Whether the message is still in hand; from now on it is not given back."""
        with self.lock:
            message.begun = message.receipt in self.held
        return message.begun

    def delete(self, message: Message) -> None:
        """Delete the message: what it asked for is committed."""
        self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message.receipt)
        self.forget(message)

    def reject(self, message: Message) -> None:
        """Give a message back that nobody can fulfil: it is soon in the dead-letter queue."""
        self.forget(message)
        self.sqs.change_message_visibility(
            QueueUrl=self.url, ReceiptHandle=message.receipt, VisibilityTimeout=0
        )

    def forget(self, message: Message) -> None:
        """Extend the message no more: it comes back when its visibility timeout is over."""
        with self.lock:
            self.held.pop(message.receipt, None)

    def extend(self) -> None:
        """Keep what is in hand from others for another visibility timeout, when that is due."""
        now = time.monotonic()
        if now - self.extended < self.heartbeat:
            return
        self.extended = now
        with self.lock:
            held = list(self.held.values())
        for stuck in (one for one in held if now - one.taken > self.longest):
            report(state="stuck", message_id=stuck.id, seconds=round(now - stuck.taken))
            self.forget(stuck)
        self._hide(
            [one for one in held if now - one.taken <= self.longest], self.visibility_timeout
        )

    def give_back(self) -> list[str]:
        """Let others have what is not begun, at once; the messages' ids."""
        with self.lock:
            waiting = [message for message in self.held.values() if not message.begun]
            for message in waiting:
                del self.held[message.receipt]
        self._hide(waiting, 0)
        return [message.id for message in waiting]

    def _hide(self, messages: list[Message], seconds: int) -> None:
        """Set the visibility timeout of messages; those of a request that fails are reported."""
        for first in range(0, len(messages), MOST):
            some = messages[first : first + MOST]
            try:
                answer = self.sqs.change_message_visibility_batch(
                    QueueUrl=self.url,
                    Entries=[
                        {
                            "Id": str(index),
                            "ReceiptHandle": message.receipt,
                            "VisibilityTimeout": seconds,
                        }
                        for index, message in enumerate(some)
                    ],
                )
            except Exception as error:  # the messages come back later; the worker goes on
                report(state="visibility not changed", reason=str(error)[:200])
                continue
            for failed in answer.get("Failed", []):
                message = some[int(failed["Id"])]
                if message.receipt in self.held:  # not settled meanwhile
                    report(
                        state="visibility not changed",
                        message_id=message.id,
                        reason=failed.get("Message", failed["Code"]),
                    )
