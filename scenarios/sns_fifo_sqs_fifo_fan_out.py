"""Events of many customers interleaved: each service sees each customer's in order, each once."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from scenarios.stage import ScenarioFailed, Stage

CUSTOMERS, EVENTS, DUPLICATES, HELD = 50, 20, 60, 5
EARLY = 200  # publishes while some customers are held; short, so that none is held too often
POISON = (7, 4)  # this customer's event number 4 has no address
SEED = 23

DEAD_LETTERS = (
    "FailedFraudChecks",
    "FailedShipments",
    "UndeliveredFraudChecks",
    "UndeliveredShipments",
)


class Service(NamedTuple):
    """One branch of the fan-out, by the names of its resources and the words of its log."""

    name: str
    queue: str
    function: str
    table: str
    done: str


class Row(NamedTuple):
    """One handled event: as which of its customer's it was handled, and published."""

    position: int
    sequence: int
    event_id: str


FRAUD = Service("Fraud", "FraudChecks", "CheckFraud", "FraudVerdicts", "Checked event")
SHIPPING = Service("Shipping", "Shipments", "ShipOrder", "ShippingSteps", "Shipped event")


# Commands for a deployed stack, with its outputs in them: `make show`.
SEND = {
    "publish an event": (
        "aws sns publish --topic-arn '$OrderEventsArn' --message-group-id ada "
        '--message-deduplication-id try-1 --message \'{"event_id": "try-1", "customer": '
        '"ada", "sequence": 1, "order_id": "try-1", "kind": "placed", "address": "1 Main '
        "Street\"}'"
    ),
}


def play(stage: Stage) -> None:
    """Publish the events, follow some of them, break a subscription, and account for all."""
    EventsThroughTheFanOut(stage).play()


