"""Orders from 1 KB to 5 MB, claims that come again, and claims that must not be redeemed."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from botocore.exceptions import ClientError

from scenarios.roles import assume
from scenarios.stage import ScenarioFailed, Stage
from workers.sqs_claim_check.sender import LIMIT, SIZE, Claim, Sender, Sent, size

SEED = 7
IN_WORK = "its claim is in work"
BOMB = 64 * 1024 * 1024  # bytes that a claim does not announce


@dataclass
class Order:
    """One order that was sent: what should become of it, and what SQS and the bucket know it by."""

    name: str
    outcome: str  # "fulfilled", "dropped" or "parked"
    order_id: str
    text: str
    sent: Sent
    at: float
    reason: str = ""  # a part of it, if the order should be parked


# Commands for a deployed stack, with its outputs in them: `make show`.
SEND = {
    "send a small order": (
        'aws sqs send-message --queue-url \'$OrdersUrl\' --message-body \'{"order_id": "try-1", '
        '"customer": "ada", "items": [{"sku": "tea", "quantity": 2}]}\''
    ),
}


def play(stage: Stage) -> None:
    """Send the orders, follow two of them, and account for all."""
    ClaimsAtTheCounter(stage).play()


class ClaimsAtTheCounter:
    """One run; all that it sends carries its id, which tells it from other runs on the stack."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.out = stage, stage.outputs
        self.run = uuid.uuid4().hex[:8]
        self.attributes = {"scenario": {"DataType": "String", "StringValue": self.run}}
        self.chance = random.Random(SEED)
        self.sqs, self.s3, self.dynamodb = map(stage.client, ("sqs", "s3", "dynamodb"))
        self.bucket = self.out["LargeOrdersName"]
        settings = self.sqs.get_queue_attributes(
            QueueUrl=self.out["OrdersUrl"], AttributeNames=["VisibilityTimeout", "RedrivePolicy"]
        )["Attributes"]
        self.receives = int(json.loads(settings["RedrivePolicy"])["maxReceiveCount"])
        self.visibility_timeout = int(settings["VisibilityTimeout"])
        self.stored: list[str] = []  # keys of all objects of this run
        self.orders: list[Order] = []

    def play(self) -> None:
        """The whole story; ScenarioFailed as soon as it cannot end well."""
        stage = self.stage
        stage.say(
            f"an order may fail {self.receives} times, {self.visibility_timeout} s apart"
            + (f"; SQS time runs {stage.clock:g} times faster here" if stage.clock > 1 else "")
        )
        self.become_buying()
        self.clear_earlier_runs()
        try:
            with stage.listener(self.out["AlertsArn"]) as notices:
                with self.as_buying():
                    self.send_good()
                    self.watch("fulfilled", "objects deleted")
                    self.send_duplicates()
                    self.send_poison()
                self.watch("fulfilled", "objects deleted", "dropped", "poison receives", "parked")
                self.stage.see_alarms(notices, "OrdersParked")
            parked = self.parked()
            self.follow(parked)
            self.account(parked)
        finally:
            for key in self.objects():
                self.s3.delete_object(Bucket=self.bucket, Key=key)

    def become_buying(self) -> None:
        """Senders with the role Buying, which may do no more than they need."""
        greeting = {"Bucket": self.bucket, "Key": f"orders/scenario-{self.run}"}
        session = assume(
            self.stage,
            self.out["BuyingArn"],
            lambda buying: buying.client("s3").put_object(**greeting),
        )
        self.s3.delete_object(**greeting)
        self.buying = {name: session.client(name) for name in ("sqs", "s3")}
        self.sender = Sender(self.out["OrdersUrl"], self.bucket, **self.buying)
        self.plain = Sender(self.out["OrdersUrl"], self.bucket, compress=False, **self.buying)
        self.always = Sender(self.out["OrdersUrl"], self.bucket, threshold=0, **self.buying)

    @contextmanager
    def as_buying(self) -> Generator[None]:
        """What AWS refuses in the block fails the scenario with what AWS said."""
        try:
            yield
        except ClientError as error:
            raise ScenarioFailed(f"Buying could not send an order: {error}") from None

    # ---- what is sent

    def text(self, order_id: str, wanted: int) -> str:
        """An order of exactly so many bytes, as JSON; each line for another article."""
        order: dict[str, Any] = {"order_id": order_id, "customer": "ada", "items": []}
        item = {"sku": "sku-" + "0" * 12, "quantity": 3}
        room = (wanted - len(json.dumps(order))) // (len(json.dumps(item)) + len(", "))
        order["items"] = [
            {**item, "sku": f"sku-{self.chance.randrange(10**12):012}"} for _ in range(room)
        ]
        return json.dumps(order).ljust(wanted)

    def note(self, name: str, outcome: str, text: str, sent: Sent, reason: str = "") -> None:
        """Remember one order that was sent."""
        order_id = json.loads(text)["order_id"]
        if sent.claim:
            self.stored.append(sent.claim.key)
        self.orders.append(Order(name, outcome, order_id, text, sent, time.time(), reason))

    def send_good(self) -> None:
        """Orders of several sizes, the first three without the bucket."""
        limit = LIMIT - size("", self.attributes)  # what SQS leaves for the body
        for name, wanted, sender in (
            ("1 KB", 1_000, self.sender),
            ("900 KB", 900_000, self.sender),
            ("1 MiB to the byte", limit, self.sender),
            ("a byte more", limit + 1, self.sender),
            ("5 MB", 5_000_000, self.sender),
            ("2 MB, not compressed", 2_000_000, self.plain),
        ):
            text = self.text(f"{self.run}-{name}", wanted)
            self.note(name, "fulfilled", text, sender.send(text, self.attributes))
            if len(self.orders) == 1:
                self.watch("fulfilled")  # one cold start, not six at once
        claims = [order.sent.claim for order in self.expected("fulfilled")]
        self.stage.say(
            f"sent {len(claims)} good orders as the role Buying: {claims.count(None)} in the"
            f" message, {len(claims) - claims.count(None)} by way of the bucket"
        )

    def send_poison(self) -> None:
        """Claims that must not be redeemed, each for a reason of its own."""
        other = f"{self.bucket}-elsewhere"
        for name, reason, send in (
            ("missing object", "the object is not there", self.missing),
            ("tampered object", "the object's SHA-256 is not its claim's", self.tampered),
            ("another's bucket", "the claim names another bucket", self.claim(bucket=other)),
            ("a bomb", "the order is not of the size that its claim says", self.bomb),
            ("without a hash", "the claim is malformed: sha256", self.without_hash),
        ):
            text = self.text(f"{self.run}-{name}", 100_000)
            self.note(name, "parked", text, send(text), reason)
        names = ", ".join(order.name for order in self.expected("parked"))
        self.stage.say(f"sent {len(self.expected('parked'))} bad claims: {names}")

    def claim(self, **changed: Any) -> Callable[[str], Sent]:
        """A way to store an order and send a claim that differs from the right one."""
        return lambda text: self.sender.send_claim(
            replace(self.sender.store(text), **changed), self.attributes
        )

    def missing(self, text: str) -> Sent:
        """Delete the object before its claim is sent."""
        claim = self.sender.store(text)
        self.s3.delete_object(Bucket=self.bucket, Key=claim.key)
        return self.sender.send_claim(claim, self.attributes)

    def tampered(self, text: str) -> Sent:
        """Put an order for ten times as much in the object's place, as Buying could."""
        claim = self.sender.store(text)
        more = text.replace('"quantity": 3', '"quantity": 30', 1).encode()
        self.buying["s3"].put_object(Bucket=self.bucket, Key=claim.key, Body=gzip.compress(more))
        return self.sender.send_claim(claim, self.attributes)

    def bomb(self, text: str) -> Sent:
        """Store what unpacks to a thousand times the size that the claim says."""
        data = gzip.compress(text.encode() + bytes(BOMB), mtime=0)
        claim = replace(
            self.sender.store(text), size=len(data), sha256=hashlib.sha256(data).hexdigest()
        )
        self.buying["s3"].put_object(Bucket=self.bucket, Key=claim.key, Body=data)
        return self.sender.send_claim(claim, self.attributes)

    def without_hash(self, text: str) -> Sent:
        """Send what AWS's extended clients send: the pointer and the size."""
        claim = self.plain.store(text)
        answer = self.buying["sqs"].send_message(
            QueueUrl=self.out["OrdersUrl"],
            MessageBody=claim.body(),
            MessageAttributes={**self.attributes, SIZE: claim.attributes()[SIZE]},
        )
        return Sent(answer["MessageId"], claim)

    def send_duplicates(self) -> None:
        """A claim whose object is gone, and an order of the queue by way of the bucket."""
        of = {order.name: order for order in self.orders}
        again = of["5 MB"].sent.claim
        assert again
        sent = self.sender.send_claim(again, self.attributes)
        self.note("5 MB, its claim again", "dropped", of["5 MB"].text, sent)
        text = of["1 KB"].text
        self.note(
            "1 KB, again as a claim", "dropped", text, self.always.send(text, self.attributes)
        )
        self.stage.say(
            "sent two orders again: the 5 MB one by its claim, whose object is gone, and the 1 KB"
            " one by way of the bucket"
        )

    # ---- what became of it

    def expected(self, outcome: str) -> list[Order]:
        """The orders that should end so."""
        return [order for order in self.orders if order.outcome == outcome]

    def messages(self, outcome: str) -> set[str]:
        """The ids of the messages that should end so."""
        return {order.sent.message_id for order in self.expected(outcome)}

    def redeemed(self) -> set[str]:
        """The keys of the objects that should be gone, since their orders are done."""
        done = self.expected("fulfilled") + self.expected("dropped")
        return {order.sent.claim.key for order in done if order.sent.claim}

    def watch(self, *goals: str) -> None:
        """Wait until these counts are what they should be at the end."""
        wanted = {
            "fulfilled": len(self.expected("fulfilled")),
            "objects deleted": len(self.redeemed()),
            "dropped": len(self.expected("dropped")),
            "poison receives": len(self.expected("parked")) * self.receives,
            "parked": len(self.expected("parked")),
        }
        self.stage.watch(
            {goal: wanted[goal] for goal in goals},
            lambda: {goal: self.count()[goal] for goal in goals},
            seconds=self.visibility_timeout * (self.receives + 1),
            why=self.what_failed,
        )

    def count(self) -> dict[str, int]:
        """What has become of this run's messages so far."""
        return {
            "fulfilled": len(self.rows()),
            "objects deleted": len(self.redeemed() - self.objects()),
            "dropped": len(self.log("Dropped duplicate order")),
            "poison receives": sum(map(len, self.poison_receives().values())),
            "parked": self.stage.depth(self.out["FailedOrdersUrl"]),
        }

    def rows(self) -> dict[str, dict[str, Any]]:
        """This run's rows in FulfilledOrders by order id."""
        pages = self.dynamodb.get_paginator("scan").paginate(
            TableName=self.out["FulfilledOrdersName"],
            ConsistentRead=True,
            FilterExpression="begins_with(order_id, :run)",
            ExpressionAttributeValues={":run": {"S": self.run}},
        )
        return {row["order_id"]["S"]: row for page in pages for row in page["Items"]}

    def objects(self) -> set[str]:
        """The keys of this run's objects that are in the bucket."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = {one["Key"] for page in pages for one in page.get("Contents", [])}
        return keys & set(self.stored)

    def log(self, text: str) -> list[dict[str, Any]]:
        """What FulfilOrder logged with this text about this run's messages."""
        entries = self.stage.logged(
            self.out["FulfilOrderLogsName"], f'"{text}"', since=self.stage.began - 5
        )
        sent = {order.sent.message_id for order in self.orders}
        return [
            entry
            for entry in entries
            if entry["message"] == text and entry.get("message_id") in sent
        ]

    def what_failed(self) -> str:
        """The distinct errors that FulfilOrder logged, for a scenario that ends badly."""
        good = self.messages("fulfilled") | self.messages("dropped")
        errors = {
            f"{entry.get('exception_name')}: {str(entry.get('exception')).splitlines()[-1]}"
            for entry in self.log("Order failed")
        } | {
            f"{entry['message']}: {entry['reason']}"
            for text in ("Left object to the lifecycle", "Rejected order")
            for entry in self.log(text)
            if entry["message_id"] in good
        }
        return "FulfilOrder logged: " + " | ".join(sorted(errors)[:3]) if errors else ""

    def parked(self) -> dict[str, dict[str, Any]]:
        """This run's messages in FailedOrders by message id; they stay there."""
        found: dict[str, dict[str, Any]] = {}
        wanted = len(self.expected("parked"))

        def all_found() -> bool:
            for message in self.receive_failed():
                if message["MessageAttributes"]["scenario"]["StringValue"] == self.run:
                    found.setdefault(message["MessageId"], message)
            return len(found) >= wanted

        self.stage.until(f"{wanted} orders in FailedOrders", all_found, seconds=60)
        return found

    def receive_failed(self) -> list[dict[str, Any]]:
        """Up to ten messages of FailedOrders, which come back after half a minute."""
        messages = self.sqs.receive_message(
            QueueUrl=self.out["FailedOrdersUrl"],
            MaxNumberOfMessages=10,
            VisibilityTimeout=30,
            WaitTimeSeconds=1,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        for message in messages:
            if "scenario" not in message.get("MessageAttributes", {}):
                raise ScenarioFailed(
                    "FailedOrders holds messages that no scenario sent: try another stack"
                )
        return messages

    def clear_earlier_runs(self) -> None:
        """Take what earlier runs parked out of FailedOrders, and wait until its alarm rests.

        Messages that no scenario sent stay, and then the alarm cannot fire anew: ScenarioFailed.
        """
        before = self.stage.depth(self.out["FailedOrdersUrl"])
        while before and (messages := self.receive_failed()):
            for message in messages:
                self.sqs.delete_message(
                    QueueUrl=self.out["FailedOrdersUrl"], ReceiptHandle=message["ReceiptHandle"]
                )
        if before:
            self.stage.say(f"removed {before} orders that an earlier run had parked")
        self.stage.until_at_rest("FailedOrdersUrl")

    def poison_receives(self) -> dict[str, dict[int, str]]:
        """Message id to receive number to what FulfilOrder said of that receive.

        On a busy machine a message may come back while its claim is still in work: it says so.
        """
        found: dict[str, dict[int, str]] = defaultdict(dict)
        for entry in self.log("Rejected order"):
            found[entry["message_id"]][entry["receive_count"]] = entry["reason"]
        for entry in self.log("Claim is in work elsewhere"):
            if entry["message_id"] in self.messages("parked"):
                found[entry["message_id"]].setdefault(entry["receive_count"], IN_WORK)
        return found

    def follow(self, parked: dict[str, dict[str, Any]]) -> None:
        """The 5 MB order and the tampered one hop by hop, and why each of the others was parked."""
        say = self.stage.say
        of = {order.name: order for order in self.orders}
        large = of["5 MB"]
        assert large.sent.claim
        (entry,) = [
            entry
            for entry in self.log("Fulfilled order")
            if entry["message_id"] == large.sent.message_id
        ]
        say("the 5 MB order:", style="bold")
        say(f"  sent as message {large.sent.message_id}, {self.in_words(large)}", at=large.at)
        say(f"  FulfilOrder fetched it and wrote its row, {entry['size']} bytes", at=entry["at"])
        say(f"  and deleted {large.sent.claim.key}")

        tampered = of["tampered object"]
        say("the tampered order:", style="bold")
        say(f"  sent as message {tampered.sent.message_id}", at=tampered.at)
        for entry in self.log("Rejected order"):
            if entry["message_id"] == tampered.sent.message_id:
                receive = f"receive {entry['receive_count']}"
                say(f"  {receive} rejected: {entry['reason']}", at=entry["at"])
        source = parked[tampered.sent.message_id]["Attributes"]["DeadLetterQueueSourceArn"]
        say(f"  found in FailedOrders, come from {source.split(':')[-1]}")
        say("all that is in FailedOrders, and why:", style="bold")
        for order in self.expected("parked"):
            say(f"  {order.name}: {' | '.join(sorted(self.told(order)))}")

    def told(self, order: Order) -> set[str]:
        """The reasons that FulfilOrder gave for rejecting an order."""
        return set(self.poison_receives()[order.sent.message_id].values()) - {IN_WORK}

    def in_words(self, order: Order) -> str:
        """How large an order, its message and its object are."""
        claim = order.sent.claim
        assert claim
        message = size(claim.body(), {**self.attributes, **claim.attributes()})
        return f"{claim.size} bytes {claim.encoding} in the bucket and {message} in the queue"

    def account(self, parked: dict[str, dict[str, Any]]) -> None:
        """Every message that was sent ended in exactly one place, and every order once."""
        rows, objects, receives = self.rows(), self.objects(), self.poison_receives()
        by_message = {row["message_id"]["S"] for row in rows.values()}
        dropped = {entry["message_id"] for entry in self.log("Dropped duplicate order")}
        good, bad = self.expected("fulfilled"), self.expected("parked")
        in_message = [order.name for order in good if not order.sent.claim]
        claims = {
            f"each of {len(good)} good orders has one row, with all its lines and its hash": (
                set(rows) == {order.order_id for order in good}
                and all(self.matches(rows[order.order_id], order) for order in good)
            ),
            f"without the bucket went: {', '.join(in_message)}": (
                in_message == ["1 KB", "900 KB", "1 MiB to the byte"]
            ),
            "no message ended in two places": not (
                by_message & dropped or by_message & set(parked) or dropped & set(parked)
            ),
            "the two that came again were dropped": dropped == self.messages("dropped"),
            "only bad claims are parked, as they were sent": (
                set(parked) == self.messages("parked")
                and all(self.as_sent(parked[one.sent.message_id], one) for one in bad)
            ),
            f"each was received exactly {self.receives} times": all(
                set(receives[one.sent.message_id]) == set(range(1, self.receives + 1))
                for one in bad
            ),
            "each has one reason, and the right one": all(
                [reason[: len(one.reason)] for reason in self.told(one)] == [one.reason]
                for one in bad
            ),
            "objects of fulfilled orders are gone, those of parked ones stay": (
                objects
                == {
                    order.sent.claim.key
                    for order in bad
                    if order.sent.claim and order.name != "missing object"
                }
            ),
            "Buying may not read what it stored": self.buying_may_not_read(bad[1].sent.claim),
            "Orders is empty": self.stage.depth(self.out["OrdersUrl"]) == 0,
        }
        broken = self.stage.judge(claims)
        self.stage.balance(
            "sent",
            len(self.orders),
            {
                "fulfilled": len(by_message),
                "parked": len(parked),
                "duplicates dropped": len(dropped),
            },
        )
        if broken:
            raise ScenarioFailed(f"not so: {'; '.join(broken)}. {self.what_failed()}")

    def matches(self, row: dict[str, Any], order: Order) -> bool:
        """Whether a row was made of the whole order, letter by letter."""
        items = json.loads(order.text)["items"]
        return (
            row["sha256"]["S"] == hashlib.sha256(order.text.encode()).hexdigest()
            and int(row["lines"]["N"]) == len(items)
            and int(row["units"]["N"]) == sum(item["quantity"] for item in items)
        )

    def as_sent(self, message: dict[str, Any], order: Order) -> bool:
        """Whether a parked message is the one that was sent."""
        claim = order.sent.claim
        sent_size = message["MessageAttributes"][SIZE]["StringValue"]
        return bool(claim) and (message["Body"], sent_size) == (claim.body(), str(claim.size))

    def buying_may_not_read(self, claim: Claim | None) -> bool:
        """Whether the senders' role is refused an object that is there."""
        assert claim
        try:
            self.buying["s3"].get_object(Bucket=self.bucket, Key=claim.key)
        except ClientError as error:
            return error.response["Error"]["Code"] == "AccessDenied"
        return False
