"""Orders published with confirms while the broker is restarted: every one must end somewhere."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
from botocore.exceptions import ClientError
from pika.adapters.blocking_connection import BlockingChannel

from scenarios.stage import ScenarioCannotRun, ScenarioFailed, Stage

PROGRAMS = Path(__file__).parent.parent / "workers" / "mq_broker"
GOOD, DUPLICATE, MALFORMED, TOO_LARGE = 4240, 100, 56, 4  # parcels
DIGITAL, UNREADABLE = 590, 10
TOTAL = GOOD + DUPLICATE + MALFORMED + TOO_LARGE + DIGITAL + UNREADABLE
WORKERS = 2
SEED = 7


def play(stage: Stage) -> None:
    """Publish, restart the broker in the middle, follow four orders, and account for all."""
    OrdersThroughABroker(stage).play()


@dataclass
class Reached:
    """A broker that can be reached from here."""

    url: str
    authority: str  # file of certificates to trust; "" for the system's
    restart: Callable[[], object]
    problem: Callable[[], str]  # why RecordOrder's mapping does not work, as far as is known


class Program:
    """One of the pattern's programs in a process of its own, and what it has reported so far."""

    def __init__(self, name: str, environment: dict[str, str], feed: str | None = None) -> None:
        self.reports: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, PROGRAMS / name],
            env=os.environ | environment,
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.threads = [threading.Thread(target=self._read, daemon=True)]
        if feed:
            self.threads.append(threading.Thread(target=self._feed, args=(feed,), daemon=True))
        for thread in self.threads:
            thread.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.reports.append(json.loads(line))

    def _feed(self, feed: str) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(feed)
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended early; its exit code says so

    def told(self, key: str) -> list[dict[str, Any]]:
        """The reports that have this key."""
        return [report for report in list(self.reports) if key in report]

    def wait(self, seconds: float) -> int:
        """Its exit code, with all reports read."""
        code = self.process.wait(timeout=seconds)
        for thread in self.threads:
            thread.join(timeout=5)
        return code

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def parked(channel: BlockingChannel) -> Iterator[tuple[Any, Any]]:
    """What is in the dead-letter queue now: (delivery, properties) of each."""
    deliveries: Iterator[Any] = channel.consume("orders.dead", inactivity_timeout=1)
    for method, properties, _ in deliveries:
        if method is None:
            break
        yield method, properties
    channel.cancel()


