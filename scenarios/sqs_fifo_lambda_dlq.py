"""Changes of a hundred orders interleaved, poison in five: each order in order, none waits for it.

Plays either way of going on after a poison change: the deployed function says which.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import Counter, defaultdict
from datetime import datetime
from typing import Any, NamedTuple

from scenarios.stage import ScenarioFailed, Stage

ORDERS, CHANGES, RESENT, COPIES = 100, 6, 40, 20
POISON = {7: 3, 23: 1, 42: 5, 64: 6, 88: 2}  # order to the one of its revisions that is malformed
AT_ONCE = 23  # those behind its poison change are received as often as it: are they tried?
SEED = 11


class Change(NamedTuple):
    """One change of an order of this run, by their numbers."""

    order: int
    revision: int


class Applied(NamedTuple):
    """One change as an order's row lists it; the row lists them as they were applied."""

    revision: int
    message_id: str
    at: float


# Commands for a deployed stack, with its outputs in them: `make show`.
SEND = {
    "send a change of an order": (
        "aws sqs send-message --queue-url '$OrderChangesUrl' --message-group-id try-1 "
        '--message-deduplication-id try-1-1 --message-body \'{"order_id": "try-1", '
        '"revision": 1, "address": "1 Main Street", "items": [{"sku": "tea", "quantity": '
        "2}]}'"
    ),
}


def play(stage: Stage) -> None:
    """Send the changes, follow two orders, and account for all."""
    ChangesThroughTheQueue(stage).play()


