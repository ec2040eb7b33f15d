"""Orders published with confirms while the broker is restarted: every one must end somewhere.

On AWS this needs a way into the VPC, since nothing outside reaches the broker, and one to AWS's
endpoints, most of which the VPC has not: a Client VPN with a split tunnel is both.
"""

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
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from sandbox import amazonmq
from scenarios.roles import denied, keys, role_with
from scenarios.stage import ScenarioCannotRun, ScenarioFailed, Stage

PROGRAMS = Path(__file__).parent.parent / "workers" / "mq_broker"
GOOD, DUPLICATE, MALFORMED, TOO_LARGE = 4240, 100, 56, 4  # parcels
DIGITAL, UNREADABLE = 590, 10
TOTAL = GOOD + DUPLICATE + MALFORMED + TOO_LARGE + DIGITAL + UNREADABLE
WORKERS = 2
RESTARTS = 6  # of Workers, while the table refuses every row
ATTEMPTS = 6  # of a Worker at an order that fails for a reason of its own
SEED = 7


missing = amazonmq.missing  # asked before this pattern is deployed to the sandbox


def play(stage: Stage) -> None:
    """Publish, restart the broker in the middle, follow four orders, and account for all."""
    OrdersThroughABroker(stage).play()


class Program:
    """One of the pattern's programs in a process of its own, and what it has reported so far."""

    def __init__(
        self, name: str, environment: dict[str, str], feed: Iterable[str] | None = None
    ) -> None:
        self.reports: list[dict[str, Any]] = []
        self.name, self.wanted = name, True
        self.process = subprocess.Popen(
            [sys.executable, PROGRAMS / name],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL if feed is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.threads = [threading.Thread(target=self._read, daemon=True)]
        if feed is not None:
            self.threads.append(threading.Thread(target=self._feed, args=(feed,), daemon=True))
        for thread in self.threads:
            thread.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.reports.append(json.loads(line))

    def _feed(self, feed: Iterable[str]) -> None:
        assert self.process.stdin
        try:
            for line in feed:
                self.process.stdin.write(line)
                self.process.stdin.flush()
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended early; its exit code says so

    def told(self, key: str) -> list[dict[str, Any]]:
        """The reports that have this key."""
        return [report for report in list(self.reports) if key in report]

    def trouble(self) -> str:
        """That it has failed or was killed, unless we did it."""
        code = self.process.poll()
        return f"{self.name} has ended with {code}." if code and self.wanted else ""

    def wait(self, seconds: float) -> int:
        """Its exit code, with all reports read."""
        code = self.process.wait(timeout=seconds)
        for thread in self.threads:
            thread.join(timeout=5)
        return code

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        self.wanted = False
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
        self.mq = stage.client("mq")
        # In the sandbox, who vouches for AWS vouches for the broker, too.
        self.authority = os.environ.get("AWS_CA_BUNDLE", "")
        self.kinds: dict[str, str] = {}  # message id to what it is
        self.bodies: dict[str, str] = {}
        self.recorded = 0

    def play(self) -> None:
        """The whole story; ScenarioFailed as soon as it cannot end well."""
        stage = self.stage
        with ExitStack() as stack:
            self.reach()
            stage.say(f"the broker answers at {self.out['BrokerUrl']}")
            application = stack.enter_context(self.application())
            environment = self.environment(application)
            self.declare()
            self.workers = [Program("worker.py", environment) for _ in range(WORKERS)]
            stack.callback(lambda: [worker.stop() for worker in self.workers])
            stage.guards.append(lambda: " ".join(filter(None, map(Program.trouble, self.workers))))
            self.clear_earlier_runs()
            notices = stack.enter_context(stage.listener(self.out["AlertsArn"]))
            self.publish(stack, environment, application)
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

    def reach(self) -> None:
        """Wait until the broker is there; ScenarioCannotRun if it is out of reach from here."""
        self.stage.until("the broker running", self.runs, seconds=1800)
        where = urlsplit(self.out["BrokerUrl"])
        try:
            socket.create_connection((where.hostname, where.port), timeout=5).close()
        except OSError as error:
            raise ScenarioCannotRun(
                f"{where.hostname} cannot be reached ({error}): this needs a way into the VPC,"
                f" such as a Client VPN with the security group {self.out['ApplicationId']}"
            ) from None

    def runs(self) -> bool:
        """Whether the broker is up, and not in the middle of a reboot."""
        state = self.mq.describe_broker(BrokerId=self.out["BrokerId"])["BrokerState"]
        if state == "CREATION_FAILED":
            raise ScenarioFailed("the broker could not be made")
        return state == "RUNNING"

    def mapping_says(self) -> str:
        """What Lambda says of RecordOrder's mapping."""
        mapping = self.lambda_.get_event_source_mapping(UUID=self.out["OrdersToRecordId"])
        return f"{mapping['State']}: {mapping.get('LastProcessingResult')}"

    def application(self) -> AbstractContextManager[boto3.Session]:
        """A role that may do what ApplicationAccess says and nothing else."""
        return role_with(
            self.stage,
            lambda own: own.client("secretsmanager").get_secret_value(
                SecretId=self.out["PasswordArn"]
            ),
            managed=self.out["ApplicationAccessArn"],
        )

    def environment(self, role: boto3.Session) -> dict[str, str]:
        """The programs' environment."""
        return keys(role) | {
            "BROKER_URL": self.out["BrokerUrl"],
            "BROKER_CA": self.authority,
            "BROKER_SECRET": self.out["PasswordArn"],
            "BROKER_NAME": self.out["BrokerName"],
            "FULFILLED_ORDERS": self.out["FulfilledOrdersName"],
            "FIRST_WAIT": str(1 / self.stage.clock),
            "MEASURE_EVERY": str(max(2.0, 60 / self.stage.clock)),
        }

    def declare(self) -> None:
        """Declare the queues, and only then let RecordOrder's mapping poll one of them."""
        answer = self.lambda_.invoke(FunctionName=self.out["DeclareQueuesName"])
        said = answer["Payload"].read().decode()
        if "FunctionError" in answer:
            raise ScenarioFailed(f"DeclareQueues could not declare the queues: {said}")
        self.stage.say(f"DeclareQueues: {said}")
        self.lambda_.update_event_source_mapping(UUID=self.out["OrdersToRecordId"], Enabled=True)
        self.stage.until(
            "RecordOrder's mapping enabled",
            lambda: self.mapping_says().startswith("Enabled"),
            seconds=300,
        )
        self.stage.say("queues declared, and then RecordOrder's mapping enabled")

    @contextmanager
    def channel(self) -> Generator[BlockingChannel]:
        """A channel of our own; what it has taken and not acknowledged goes back at the end.

        AMQPError while the node that it would lead to restarts.
        """
        login, parameters = self.login, pika.URLParameters(f"{self.out['BrokerUrl']}/%2F")
        parameters.credentials = pika.PlainCredentials(login["username"], login["password"])
        parameters.ssl_options = pika.SSLOptions(
            ssl.create_default_context(cafile=self.authority or None), parameters.host
        )
        with closing(pika.BlockingConnection(parameters)) as connection:
            yield connection.channel()

    def depth(self, queue: str) -> int:
        """Messages in a queue that wait for a consumer; asked until a node answers."""

        def asked() -> list[int]:
            try:
                with self.channel() as channel:
                    return [channel.queue_declare(queue, passive=True).method.message_count or 0]
            except (AMQPError, OSError):
                return []  # its node is being restarted

        (count,) = self.stage.until(f"the depth of {queue}", asked, seconds=300)
        return count

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

    def publish(
        self, stack: ExitStack, environment: dict[str, str], application: boto3.Session
    ) -> None:
        """Feed Publisher, trouble the Workers, and restart the broker when half is confirmed."""
        lines, say = [], self.stage.say
        for number, (what, kind, body) in enumerate(self.orders()):
            message_id = f"scenario-{self.run}-{number:04}"
            self.kinds[message_id], self.bodies[message_id] = what, body
            lines.append(json.dumps({"id": message_id, "kind": kind, "body": body}) + "\n")
        counted = Counter(self.kinds.values())
        say(f"publishing {TOTAL} orders: {', '.join(f'{n} {what}' for what, n in counted.items())}")
        self.publisher = Program("publisher.py", environment, feed=self.fed(lines))
        stack.callback(self.publisher.stop)
        self.stage.guards.append(self.publisher.trouble)
        self.published("some orders confirmed", TOTAL // 10)
        self.trouble(environment, application)
        self.published("half of the orders confirmed", TOTAL // 2)
        self.restarted = time.time()
        say(f"{TOTAL // 2} confirmed; the broker is rebooted now")
        self.mq.reboot_broker(BrokerId=self.out["BrokerId"])
        self.published("the rest confirmed", TOTAL)
        code = self.publisher.wait(self.stage.patience(600))
        if code:
            raise ScenarioFailed(f"Publisher ended with {code}: {self.publisher.reports[-3:]}")
        confirmed = self.publisher.told("confirmed")
        say(f"Publisher is done: {len(confirmed)} confirmed", at=confirmed[-1]["at"])
        self.stage.until("the broker running again", self.runs, seconds=1800)

    def trouble(self, environment: dict[str, str], application: boto3.Session) -> None:
        """Let the table refuse every row, and stop or kill Workers meanwhile, one after the other.

        Each gives back what it has in hand, and the next one takes the same orders.
        """
        began = time.time()
        role = application.client("sts").get_caller_identity()["Arn"].split("/")[1]
        with denied(self.stage, role, "dynamodb:PutItem", "*"):
            for number in range(RESTARTS):
                worker = self.workers[-1]
                self.stage.until(
                    "a Worker waiting for the table",
                    lambda w=worker: [
                        one for one in w.told("state") if one["state"] == "waiting for AWS"
                    ],
                    seconds=120,
                )
                if number % 2:
                    worker.wanted = False
                    worker.process.kill()
                worker.stop()
                self.workers.append(Program("worker.py", environment))
            waiting = self.depth("orders.shipping")
        self.refused = time.time() - began
        self.stage.say(
            f"the table refused every row for {self.refused:.0f} s; meanwhile {RESTARTS} Workers"
            f" were stopped or killed one by one, and as many started; {waiting} orders wait"
        )

    def fed(self, lines: list[str]) -> Iterator[str]:
        """The orders, half of them at once; the others slowly until Publisher lost the broker.

        A reboot begins some time after it was asked for, and goes node by node: on AWS there are
        orders for 25 minutes.
        """
        yield from lines[: len(lines) // 2]
        for line in lines[len(lines) // 2 :]:
            if not self.publisher.told("unconfirmed"):
                time.sleep(self.stage.pause / 5)
            yield line

    def published(self, what: str, count: int) -> None:
        """Wait until so many orders are confirmed, or Publisher has ended."""
        self.stage.until(
            what,
            lambda: (
                len(self.publisher.told("confirmed")) >= count
                or self.publisher.process.poll() is not None
            ),
            seconds=1800,
        )

    # ---- what has become of them

    def outcomes(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """What the Workers reported: outcome to message id to its reports."""
        found: dict[str, dict[str, list[dict[str, Any]]]] = {
            outcome: {}
            for outcome in ("fulfilled", "duplicate", "rejected", "failed", "given back")
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
            # The report of a Worker that was killed may be lost: the broker knows. It is asked when
            # it has little else to do.
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
                    f"RecordOrder's mapping: {self.mapping_says()}",
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
                    say(f"  attempt {report['attempt']} {outcome}: {reason}", at=report["at"])
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
        failed = self.outcomes()["failed"]
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
            "only malformed and too large orders are dead letters, by a Worker's word": (
                reasons.keys() == ours["malformed"] | ours["too large"]
                and all(why == {"rejected"} for why in reasons.values())
            ),
            "a too large one was tried six times": all(
                max(report["attempt"] for report in failed[message]) == ATTEMPTS
                for message in ours["too large"]
            ),
            f"no other order failed by {RESTARTS} restarts of Workers, the broker's, or the"
            f" {self.refused:.0f} s in which the table refused every row": (
                failed.keys() == ours["too large"]
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
