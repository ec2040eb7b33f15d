"""Worker: fulfil the orders of the queue, each once, with as many workers as you like.

Long polling; a heartbeat keeps an order from other workers for as long as it takes; its message is
deleted after its row is written. SIGTERM, or Auto Scaling's wish to terminate the instance, ends a
worker after the orders in hand: the messages not begun are given back at once.

Needs Python 3.9 or newer, Amazon Linux 2023's own, and boto3 1.28 or newer. Every setting is an
argument or, better in a unit file, an environment variable.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import boto3
from botocore.config import Config
from lifecycle import Instance, tell_ready
from messages import Hand, Message, report
from orders import ConflictingOrder, MalformedOrder, commit, pack, parse_order

TICK = 0.1  # seconds between two looks of the supervising thread
AFTER_FAILURE = 1.0  # seconds before SQS is asked again


class Worker:
    """Some threads that work on orders, and the main thread that keeps their messages for them."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings, self.why = settings, ""  # why: the reason to stop, once there is one
        config = Config(retries={"mode": "standard"}, max_pool_connections=settings.at_once + 2)
        self.sqs, self.dynamodb = (
            boto3.client(service, config=config) for service in ("sqs", "dynamodb")
        )
        self.hand = Hand(
            self.sqs,
            settings.queue,
            visibility_timeout=settings.visibility_timeout,
            heartbeat=settings.heartbeat or settings.visibility_timeout / 3,
            longest=settings.longest,
        )
        self.ready = threading.Event()  # SQS has answered: queue, network and rights are there
        self.instance = Instance(every=settings.ask_every) if settings.group else None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self.stop(signal.Signals(number).name))

    def stop(self, why: str) -> None:
        """Begin no other order."""
        self.why = self.why or why

    def run(self) -> int:
        """Work until told to stop, then give back what is not begun and finish what is.

        The exit code: 0 if it was told to stop.

        A long poll that waits is waited for: a message that it would bring would otherwise be lost
        to everybody for a visibility timeout.
        """
        threads = [threading.Thread(target=self.work) for _ in range(self.settings.at_once)]
        for thread in threads:
            thread.start()
        report(state="started", pid=os.getpid(), at_once=len(threads))
        given_back: list[str] = []
        while any(thread.is_alive() for thread in threads):
            time.sleep(TICK)
            if self.instance and self.instance.leaving():
                self.stop("lifecycle")
            if self.why:
                given_back += self.hand.give_back()
            self.hand.extend()
        given_back += self.hand.give_back()
        report(state="stopped", why=self.why, given_back=given_back)
        if self.instance and self.instance.leaving():
            self.leave(self.instance)
        return 0 if self.why else 1

    def leave(self, instance: Instance) -> None:
        """Let Auto Scaling terminate the instance; without our word it does when the hook ends.

        Not before the CloudWatch agent has shipped the last reports, which it does every 5 s.
        """
        time.sleep(self.settings.linger)
        try:
            autoscaling = boto3.client("autoscaling")
            instance.let_go(autoscaling, self.settings.group, self.settings.hook)
        except Exception as error:
            report(state="not let go", reason=f"{type(error).__name__}: {error}"[:300])

    def work(self) -> None:
        """One thread: take messages and work on them one by one."""
        while not self.why:
            try:
                messages = self.hand.take()
            except Exception as error:
                report(state="cannot receive", reason=f"{type(error).__name__}: {error}"[:200])
                time.sleep(AFTER_FAILURE)
                continue
            if not self.ready.is_set():
                self.ready.set()
                tell_ready()
            for message in messages:
                if not self.why and self.hand.begin(message):
                    self.fulfil(message)

    def fulfil(self, message: Message) -> None:
        """Work on one order, commit it, report it, and only then delete its message."""
        known: dict[str, object] = {"message_id": message.id, "receives": message.receives}
        try:
            order = parse_order(message.body)
            known["order_id"] = order["order_id"]
            pack(order)
            by = commit(self.dynamodb, self.settings.table, order, message.id)
        except (MalformedOrder, ConflictingOrder) as error:
            report(outcome="rejected", reason=str(error), **known)
            self.settle(self.hand.reject, message)
        except Exception as error:
            report(outcome="failed", reason=f"{type(error).__name__}: {error}"[:300], **known)
            self.hand.forget(message)
        else:
            report(outcome="fulfilled" if by == message.id else "duplicate", by=by, **known)
            self.settle(self.hand.delete, message)

    def settle(self, how: Callable[[Message], None], message: Message) -> None:
        """Delete or give back a message; if SQS refuses, it comes back by itself."""
        try:
            how(message)
        except Exception as error:
            self.hand.forget(message)
            report(state="not settled", message_id=message.id, reason=str(error)[:300])


def settings() -> argparse.Namespace:
    """What the arguments and the environment say."""
    parser = argparse.ArgumentParser(description="Fulfil orders until SIGTERM.")
    for flag, variable, kind, meaning, default in (
        ("--queue", "ORDERS_URL", str, "URL of the queue of orders", None),
        ("--table", "FULFILLED_ORDERS", str, "DynamoDB table of fulfilled orders", None),
        ("--visibility-timeout", "VISIBILITY_TIMEOUT", int, "seconds", "60"),
        ("--at-once", "ORDERS_AT_ONCE", int, "orders in work at the same time", "4"),
        ("--heartbeat", "HEARTBEAT", float, "seconds; 0: a third of the timeout", "0"),
        ("--longest", "LONGEST", float, "seconds after which an order is stuck", "900"),
        ("--group", "GROUP_NAME", str, "Auto Scaling group that this instance is in", ""),
        ("--hook", "HOOK_NAME", str, "its lifecycle hook on termination", "Drain"),
        ("--ask-every", "ASK_EVERY", float, "seconds between questions to the instance", "5"),
        ("--linger", "LINGER", float, "seconds for the last reports to be shipped", "10"),
    ):
        value = os.environ.get(variable, default)
        parser.add_argument(
            flag, type=kind, default=value, required=value is None, help=f"{meaning} ({variable})"
        )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(Worker(settings()).run())
