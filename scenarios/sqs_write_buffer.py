"""A burst of 2,000 posts while nothing can be written: what got a 202 is a row, the rest is not."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any

import boto3
from botocore.credentials import Credentials

from scenarios.api import Api
from scenarios.roles import assume, denied
from scenarios.stage import ScenarioFailed, Stage

ORDERS, REPEATS = 1950, 50
AT_ONCE = 16  # connections
WINDOW = 5  # seconds over which the rate is measured: a call writes 25 rows at one moment
SEED = 7


def play(stage: Stage) -> None:
    """Post the orders, follow some of them, and account for all."""
    BurstOfPosts(stage).play()


class BurstOfPosts:
    """One run; every id and text that it sends holds its own id, which tells it from other runs."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.out = stage, stage.outputs
        self.run = f"scenario-{uuid.uuid4().hex[:8]}"
        self.sqs, self.dynamodb = stage.client("sqs"), stage.client("dynamodb")
        self.api = Api(self.out["ApiUrl"], self.sqs.meta.region_name)
        self.buying = self.assume_buying()
        self.rate = self.most_writes()
        settings = self.sqs.get_queue_attributes(
            QueueUrl=self.out["OrdersUrl"], AttributeNames=["VisibilityTimeout", "RedrivePolicy"]
        )["Attributes"]
        self.receives = int(json.loads(settings["RedrivePolicy"])["maxReceiveCount"])
        self.visibility_timeout = int(settings["VisibilityTimeout"])
        self.accepted: dict[str, tuple[str, float]] = {}  # message id to (order id, Unix time)
        self.refused: list[tuple[int, str]] = []  # (HTTP status, order id)
        self.poison: set[str] = set()  # message ids
        self.sent_again = 0  # posts that were throttled
        self.mended = 0.0  # Unix time from which writing is allowed again
        self.lock = threading.Lock()

    def play(self) -> None:
        """The whole story; ScenarioFailed as soon as it cannot end well."""
        stage = self.stage
        stage.say(
            f"WrittenOrders takes {self.rate} write units a second"
            + (f"; SQS time runs {stage.clock:g} times faster here" if stage.clock > 1 else "")
        )
        self.clear_earlier_runs()
        with stage.listener(self.out["AlertsArn"]) as notices:
            self.send_poison()
            self.post_what_is_refused()
            self.post_orders()
            stage.watch(
                {"written": ORDERS, "parked": len(self.poison)},
                self.count,
                seconds=self.visibility_timeout * (self.receives + 1) + ORDERS / self.rate,
                why=lambda: self.what_failed() or self.what_is_missing(),
            )
            self.stage.see_alarms(notices, "OrdersParked")
        parked = self.parked()
        self.follow()
        self.account(parked)

    def assume_buying(self, **limits: str) -> Credentials:
        """Credentials of the role that may post; `Policy` limits what they are good for."""

        def credentials(session: boto3.Session) -> Credentials:
            return Credentials(*session.get_credentials().get_frozen_credentials()[:3])

        def may_post(session: boto3.Session) -> bool:
            return self.api.post("/orders", "no order", credentials(session))[0] == 400

        allowed = (lambda _: True) if limits else may_post
        return credentials(assume(self.stage, self.out["BuyingArn"], allowed, **limits))

    def order(self, number: int, kind: str = "") -> dict[str, Any]:
        """An order of this run."""
        chance = random.Random(SEED + number)
        return {
            "order_id": f"{self.run}-{kind}{number:04}",
            "customer": f"customer-{chance.randrange(40):02}",
            "items": [
                {"sku": f"sku-{chance.randrange(900)}", "quantity": chance.randint(1, 9)}
                for _ in range(chance.randint(1, 4))
            ],
        }

    def post_what_is_refused(self) -> None:
        """Posts that must not be queued. All but the malformed would be rows if they were."""
        order, policy = self.order(0, "refused-"), {"Version": "2012-10-17", "Statement": []}
        policy["Statement"] = [{"Effect": "Deny", "Action": "execute-api:Invoke", "Resource": "*"}]
        others = self.assume_buying(Policy=json.dumps(policy))
        forged = Credentials(self.buying.access_key, "forged", self.buying.token)
        line = {"sku": "sku-1", "quantity": 1}
        malformed = [
            "not JSON at all, " + self.run,
            json.dumps({key: order[key] for key in ("order_id", "customer")}),
            json.dumps({**order, "items": []}),
            json.dumps({**order, "items": [line] * 21}),
            json.dumps({**order, "items": [{**line, "quantity": "1"}]}),
            json.dumps({**order, "items": [{**line, "quantity": 0}]}),
            json.dumps({**order, "order_id": ""}),
            json.dumps({**order, "note": "no such field"}),
        ]
        for kind, status, caller, content_type, bodies in (
            ("that are no orders", 400, self.buying, "application/json", malformed),
            ("without a signature", 403, None, "application/json", None),
            ("with a forged signature", 403, forged, "application/json", None),
            ("without the permission", 403, others, "application/json", None),
            ("in plain text", 415, self.buying, "text/plain", None),
        ):
            for number in range(len(bodies or range(5))):
                order = self.order(number, f"refused-{kind.split()[-1]}-")
                body = bodies[number] if bodies else json.dumps(order)
                answer, text = self.api.post("/orders", body, caller, content_type)
                if answer != status:
                    raise ScenarioFailed(f"{answer} and not {status} for posts {kind}: {text}")
                self.refused.append((status, order["order_id"]))
            self.stage.say(f"{status} for {len(bodies or range(5))} posts {kind}")

    def send_poison(self) -> None:
        """What is no order, sent to the queue past Api."""
        answer = self.sqs.send_message_batch(
            QueueUrl=self.out["OrdersUrl"],
            Entries=[
                {"Id": str(index), "MessageBody": body}
                for index, body in enumerate(
                    [
                        "not JSON at all, " + self.run,
                        json.dumps({**self.order(1, "poison-"), "items": []}),
                        json.dumps({**self.order(2, "poison-"), "customer": 7}),
                    ]
                )
            ],
        )
        if answer.get("Failed"):
            raise ScenarioFailed(f"SQS refused messages: {answer['Failed']}")
        self.poison = {one["MessageId"] for one in answer["Successful"]}
        self.stage.say(f"sent {len(self.poison)} malformed messages to Orders past Api")

    def post_orders(self) -> None:
        """Post all orders and some of them twice, over several connections; at first in vain.

        The writers may write again as soon as they are seen to have sent orders back: what they
        cannot write for too long is parked, and how long 2,000 posts take is the machine's matter.
        A table that is throttled would not do: AWS keeps a maximum as best it can, with bursts.
        """
        numbers = [*range(ORDERS), *range(0, REPEATS * 7, 7)]
        random.Random(SEED).shuffle(numbers)
        writers = (
            self.stage.client("lambda")
            .get_function_configuration(FunctionName=self.out["WriteOrdersName"])["Role"]
            .rpartition("/")[2]
        )
        with ThreadPoolExecutor(AT_ONCE) as posting:
            try:
                with denied(self.stage, writers, "dynamodb:BatchWriteItem", "*"):
                    self.stage.say("fault: WriteOrders may not write to WrittenOrders")
                    began = time.time()
                    posts = [posting.submit(self.post_order, number) for number in numbers]
                    self.stage.until(
                        "orders that WriteOrders could not write",
                        lambda: self.left() or any(map(failed, posts)),
                        seconds=60,
                    )
                self.mended = time.time()
                self.stage.say(
                    f"WriteOrders may write again; so far {self.count()['written']} orders are"
                    f" written and {len(self.left())} went back to Orders"
                )
                for one in posts:
                    one.result()
            finally:
                posting.shutdown(cancel_futures=True)
        seconds = max(at for _, at in self.accepted.values()) - began
        self.stage.say(
            f"posted {len(numbers)} orders in {seconds:.1f} s, {len(numbers) / seconds:.0f} a"
            f" second, each answered with 202; {self.sent_again} of them sent again after a 429"
        )

    def post_order(self, number: int) -> None:
        """Post one order until it is accepted; whoever gets no 202 sends again, as Buying must."""
        order = self.order(number)
        for attempt in range(8):
            status, text = self.api.post("/orders", json.dumps(order), self.buying)
            if status == 202:
                with self.lock:
                    made = json.loads(text)["message_id"]
                    self.accepted[made] = order["order_id"], time.time()
                return
            if status != 429:
                break
            self.sent_again += 1
            time.sleep(random.uniform(0, 0.1 * 2**attempt))
        raise ScenarioFailed(f"an order was not accepted: {status} {text}")

    def most_writes(self) -> int:
        """The table's maximum of write request units a second."""
        table = self.dynamodb.describe_table(TableName=self.out["WrittenOrdersName"])["Table"]
        return int(table["OnDemandThroughput"]["MaxWriteRequestUnits"])

    def count(self) -> dict[str, int]:
        """What has become of this run's messages so far."""
        counted = self.scan(Select="COUNT")
        return {
            "written": sum(page["Count"] for page in counted),
            "parked": self.stage.depth(self.out["FailedOrdersUrl"]),
        }

    def scan(self, **more: Any) -> list[dict[str, Any]]:
        """The pages of this run's rows."""
        pages = self.dynamodb.get_paginator("scan").paginate(
            TableName=self.out["WrittenOrdersName"],
            ConsistentRead=True,
            FilterExpression="begins_with(order_id, :run)",
            ExpressionAttributeValues={":run": {"S": self.run}},
            **more,
        )
        return list(pages)

    def log(self, text: str) -> list[dict[str, Any]]:
        """What WriteOrders logged with exactly this text since the scenario began."""
        entries = self.stage.logged(
            self.out["WriteOrdersLogsName"], f'"{text}"', since=self.stage.began - 5
        )
        return [entry for entry in entries if entry["message"] == text]

    def left(self) -> dict[str, list[float]]:
        """Message id to the times at which it went back to the queue unwritten, for this run's."""
        found: dict[str, list[float]] = {}
        for entry in (*self.log("Orders failed"), *self.log("Left orders to the queue")):
            for message in entry["message_ids"]:
                if message in self.accepted:
                    found.setdefault(message, []).append(entry["at"])
        return found

    def what_failed(self) -> str:
        """The distinct errors that WriteOrders logged after the fault, if it ends badly."""
        errors = {
            f"{entry.get('exception_name')}: {str(entry.get('exception')).splitlines()[-1]}"
            for entry in self.log("Orders failed")
            if entry["at"] > self.mended
        }
        return "WriteOrders logged: " + " | ".join(sorted(errors)[:3]) if errors else ""

    def what_is_missing(self) -> str:
        """How many accepted orders are no rows, and what the queues hold."""
        missing = {order_id for order_id, _ in self.accepted.values()} - set(self.rows())
        queued = self.stage.depth(self.out["OrdersUrl"])
        parked = self.stage.depth(self.out["FailedOrdersUrl"])
        return (
            f"{len(missing)} orders with a 202 are no rows; Orders holds {queued} messages,"
            f" FailedOrders {parked}, of which {len(self.poison)} may be there."
        )

    def receive_failed(self) -> list[dict[str, Any]]:
        """Up to ten messages of FailedOrders, which come back after half a minute."""
        return self.sqs.receive_message(
            QueueUrl=self.out["FailedOrdersUrl"],
            MaxNumberOfMessages=10,
            VisibilityTimeout=30,
            WaitTimeSeconds=1,
            MessageSystemAttributeNames=["All"],
        ).get("Messages", [])

    def parked(self) -> dict[str, str]:
        """Message id to body of what is in FailedOrders; it stays there."""
        found: dict[str, str] = {}

        def all_found() -> bool:
            found.update({one["MessageId"]: one["Body"] for one in self.receive_failed()})
            return len(found) >= len(self.poison)

        self.stage.until(f"{len(self.poison)} messages in FailedOrders", all_found, seconds=60)
        return found

    def clear_earlier_runs(self) -> None:
        """Take what earlier runs parked out of FailedOrders, and wait until its alarm rests.

        Messages that no scenario sent stay, and then the alarm cannot fire anew: ScenarioFailed.
        """
        before = self.stage.depth(self.out["FailedOrdersUrl"])
        while before and (messages := self.receive_failed()):
            for message in messages:
                if "scenario-" not in message["Body"]:
                    raise ScenarioFailed(
                        "FailedOrders holds messages that no scenario sent: try another stack"
                    )
                self.sqs.delete_message(
                    QueueUrl=self.out["FailedOrdersUrl"], ReceiptHandle=message["ReceiptHandle"]
                )
        if before:
            self.stage.say(f"removed {before} messages that an earlier run had parked")
        self.stage.until_at_rest("FailedOrdersUrl")

    def follow(self) -> None:
        """An order that could not be written at first, and what got in past Api, hop by hop."""
        say, rows = self.stage.say, self.rows()
        message, times = next(iter(self.left().items()))
        order_id, posted = self.accepted[message]
        say(f"one order that came while nothing could be written, {order_id}:", style="bold")
        say(f"  202 for its post, as message {message}", at=posted)
        for at in times:
            say("  WriteOrders could not write it and left it to Orders", at=at)
        say("  WriteOrders wrote its row", at=moment(rows[order_id]))
        poison = min(self.poison)
        say(f"one message that is no order, {poison}:", style="bold")
        for entry in self.log("Rejected order"):
            if entry["message_id"] == poison:
                receive, reason = entry["receive_count"], entry["reason"]
                say(f"  receive {receive} rejected: {reason}", at=entry["at"])

    def rows(self) -> dict[str, dict[str, Any]]:
        """Order id to row, of this run."""
        return {row["order_id"]["S"]: row for page in self.scan() for row in page["Items"]}

    def account(self, parked: dict[str, str]) -> None:
        """What was accepted is a row, what was refused is nowhere, what is no order is parked."""
        rows, left = self.rows(), self.left()
        orders = {order_id for order_id, _ in self.accepted.values()}
        busiest = busiest_seconds([moment(row) for row in rows.values()], WINDOW) / WINDOW
        claims = {
            f"each of {ORDERS} orders with a 202 is one row": orders
            == set(rows)
            == {self.order(number)["order_id"] for number in range(ORDERS)},
            "each row holds what was posted": all(
                json.loads(rows[order["order_id"]]["content"]["S"]) == order
                for order in map(self.order, range(ORDERS))
                if order["order_id"] in rows
            ),
            "each row was written by a message that Api answered for": all(
                self.accepted.get(row["message_id"]["S"], ("",))[0] == order_id
                for order_id, row in rows.items()
            ),
            f"{len(left)} orders went back to the queue while nothing could be written": bool(left),
            f"written at {busiest:.0f} orders a second at most, over {WINDOW} seconds": (
                busiest <= 1.1 * self.rate
            ),
            f"none of {len(self.refused)} refused posts was queued: no row, nothing parked": not (
                {order_id for _, order_id in self.refused} & set(rows)
            )
            and set(parked) == self.poison,
            "Orders is empty": self.stage.depth(self.out["OrdersUrl"]) == 0,
        }
        broken = self.stage.judge(claims)
        self.stage.balance(
            "sent",
            len(self.accepted) + len(self.refused) + len(self.poison),
            {
                "written": len(rows),
                "repeats of those": len(self.accepted) - len(orders),
                **{
                    f"refused with {status}": sum(one == status for one, _ in self.refused)
                    for status in (400, 403, 415)
                },
                "parked": len(parked),
            },
        )
        if broken:
            raise ScenarioFailed(f"not so: {'; '.join(broken)}. {self.what_failed()}")


def moment(row: dict[str, Any]) -> float:
    """The Unix time at which a row was written."""
    return datetime.fromisoformat(row["written_at"]["S"]).timestamp()


def failed(future: Future[None]) -> bool:
    """Whether it has ended with an exception."""
    return future.done() and not future.cancelled() and future.exception() is not None


def busiest_seconds(times: list[float], seconds: float) -> int:
    """The most of these Unix times that lie within so many seconds."""
    times, first, most = sorted(times), 0, 0
    for last, now in enumerate(times):
        while now - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
