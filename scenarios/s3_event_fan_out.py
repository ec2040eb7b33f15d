"""Images with awkward names, in versions, doubled, locked out: each service gets its own copy."""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus

from scenarios.stage import ScenarioFailed, Stage

NEW, SECOND_VERSIONS, DOUBLED, LOCKED_OUT, MENDED = 44, 10, 5, 6, 4
AT_ONCE = 8  # images on their way to ScanImage; more than are locked out
SEED = 7
QUEUES = ("Thumbnails", "Catalogue")
PARKED = tuple(f"{why}{what}" for what in (*QUEUES, "Scans") for why in ("Undelivered", "Failed"))

# Names that come out wrong where a key is decoded never, twice, or without its plus signs.
NAMES = (
    "plain.png",
    "two words.png",
    "a+b = c.jpg",
    "100%25 sure.gif",
    "50% off.webp",
    "crème brûlée.jpeg",
    "写真 🌻.png",
    "über%2Fstraße+1.png",
    "a//b/c&d?e#f.gif",
    " leading and trailing ",
    "it's (1) ~final~!.png",
)
ELSEWHERE = ("drafts/{}/image.png", "images-old/{}/image.png", "Images/{}/image.png", "{}/images/a")
CONTENTS = {
    "png": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "jpeg": b"\xff\xd8\xff\xe0" + bytes(40),
    "gif": b"GIF89a" + bytes(40),
    "webp": b"RIFF\x28\0\0\0WEBP" + bytes(40),
    "unknown": b"not what its name says",
}

Version = tuple[str, str]  # (key, version id)


# Commands for a deployed stack, with its outputs in them: `make show`.
SEND = {
    "add an image": ("aws s3 cp image.png 's3://$UploadsName/image.png'"),
}


def play(stage: Stage) -> None:
    """Upload the images, take a subscriber away and give it back, and account for every copy."""
    ImagesToEveryService(stage).play()


def s3_event(body: str) -> dict[str, Any]:
    """S3's event in a message: raw, in an envelope of SNS, or in one of Lambda around that."""
    event = json.loads(body)
    if "requestPayload" in event:
        event = event["requestPayload"]["Records"][0]["Sns"]
    return json.loads(event["Message"]) if "Message" in event else event


def versions(event: dict[str, Any]) -> list[Version]:
    """What an event of S3's tells of, with the keys as they were uploaded."""
    told = [record["s3"]["object"] for record in event.get("Records", [])]
    return [(unquote_plus(one["key"]), one["versionId"]) for one in told]


