"""The messages that a worker holds: received, kept from others, settled or given back.

Needs Python 3.9 or newer, Amazon Linux 2023's own, and boto3 1.28 or newer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from program import report, said

MOST = 10  # messages of one request, SQS's own limit


@dataclass
class Message:
    """One message in hand. begun: when the work on it began, by the monotonic clock."""

    id: str
    receipt: str
    body: str
    receives: int
    begun: float | None = None

    def worked(self) -> float:
        """Seconds since its work began; 0 while it waits."""
        return time.monotonic() - self.begun if self.begun is not None else 0.0


class Hand:
    """What one worker holds of a queue; its threads share it.

    polling, settling: clients of SQS; the first waits for a long poll, the second must not wait
    long. visibility_timeout: SQS seconds for which a message is kept from others at a time.
    heartbeat: seconds between two extensions, well below the timeout. longest: seconds of work
    after which a message is extended no more, because its order is stuck.
    """

    def __init__(
        self,
        polling: Any,
        settling: Any,
        url: str,
        *,
        visibility_timeout: int,
        heartbeat: float,
        longest: float,
    ) -> None:
        self.polling, self.settling, self.url = polling, settling, url
        self.visibility_timeout, self.heartbeat, self.longest = (
            visibility_timeout,
            heartbeat,
            longest,
        )
        self.changed = threading.Condition()  # guards what follows
        self.held: dict[str, Message] = {}  # by receipt handle
        self.waiting: deque[Message] = deque()  # those that nobody has begun
        self.extended = time.monotonic()

    def take(self) -> list[Message]:
        """Up to ten messages; waits as long as the queue says when there are none."""
        answer = self.polling.receive_message(
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
        with self.changed:
            self.held.update({message.receipt: message for message in messages})
            self.waiting.extend(messages)
            self.changed.notify_all()
        if messages:
            report(state="received", messages=[message.id for message in messages])
        return messages

    def wants(self, most: int, wait: float) -> bool:
        """Whether fewer than `most` messages wait to be begun; looks for so many seconds."""
        with self.changed:
            return self.changed.wait_for(lambda: len(self.waiting) < most, wait)

    def begin(self, wait: float) -> Message | None:
        """The message that has waited longest; None if none comes in so many seconds."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.waiting, wait):
                return None
            message = self.waiting.popleft()
            message.begun = time.monotonic()
            self.changed.notify_all()
            return message

    def delete(self, message: Message) -> None:
        """Delete the message: what it asked for is committed."""
        self.settling.delete_message(QueueUrl=self.url, ReceiptHandle=message.receipt)
        self.forget(message)

    def release(self, message: Message) -> None:
        """Give a message back at once: to another worker, or to the dead-letter queue."""
        self.forget(message)
        self.settling.change_message_visibility(
            QueueUrl=self.url, ReceiptHandle=message.receipt, VisibilityTimeout=0
        )

    def forget(self, message: Message) -> None:
        """Extend the message no more: it comes back when its visibility timeout is over."""
        with self.changed:
            self.held.pop(message.receipt, None)

    def extend(self) -> None:
        """Keep what is in hand from others for another visibility timeout, when that is due.

        What waits is kept for as long as it waits. An extension that fails is due again at once.
        """
        now = time.monotonic()
        if now - self.extended < self.heartbeat:
            return
        with self.changed:
            held = list(self.held.values())
        stuck = [one for one in held if one.worked() > self.longest]
        for message in stuck:
            report(state="stuck", message_id=message.id, seconds=round(message.worked()))
            self.forget(message)
        kept = [one for one in held if one not in stuck]
        if self._hide(kept, self.visibility_timeout):
            self.extended = now

    def give_back(self) -> list[str]:
        """Let others have what is not begun, at once; the messages' ids."""
        with self.changed:
            waiting = list(self.waiting)
            self.waiting.clear()
            for message in waiting:
                del self.held[message.receipt]
        self._hide(waiting, 0)
        return [message.id for message in waiting]

    def _hide(self, messages: list[Message], seconds: int) -> bool:
        """Set the visibility timeout of messages; whether SQS has answered every request."""
        batches = [messages[first : first + MOST] for first in range(0, len(messages), MOST)]
        if not batches:
            return True
        with ThreadPoolExecutor(len(batches)) as at_once:  # one that hangs costs the others nothing
            return all(list(at_once.map(lambda some: self._hide_some(some, seconds), batches)))

    def _hide_some(self, some: list[Message], seconds: int) -> bool:
        try:
            answer = self.settling.change_message_visibility_batch(
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
        except Exception as error:  # at the worst they come back later; the worker goes on
            report(state="visibility not changed", reason=said(error))
            return False
        for failed in answer.get("Failed", []):
            message = some[int(failed["Id"])]
            if message.receipt in self.held:  # not settled meanwhile
                report(
                    state="visibility not changed",
                    message_id=message.id,
                    reason=failed.get("Message", failed["Code"]),
                )
        return True
