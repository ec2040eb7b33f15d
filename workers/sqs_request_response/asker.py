"""Ask through a queue and go on; the answer is a future.

    with Asker(questions_url, answers_url) as fraud:
        pending = fraud.ask({"order_id": "o-1", "customer": "ada", "total_cents": 4200}, timeout=30)
        ...  # go on; in asyncio: await asyncio.wrap_future(pending)
        verdict = pending.result()  # a dict; or it raises Refused or NoAnswer

This file needs boto3 and nothing else: take it with you. The other side must send the attributes
correlation_id and expires_at of the question back, with the attribute outcome.

Run one Asker a queue of answers. With two, each receives answers to the other's questions, and
leaves them: they come back after the visibility timeout, to either, or end as dead letters.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from heapq import heappop, heappush
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

LONGEST = 14 * 86400.0  # seconds; SQS keeps a message no longer
SERVER_ERROR = 500  # HTTP's status of this and every higher number

logger = logging.getLogger(__name__)


class NoAnswer(TimeoutError):
    """No answer came in time; one that comes later is dropped."""


class Refused(Exception):
    """The other side read the question and cannot answer it; the text says why."""


class Pending(Future[dict[str, Any]]):
    """The answer to come. cancel() gives it up: its answer is dropped.

    correlation_id: what the question, its answer and the logs of both sides have in common.
    expires_at: Unix time after which nobody answers any more and this future fails.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self.correlation_id = str(uuid.uuid4())
        self.expires_at = time.time() + timeout


