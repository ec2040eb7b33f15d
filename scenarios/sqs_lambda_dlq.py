"""Good, duplicate and malformed orders mixed in batches: every one must end where it belongs."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import defaultdict
from typing import Any

from scenarios.stage import ScenarioFailed, Stage

GOOD, DUPLICATE, MALFORMED = 150, 50, 20
SEED = 7


# Commands for a deployed stack, with its outputs in them: `make show`.
SEND = {
    "send an order": (
        'aws sqs send-message --queue-url \'$OrdersUrl\' --message-body \'{"order_id": "try-1", '
        '"customer": "ada", "items": [{"sku": "tea", "quantity": 2}]}\''
    ),
    "send one that will be parked": (
        "aws sqs send-message --queue-url '$OrdersUrl' --message-body 'no order'"
    ),
}


def play(stage: Stage) -> None:
    """Send the orders, follow two of them, and account for all."""
    OrdersThroughTheQueue(stage).play()


class OrdersThroughTheQueue:
    """One run; all that it sends carries its id, which tells it from other runs on the stack."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.out = stage, stage.outputs
        self.run = uuid.uuid4().hex[:8]
        self.sqs, self.dynamodb = stage.client("sqs"), stage.client("dynamodb")
        settings = self.sqs.get_queue_attributes(
            QueueUrl=self.out["OrdersUrl"], AttributeNames=["VisibilityTimeout", "RedrivePolicy"]
        )["Attributes"]
        self.receives = int(json.loads(settings["RedrivePolicy"])["maxReceiveCount"])
        self.visibility_timeout = int(settings["VisibilityTimeout"])
        self.sent: dict[str, tuple[str, float]] = {}  # message id to (kind, Unix time)

    def play(self) -> None:
        """The whole story; ScenarioFailed as soon as it cannot end well."""
        stage = self.stage
        stage.say(
            f"an order may fail {self.receives} times, {self.visibility_timeout} s apart"
            + (f"; SQS time runs {stage.clock:g} times faster here" if stage.clock > 1 else "")
        )
        self.clear_earlier_runs()
        with stage.listener(self.out["AlertsArn"]) as notices:
            self.send()
            stage.watch(
                {
                    "fulfilled": GOOD,
                    "duplicates dropped": DUPLICATE,
                    "poison receives": MALFORMED * self.receives,
                    "parked": MALFORMED,
                },
                self.count,
                seconds=self.visibility_timeout * (self.receives + 1),
                why=self.what_failed,
            )
            self.stage.see_alarms(notices, "OrdersParked")
        parked = self.parked()
        self.follow(parked)
        self.account(parked)

    def orders(self) -> list[tuple[str, str]]:
        """(kind, body) of every message, shuffled; the same in each run but for the run's id."""
        chance = random.Random(SEED)
        good = [
            json.dumps(
                {
                    "order_id": f"{self.run}-{number:03}",
                    "customer": f"customer-{chance.randrange(40):02}",
                    "items": [{"sku": f"sku-{chance.randrange(900)}", "quantity": 1}],
                }
            )
            for number in range(GOOD)
        ]
        order = json.loads(good[0])
        malformed = [
            "not JSON at all",
            "",
            json.dumps({**order, "items": []}),
            json.dumps({**order, "items": [{"sku": "sku-1", "quantity": "many"}]}),
            json.dumps({key: order[key] for key in ("customer", "items")}),
        ]
        mixed = [
            *(("good", body) for body in good),
            *(("duplicate", body) for body in chance.choices(good, k=DUPLICATE)),
            *(("malformed", malformed[n % len(malformed)] or " ") for n in range(MALFORMED)),
        ]
        chance.shuffle(mixed)
        return mixed

    def send(self) -> None:
        """All orders in batches of ten."""
        orders = self.orders()
        for first in range(0, len(orders), 10):
            batch = orders[first : first + 10]
            answer = self.sqs.send_message_batch(
                QueueUrl=self.out["OrdersUrl"],
                Entries=[
                    {
                        "Id": str(index),
                        "MessageBody": body,
                        "MessageAttributes": {
                            "scenario": {"DataType": "String", "StringValue": self.run}
                        },
                    }
                    for index, (_, body) in enumerate(batch)
                ],
            )
            if answer.get("Failed"):
                raise ScenarioFailed(f"SQS refused messages: {answer['Failed']}")
            for one in answer["Successful"]:
                self.sent[one["MessageId"]] = batch[int(one["Id"])][0], time.time()
        self.stage.say(
            f"sent {len(self.sent)} orders in {len(orders) // 10} batches:"
            f" {GOOD} good, {DUPLICATE} duplicates, {MALFORMED} malformed"
        )

    def count(self) -> dict[str, int]:
        """What has become of this run's messages so far."""
        return {
            "fulfilled": len(self.rows()),
            "duplicates dropped": len(self.dropped()),
            "poison receives": len(self.log("Rejected order")),
            "parked": self.stage.depth(self.out["FailedOrdersUrl"]),
        }

    def rows(self) -> list[dict[str, Any]]:
        """This run's rows in FulfilledOrders."""
        pages = self.dynamodb.get_paginator("scan").paginate(
            TableName=self.out["FulfilledOrdersName"],
            ConsistentRead=True,
            FilterExpression="begins_with(order_id, :run)",
            ExpressionAttributeValues={":run": {"S": self.run}},
        )
        return [row for page in pages for row in page["Items"]]

    def log(self, text: str) -> list[dict[str, Any]]:
        """What FulfilOrder logged with this text about this run's messages."""
        entries = self.stage.logged(
            self.out["FulfilOrderLogsName"], f'"{text}"', since=self.stage.began - 5
        )
        return [entry for entry in entries if entry.get("message_id") in self.sent]

    def dropped(self) -> set[str]:
        """The messages that FulfilOrder recognized as duplicates."""
        return {entry["message_id"] for entry in self.log("Dropped duplicate order")}

    def what_failed(self) -> str:
        """The distinct errors that FulfilOrder logged, for a scenario that ends badly."""
        errors = {
            f"{entry.get('exception_name')}: {str(entry.get('exception')).splitlines()[-1]}"
            for entry in self.log("Order failed")
        }
        return "FulfilOrder logged: " + " | ".join(sorted(errors)[:3]) if errors else ""

    def parked(self) -> dict[str, dict[str, Any]]:
        """This run's messages in FailedOrders by message id; they stay there."""
        found: dict[str, dict[str, Any]] = {}

        def all_found() -> bool:
            for message in self.receive_failed():
                if message["MessageId"] in self.sent:
                    found.setdefault(message["MessageId"], message)
            return len(found) >= MALFORMED

        self.stage.until(f"{MALFORMED} orders in FailedOrders", all_found, seconds=60)
        return found

    def receive_failed(self) -> list[dict[str, Any]]:
        """Up to ten messages of FailedOrders, which come back after half a minute."""
        return self.sqs.receive_message(
            QueueUrl=self.out["FailedOrdersUrl"],
            MaxNumberOfMessages=10,
            VisibilityTimeout=30,
            WaitTimeSeconds=1,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["scenario"],
        ).get("Messages", [])

    def clear_earlier_runs(self) -> None:
        """Take what earlier runs parked out of FailedOrders, and wait until its alarm rests.

        Messages that no scenario sent stay, and then the alarm cannot fire anew: ScenarioFailed.
        """
        before = self.stage.depth(self.out["FailedOrdersUrl"])
        while before and (messages := self.receive_failed()):
            for message in messages:
                if "scenario" not in message.get("MessageAttributes", {}):
                    raise ScenarioFailed(
                        "FailedOrders holds messages that no scenario sent: try another stack"
                    )
                self.sqs.delete_message(
                    QueueUrl=self.out["FailedOrdersUrl"], ReceiptHandle=message["ReceiptHandle"]
                )
        if before:
            self.stage.say(f"removed {before} orders that an earlier run had parked")
        self.stage.until_at_rest("FailedOrdersUrl")

    def follow(self, parked: dict[str, dict[str, Any]]) -> None:
        """One good order and one poison order, hop by hop."""
        say = self.stage.say
        good = self.log("Fulfilled order")[0]
        say(f"one good order, {good['order_id']}:", style="bold")
        say(f"  sent as message {good['message_id']}", at=self.sent[good["message_id"]][1])
        say(f"  FulfilOrder wrote its row at receive {good['receive_count']}", at=good["at"])

        poison = next(iter(parked.values()))
        rejections = self.rejections()[poison["MessageId"]]
        say("one poison order:", style="bold")
        say(f"  sent as message {poison['MessageId']}", at=self.sent[poison["MessageId"]][1])
        for receive, entry in sorted(rejections.items()):
            say(f"  receive {receive} rejected: {entry['reason']}", at=entry["at"])
        source = poison["Attributes"]["DeadLetterQueueSourceArn"].split(":")[-1]
        say(f"  found in FailedOrders, come from {source}")

    def rejections(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Message id to receive number to log entry, for every rejected message."""
        found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for entry in self.log("Rejected order"):
            found[entry["message_id"]][entry["receive_count"]] = entry
        return found

    def account(self, parked: dict[str, dict[str, Any]]) -> None:
        """Every message that was sent ended in exactly one place, and every order once."""
        rows = self.rows()
        by_message = {row["message_id"]["S"] for row in rows}
        dropped = self.dropped() - by_message
        kinds = {
            kind: {m for m, (k, _) in self.sent.items() if k == kind}
            for kind in ("good", "duplicate", "malformed")
        }
        claims = {
            f"each of {GOOD} good orders has exactly one row": (
                len(rows) == GOOD and len({row["order_id"]["S"] for row in rows}) == GOOD
            ),
            "no message ended in two places": not (
                by_message & dropped or by_message & set(parked) or dropped & set(parked)
            ),
            "only malformed orders are parked": set(parked) == kinds["malformed"],
            f"each parked order was received exactly {self.receives} times": all(
                set(self.rejections()[message]) == set(range(1, self.receives + 1))
                for message in parked
            ),
            "Orders is empty": self.stage.depth(self.out["OrdersUrl"]) == 0,
        }
        broken = self.stage.judge(claims)
        self.stage.balance(
            "sent",
            len(self.sent),
            {
                "fulfilled": len(by_message),
                "parked": len(parked),
                "duplicates dropped": len(dropped),
            },
        )
        if broken:
            raise ScenarioFailed(f"not so: {'; '.join(broken)}. {self.what_failed()}")
