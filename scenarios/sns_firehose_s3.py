"""Order events read back from the archive line by line, and a fault at each of the two hops."""

from __future__ import annotations

import gzip
import json
import random
import time
import uuid
from collections import Counter
from typing import Any, NamedTuple

from scenarios.roles import denied
from scenarios.stage import ScenarioFailed, Stage

EVENTS, LATE = 400, 5
BIGGEST = 256 * 1024  # bytes; what SNS takes at most
SEED = 21
# What a careless archive breaks: quotes, escapes, line breaks of other alphabets, emoji.
NOTES = (
    "ring twice",
    'leave it with "Ada"',
    "two\nlines, and a\ttab",
    "back\\slash \\n is not a line break",
    "문 앞에 두세요",
    "übermorgen, für Zoë",
    "اتركه عند الباب",
    "🛒📦 👩‍🚀",
    "a line separator\u2028and a next line\u0085inside",
)


class Line(NamedTuple):
    """One line of an object."""

    text: str
    key: str
    number: int
    seen: float


# Commands for a deployed stack, with its outputs in them: `make show`.
SEND = {
    "publish an event": (
        'aws sns publish --topic-arn \'$OrderEventsArn\' --message \'{"event_id": "try-1", '
        '"type": "OrderPlaced", "customer": "ada"}\''
    ),
}


def play(stage: Stage) -> None:
    """Publish, read back, break both hops, mend them, and account for every event."""
    OrdersIntoTheArchive(stage).play()