class EventsThroughTheFanOut:
    """One run; all that it publishes carries its id, which tells it from other runs."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.out = stage, stage.outputs
        self.run = uuid.uuid4().hex[:8]
        self.sns, self.sqs = stage.client("sns"), stage.client("sqs")
        self.dynamodb = stage.client("dynamodb")
        settings = self.sqs.get_queue_attributes(
            QueueUrl=self.out["ShipmentsUrl"], AttributeNames=["VisibilityTimeout", "RedrivePolicy"]
        )["Attributes"]
        self.receives = int(json.loads(settings["RedrivePolicy"])["maxReceiveCount"])
        self.visibility_timeout = int(settings["VisibilityTimeout"])
        if self.receives < 5:
            raise ScenarioFailed(
                f"held events may fail a few times here, and {self.receives} failures park one:"
                " deploy with max_receive_count of 5 or more"
            )
        self.poison = self.event_id(*POISON)
        # The customers whose parcels wait for a while; not the poisoned one.
        self.held = [self.customer(number) for number in range(10, 10 + HELD)]
        # Event id to the Unix times of its publishes; the second is a duplicate.
        self.published: dict[str, list[float]] = defaultdict(list)

    def customer(self, number: int) -> str:
        """A customer of this run."""
        return f"{self.run}-customer-{number:02}"

    def event_id(self, customer: int, sequence: int) -> str:
        """An event of this run."""
        return f"{self.run}-{customer:02}-{sequence:02}"

    def play(self) -> None:
        """The whole story; ScenarioFailed as soon as it cannot end well."""
        stage, events = self.stage, CUSTOMERS * EVENTS
        stage.say(
            f"an event may fail {self.receives} times, {self.visibility_timeout} s apart"
            + (f"; SQS time runs {stage.clock:g} times faster here" if stage.clock > 1 else "")
        )
        self.clear_earlier_runs()
        with stage.listener(self.out["AlertsArn"]) as notices:
            mixed = self.mixed()
            with self.hold():
                self.publish(mixed[:EARLY])
                self.see_refusals()
            self.publish(mixed[EARLY:])
            stage.say(
                f"published {len(mixed)} times: {events} events of {CUSTOMERS} customers"
                f" interleaved, {DUPLICATES} of them twice"
            )
            stage.watch(
                {
                    "checked": events,
                    "shipped": events - 1,
                    "poison receives": self.receives,
                    "parked": 1,
                },
                self.count,
                seconds=self.visibility_timeout * (self.receives + 2),
                why=self.what_failed,
            )
            self.stage.see_alarms(notices, "ShipmentsParked")
            undelivered = self.break_a_subscription()
            self.stage.see_alarms(notices, "FraudChecksUndelivered")
        self.follow()
        self.account(undelivered)

    # ---- what Buying does

    def body(self, customer: int, sequence: int) -> str:
        """One event as Buying publishes it; the poison one has no address."""
        chance = random.Random(f"{SEED} {customer} {sequence}")
        return json.dumps(
            {
                "event_id": self.event_id(customer, sequence),
                "customer": self.customer(customer),
                "sequence": sequence,
                "order_id": f"order-{customer:02}-{(sequence - 1) // 4}",
                "kind": "placed" if sequence % 4 == 1 else chance.choice(["changed", "cancelled"]),
                "total_cents": chance.randrange(500, 200_000),
                "address": "" if (customer, sequence) == POISON else f"{customer} Mill Lane",
            }
        )

    def mixed(self) -> list[tuple[int, int]]:
        """(customer, sequence) of every publish: the customers interleaved, duplicates between.

        Each customer's events come in order, and a duplicate somewhere after its first copy.
        """
        chance = random.Random(SEED)
        turns = [customer for customer in range(CUSTOMERS) for _ in range(EVENTS)]
        chance.shuffle(turns)
        reached: Counter[int] = Counter()
        mixed = []
        for customer in turns:
            reached[customer] += 1
            mixed.append((customer, reached[customer]))
        for twice in chance.sample(mixed, DUPLICATES):
            mixed.insert(chance.randrange(mixed.index(twice) + 1, len(mixed) + 1), twice)
        return mixed

    def publish(self, events: list[tuple[int, int]]) -> None:
        """All of them in batches of ten."""
        for first in range(0, len(events), 10):
            batch = events[first : first + 10]
            answer = self.sns.publish_batch(
                TopicArn=self.out["OrderEventsArn"],
                PublishBatchRequestEntries=[
                    {
                        "Id": str(index),
                        "Message": self.body(*event),
                        "MessageGroupId": self.customer(event[0]),
                        "MessageDeduplicationId": self.event_id(*event),
                        "MessageAttributes": {
                            "scenario": {"DataType": "String", "StringValue": self.run}
                        },
                    }
                    for index, event in enumerate(batch)
                ],
            )
            if answer.get("Failed"):
                raise ScenarioFailed(f"SNS refused events: {answer['Failed']}")
            for one in answer["Successful"]:
                self.published[self.event_id(*batch[int(one["Id"])])].append(time.time())

    # ---- faults

    @contextmanager
    def hold(self) -> Generator[None]:
        """Customer service holds some customers' parcels: ShipOrder fails for them meanwhile."""
        keys = [{"customer": {"S": name}, "sequence": {"N": "0"}} for name in self.held]
        update = partial(self.dynamodb.update_item, TableName=self.out["ShippingStepsName"])
        for key in keys:
            update(
                Key=key,
                UpdateExpression="SET held = :yes",
                ExpressionAttributeValues={":yes": {"BOOL": True}},
            )
        self.stage.say(f"customer service holds the parcels of {len(self.held)} customers")
        try:
            yield
        finally:
            for key in keys:
                update(Key=key, UpdateExpression="REMOVE held")
        self.stage.say("customer service releases them")

    def see_refusals(self) -> None:
        """Wait until ShipOrder has failed for each of the held customers."""

        def refused() -> bool:
            if problems := self.what_failed():
                raise ScenarioFailed(problems)
            return len(self.refusals()) == HELD

        self.stage.until("ShipOrder fails for each held customer", refused, seconds=60)

    def break_a_subscription(self) -> str:
        """Take SNS out of FraudChecks' policy for one event; its id."""
        stage, url = self.stage, self.out["FraudChecksUrl"]
        policy = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])[
            "Attributes"
        ]["Policy"]
        statements = json.loads(policy)
        statements["Statement"] = [
            one for one in statements["Statement"] if one["Effect"] == "Deny"
        ]
        event = (0, EVENTS + 1)
        try:
            self.sqs.set_queue_attributes(
                QueueUrl=url, Attributes={"Policy": json.dumps(statements)}
            )
            stage.say("the policy of FraudChecks no longer lets the topic write there")
            time.sleep(60 / stage.clock)  # that long a queue's new policy may take to hold
            self.publish([event])
            stage.until(
                "the event in UndeliveredFraudChecks",
                lambda: stage.depth(self.out["UndeliveredFraudChecksUrl"]) > 0,
                seconds=60,
            )
        finally:
            self.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
        stage.say("the policy is mended")
        stage.until("the event shipped", lambda: self.handled(SHIPPING) == CUSTOMERS * EVENTS, 60)
        return self.event_id(*event)

    # ---- what can be seen

    def count(self) -> dict[str, int]:
        """What has become of this run's events so far."""
        return {
            "checked": self.handled(FRAUD),
            "shipped": self.handled(SHIPPING),
            "poison receives": len(self.rejections()),
            "parked": self.stage.depth(self.out["FailedShipmentsUrl"]),
        }

    def handled(self, service: Service) -> int:
        """How many of this run's events a service has handled, by its customers' rows 0."""
        table = self.out[f"{service.table}Name"]
        keys = [
            {"customer": {"S": self.customer(number)}, "sequence": {"N": "0"}}
            for number in range(CUSTOMERS)
        ]
        found = self.dynamodb.batch_get_item(
            RequestItems={table: {"Keys": keys, "ConsistentRead": True}}
        )["Responses"][table]
        return sum(int(row.get("position", {"N": "0"})["N"]) for row in found)

    def rows(self, service: Service) -> dict[str, list[Row]]:
        """Customer to the rows of its handled events, in the order in which they were handled."""
        found: dict[str, list[Row]] = defaultdict(list)
        pages = self.dynamodb.get_paginator("scan").paginate(
            TableName=self.out[f"{service.table}Name"],
            ConsistentRead=True,
            FilterExpression="begins_with(customer, :run) AND #sequence > :zero",
            ExpressionAttributeNames={"#sequence": "sequence"},
            ExpressionAttributeValues={":run": {"S": self.run}, ":zero": {"N": "0"}},
        )
        for page in pages:
            for row in page["Items"]:
                found[row["customer"]["S"]].append(
                    Row(int(row["position"]["N"]), int(row["sequence"]["N"]), row["event_id"]["S"])
                )
        return {customer: sorted(rows) for customer, rows in found.items()}

    def log(self, service: Service, text: str) -> list[dict[str, Any]]:
        """What a service's function logged with this text about this run's events."""
        entries = self.stage.logged(
            self.out[f"{service.function}LogsName"], f'"{text}"', since=self.stage.began - 5
        )
        return [
            entry for entry in entries if str(entry.get("deduplication_id")).startswith(self.run)
        ]

    def refusals(self) -> dict[str, list[dict[str, Any]]]:
        """Event id to log entry of each receive that ShipOrder refused for a held customer."""
        found = defaultdict(list)
        for entry in self.log(SHIPPING, "Held back event"):
            found[entry["deduplication_id"]].append(entry)
        return found

    def rejections(self) -> list[dict[str, Any]]:
        """ShipOrder's log entries about the poison event, one a receive."""
        entries = self.log(SHIPPING, "Rejected event")
        return [entry for entry in entries if entry["deduplication_id"] == self.poison]

    def what_failed(self) -> str:
        """The distinct errors that the functions logged, for a scenario that ends badly."""
        errors = {
            f"{service.function} logged: {entry.get('exception_name')}:"
            f" {str(entry.get('exception')).splitlines()[-1]}"
            for service in (FRAUD, SHIPPING)
            for entry in self.log(service, "Event failed")
        }
        return " | ".join(sorted(errors)[:3])

    def receive(self, queue: str) -> list[dict[str, Any]]:
        """Up to ten messages of a dead-letter queue, which come back after half a minute."""
        return self.sqs.receive_message(
            QueueUrl=self.out[f"{queue}Url"],
            MaxNumberOfMessages=10,
            VisibilityTimeout=30,
            WaitTimeSeconds=1,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["scenario"],
        ).get("Messages", [])

    def dead_letters(self, queue: str, expected: int) -> list[str]:
        """The ids of this run's events in a dead-letter queue; they stay there."""
        found: dict[str, str] = {}

        def all_found() -> bool:
            for message in self.receive(queue):
                # By the body: SQS gives a dead letter another deduplication id.
                event = json.loads(message["Body"])["event_id"]
                if event.startswith(self.run):
                    found[message["MessageId"]] = event
            return len(found) >= expected

        self.stage.until(f"{expected} events in {queue}", all_found, seconds=60)
        return list(found.values())

    def clear_earlier_runs(self) -> None:
        """Take what earlier runs left out of the dead-letter queues; wait until alarms rest.

        Messages that no scenario sent stay, and then the alarm cannot fire anew: ScenarioFailed.
        """
        for queue in DEAD_LETTERS:
            before = self.stage.depth(self.out[f"{queue}Url"])
            while before and (messages := self.receive(queue)):
                for message in messages:
                    if "scenario" not in message.get("MessageAttributes", {}):
                        raise ScenarioFailed(
                            f"{queue} holds messages that no scenario sent: try another stack"
                        )
                    self.sqs.delete_message(
                        QueueUrl=self.out[f"{queue}Url"], ReceiptHandle=message["ReceiptHandle"]
                    )
            if before:
                self.stage.say(f"removed {before} events of an earlier run from {queue}")
            self.stage.until_at_rest(f"{queue}Url")

    # ---- the account

    def follow(self) -> None:
        """One event that failed for a while and the poison one, hop by hop."""
        say, refusals = self.stage.say, self.refusals()
        late = min(refusals, key=lambda event: refusals[event][0]["at"])
        say(f"one event of a held customer, {late}:", style="bold")
        say("  published to OrderEvents", at=self.published[late][0])
        (checked,) = self.of_event(FRAUD, late)
        say("  CheckFraud wrote its verdict", at=checked["at"])
        for entry in refusals[late]:
            say(f"  ShipOrder, receive {entry['receive_count']}: {entry['reason']}", at=entry["at"])
        (shipped,) = self.of_event(SHIPPING, late)
        say(f"  ShipOrder shipped it at receive {shipped['receive_count']}", at=shipped["at"])

        say(f"the poison event, {self.poison}:", style="bold")
        say("  published to OrderEvents", at=self.published[self.poison][0])
        (checked,) = self.of_event(FRAUD, self.poison)
        say("  CheckFraud, which needs no address, wrote its verdict", at=checked["at"])
        for entry in self.rejections():
            say(f"  ShipOrder, receive {entry['receive_count']}: {entry['reason']}", at=entry["at"])
        (overtaking,) = self.of_event(SHIPPING, self.event_id(POISON[0], POISON[1] + 1))
        say(f"  the next one, {overtaking['event_id']}, overtakes it", at=overtaking["at"])

    def of_event(self, service: Service, event: str) -> list[dict[str, Any]]:
        """The log entries that say that a service handled an event."""
        return [one for one in self.log(service, service.done) if one["event_id"] == event]

    def account(self, undelivered: str) -> None:
        """For each service, every publish ended in exactly one place, and each in order."""
        parked = self.dead_letters("FailedShipments", 1)
        lost = self.dead_letters("UndeliveredFraudChecks", 1)
        met = {service: self.met(service) for service in (FRAUD, SHIPPING)}
        claims = {
            "only the poison event is parked": parked == [self.poison],
            f"it was received exactly {self.receives} times": (
                [entry["receive_count"] for entry in self.rejections()]
                == list(range(1, self.receives + 1))
            ),
            "meanwhile its customer waited, and others did not": self.only_its_customer_waited(),
            f"{HELD} held customers' events failed, and were shipped when released": all(
                self.of_event(SHIPPING, event)[0]["at"] >= entries[-1]["at"]
                for event, entries in self.refusals().items()
            ),
            "the undelivered event is in its subscription's dead-letter queue and nowhere else": (
                lost == [undelivered] and undelivered not in met[FRAUD]
            ),
        }
        balances = []
        for service, elsewhere, ended in (
            (FRAUD, lost, "undelivered"),
            (SHIPPING, parked, "parked"),
        ):
            rows = self.rows(service)
            handled = [row.event_id for of_customer in rows.values() for row in of_customer]
            dropped = [
                event
                for event, times in self.published.items()
                if len(times) == 2 and len(met[service][event]) == 1
            ]
            claims |= self.claims(service, rows) | {
                f"{service.name} handled each event exactly once, but for the {ended} one": (
                    sorted([*handled, *elsewhere]) == sorted(self.published)
                ),
                f"{service.name} met one copy of each event that was published twice": (
                    len(dropped) == DUPLICATES
                ),
            }
            parts = {
                "handled": len(handled),
                ended: len(elsewhere),
                "duplicates dropped": len(dropped),
            }
            balances.append((f"published, to {service.name}", parts))
        broken = self.stage.judge(claims)
        for whole, parts in balances:
            total = sum(len(times) for times in self.published.values())
            self.stage.balance(whole, total, parts)
        if broken:
            raise ScenarioFailed(f"not so: {'; '.join(broken)}. {self.what_failed()}")

    def met(self, service: Service) -> dict[str, set[str]]:
        """Event id to the SQS messages in which a service's function has met it."""
        found: dict[str, set[str]] = defaultdict(set)
        for text in (service.done, "Dropped duplicate event", "Rejected event", "Held back event"):
            for entry in self.log(service, text):
                found[entry["deduplication_id"]].add(entry["message_id"])
        return found

    def only_its_customer_waited(self) -> bool:
        """Whether, between the poison event's receives, all were served but its customer."""
        first, *_, last = [entry["at"] for entry in self.rejections()]
        served = {
            entry["event_id"][:-3]
            for entry in self.log(SHIPPING, SHIPPING.done)
            if first < entry["at"] < last
        }
        return len(served) > 0 and self.poison[:-3] not in served

    def claims(self, service: Service, rows: dict[str, list[Row]]) -> dict[str, bool]:
        """What must hold for one service's rows and queues."""
        queues = [service.queue, f"Failed{service.queue}", f"Undelivered{service.queue}"]
        depths = [self.stage.depth(self.out[f"{queue}Url"]) for queue in queues]
        return {
            f"{service.name} handled the events of each of {CUSTOMERS} customers in order": (
                len(rows) == CUSTOMERS
                and all(
                    [row.sequence for row in of_customer]
                    == sorted(row.sequence for row in of_customer)
                    and [row.position for row in of_customer]
                    == list(range(1, len(of_customer) + 1))
                    for of_customer in rows.values()
                )
            ),
            f"{service.queue} is empty, its dead-letter queues hold one event": (
                depths[0] == 0 and sum(depths) == 1
            ),
        }