class OrdersThroughABroker:
    """One run; all that it publishes carries its id, which tells it from other runs."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.out = stage, stage.outputs
        self.run = uuid.uuid4().hex[:8]
        self.dynamodb, self.lambda_ = stage.client("dynamodb"), stage.client("lambda")
        self.kinds: dict[str, str] = {}  # message id to what it is
        self.bodies: dict[str, str] = {}
        self.recorded = 0

    def play(self) -> None:
        """The whole story; ScenarioFailed as soon as it cannot end well."""
        stage = self.stage
        with ExitStack() as stack:
            self.reached = stack.enter_context(self.broker())
            stage.say(f"the broker answers at {self.reached.url}")
            environment = stack.enter_context(self.application())
            self.declare(environment)
            self.workers = [Program("worker.py", environment) for _ in range(WORKERS)]
            for worker in self.workers:
                stack.callback(worker.stop)
            self.clear_earlier_runs()
            notices = stack.enter_context(stage.listener(self.out["AlertsArn"]))
            self.publish(stack, environment)
            stage.watch(
                {
                    "fulfilled": GOOD,
                    "duplicates dropped": DUPLICATE,
                    "recorded": DIGITAL + UNREADABLE,
                    "dead-lettered": MALFORMED + TOO_LARGE,
                },
                self.count,
                seconds=600,
                why=self.what_failed,
            )
            self.stage.see_alarms(notices, "OrdersParked")
            dead = stage.until("all dead letters", self.dead_letters, seconds=60)
            waiting = {
                queue: self.depth(queue) for queue in ("orders.shipping", "orders.analytics")
            }
        self.follow(dead)
        self.account(dead, waiting)

    # ---- the broker and the programs

    @cached_property
    def login(self) -> dict[str, str]:
        """The user and password that the stack generated."""
        secret = self.stage.client("secretsmanager").get_secret_value(
            SecretId=self.out["PasswordArn"]
        )
        return json.loads(secret["SecretString"])

    @contextmanager
    def broker(self) -> Generator[Reached]:
        """The stack's broker; in the sandbox, which keeps no messages, a RabbitMQ of this machine.

        ScenarioCannotRun if this machine has none, or if the broker on AWS is out of reach.
        """
        if "SANDBOX_CLOCK" in os.environ:
            from sandbox import rabbitmq

            login = self.login
            try:
                with (
                    rabbitmq.running(login["username"], login["password"]) as real,
                    rabbitmq.mapped(real, self.out["OrdersToRecordId"]) as mapping,
                ):
                    yield Reached(
                        real.url, str(real.authority), real.restart, lambda: mapping.problem
                    )
            except rabbitmq.BrokerMissing as missing:
                raise ScenarioCannotRun(str(missing)) from None
            return
        where = urlsplit(self.out["BrokerUrl"])
        try:
            socket.create_connection((where.hostname, where.port), timeout=5).close()
        except OSError as error:
            raise ScenarioCannotRun(
                f"{where.hostname} cannot be reached ({error}): run this inside the VPC,"
                f" with the security group {self.out['ApplicationId']}"
            ) from None
        mq, broker = self.stage.client("mq"), self.out["BrokerId"]
        yield Reached(
            self.out["BrokerUrl"], "", lambda: mq.reboot_broker(BrokerId=broker), self.mapping_says
        )

    def mapping_says(self) -> str:
        """What Lambda says of RecordOrder's mapping."""
        mapping = self.lambda_.get_event_source_mapping(UUID=self.out["OrdersToRecordId"])
        return f"{mapping['State']}: {mapping.get('LastProcessingResult')}"

    @contextmanager
    def application(self) -> Generator[dict[str, str]]:
        """The programs' environment: they may do what ApplicationAccess says and nothing else."""
        iam, sts, name = self.stage.client("iam"), self.stage.client("sts"), f"scenario-{self.run}"
        caller = sts.get_caller_identity()
        everybody = f"arn:{caller['Arn'].split(':')[1]}:iam::{caller['Account']}:root"
        trust = {"Effect": "Allow", "Principal": {"AWS": everybody}, "Action": "sts:AssumeRole"}
        role = iam.create_role(
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        )["Role"]["Arn"]
        iam.attach_role_policy(RoleName=name, PolicyArn=self.out["ApplicationAccessArn"])

        def assumed() -> dict[str, Any] | None:
            try:  # on AWS a new role takes some seconds to be known everywhere
                return sts.assume_role(RoleArn=role, RoleSessionName="programs")["Credentials"]
            except ClientError:
                return None

        try:
            credentials = self.stage.until("a role for the programs", assumed, seconds=60)
            yield {
                "AWS_ACCESS_KEY_ID": credentials["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": credentials["SecretAccessKey"],
                "AWS_SESSION_TOKEN": credentials["SessionToken"],
                "BROKER_URL": self.reached.url,
                "BROKER_CA": self.reached.authority,
                "BROKER_SECRET": self.out["PasswordArn"],
                "BROKER_NAME": self.out["BrokerName"],
                "FULFILLED_ORDERS": self.out["FulfilledOrdersName"],
                "FIRST_WAIT": str(1 / self.stage.clock),
                "MEASURE_EVERY": str(max(2.0, 60 / self.stage.clock)),
            }
        finally:
            iam.detach_role_policy(RoleName=name, PolicyArn=self.out["ApplicationAccessArn"])
            iam.delete_role(RoleName=name)

    def declare(self, environment: dict[str, str]) -> None:
        """Declare the queues, and only then let RecordOrder's mapping poll one of them."""
        topology = Program("topology.py", environment)
        if topology.wait(self.stage.patience(60)):
            raise ScenarioFailed(f"topology.py could not declare the queues: {topology.reports}")
        self.lambda_.update_event_source_mapping(UUID=self.out["OrdersToRecordId"], Enabled=True)
        self.stage.until(
            "RecordOrder's mapping enabled",
            lambda: self.mapping_says().startswith("Enabled"),
            seconds=300,
        )
        self.stage.say("queues declared, and then RecordOrder's mapping enabled")

    @contextmanager
    def channel(self) -> Generator[BlockingChannel]:
        """A channel of our own; what it has taken and not acknowledged goes back at the end."""
        login, parameters = self.login, pika.URLParameters(f"{self.reached.url}/%2F")
        parameters.credentials = pika.PlainCredentials(login["username"], login["password"])
        parameters.ssl_options = pika.SSLOptions(
            ssl.create_default_context(cafile=self.reached.authority or None), parameters.host
        )
        with closing(pika.BlockingConnection(parameters)) as connection:
            yield connection.channel()

    def depth(self, queue: str) -> int:
        """Messages in a queue that wait for a consumer."""
        with self.channel() as channel:
            return channel.queue_declare(queue, passive=True).method.message_count or 0

    # ---- the orders

    def orders(self) -> Iterator[tuple[str, str, str]]:
        """(what it is, routing key, body) of every message, in a fixed shuffled order."""
        chance = random.Random(SEED)

        def order(number: int) -> dict[str, Any]:
            return {
                "order_id": f"{self.run}-{number:04}",
                "customer": f"customer-{chance.randrange(400):03}",
                "items": [{"sku": f"sku-{chance.randrange(900)}", "quantity": 1}],
            }

        good = [json.dumps(order(number)) for number in range(GOOD)]
        too_large = [
            json.dumps(order(9000 + number) | {"note": "x" * 420_000})
            for number in range(TOO_LARGE)
        ]  # a row in DynamoDB has at most 400 KB
        malformed = [
            "not JSON at all",
            "",
            json.dumps(order(9900) | {"items": []}),
            json.dumps(order(9900) | {"items": [{"sku": "sku-1", "quantity": "many"}]}),
            json.dumps({"customer": "ada", "items": [{"sku": "sku-1", "quantity": 1}]}),
        ]
        mixed = [
            *(("good", "parcel", body) for body in good),
            *(("duplicate", "parcel", body) for body in chance.sample(good, DUPLICATE)),
            *(("malformed", "parcel", malformed[n % len(malformed)]) for n in range(MALFORMED)),
            *(("too large", "parcel", body) for body in too_large),
            *(("digital", "digital", json.dumps(order(5000 + n))) for n in range(DIGITAL)),
            *(("unreadable", "digital", malformed[n % len(malformed)]) for n in range(UNREADABLE)),
        ]
        chance.shuffle(mixed)
        yield from mixed

    def publish(self, stack: ExitStack, environment: dict[str, str]) -> None:
        """Feed Publisher, restart the broker when half is confirmed, wait until all is."""
        lines, say = [], self.stage.say
        for number, (what, kind, body) in enumerate(self.orders()):
            message_id = f"scenario-{self.run}-{number:04}"
            self.kinds[message_id], self.bodies[message_id] = what, body
            lines.append(json.dumps({"id": message_id, "kind": kind, "body": body}))
        counted = Counter(self.kinds.values())
        say(f"publishing {TOTAL} orders: {', '.join(f'{n} {what}' for what, n in counted.items())}")
        self.publisher = Program("publisher.py", environment, feed="\n".join(lines) + "\n")
        stack.callback(self.publisher.stop)
        self.stage.until(
            "half of the orders confirmed",
            lambda: (
                len(self.publisher.reports) >= TOTAL / 2
                or self.publisher.process.poll() is not None
            ),
            seconds=600,
        )
        self.restarted = time.time()
        say(f"{len(self.publisher.told('confirmed'))} confirmed; the broker is restarted now")
        self.reached.restart()
        say(f"the broker was gone for up to {time.time() - self.restarted:.1f} s")
        code = self.publisher.wait(self.stage.patience(600))
        if code:
            raise ScenarioFailed(f"Publisher ended with {code}: {self.publisher.reports[-3:]}")
        confirmed = self.publisher.told("confirmed")
        say(f"Publisher is done: {len(confirmed)} confirmed", at=confirmed[-1]["at"])

    # ---- what has become of them

    def outcomes(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """What the Workers reported: outcome to message id to its reports."""
        found: dict[str, dict[str, list[dict[str, Any]]]] = {
            outcome: {} for outcome in ("fulfilled", "duplicate", "rejected", "failed")
        }
        for worker in self.workers:
            for report in worker.told("outcome"):
                if report["message_id"] in self.kinds:
                    found[report["outcome"]].setdefault(report["message_id"], []).append(report)
        return found

    def count(self) -> dict[str, int]:
        """What has become of this run's orders so far."""
        outcomes = self.outcomes()
        rejected, fulfilled = len(outcomes["rejected"]), len(outcomes["fulfilled"])
        if self.recorded < DIGITAL + UNREADABLE:
            found = self.rows("OrderRecordsName", "message_id", "scenario-", "message_id")
            self.recorded = len(found)
        return {
            "fulfilled": fulfilled,
            "duplicates dropped": len(outcomes["duplicate"]),
            "recorded": self.recorded,
            # A connection that is lost counts as a delivery, so a Worker need not see the last
            # one: the broker knows. It is asked when it has little else to do.
            "dead-lettered": self.depth("orders.dead") if fulfilled == GOOD else rejected,
        }

    def rows(self, table: str, key: str, prefix: str, *attributes: str) -> list[dict[str, str]]:
        """This run's rows of a table, by their key; all attributes if none are named."""
        names = {f"#{name}": name for name in {key, *attributes}}
        only = {"ProjectionExpression": ", ".join(f"#{name}" for name in attributes)}
        pages = self.dynamodb.get_paginator("scan").paginate(
            TableName=self.out[table],
            ConsistentRead=True,
            FilterExpression=f"begins_with(#{key}, :run)",
            ExpressionAttributeNames=names,
            ExpressionAttributeValues={":run": {"S": f"{prefix}{self.run}"}},
            **(only if attributes else {}),
        )
        return [
            {name: value["S"] for name, value in row.items()}
            for page in pages
            for row in page["Items"]
        ]

    def what_failed(self) -> str:
        """The distinct failures that the Workers reported, and what is known of the mapping."""
        failed = {
            report["reason"]
            for message_id, reports in self.outcomes()["failed"].items()
            for report in reports
            if self.kinds[message_id] != "too large"
        }
        states = [one.reports[-1] for one in self.workers if "error" in (one.reports or [{}])[-1]]
        return " ".join(
            filter(
                None,
                (
                    f"Workers reported: {' | '.join(sorted(failed)[:3])}." if failed else "",
                    f"Workers' last words: {states}." if states else "",
                    f"RecordOrder's mapping: {self.reached.problem()}",
                ),
            )
        )

    def clear_earlier_runs(self) -> None:
        """Take what earlier runs left out of the dead-letter queue, and wait until its alarm rests.

        Dead letters that no scenario published stay, and then the alarm cannot fire anew.
        """
        with self.channel() as channel:
            for method, properties in parked(channel):
                if not (properties.message_id or "").startswith("scenario-"):
                    raise ScenarioFailed(
                        "orders.dead holds messages that no scenario published: try another stack"
                    )
                channel.basic_ack(method.delivery_tag)
        self.stage.until("OrdersParked at rest", lambda: self.alarm() != "ALARM", seconds=300)

    def alarm(self) -> str:
        """The state of the alarm on the depth of the dead-letter queue."""
        return self.stage.alarm(self.out["BrokerName"], "DeadOrders", Queue="orders.dead")

    def dead_letters(self) -> dict[str, list[dict[str, Any]]] | None:
        """Message id to its copies in the dead-letter queue, each as the broker's record of death.

        They stay there. None as long as some are missing.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        with self.channel() as channel:
            for _, properties in parked(channel):
                if properties.message_id in self.kinds:
                    death = properties.headers["x-death"][0]
                    found.setdefault(properties.message_id, []).append(death)
        return found if len(found) >= MALFORMED + TOO_LARGE else None

    # ---- the end

    def follow(self, dead: dict[str, list[dict[str, Any]]]) -> None:
        """Four orders, hop by hop."""
        say, outcomes = self.stage.say, self.outcomes()
        confirmed = {report["confirmed"]: report for report in self.publisher.told("confirmed")}
        again = [one for one in confirmed.values() if one["attempts"] > 1]
        first = {what: next(m for m in self.kinds if self.kinds[m] == what) for what in
                 ("good", "digital", "malformed", "too large")}  # fmt: skip

        def begin(what: str) -> str:
            say(f"one {what} order, {first[what]}:", style="bold")
            say("  confirmed by the broker", at=confirmed[first[what]]["at"])
            return first[what]

        good = next(iter(outcomes["fulfilled"].get(begin("good"), [])), None)
        if good:
            say(f"  a Worker wrote its row at delivery {good['delivery']}", at=good["at"])
        entries = self.stage.logged(
            self.out["RecordOrderLogsName"], '"Recorded message"', since=self.stage.began - 5
        )
        message_id = begin("digital")
        for entry in (one for one in entries if one.get("message_id") == message_id):
            say("  RecordOrder wrote its row", at=entry["at"])
        for what in ("malformed", "too large"):
            message_id = begin(what)
            for outcome in ("rejected", "failed"):
                reports = outcomes[outcome].get(message_id, [])
                for report in sorted(reports, key=lambda report: report["at"]):
                    reason = report["reason"].partition(" operation: ")[2] or report["reason"]
                    say(f"  delivery {report['delivery']} {outcome}: {reason}", at=report["at"])
            death = dead[message_id][0]
            say(f"  in orders.dead, come from {death['queue']}: {death['reason']}")
        repeated = sum(len(reports) - 1 for reports in outcomes["fulfilled"].values())
        say(
            f"the restart cost: {len(again)} orders published again for want of a confirmation,"
            f" {repeated} delivered again after their row was written; no row was written twice"
        )

    def account(self, dead: dict[str, list[dict[str, Any]]], waiting: dict[str, int]) -> None:
        """Every confirmed message ended in exactly one place, and every order once."""
        out, stage = self.outcomes(), self.stage
        confirmations = Counter(report["confirmed"] for report in self.publisher.told("confirmed"))
        rows = self.rows("FulfilledOrdersName", "order_id", "")
        fulfilled = {row["message_id"] for row in rows}
        records = self.rows("OrderRecordsName", "message_id", "scenario-")
        recorded = {row["message_id"] for row in records}
        dropped = set(out["duplicate"]) - fulfilled
        places = (fulfilled, dropped, recorded, set(dead))
        contents = {row["order_id"]: json.loads(row["content"]) for row in rows}
        sent = {
            order["order_id"]: order
            for message_id, what in self.kinds.items()
            if what in ("good", "duplicate")
            for order in [json.loads(self.bodies[message_id])]
        }
        reasons = {m: {copy["reason"] for copy in copies} for m, copies in dead.items()}
        ours = {
            kind: {m for m, what in self.kinds.items() if what == kind}
            for kind in set(self.kinds.values())
        }
        lost = self.publisher.told("unconfirmed")
        times = [report["at"] for report in self.publisher.told("confirmed")]
        claims = {
            f"each of {TOTAL} orders was confirmed, and once": (
                confirmations == dict.fromkeys(self.kinds, 1)
            ),
            "Publisher lost the broker and went on": bool(lost)
            and min(times) < self.restarted < max(times),
            f"each of {GOOD} good parcels has exactly one row, as it was sent": (
                len(rows) == GOOD and contents == sent
            ),
            f"each of {DIGITAL} digital orders is recorded once, and {UNREADABLE} with a problem": (
                recorded == ours["digital"] | ours["unreadable"]
                and {row["message_id"] for row in records if "problem" in row} == ours["unreadable"]
            ),
            "no order ended in two places": (sum(map(len, places)) == len(set().union(*places))),
            "malformed orders are dead letters because a Worker rejected them": (
                {m for m in reasons if reasons[m] == {"rejected"}} == ours["malformed"]
            ),
            "too large ones because of the delivery limit": (
                {m for m in reasons if reasons[m] == {"delivery_limit"}} == ours["too large"]
            ),
            "no queue but orders.dead holds an order": not any(waiting.values()),
        }
        broken = stage.judge(claims)
        stage.balance(
            "confirmed",
            len(confirmations),
            {
                "fulfilled": len(fulfilled),
                "duplicates dropped": len(dropped),
                "recorded": len(recorded),
                "dead-lettered": len(dead),
            },
        )
        if broken:
            raise ScenarioFailed(f"not so: {'; '.join(broken)}. {self.what_failed()}")