class OrdersIntoTheArchive:
    """One run; all that it publishes carries its id, which tells it from other runs' events."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.out = stage, stage.outputs
        self.run = uuid.uuid4().hex[:8]
        self.sns, self.sqs, self.s3 = (stage.client(name) for name in ("sns", "sqs", "s3"))
        (destination,) = stage.client("firehose").describe_delivery_stream(
            DeliveryStreamName=self.out["OrderArchiveName"]
        )["DeliveryStreamDescription"]["Destinations"]
        settings = destination["ExtendedS3DestinationDescription"]
        self.buffer = settings["BufferingHints"]
        self.stream_role = settings["RoleARN"].rpartition("/")[2]
        self.subscription_role = self.subscription()["SubscriptionRoleArn"].rpartition("/")[2]
        self.sent: dict[str, tuple[str, float]] = {}  # event id to (text, Unix time)
        self.message_ids: dict[str, str] = {}  # event id to SNS message id
        self.objects: dict[str, list[Line]] = {}  # key to lines, of all new ones

    def subscription(self) -> dict[str, str]:
        """The attributes of the delivery stream's subscription."""
        pages = self.sns.get_paginator("list_subscriptions_by_topic").paginate(
            TopicArn=self.out["OrderEventsArn"]
        )
        (arn,) = [
            one["SubscriptionArn"]
            for page in pages
            for one in page["Subscriptions"]
            if one["Protocol"] == "firehose"
        ]
        return self.sns.get_subscription_attributes(SubscriptionArn=arn)["Attributes"]

    def play(self) -> None:
        """The whole story; ScenarioFailed as soon as it cannot end well."""
        stage = self.stage
        seconds = self.buffer["IntervalInSeconds"]
        stage.say(
            f"the archive writes after {seconds} s or {self.buffer['SizeInMBs']} MiB"
            + (f"; time runs {stage.clock:g} times faster here" if stage.clock > 1 else "")
        )
        self.clear_earlier_runs()
        self.publish([self.event(number) for number in range(EVENTS - 1)])
        self.publish([self.event(EVENTS - 1, size=BIGGEST)])
        stage.say(f"published {EVENTS} order events, the last of exactly {BIGGEST // 1024} KiB")
        self.await_archived(EVENTS, parked=0)
        # Of an earlier run's refusal, too: the bucket has taken something since.
        stage.until("the alarms at rest", self.at_rest, seconds=300)
        written = len(self.objects)
        with stage.listener(self.out["AlertsArn"]) as notices:
            unlucky = self.break_both_hops(notices)
        lucky = self.event(EVENTS + LATE + 1)
        self.publish([lucky])
        stage.say("both mended, and one more event published")
        # Firehose says for how long it tries again, but not how often.
        self.await_archived(EVENTS + LATE + 1, parked=1, seconds=1800)
        parked = self.parked()
        self.follow(unlucky, parked)
        self.account(written, unlucky, parked)
        self.remove_objects()

    def event(self, number: int, size: int = 0) -> tuple[str, str]:
        """(id, text) of an order event; the same in each run but for the run's id."""
        chance = random.Random(SEED * 1000 + number)
        event = {
            "event_id": f"{self.run}-{number:03}",
            "scenario": self.run,
            "type": chance.choice(["OrderPlaced", "OrderPaid", "OrderShipped"]),
            "customer": f"customer-{chance.randrange(40):02}",
            "note": NOTES[number % len(NOTES)],
        }
        text = json.dumps(event, ensure_ascii=False)
        if size:
            event["note"] += "x" * (size - len(text.encode()))
            text = json.dumps(event, ensure_ascii=False)
        return event["event_id"], text

    def publish(self, events: list[tuple[str, str]]) -> None:
        """Publish in batches of ten."""
        for first in range(0, len(events), 10):
            batch = events[first : first + 10]
            answer = self.sns.publish_batch(
                TopicArn=self.out["OrderEventsArn"],
                PublishBatchRequestEntries=[
                    {"Id": str(index), "Message": text} for index, (_, text) in enumerate(batch)
                ],
            )
            if answer.get("Failed"):
                raise ScenarioFailed(f"SNS refused messages: {answer['Failed']}")
            for one in answer["Successful"]:
                event_id, text = batch[int(one["Id"])]
                self.sent[event_id] = text, time.time()
                self.message_ids[event_id] = one["MessageId"]

    def lines(self) -> list[Line]:
        """This run's lines under the orders' prefix; an object is read once.

        ScenarioFailed if one is not exactly what was published.
        """
        for key in self.new_keys("orders/"):
            if key not in self.objects:
                self.objects[key] = self.read(key)
        texts = {text for text, _ in self.sent.values()}
        ours = [line for lines in self.objects.values() for line in lines if self.run in line.text]
        for line in ours:
            if line.text not in texts:
                raise ScenarioFailed(
                    f"line {line.number} of {line.key} is no event as it was published:"
                    f" {line.text[:200]}"
                )
        return ours

    def new_keys(self, prefix: str) -> list[str]:
        """The objects under a prefix that were written since this run began."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.out["ArchivedOrdersName"], Prefix=prefix
        )
        return [
            one["Key"]
            for page in pages
            for one in page.get("Contents", [])
            if one["LastModified"].timestamp() > self.stage.began - 5
        ]

    def read(self, key: str) -> list[Line]:
        """The lines of one object. Only a line feed ends a line, whatever Unicode says."""
        body = self.s3.get_object(Bucket=self.out["ArchivedOrdersName"], Key=key)["Body"].read()
        try:
            text = gzip.decompress(body).decode()
        except (OSError, ValueError) as error:
            raise ScenarioFailed(f"{key} is not text compressed with GZIP: {error}") from None
        return [
            Line(line, key, number, time.time())
            for number, line in enumerate(text.split("\n"), start=1)
            if line
        ]

    def await_archived(self, archived: int, parked: int, seconds: float = 300) -> None:
        """Wait until so many of this run's events have been read back; one parked more ends it."""
        self.stage.watch(
            {"archived": archived, "parked": parked},
            lambda: {
                "archived": len(self.lines()),
                "parked": self.stage.depth(self.out["UnarchivedOrdersUrl"]),
            },
            seconds=2 * self.buffer["IntervalInSeconds"] + seconds,
            why=self.what_failed,
        )

    def what_failed(self) -> str:
        """What OrderArchive logged of refusals, for a scenario that ends badly."""
        errors = {
            f"{entry['errorCode']}: {entry['message']}"
            for entry in self.stage.logged(
                self.out["OrderArchiveErrorsName"], "", since=self.stage.began - 5
            )
        }
        return "OrderArchive logged: " + " | ".join(sorted(errors)[:3]) if errors else ""

    def break_both_hops(self, notices: str) -> str:
        """Take one grant from each role, publish meanwhile, and hear of both; the parked id.

        The bucket's refusal holds up what comes first, the topic's role what comes then.
        """
        stage, partition = self.stage, self.out["OrderEventsArn"].split(":")[1]
        bucket = f"arn:{partition}:s3:::{self.out['ArchivedOrdersName']}/*"
        with denied(stage, self.stream_role, "s3:PutObject", bucket):
            self.publish([self.event(EVENTS + number) for number in range(LATE)])
            stage.say(f"fault: the bucket refuses OrderArchive; {LATE} events published")
            with denied(stage, self.subscription_role, "firehose:PutRecord*", "*"):
                unlucky = self.event(EVENTS + LATE)
                self.publish([unlucky])
                stage.say("fault: the topic's role lost its grant; one event published")
                stage.until(
                    "the event in UnarchivedOrders",
                    lambda: stage.depth(self.out["UnarchivedOrdersUrl"]) == 1,
                    seconds=60,
                )
            self.stage.see_alarms(notices, "OrdersUnarchived", "ArchiveRefused")
        return unlucky[0]

    def parked(self) -> dict[str, str]:
        """Event id to text of what lies in UnarchivedOrders; it stays there."""
        found: dict[str, str] = {}

        def all_found() -> bool:
            found.update((event["event_id"], text) for event, text, _ in self.receive_parked())
            return bool(found)

        self.stage.until("the parked event", all_found, seconds=60)
        return found

    def receive_parked(self) -> list[tuple[dict[str, Any], str, str]]:
        """(event, text, receipt) of up to ten parked messages, which come back after 30 s.

        An event is {} if it is not one of a scenario's. A message may lie in SNS's envelope.
        """
        messages = self.sqs.receive_message(
            QueueUrl=self.out["UnarchivedOrdersUrl"],
            MaxNumberOfMessages=10,
            VisibilityTimeout=30,
            WaitTimeSeconds=1,
        ).get("Messages", [])
        found = []
        for message in messages:
            text = message["Body"]
            try:
                event = json.loads(text)
                if event.get("Type") == "Notification":
                    text = event["Message"]
                    event = json.loads(text)
            except (ValueError, AttributeError):
                event = {}
            found.append((event if "scenario" in event else {}, text, message["ReceiptHandle"]))
        return found

    def clear_earlier_runs(self) -> None:
        """Take what earlier runs parked out of UnarchivedOrders.

        Messages that no scenario sent stay, and then the alarm cannot fire anew: ScenarioFailed.
        """
        before = self.stage.depth(self.out["UnarchivedOrdersUrl"])
        while before and (messages := self.receive_parked()):
            for event, _, receipt in messages:
                if not event:
                    raise ScenarioFailed(
                        "UnarchivedOrders holds messages that no scenario sent: try another stack"
                    )
                self.sqs.delete_message(
                    QueueUrl=self.out["UnarchivedOrdersUrl"], ReceiptHandle=receipt
                )
        if before:
            self.stage.say(f"removed {before} events that an earlier run had parked")

    def at_rest(self) -> bool:
        """Whether neither hop's alarm is in ALARM."""
        states = (
            self.stage.depth_alarm("UnarchivedOrdersUrl"),
            self.stage.alarm(
                "AWS/Firehose",
                "DeliveryToS3.Success",
                DeliveryStreamName=self.out["OrderArchiveName"],
            ),
        )
        return "ALARM" not in states

    def follow(self, unlucky: str, parked: dict[str, str]) -> None:
        """The biggest event and the parked one, hop by hop."""
        say = self.stage.say
        biggest = f"{self.run}-{EVENTS - 1:03}"
        (line,) = [one for one in self.lines() if json.loads(one.text)["event_id"] == biggest]
        say(f"the biggest event, {biggest}:", style="bold")
        say(f"  published as message {self.message_ids[biggest]}", at=self.sent[biggest][1])
        say(f"  line {line.number} of {line.key}, {len(line.text.encode())} bytes", at=line.seen)
        say(f"the event without a way, {unlucky}:", style="bold")
        say(f"  published as message {self.message_ids[unlucky]}", at=self.sent[unlucky][1])
        say(f"  found in UnarchivedOrders, {len(parked[unlucky].encode())} bytes")

    def account(self, written: int, unlucky: str, parked: dict[str, str]) -> None:
        """Every event that was published is in exactly one place, and as it was."""
        lines = self.lines()
        sent = Counter(text for text, _ in self.sent.values())
        archived = Counter(line.text for line in lines)
        keys = {line.key for line in lines}
        claims = {
            "what was read back and parked is what was published, letter by letter": (
                archived + Counter(parked.values()) == sent
            ),
            f"one event is exactly {BIGGEST} bytes": BIGGEST
            in {len(line.text.encode()) for line in lines},
            f"the archive is buffered: {EVENTS} events in {written} compressed object(s)": (
                0 < written <= EVENTS // 10 and all(key.endswith(".gz") for key in keys)
            ),
            "each object lies under the hour of its events": all(
                line.key.startswith(self.hours(line.text)) for line in lines
            ),
            "nothing is under the error prefix": self.new_keys("errors/") == [],
            "the event without a way is parked and only there": (
                set(parked) == {unlucky} and not any(unlucky in text for text in archived)
            ),
        }
        broken = self.stage.judge(claims)
        self.stage.balance(
            "published", len(self.sent), {"archived": archived.total(), "parked": len(parked)}
        )
        if broken:
            raise ScenarioFailed(f"not so: {'; '.join(broken)}. {self.what_failed()}")

    def hours(self, text: str) -> tuple[str, ...]:
        """The prefixes that an event may lie under: its object's oldest event came in that hour.

        That is the event's own hour or, just after the full hour, the one before.
        """
        published = self.sent[json.loads(text)["event_id"]][1]
        earliest = published - self.buffer["IntervalInSeconds"] - 60
        return tuple(
            time.strftime("orders/%Y/%m/%d/%H/", time.gmtime(moment))
            for moment in (published, earliest)
        )

    def remove_objects(self) -> None:
        """Delete the objects that hold this run's events and no others."""
        keys = [
            key
            for key, lines in self.objects.items()
            if lines and all(self.run in line.text for line in lines)
        ]
        for key in keys:
            self.s3.delete_object(Bucket=self.out["ArchivedOrdersName"], Key=key)
        self.stage.say(f"removed the {len(keys)} objects that this run made")
