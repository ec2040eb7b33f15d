"""What a program needs that runs for months: it reports, waits, and lives and ends as a whole.

The same in every folder of workers/ that has it; take it with you. Needs Python 3.9 or newer,
Amazon Linux 2023's own, and boto3.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

T = TypeVar("T")
LONGEST_TEXT = 300  # characters of a text in a report: a sender's id may be a megabyte
TICK = 0.1  # seconds between two looks at whether the program is to stop
STANDARD_OUTPUT = 1
SERVER_ERROR = 500  # HTTP's status of this and every higher number
# In the codes of what AWS answers when it would refuse any request of this client at present.
OUTAGES = (
    "AccessDenied", "ExpiredToken", "InvalidClientTokenId", "LimitExceeded", "NonExistentQueue",
    "ResourceNotFound", "Throttl", "ThroughputExceeded", "TooManyRequests", "UnrecognizedClient",
)  # fmt: skip
_one_line_at_a_time = threading.Lock()


def report(**facts: object) -> None:
    """One line of JSON on standard output, with the time.

    Never raises: a full disk costs reports and not orders. Written without a buffer, which would
    keep what cannot be written and fail again with the next line.
    """
    with suppress(Exception):  # there is nowhere left to tell it
        short = {name: _short(fact) for name, fact in facts.items()}
        line = json.dumps({"at": round(time.time(), 3), **short}).encode() + b"\n"
        with _one_line_at_a_time:
            os.write(STANDARD_OUTPUT, line)


def _short(fact: object) -> object:
    return fact[:LONGEST_TEXT] if isinstance(fact, str) else fact


def said(error: BaseException) -> str:
    """An error for a report: its kind and what it says."""
    return f"{type(error).__name__}: {error}"


def client(
    service: str, *, answer_within: float = 5, attempts: int = 3, connections: int = 10
) -> Any:
    """A client of an AWS service that gives up, so that a service that hangs stops nothing else.

    answer_within: seconds for the answer of one attempt, besides 2 s to connect; between attempts
    it waits for about a second.
    """
    config = Config(
        connect_timeout=2,
        read_timeout=answer_within,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=connections,
    )
    return boto3.client(service, config=config)


def outage(error: BaseException) -> bool:
    """Whether AWS, or the way to it, failed and not this request: no other would fare better.

    So does a missing right or table: not an order's fault, and mended by a person.
    """
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.response["Error"]["Code"]
        return status >= SERVER_ERROR or any(word in code for word in OUTAGES)
    return isinstance(error, BotoCoreError) and not isinstance(error, ParamValidationError)


def waits(first: float = 0.2, longest: float = 30.0) -> Iterator[float]:
    """Seconds before each next attempt, from about first to longest.

    Random within a bound that doubles: programs that lost the same service come back one by one.
    """
    bound = first
    while True:
        yield random.uniform(bound / 2, bound)
        bound = min(2 * bound, longest)


class Program:
    """Threads that work until the program is told to stop, or until one of them dies.

    why: the reason to stop, "" while there is none; the first one counts. failed: whether the
    program ends because of a fault of its own, so that its supervisor starts a whole one.
    """

    def __init__(self) -> None:
        self.why, self.failed = "", False
        self.threads: list[threading.Thread] = []

    def stop(self, why: str, *, failed: bool = False) -> None:
        """Begin nothing new. No lock: a signal may arrive anywhere."""
        if not self.why:
            self.failed, self.why = failed, why  # in this order: others look at why

    def stop_by_signal(self) -> None:
        """SIGTERM and SIGINT stop the program; call it in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self.stop(signal.Signals(number).name))

    def start(self, work: Callable[[], None]) -> None:
        """Run work in a thread; should it raise, the whole program stops."""
        thread = threading.Thread(target=self.guard, args=(work,), daemon=True)
        self.threads.append(thread)
        thread.start()

    def guard(self, work: Callable[[], None]) -> None:
        """Run work; should it raise, say so and stop the whole program."""
        try:
            work()
        except BaseException as error:
            report(state="broken", error=said(error))
            self.stop("broken", failed=True)

    def working(self) -> bool:
        """Whether a thread is still at work."""
        return any(thread.is_alive() for thread in self.threads)

    def pause(self, seconds: float) -> bool:
        """Wait, but not once the program is to stop; whether it is."""
        end = time.monotonic() + seconds
        while not self.why and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, TICK))
        return bool(self.why)

    def through_outages(self, work: Callable[[], T], *, longest: float) -> T:
        """What work returns; done again while AWS fails, for so many seconds.

        So an order in hand waits for the service, where giving it back would use up one of its
        deliveries. Raises what work raised: at once if that is no outage or the program is to stop.
        """
        end = time.monotonic() + longest
        for wait in waits():
            try:
                return work()
            except Exception as error:
                if not outage(error) or time.monotonic() + wait > end:
                    raise
                report(state="waiting for AWS", reason=said(error))
                if self.pause(wait):
                    raise
        raise AssertionError("waits never end")