class Asker:
    """Asks from as many threads as you like; one thread of its own receives the answers.

    Callbacks of the futures run in that thread, so they must be short; what they raise is logged.

    Keep correlation ids to yourself: whoever may send questions and knows an id can ask under it
    first, and then the question proper is not answered.

    questions_url: the queue of the service that answers.
    answers_url: this Asker's own queue; the other side must be allowed to send to it.
    sqs: an SQS client, if the default one will not do.
    poll_seconds: how long one poll for answers waits (1 to 20 s), and so what close() may take:
        choose less than the time that your program has to stop.

    problem: why answers cannot be received at present, or None; for a health check.
    """

    def __init__(
        self, questions_url: str, answers_url: str, *, sqs: Any = None, poll_seconds: int = 20
    ) -> None:
        if not 1 <= poll_seconds <= 20:
            raise ValueError(f"poll_seconds is 1 to 20, not {poll_seconds}")
        retries = {"mode": "standard", "total_max_attempts": 3}
        config = Config(
            max_pool_connections=50, connect_timeout=5, read_timeout=10, retries=retries
        )
        patient = config.merge(Config(read_timeout=poll_seconds + 10))
        self._sqs = sqs or boto3.client("sqs", config=config)
        self._receiving = sqs or boto3.client("sqs", config=patient)
        self._questions_url, self._answers_url = questions_url, answers_url
        self._poll_seconds = poll_seconds
        self._closing = threading.Event()
        self.problem: BaseException | None = None
        # The condition guards what follows. An id stays in _asked until it expires, as None once
        # it is settled: an answer to an id that is not there is late, or not ours.
        self._changed = threading.Condition()
        self._asked: dict[str, Pending | None] = {}
        self._expiries: list[tuple[float, str]] = []  # a heap
        self._counts: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=work, name=f"asker{work.__name__}", daemon=True)
            for work in (self._receive, self._expire)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Asker:
        """The Asker itself; the end of the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close, whatever happened."""
        self.close()

    def ask(self, question: Mapping[str, Any], *, timeout: float = 60.0) -> Pending:
        """Send a question and return as soon as its queue has it; the answer is a future.

        timeout: seconds after which the question has expired: no worker begins with it, and the
        future fails with NoAnswer (up to 14 days). What SQS raises is raised here, and then nobody
        waits for an answer: if SQS has the question all the same, its answer is dropped.
        """
        if not 0 < timeout <= LONGEST:  # nor is it no number
            raise ValueError(f"timeout is more than 0 s and at most {LONGEST:.0f}, not {timeout}")
        body = json.dumps(question, allow_nan=False)
        pending = Pending(timeout)
        with self._changed:
            if self._closing.is_set():
                raise RuntimeError("this Asker is closed")
            self._asked[pending.correlation_id] = pending  # the answer may overtake SendMessage's
            heappush(self._expiries, (pending.expires_at, pending.correlation_id))
            self._counts["asked"] += 1
            self._changed.notify()
        try:
            self._sqs.send_message(
                QueueUrl=self._questions_url,
                MessageBody=body,
                MessageAttributes={
                    "correlation_id": _text(pending.correlation_id),
                    "reply_to": _text(self._answers_url.rpartition("/")[2]),
                    "expires_at": {"DataType": "Number", "StringValue": repr(pending.expires_at)},
                },
            )
        except BaseException as error:
            with self._changed:
                if self._asked.pop(pending.correlation_id, None):
                    self._counts["asked"] -= 1
                    if not _refused(error) and not self._closing.is_set():
                        self._asked[pending.correlation_id] = None  # it may be there
            raise
        return pending

    @property
    def counts(self) -> dict[str, int]:
        """What has become of the questions, and of answers that nobody waits for.

        asked = answered + refused + timed out + cancelled + those still open. Answers dropped:
        late (expired), repeated (the same answer again, or one to a question of which ask()
        raised). Left in the queue: strange, which is counted at each receive.
        """
        names = ("asked", "answered", "refused", "timed out", "cancelled")
        with self._changed:
            return {name: self._counts[name] for name in (*names, "late", "repeated", "strange")}

    def close(self) -> None:
        """Cancel what is open and end the threads; takes up to poll_seconds."""
        with self._changed:
            self._closing.set()
            pending = [one for one in self._asked.values() if one]
            self._asked.clear()
            self._expiries.clear()
            self._changed.notify_all()
        for one in pending:
            one.cancel()
            self._count("cancelled")
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    # ---- the threads

    def _receive(self) -> None:
        """Receive answers until closed; an answer is deleted once it is handed over or late."""
        while not self._closing.is_set():
            try:
                messages = self._receiving.receive_message(
                    QueueUrl=self._answers_url,
                    MaxNumberOfMessages=10,
                    WaitTimeSeconds=self._poll_seconds,
                    MessageAttributeNames=["All"],
                ).get("Messages", [])
                if done := [message for message in messages if self._take(message)]:
                    self._sqs.delete_message_batch(
                        QueueUrl=self._answers_url,
                        Entries=[
                            {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
                            for index, message in enumerate(done)
                        ],
                    )  # one that is not deleted comes back, as a repeated one
                self.problem = None
            except BaseException as error:  # botocore has tried again; this thread must go on
                self.problem = error
                logger.warning("Cannot receive answers: %s", error)
                self._closing.wait(1)

    def _take(self, message: dict[str, Any]) -> bool:
        """Settle the future that waits for this answer; whether the message may be deleted."""
        answer = _parse(message)
        if answer is None or self._closing.is_set():
            return self._leave(message)
        correlation_id, expires_at, error, content = answer
        with self._changed:
            known = correlation_id in self._asked
            pending = self._asked.get(correlation_id)
            if pending:
                self._asked[correlation_id] = None
        if pending:
            self._settle(pending, "refused" if error else "answered", error, content)
        elif known:
            self._count("repeated")
        elif expires_at <= time.time():
            self._count("late")
        else:
            return self._leave(message)
        return True

    def _leave(self, message: dict[str, Any]) -> bool:
        """Not our answer, or none: its asker may get it at the next receive, or the DLQ does."""
        if not self._closing.is_set():
            self._count("strange")
            logger.warning("Left message %s: no answer to a question of ours", message["MessageId"])
        return False

    def _expire(self) -> None:
        """Fail each future whose time has come, until closed."""
        while not self._closing.is_set():
            with self._changed:
                now, expired = time.time(), []
                while self._expiries and self._expiries[0][0] <= now:
                    expired.append(self._asked.pop(heappop(self._expiries)[1], None))
                if not expired and not self._closing.is_set():
                    self._changed.wait(self._expiries[0][0] - now if self._expiries else None)
            why = f"; answers cannot be received: {self.problem}" if self.problem else ""
            for pending in filter(None, expired):
                self._settle(pending, "timed out", NoAnswer(f"no answer in time{why}"), {})

    def _settle(
        self, pending: Pending, how: str, error: Exception | None, content: dict[str, Any]
    ) -> None:
        """Give a future its end, outside the lock: its callbacks may ask again."""
        wanted = pending.set_running_or_notify_cancel()
        self._count(how if wanted else "cancelled")
        try:
            if wanted and error:
                pending.set_exception(error)
            elif wanted:
                pending.set_result(content)
        except BaseException:  # a callback that exits: the future has its end, this thread goes on
            logger.exception("A callback of question %s failed", pending.correlation_id)

    def _count(self, what: str) -> None:
        with self._changed:
            self._counts[what] += 1


def _refused(error: BaseException) -> bool:
    """Whether SQS has said that it does not take a message: otherwise it may have it."""
    if not isinstance(error, ClientError):
        return False
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status < SERVER_ERROR


def _text(value: str) -> dict[str, str]:
    """A message attribute."""
    return {"DataType": "String", "StringValue": value}


def _parse(message: dict[str, Any]) -> tuple[str, float, Refused | None, dict[str, Any]] | None:
    """(correlation id, Unix time of expiry, refusal, answer) of a message; None if it is none."""
    attributes = {
        name: attribute.get("StringValue", "")
        for name, attribute in message.get("MessageAttributes", {}).items()
    }
    try:
        content = json.loads(message["Body"])
        expires_at = float(attributes["expires_at"])
        refused = {"answered": False, "refused": True}[attributes["outcome"]]
        error = Refused(str(content["reason"])) if refused else None
        correlation_id = attributes["correlation_id"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return (correlation_id, expires_at, error, content) if isinstance(content, dict) else None