class ChangesThroughTheQueue:
    """One run; its orders' ids begin with its id, which tells it from other runs on the stack."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.out = stage, stage.outputs
        self.run = uuid.uuid4().hex[:8]
        self.sqs, self.dynamodb = stage.client("sqs"), stage.client("dynamodb")
        settings = self.sqs.get_queue_attributes(
            QueueUrl=self.out["OrderChangesUrl"],
            AttributeNames=["VisibilityTimeout", "RedrivePolicy"],
        )["Attributes"]
        self.receives = int(json.loads(settings["RedrivePolicy"])["maxReceiveCount"])
        self.visibility_timeout = int(settings["VisibilityTimeout"])
        function = stage.client("lambda").get_function_configuration(
            FunctionName=self.out["ApplyChangeName"]
        )
        self.stops = function["Environment"]["Variables"]["STOP_AT_GAPS"] == "true"
        self.sent: dict[Change, float] = {}  # Unix time of the first time
        self.resent: set[Change] = set()  # again under the same deduplication id
        self.copied: set[Change] = set()  # again under another one

    def order_id(self, order: int) -> str:
        """An order of this run, which is also the message group of its changes."""
        return f"{self.run}-order-{order:02}"

    def expected(self, order: int) -> list[int]:
        """The revisions that an order's row must list at last, in this order."""
        poison = POISON.get(order)
        return [
            revision
            for revision in range(1, CHANGES + 1)
            if poison is None or revision < poison or (revision > poison and not self.stops)
        ]

    def play(self) -> None:
        """The whole story; ScenarioFailed as soon as it cannot end well."""
        stage, of_all = self.stage, ORDERS * CHANGES
        stage.say(
            f"a change may fail {self.receives} times, {self.visibility_timeout} s apart, then its"
            f" order {'stops' if self.stops else 'goes on without it'}"
            + (f"; SQS time runs {stage.clock:g} times faster here" if stage.clock > 1 else "")
        )
        self.clear_earlier_runs()
        applied = sum(len(self.expected(order)) for order in range(ORDERS))
        with stage.listener(self.out["AlertsArn"]) as notices:
            self.send()
            stage.watch(
                {
                    "applied": applied,
                    "late copies dropped": COPIES,
                    "poison receives": len(POISON) * self.receives,
                    "parked": of_all - applied,
                },
                self.count,
                seconds=self.visibility_timeout * (self.receives + 2) * (2 if self.stops else 1),
                why=self.what_failed,
            )
            self.stage.see_alarms(notices, "ChangesParked")
        self.follow()
        self.account(self.parked(of_all - applied))

    # ---- what Buying does

    def body(self, change: Change) -> str:
        """One change as Buying sends it; there are five ways to be poison."""
        order = {
            "order_id": self.order_id(change.order),
            "revision": change.revision,
            "address": f"{change.order} Mill Lane",
            "items": [{"sku": "sku-1", "quantity": change.revision}],
        }
        if POISON.get(change.order) != change.revision:
            return json.dumps(order)
        return [
            "not JSON at all",
            json.dumps({**order, "address": ""}),
            json.dumps({**order, "items": []}),
            json.dumps({**order, "items": [{"sku": "sku-1", "quantity": "many"}]}),
            json.dumps({**order, "order_id": self.order_id(change.order + 1)}),
        ][list(POISON).index(change.order)]

    def mixed(self) -> list[tuple[Change, str]]:
        """(change, deduplication id) of every send: the orders interleaved, duplicates between.

        Each order's changes come in order, and a duplicate somewhere after its first copy. The
        orders with poison have no duplicates: those would be parked or not as their change is.
        The order AT_ONCE comes first and whole, so that a batch has it whole.
        """
        chance = random.Random(SEED)
        turns = [order for order in range(ORDERS) if order != AT_ONCE for _ in range(CHANGES)]
        chance.shuffle(turns)
        turns = [AT_ONCE] * CHANGES + turns
        reached: Counter[int] = Counter()
        changes = []
        for order in turns:
            reached[order] += 1
            changes.append(Change(order, reached[order]))
        twice = chance.sample([c for c in changes if c.order not in POISON], RESENT + COPIES)
        self.resent, self.copied = set(twice[:RESENT]), set(twice[RESENT:])

        def deduplication(change: Change) -> str:
            return f"{self.order_id(change.order)}-{change.revision}"

        mixed = [(change, deduplication(change)) for change in changes]
        for change in twice:
            copy = change, deduplication(change) + ("-copy" if change in self.copied else "")
            first = mixed.index((change, deduplication(change)))
            mixed.insert(chance.randrange(first + 1, len(mixed) + 1), copy)
        return mixed

    def send(self) -> None:
        """All changes in batches of ten, as they come."""
        mixed = self.mixed()
        for first in range(0, len(mixed), 10):
            batch = mixed[first : first + 10]
            answer = self.sqs.send_message_batch(
                QueueUrl=self.out["OrderChangesUrl"],
                Entries=[
                    {
                        "Id": str(index),
                        "MessageBody": self.body(change),
                        "MessageGroupId": self.order_id(change.order),
                        "MessageDeduplicationId": deduplication,
                        "MessageAttributes": {
                            "scenario": {
                                "DataType": "String",
                                "StringValue": f"{self.run} {change.order} {change.revision}",
                            }
                        },
                    }
                    for index, (change, deduplication) in enumerate(batch)
                ],
            )
            if answer.get("Failed"):
                raise ScenarioFailed(f"SQS refused changes: {answer['Failed']}")
            for one in answer["Successful"]:
                self.sent.setdefault(batch[int(one["Id"])][0], time.time())
        self.stage.say(
            f"sent {len(mixed)} times: {len(self.sent)} changes of {ORDERS} orders interleaved,"
            f" {RESENT} of them again under the same deduplication id, {COPIES} under another;"
            f" {len(POISON)} are malformed"
        )

    # ---- what can be seen

    def count(self) -> dict[str, int]:
        """What has become of this run's changes so far."""
        malformed = [e for e in self.log("Refused change") if e["kind"] == "MalformedChange"]
        return {
            "applied": sum(len(applied) for applied in self.rows().values()),
            "late copies dropped": len(self.log("Dropped duplicate change")),
            "poison receives": len(malformed),
            "parked": self.stage.depth(self.out["FailedChangesUrl"]),
        }

    def rows(self) -> dict[int, list[Applied]]:
        """Order to the changes that its row lists, in the order in which they were applied."""
        table = self.out["ChangedOrdersName"]
        keys = [{"order_id": {"S": self.order_id(order)}} for order in range(ORDERS)]
        found = self.dynamodb.batch_get_item(
            RequestItems={
                table: {
                    "Keys": keys,
                    "ConsistentRead": True,
                    "ProjectionExpression": "order_id, applied",
                }
            }
        )["Responses"][table]
        return {
            int(row["order_id"]["S"][-2:]): [
                Applied(
                    int(one["M"]["revision"]["N"]),
                    one["M"]["message_id"]["S"],
                    datetime.fromisoformat(one["M"]["applied_at"]["S"]).timestamp(),
                )
                for one in row["applied"]["L"]
            ]
            for row in found
        }

    def log(self, text: str) -> list[dict[str, Any]]:
        """What ApplyChange logged with this text about this run's changes, "at" its own time."""
        entries = self.stage.logged(
            self.out["ApplyChangeLogsName"], f'"{text}"', since=self.stage.began - 5
        )
        return [
            entry
            | {"at": datetime.strptime(entry["timestamp"], "%Y-%m-%d %H:%M:%S,%f%z").timestamp()}
            for entry in entries
            if str(entry.get("group")).startswith(self.run)
        ]

    def refusals(self) -> dict[int, list[dict[str, Any]]]:
        """Order to the log entries about its malformed change, one a receive."""
        found = defaultdict(list)
        for entry in self.log("Refused change"):
            if entry["kind"] == "MalformedChange":
                found[int(entry["group"][-2:])].append(entry)
        return {order: sorted(found[order], key=lambda entry: entry["at"]) for order in POISON}

    def what_failed(self) -> str:
        """The distinct errors that ApplyChange logged, for a scenario that ends badly."""
        errors = {
            f"{entry.get('exception_name')}: {str(entry.get('exception')).splitlines()[-1]}"
            for entry in self.log("Change failed")
        }
        return "ApplyChange logged: " + " | ".join(sorted(errors)[:3]) if errors else ""

    def parked(self, expected: int) -> dict[int, list[int]]:
        """Order to its revisions in FailedChanges, in the queue's order; they stay there."""
        found: dict[Change, str] = {}  # to the queue that it came from

        def all_found() -> bool:
            messages = self.receive_failed()
            if len(messages) == 10:  # the last group may be cut: let it come whole
                group = messages[-1]["Attributes"]["MessageGroupId"]
                for message in messages:
                    if message["Attributes"]["MessageGroupId"] == group:
                        self.sqs.change_message_visibility(
                            QueueUrl=self.out["FailedChangesUrl"],
                            ReceiptHandle=message["ReceiptHandle"],
                            VisibilityTimeout=0,
                        )
            for message in messages:
                # Not by its deduplication id: a dead-letter queue puts another in its place.
                run, *change = message["MessageAttributes"]["scenario"]["StringValue"].split()
                if run == self.run:
                    source = message["Attributes"].get("DeadLetterQueueSourceArn", "nowhere")
                    found.setdefault(Change(*map(int, change)), source)
            return len(found) >= expected

        self.stage.until(f"{expected} changes in FailedChanges", all_found, seconds=300)
        if set(found.values()) != {self.out["OrderChangesArn"]}:
            raise ScenarioFailed(f"FailedChanges holds changes from {set(found.values())}")
        parked = defaultdict(list)
        for order, revision in found:
            parked[order].append(revision)
        return parked

    def receive_failed(self) -> list[dict[str, Any]]:
        """Up to ten messages of FailedChanges, which come back after half a minute."""
        return self.sqs.receive_message(
            QueueUrl=self.out["FailedChangesUrl"],
            MaxNumberOfMessages=10,
            VisibilityTimeout=30,
            WaitTimeSeconds=1,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["scenario"],
        ).get("Messages", [])

    def clear_earlier_runs(self) -> None:
        """Let an earlier run end, take what it parked out of FailedChanges, let its alarm rest.

        Messages that no scenario sent stay, and then the alarm cannot fire anew: ScenarioFailed.
        """
        self.stage.until(
            "an empty OrderChanges",
            lambda: self.stage.depth(self.out["OrderChangesUrl"]) == 0,
            seconds=self.visibility_timeout * (self.receives + 2) * 2,
        )
        before = self.stage.depth(self.out["FailedChangesUrl"])
        while before and (messages := self.receive_failed()):
            for message in messages:
                if "scenario" not in message.get("MessageAttributes", {}):
                    raise ScenarioFailed(
                        "FailedChanges holds messages that no scenario sent: try another stack"
                    )
                self.sqs.delete_message(
                    QueueUrl=self.out["FailedChangesUrl"], ReceiptHandle=message["ReceiptHandle"]
                )
        if before:
            self.stage.say(f"removed {before} changes that an earlier run had parked")
        self.stage.until_at_rest("FailedChangesUrl")

    # ---- the account

    def follow(self) -> None:
        """One good order and one with a poison change, hop by hop."""
        say, rows, refusals = self.stage.say, self.rows(), self.refusals()
        good = next(order for order in range(ORDERS) if order not in POISON)
        say(f"a good order, {self.order_id(good)}:", style="bold")
        self.tell(good, rows[good])

        bad, poison = next(iter(POISON.items()))
        first, last = refusals[bad][0]["at"], refusals[bad][-1]["at"]
        say(f"an order whose change {poison} is poison, {self.order_id(bad)}:", style="bold")
        self.tell(bad, [one for one in rows.get(bad, []) if one.revision < poison])
        say(f"  change {poison} sent", at=self.sent[Change(bad, poison)])
        for entry in refusals[bad]:
            say(f"  receive {entry['receive_count']} refused: {entry['reason']}", at=entry["at"])
        others = [
            order for order in rows for one in rows[order] if order != bad and first < one.at < last
        ]
        say(f"  meanwhile {len(others)} changes of {len(set(others))} other orders were applied")
        behind = [one for one in rows.get(bad, []) if one.revision > poison]
        if behind:
            self.tell(bad, behind)
        else:
            say("  nothing behind it was applied: this order has stopped")

    def tell(self, order: int, applied: list[Applied]) -> None:
        """When some changes of an order were sent and applied."""
        for one in applied:
            sent = self.sent[Change(order, one.revision)] - self.stage.began
            self.stage.say(f"  change {one.revision}, sent at {sent:.2f} s, applied", at=one.at)

    def went_on(
        self, orders: list[int], rows: dict[int, list[Applied]], refusals: list[dict[str, Any]]
    ) -> tuple[int, int]:
        """How many of these orders were served between a change's first and last refusal.

        And of how many that had changes left. Not a time: that of a loaded machine says nothing.
        """
        first, last = refusals[0]["at"], refusals[-1]["at"]
        unfinished = [order for order in orders if rows[order] and rows[order][-1].at > first]
        served = [o for o in unfinished if any(first < one.at < last for one in rows[o])]
        return len(served), len(unfinished)

    def account(self, parked: dict[int, list[int]]) -> None:
        """Every message that was sent ended in exactly one place, each order's in order."""
        rows, refusals = self.rows(), self.refusals()
        applied = {
            Change(order, one.revision): one.message_id
            for order, of_order in rows.items()
            for one in of_order
        }
        met = defaultdict(set)  # the messages in which ApplyChange saw each change
        for text in ("Applied change", "Dropped duplicate change"):
            for entry in self.log(text):
                met[Change(int(entry["group"][-2:]), entry["revision"])].add(entry["message_id"])
        good = [order for order in range(ORDERS) if order not in POISON]

        def as_expected(orders: list[int]) -> bool:
            return all(
                [one.revision for one in rows.get(order, [])] == self.expected(order)
                for order in orders
            )

        def waited(order: int) -> bool:
            first, *_, last = [entry["at"] for entry in refusals[order]]
            return not any(first < one.at < last for one in rows.get(order, []))

        went_on = {order: self.went_on(good, rows, refusals[order]) for order in POISON}
        for order, (of, unfinished) in went_on.items():
            seconds = refusals[order][-1]["at"] - refusals[order][0]["at"]
            self.stage.say(
                f"order {order:02} was held for {seconds:.1f} s; meanwhile {of} of {unfinished}"
                " other orders with changes left went on"
            )
        parts = {
            "applied": len(applied),
            "parked": sum(map(len, parked.values())),
            "resent, dropped by SQS": sum(len(met[change]) == 1 for change in self.resent),
            "late copies, dropped by ApplyChange": sum(
                len(met[change] - {applied[change]}) == 1 for change in self.copied
            ),
        }
        claims = {
            f"{len(good)} orders have all their changes, in order and each once": as_expected(good),
            f"{len(POISON)} orders are in order up to their poison change, "
            + ("and stopped there" if self.stops else "and behind it"): as_expected(list(POISON)),
            f"each poison change was refused at receives 1 to {self.receives}": all(
                [entry["receive_count"] for entry in entries] == list(range(1, self.receives + 1))
                for entries in refusals.values()
            ),
            "meanwhile nothing else of its order was applied": all(map(waited, POISON)),
            "meanwhile most other orders with changes left went on": all(
                2 * of > unfinished or not unfinished for of, unfinished in went_on.values()
            ),
            "FailedChanges holds the poison changes"
            + (", each with all behind it in order" if self.stops else " and no other"): parked
            == {
                order: sorted(set(range(1, CHANGES + 1)) - set(self.expected(order)))
                for order in POISON
            },
            "OrderChanges is empty": self.stage.depth(self.out["OrderChangesUrl"]) == 0,
        }
        broken = self.stage.judge(claims)
        self.stage.balance("sent", len(self.sent) + len(self.resent) + len(self.copied), parts)
        if broken:
            raise ScenarioFailed(f"not so: {'; '.join(broken)}. {self.what_failed()}")