class ImagesToEveryService:
    """One run; all its keys hold its id, which tells it from other runs on the stack."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.out = stage, stage.outputs
        self.run = f"run-{uuid.uuid4().hex[:8]}"
        self.chance = random.Random(SEED)
        self.s3, self.sqs, self.sns = (stage.client(name) for name in ("s3", "sqs", "sns"))
        self.images: dict[Version, tuple[str, float]] = {}  # to (format, Unix time)
        self.elsewhere: set[Version] = set()
        self.archived: Version = ("", "")
        self.locked_out: set[Version] = set()
        self.doubled: set[Version] = set()
        # What the services of the two queues have received: (message id, body, Unix time).
        self.copies: dict[str, dict[Version, list[tuple[str, str, float]]]] = {
            queue: defaultdict(list) for queue in QUEUES
        }
        self.tests: dict[str, set[str]] = {queue: set() for queue in QUEUES}

    def play(self) -> None:
        """The whole story; ScenarioFailed as soon as it cannot end well."""
        self.clear_earlier_runs()
        try:
            with self.stage.listener(self.out["AlertsArn"]) as notices:
                self.upload_one()
                self.upload_all()
                self.double_events_and_test()
                self.lock_scan_image_out()
                self.stage.see_alarms(notices, "UndeliveredScansWait", "FailedScansWait")
            parked = {name: self.receive_parked(name) for name in PARKED}
            self.follow(parked)
            self.account(parked)
        finally:
            self.remove_uploads()

    # ---- what happens

    def upload(self, key: str, kind: str, **settings: Any) -> Version:
        """One object, as soon as ScanImage has few to do; the version that S3 made of it.

        A burst would start as many functions at once, which is nothing to AWS and much to a laptop.
        """
        self.stage.until(
            "ScanImage keeps up", lambda: len(self.images) - len(self.rows()) < AT_ONCE, seconds=60
        )
        made = self.s3.put_object(
            Bucket=self.out["UploadsName"], Key=key, Body=CONTENTS.get(kind, b""), **settings
        )
        if key.startswith("images/"):
            self.images[key, made["VersionId"]] = kind, time.time()
        else:
            self.elsewhere.add((key, made["VersionId"]))
        return key, made["VersionId"]

    def upload_some(self, number: int, what: str) -> list[Version]:
        """New images under images/, named and filled by turns."""
        kinds = [*CONTENTS, "empty"]
        return [
            self.upload(
                f"images/{self.run}/{what} {n:02} {NAMES[n % len(NAMES)]}", kinds[n % len(kinds)]
            )
            for n in range(number)
        ]

    def upload_one(self) -> None:
        """One image alone, to see its way before there are many."""
        key, version = self.upload(f"images/{self.run}/the first one, 100% new + 写真.png", "webp")
        self.watch({"scanned": 1}, seconds=60)
        self.stage.say(f"one image, “{key}”:", style="bold")
        self.follow_copies(key, version)

    def upload_all(self) -> None:
        """New images, second versions of some with other content, and objects elsewhere."""
        stage = self.stage
        first = self.upload_some(NEW, "new")
        for key, version in self.chance.sample(first, SECOND_VERSIONS):
            other = self.chance.choice(sorted(CONTENTS.keys() - {self.images[key, version][0]}))
            self.upload(key, other)
        self.archived = self.upload(
            f"images/{self.run}/archived.png", "png", StorageClass="GLACIER"
        )
        for place in ELSEWHERE:
            self.upload(place.format(self.run), "png")
        stage.say(
            f"uploaded {NEW} images, {SECOND_VERSIONS} second versions, one image in an archive"
            f" class that cannot be read, and {len(self.elsewhere)} objects under other prefixes"
        )
        self.watch({"scanned": len(self.images) - 1, "failed": 1}, seconds=600)

    def double_events_and_test(self) -> None:
        """Some events a second time, as S3 and SNS may do, and S3's own test of the topic."""
        stage = self.stage
        able = sorted(self.images.keys() - {self.archived})
        self.doubled = set(self.chance.sample(able, DOUBLED))
        for version in self.doubled:
            _, body, _ = self.copies["Thumbnails"][version][0]
            self.sns.publish(TopicArn=self.out["ImageEventsArn"], Message=body)
        bucket = {"Bucket": self.out["UploadsName"]}
        setting = self.s3.get_bucket_notification_configuration(**bucket)
        setting.pop("ResponseMetadata")
        self.s3.put_bucket_notification_configuration(**bucket, NotificationConfiguration=setting)
        stage.say(
            f"published {DOUBLED} events again; had S3 test the topic by the same notification"
        )
        self.watch(
            {
                "doubled in Thumbnails": DOUBLED,
                "doubled in Catalogue": DOUBLED,
                "duplicates dropped": DOUBLED,
                "tests ignored": 3,
            },
            seconds=60,
        )

    def lock_scan_image_out(self) -> None:
        """Take SNS's permission to call ScanImage away, upload, and give it back."""
        stage = self.stage
        with self.without_permission():
            self.locked_out = set(self.upload_some(LOCKED_OUT, "locked out"))
            stage.say(f"uploaded {LOCKED_OUT} images while SNS may not call ScanImage")
            self.watch({"undelivered": LOCKED_OUT}, seconds=60)
        self.upload_some(MENDED, "mended")
        stage.say(f"uploaded {MENDED} images after SNS may call it again")
        self.watch({"scanned": len(self.images) - 1 - LOCKED_OUT}, seconds=60)

    @contextmanager
    def without_permission(self) -> Generator[None]:
        """ScanImage without the statement that lets SNS call it, for as long as the block runs."""
        lambda_, name = self.stage.client("lambda"), self.out["ScanImageName"]
        policy = json.loads(lambda_.get_policy(FunctionName=name)["Policy"])
        (statement,) = [
            one
            for one in policy["Statement"]
            if one["Principal"] == {"Service": "sns.amazonaws.com"}
        ]
        lambda_.remove_permission(FunctionName=name, StatementId=statement["Sid"])
        try:
            self.settle()
            yield
        finally:
            lambda_.add_permission(
                FunctionName=name,
                StatementId=statement["Sid"],
                Action=statement["Action"],
                Principal="sns.amazonaws.com",
                SourceArn=self.out["ImageEventsArn"],
            )
            self.settle()

    def settle(self) -> None:
        """A minute, until a change of a policy is known everywhere."""
        time.sleep(60 / self.stage.clock)

    # ---- what is seen

    def watch(self, goals: dict[str, int], seconds: float) -> None:
        """Consume both queues until all images are there and the other goals are reached."""
        goals = {f"in {queue}": len(self.images) for queue in QUEUES} | goals
        counters = {
            "in Thumbnails": lambda: self.consume("Thumbnails"),
            "in Catalogue": lambda: self.consume("Catalogue"),
            "scanned": lambda: len(self.rows()),
            "failed": lambda: self.stage.depth(self.out["FailedScansUrl"]),
            "undelivered": lambda: self.stage.depth(self.out["UndeliveredScansUrl"]),
            "doubled in Thumbnails": lambda: self.twice("Thumbnails"),
            "doubled in Catalogue": lambda: self.twice("Catalogue"),
            "duplicates dropped": lambda: len(self.log("Dropped duplicate event")),
            "tests ignored": self.tests_ignored,
        }
        self.stage.watch(
            goals,
            lambda: {name: counters[name]() for name in goals},
            seconds=seconds,
            why=self.what_failed,
        )

    def consume(self, queue: str) -> int:
        """Empty a queue as its service would; how many versions it knows by now."""
        url = self.out[f"{queue}Url"]
        while self.stage.depth(url) and (messages := self.receive(url)):
            for message in messages:
                event = s3_event(message["Body"])
                if event.get("Event") == "s3:TestEvent":
                    self.tests[queue].add(event["RequestId"])
                for version in versions(event):
                    copy = message["MessageId"], message["Body"], time.time()
                    copies = self.copies[queue][version]
                    if copy[0] not in [known for known, _, _ in copies]:  # SQS delivers again
                        copies.append(copy)
                self.delete(url, message)
        return len(self.copies[queue])

    def twice(self, queue: str) -> int:
        """How many of the doubled events have reached a queue twice."""
        return sum(len(self.copies[queue][version]) > 1 for version in self.doubled)

    def receive(self, url: str) -> list[dict[str, Any]]:
        """Up to ten messages, which come back after half a minute."""
        return self.sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=30, WaitTimeSeconds=1
        ).get("Messages", [])

    def delete(self, url: str, message: dict[str, Any]) -> None:
        """Take one received message away for good."""
        self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

    def rows(self) -> dict[Version, dict[str, Any]]:
        """This run's rows in ScannedImages."""
        pages = (
            self.stage.client("dynamodb")
            .get_paginator("scan")
            .paginate(
                TableName=self.out["ScannedImagesName"],
                ConsistentRead=True,
                FilterExpression="contains(image, :run)",
                ExpressionAttributeValues={":run": {"S": self.run}},
            )
        )
        found = [row for page in pages for row in page["Items"]]
        return {(row["image"]["S"], row["version_id"]["S"]): row for row in found}

    def log(self, text: str) -> list[dict[str, Any]]:
        """What ScanImage logged with this text about this run's images."""
        entries = self.stage.logged(
            self.out["ScanImageLogsName"], f'"{text}"', since=self.stage.began
        )
        return [
            entry
            for entry in entries
            if entry["message"] == text and self.run in str(entry.get("image"))
        ]

    def tests_ignored(self) -> int:
        """How many of the three subscribers have had the same test event, and no harm from it."""
        logged = self.stage.logged(
            self.out["ScanImageLogsName"], '"Ignored test event"', since=self.stage.began
        )
        in_log = {entry["request"] for entry in logged}
        in_all = [self.tests[queue] for queue in QUEUES] + [in_log]
        return max(sum(one in ids for ids in in_all) for one in set().union(*in_all, {""}))

    def what_failed(self) -> str:
        """The distinct errors that ScanImage logged, for a scenario that ends badly."""
        errors = {
            f"{entry.get('exception_name')}: {str(entry.get('exception')).splitlines()[-1]}"
            for entry in self.log("Scan failed")
            if (entry["image"], entry["version_id"]) != self.archived
        }
        return "ScanImage logged: " + " | ".join(sorted(errors)[:3]) if errors else ""

    def receive_parked(self, name: str) -> dict[Version, dict[str, Any]]:
        """What lies in a dead-letter queue, by version; it stays there."""
        found: dict[Version, dict[str, Any]] = {}
        depth = self.stage.depth(self.out[f"{name}Url"])

        def all_found() -> bool:
            for message in self.receive(self.out[f"{name}Url"]) if depth else []:
                found.update(dict.fromkeys(versions(s3_event(message["Body"])), message))
            return len(found) >= depth

        self.stage.until(f"{depth} messages in {name}", all_found, seconds=60)
        return found

    # ---- before and after

    def clear_earlier_runs(self) -> None:
        """Take what earlier runs left out of the queues, and wait until the alarms rest.

        Images that no scenario uploaded stay: ScenarioFailed.
        """
        for name in (*QUEUES, *PARKED):
            url = self.out[f"{name}Url"]
            before = self.stage.depth(url)
            while before and (messages := self.receive(url)):
                for message in messages:
                    keys = [key for key, _ in versions(s3_event(message["Body"]))]
                    if not all(re.match(r"images/run-[0-9a-f]{8}/", key) for key in keys):
                        raise ScenarioFailed(
                            f"{name} holds an image that no scenario uploaded: try another stack"
                        )
                    self.delete(url, message)
            if before:
                self.stage.say(f"removed {before} messages from {name} that were there before")
        self.stage.until_at_rest(*(f"{name}Url" for name in PARKED))

    def listed(self) -> set[Version]:
        """The versions that Uploads holds of this run."""
        pages = self.s3.get_paginator("list_object_versions").paginate(
            Bucket=self.out["UploadsName"]
        )
        return {
            (one["Key"], one["VersionId"])
            for page in pages
            for one in page.get("Versions", [])
            if self.run in one["Key"]
        }

    def remove_uploads(self) -> None:
        """Delete every version that this run made: a bucket with objects cannot be destroyed."""
        for key, version in {*self.images, *self.elsewhere}:
            self.s3.delete_object(Bucket=self.out["UploadsName"], Key=key, VersionId=version)

    # ---- what it comes to

    def follow(self, parked: dict[str, dict[Version, dict[str, Any]]]) -> None:
        """A second version, the image that cannot be read and one that was locked out."""
        say = self.stage.say
        keys = [key for key, _ in self.images]
        key, version = next(one for one in self.images if keys.count(one[0]) > 1)
        for key, version in [one for one in self.images if one[0] == key]:
            say(f"a version of “{key}”:", style="bold")
            self.follow_copies(key, version)

        say(f"the image that cannot be read, “{self.archived[0]}”:", style="bold")
        self.follow_copies(*self.archived)
        failure = json.loads(parked["FailedScans"][self.archived]["Body"])
        say(f"  found in FailedScans: {failure['responsePayload'].get('errorMessage')}")

        key, version = min(self.locked_out)
        say(f"an image that ScanImage was locked out from, “{key}”:", style="bold")
        self.follow_copies(key, version)
        envelope = json.loads(parked["UndeliveredScans"][key, version]["Body"])
        say(f"  found in UndeliveredScans as message {envelope['MessageId']} of the topic")

    def follow_copies(self, key: str, version: str) -> None:
        """When one version was uploaded, received from each queue and scanned, in that order."""
        hops = [(self.images[key, version][1], f"uploaded as version {version}")]
        for queue in QUEUES:
            for message, _, at in self.copies[queue][key, version]:
                hops.append((at, f"received from {queue} as message {message}"))
        for text in ("Scanned image", "Dropped duplicate event", "Scan failed"):
            for entry in self.log(text):
                if entry["version_id"] == version:
                    hops.append((entry["at"], f"ScanImage logged “{text}”"))
        if row := self.rows().get((key, version)):
            wrote = datetime.fromisoformat(row["scanned_at"]["S"]).timestamp()
            hops.append((wrote, f"ScanImage wrote its row: {row['format']['S']}"))
        for at, hop in sorted(hops):
            self.stage.say(f"  {hop}", at=at)

    def account(self, parked: dict[str, dict[Version, dict[str, Any]]]) -> None:
        """Every version reached every service once, or lies in the one queue for its failure."""
        rows, images = self.rows(), set(self.images)
        failed, undelivered = parked["FailedScans"], parked["UndeliveredScans"]
        once = {
            queue: all(
                len(copies) == (2 if version in self.doubled else 1)
                for version, copies in self.copies[queue].items()
            )
            for queue in QUEUES
        }
        formats = {version: row["format"]["S"] for version, row in rows.items()}
        expected = {
            version: "unknown" if kind == "empty" else kind
            for version, (kind, _) in self.images.items()
        }
        attempts = [
            entry for entry in self.log("Scan failed") if entry["version_id"] == self.archived[1]
        ]
        claims = {
            "Uploads lists exactly what was uploaded": self.listed() == images | self.elsewhere,
            "Thumbnails got each version once, the doubled ones twice": once["Thumbnails"],
            "Catalogue got each version once, the doubled ones twice": once["Catalogue"],
            "ScanImage dropped exactly the doubled ones": (
                sorted(entry["version_id"] for entry in self.log("Dropped duplicate event"))
                == sorted(version for _, version in self.doubled)
            ),
            "nothing under another prefix reached anybody": not self.elsewhere
            & (set(self.copies["Thumbnails"]) | set(self.copies["Catalogue"]) | set(rows)),
            "each row says what that very version holds": formats
            == {version: expected[version] for version in rows},
            "the unreadable image was tried three times and is the only failed scan": (
                len(attempts) == 3 and set(failed) == {self.archived}
            ),
            "what ScanImage was locked out from is in UndeliveredScans": (
                set(undelivered) == self.locked_out
            ),
            "and only there": not any(
                parked[name] for name in PARKED if name not in ("UndeliveredScans", "FailedScans")
            ),
            "no version ended in two places": not (
                set(rows) & set(failed) or set(rows) & set(undelivered)
            ),
            "both queues are empty": not any(
                self.stage.depth(self.out[f"{queue}Url"]) for queue in QUEUES
            ),
        }
        broken = self.stage.judge(claims)
        if broken:
            raise ScenarioFailed(f"not so: {'; '.join(broken)}. {self.what_failed()}")
        for queue in QUEUES:
            self.stage.balance(
                "uploads", len(images), {f"in {queue}": len(images & set(self.copies[queue]))}
            )
        self.stage.balance(
            "uploads",
            len(images),
            {"scanned": len(rows), "failed": len(failed), "undelivered": len(undelivered)},
        )
