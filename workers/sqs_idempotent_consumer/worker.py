"""Worker: fulfil the orders of the queue, each once, with as many workers as you like.

Long polling; a heartbeat keeps an order from other workers for as long as it takes; its message is
deleted after its row is written. SIGTERM, or Auto Scaling's wish to terminate the instance, ends a
worker after the orders in hand: the messages not begun are given back at once.

While DynamoDB does not answer, an order waits for it in hand and no other is taken: to give it back
would use up one of its receives. A thread that dies ends the program, with exit code 1.

Needs Python 3.9 or newer, Amazon Linux 2023's own, and boto3 1.28 or newer. Every setting is an
argument or, better in a unit file, an environment variable.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable

from lifecycle import Instance, tell_ready
from messages import Hand, Message
from orders import ConflictingOrder, MalformedOrder, commit, pack, parse_order
from program import TICK, Program, client, report, said, waits

LONG_POLL = 20  # seconds at most, SQS's own limit


class Worker(Program):
    """A thread that receives, some that work, and the main thread that keeps their messages."""

    def __init__(self, settings: argparse.Namespace) -> None:
        super().__init__()
        self.settings = settings
        heartbeat = settings.heartbeat or settings.visibility_timeout / 3
        self.dynamodb = client("dynamodb", connections=settings.at_once)
        self.hand = Hand(
            client("sqs", answer_within=LONG_POLL + 5, attempts=1),
            # Two extensions that hang, one after the other, still come within the timeout.
            client("sqs", answer_within=min(5, heartbeat / 4), attempts=1, connections=64),
            settings.queue,
            visibility_timeout=settings.visibility_timeout,
            heartbeat=heartbeat,
            longest=settings.longest,
        )
        self.ready = threading.Event()  # SQS has answered: queue, network and rights are there
        self.instance = Instance() if settings.group else None

    def run(self) -> int:
        """Work until told to stop, then give back what is not begun and finish what is.

        The exit code: 0 if it was told to stop.

        A long poll that waits is waited for: a message that it would bring would otherwise be lost
        to everybody for a visibility timeout.
        """
        self.start(self.receive)
        for _ in range(self.settings.at_once):
            self.start(self.work)
        if self.instance:
            self.start(self.watch)
        report(state="started", pid=os.getpid(), at_once=self.settings.at_once)
        given_back: list[str] = []
        while self.working():
            time.sleep(TICK)
            if self.why:
                given_back += self.hand.give_back()
            self.hand.extend()
        given_back += self.hand.give_back()
        report(state="stopped", why=self.why, given_back=given_back)
        if self.instance and self.instance.leaving():
            self.leave(self.instance)
        return int(self.failed)

    def watch(self) -> None:
        """One thread: stop once Auto Scaling wants the instance gone."""
        while self.instance and not self.pause(self.settings.ask_every):
            if self.instance.leaving():
                self.stop("lifecycle")

    def leave(self, instance: Instance) -> None:
        """Let Auto Scaling terminate the instance; without our word it does when the hook ends.

        Not before the CloudWatch agent has shipped the last reports, which it does every 5 s.
        """
        time.sleep(self.settings.linger)
        try:
            instance.let_go(client("autoscaling"), self.settings.group, self.settings.hook)
        except Exception as error:
            report(state="not let go", reason=said(error))

    def receive(self) -> None:
        """One thread: take messages while there is somebody to begin with them."""
        again = waits()
        while not self.why:
            if not self.hand.wants(self.settings.at_once, TICK):
                continue
            try:
                self.hand.take()
            except Exception as error:
                report(state="cannot receive", reason=said(error))
                self.pause(next(again))
                continue
            again = waits()
            if not self.ready.is_set():
                self.ready.set()
                tell_ready()

    def work(self) -> None:
        """Some threads: work on messages one by one."""
        while not self.why:
            if message := self.hand.begin(TICK):
                self.fulfil(message)

    def fulfil(self, message: Message) -> None:
        """Work on one order, commit it, report it, and only then delete its message."""
        known: dict[str, object] = {"message_id": message.id, "receives": message.receives}
        try:
            order = parse_order(message.body)
            known["order_id"] = order["order_id"]
            pack(order)
            by = self.through_outages(
                lambda: commit(self.dynamodb, self.settings.table, order, message.id),
                longest=self.settings.longest - message.worked(),
            )
        except (MalformedOrder, ConflictingOrder) as error:
            report(outcome="rejected", reason=str(error), **known)
            self.settle(self.hand.release, message)
        except Exception as error:
            report(outcome="failed", reason=said(error), **known)
            # Sooner than its timeout only for another worker, who may do better.
            self.settle(self.hand.release if self.why else self.hand.forget, message)
        else:
            report(outcome="fulfilled" if by == message.id else "duplicate", by=by, **known)
            self.settle(self.hand.delete, message)

    def settle(self, how: Callable[[Message], None], message: Message) -> None:
        """Delete or give back a message; if SQS refuses, it comes back by itself."""
        try:
            how(message)
        except Exception as error:
            self.hand.forget(message)
            report(state="not settled", message_id=message.id, reason=said(error))


def settings(words: list[str] | None = None) -> argparse.Namespace:
    """What the arguments (the command's own, if none) and the environment say."""
    parser = argparse.ArgumentParser(description="Fulfil orders until SIGTERM.")
    for flag, variable, kind, meaning, default in (
        ("--queue", "ORDERS_URL", str, "URL of the queue of orders", None),
        ("--table", "FULFILLED_ORDERS", str, "DynamoDB table of fulfilled orders", None),
        ("--visibility-timeout", "VISIBILITY_TIMEOUT", int, "seconds", "60"),
        ("--at-once", "ORDERS_AT_ONCE", int, "orders in work at the same time", "4"),
        ("--heartbeat", "HEARTBEAT", float, "seconds; 0: a third of the timeout", "0"),
        ("--longest", "LONGEST", float, "seconds of work after which an order is stuck", "480"),
        ("--group", "GROUP_NAME", str, "Auto Scaling group that this instance is in", ""),
        ("--hook", "HOOK_NAME", str, "its lifecycle hook on termination", "Drain"),
        ("--ask-every", "ASK_EVERY", float, "seconds between questions to the instance", "5"),
        ("--linger", "LINGER", float, "seconds for the last reports to be shipped", "10"),
    ):
        value = os.environ.get(variable, default)
        parser.add_argument(
            flag, type=kind, default=value, required=value is None, help=f"{meaning} ({variable})"
        )
    return parser.parse_args(words)


if __name__ == "__main__":
    worker = Worker(settings())
    worker.stop_by_signal()
    sys.exit(worker.run())
