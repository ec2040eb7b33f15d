"""Slow answers, copies, forgeries and a worker that dies: every answer must reach its asker."""

from __future__ import annotations

import io
import json
import logging
import random
import threading
import time
import uuid
import zipfile
from collections import defaultdict
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import boto3
from botocore.exceptions import ClientError

from scenarios.roles import role_with
from scenarios.stage import ScenarioFailed, Stage
from workers.sqs_request_response.asker import Asker, NoAnswer, Pending, Refused

GOOD, MALFORMED, LATE = 100, 10, 5  # questions of the askers
COPIES, EXPIRED = 10, 5  # sent without an asker, as is what is poison
FRAUD_DOUBTS_ABOVE_CENTS = 100_000
WRITTEN = "%Y-%m-%d %H:%M:%S,%f%z"  # how Powertools writes when a line was logged
SEED = 7

# A faulty release of CheckFraud, put before the good one by a layer: it dies between deciding and
# answering, which is the worst moment. The function itself has no such switch.
DIES = """
import os
import check_fraud

def reply(*_):
    check_fraud.logger.warning("Dies before it answers")
    os._exit(1)

check_fraud.reply = reply
handler = check_fraud.handler
"""


def play(stage: Stage) -> None:
    """Ask, disturb, follow three questions, and account for all."""
    QuestionsAndAnswers(stage).play()


@dataclass
class Asked:
    """One question of an asker and when it was asked and settled (Unix times)."""

    asker: str
    kind: str
    question: dict[str, Any]
    pending: Pending
    at: float
    settled: float = 0.0

    @property
    def end(self) -> str:
        """What came of it: a verdict, or the name of the exception with its text."""
        error = self.pending.exception(timeout=0)
        return f"{type(error).__name__}: {error}" if error else self.pending.result()["verdict"]


class QuestionsAndAnswers:
    """One run; every message of it has the run's id in its body, which tells it from others."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.out = stage, stage.outputs
        logging.getLogger(Asker.__module__).addHandler(logging.NullHandler())  # the scenario tells
        self.run = f"scenario-{uuid.uuid4().hex[:8]}"
        self.sqs, self.lambda_ = stage.client("sqs"), stage.client("lambda")
        settings = self.sqs.get_queue_attributes(
            QueueUrl=self.out["FraudQuestionsUrl"],
            AttributeNames=["VisibilityTimeout", "RedrivePolicy"],
        )["Attributes"]
        self.receives = int(json.loads(settings["RedrivePolicy"])["maxReceiveCount"])
        self.visibility_timeout = int(settings["VisibilityTimeout"])
        # What an asker waits that has time: for as long as a question may come back.
        self.timeout = stage.patience(self.receives * self.visibility_timeout)
        self.chance = random.Random(SEED)
        self.lock, self.numbers = threading.Lock(), iter(range(10_000))
        self.asked: list[Asked] = []
        self.sent: dict[str, tuple[str, float]] = {}  # message id to (kind, Unix time), no asker's
        self.strange: set[str] = set()  # message ids of answers to nobody

    def play(self) -> None:
        """The whole story; ScenarioFailed as soon as it cannot end well."""
        stage = self.stage
        stage.say(
            f"a question may fail {self.receives} times, {self.visibility_timeout} s apart"
            + (f"; SQS time runs {stage.clock:g} times faster here" if stage.clock > 1 else "")
        )
        with ExitStack() as stack:
            roles = {
                name: stack.enter_context(self.role(name)).client("sqs")
                for name in ("Buying", "Shipping")
            }
            self.askers = {
                name: stack.enter_context(
                    Asker(self.out["FraudQuestionsUrl"], self.out[f"{name}AnswersUrl"], sqs=sqs)
                )
                for name, sqs in roles.items()
            }
            self.clear_earlier_runs()
            notices = stack.enter_context(stage.listener(self.out["AlertsArn"]))
            self.forge(notices)
            self.ask_all()
            self.send_copies(roles["Buying"])
            self.slow_way_back()
            stage.watch(self.goals(), self.count, self.visibility_timeout * (self.receives + 1),
                        why=self.what_failed)  # fmt: skip
            self.die()
            self.stage.see_alarms(notices, *self.alarms())
            self.see_answers_taken()
            self.private = self.denied(roles["Buying"])
            parked = self.parked("FailedFraudQuestionsUrl", self.poison())
            self.parked("FailedBuyingAnswersUrl", self.strange)
        self.follow(parked)
        self.account(parked)

    # ---- who asks

    def role(self, name: str) -> AbstractContextManager[boto3.Session]:
        """A role that may do what the asker's policy says and nothing else."""
        answers = self.out[f"{name}AnswersUrl"]
        return role_with(
            self.stage,
            # What an earlier run may have left there is seen and left.
            lambda own: own.client("sqs").receive_message(QueueUrl=answers, VisibilityTimeout=0),
            managed=self.out[f"{name}AccessArn"],
        )

    def ask(self, asker: str, kind: str, timeout: float) -> Asked:
        """One question, asked and noted; callable from several threads at once."""
        with self.lock:
            question = self.question()
        if kind == "malformed":
            del question["customer"]
        began = time.time()
        try:
            pending = self.askers[asker].ask(question, timeout=timeout)
        except ClientError as error:
            raise ScenarioFailed(f"{asker} cannot ask: {error}") from None
        asked = Asked(asker, kind, question, pending, began)
        pending.add_done_callback(lambda _: setattr(asked, "settled", time.time()))
        with self.lock:
            self.asked.append(asked)
        return asked

    def question(self) -> dict[str, Any]:
        """A new question of this run."""
        return {
            "order_id": f"{self.run}-{next(self.numbers):03}",
            "customer": f"customer-{self.chance.randrange(40):02}",
            "total_cents": self.chance.randrange(2 * FRAUD_DOUBTS_ABOVE_CENTS),
        }

    def of(self, kind: str) -> list[Asked]:
        """This run's questions of a kind that an asker asked."""
        return [asked for asked in self.asked if asked.kind == kind]

    # ---- what happens

    def ask_all(self) -> None:
        """Both askers ask from five threads each; then their futures are awaited."""
        kinds = ["good"] * GOOD + ["malformed"] * MALFORMED
        self.chance.shuffle(kinds)
        names = [list(self.askers)[number % 2] for number in range(len(kinds))]
        began = time.time()
        with ThreadPoolExecutor(10) as threads:
            jobs = threads.map(
                lambda pair: self.ask(*pair, self.timeout), zip(names, kinds, strict=True)
            )
            pending = [asked.pending for asked in jobs]
        open_ = sum(not one.done() for one in pending)
        self.stage.say(
            f"Buying and Shipping asked {GOOD} questions and {MALFORMED} malformed ones in"
            f" {time.time() - began:.1f} s, from five threads each; {open_} answers are to come"
        )
        wait(pending, timeout=self.timeout + 10)
        self.stage.say(f"all {len(pending)} are settled: {self.ends()}")

    def ends(self) -> str:
        """The askers' own counts, those that are not 0."""
        return "; ".join(
            f"{name} "
            + ", ".join(f"{count} {what}" for what, count in asker.counts.items() if count)
            for name, asker in self.askers.items()
        )

    def send(self, kind: str, queue: str, body: str, *, sqs: Any = None, **attributes: str) -> str:
        """A message that no asker knows of; its id."""
        answer = (sqs or self.sqs).send_message(
            QueueUrl=self.out[queue],
            MessageBody=body,
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value}
                for name, value in attributes.items()
            },
        )
        if queue == "FraudQuestionsUrl":
            self.sent[answer["MessageId"]] = kind, time.time()
        return answer["MessageId"]

    def envelope(self, **changes: str) -> dict[str, str]:
        """Attributes of a question as they must be, but for the changes; "" leaves one out."""
        right = {
            "correlation_id": f"{self.run}-{next(self.numbers):03}",
            "reply_to": self.name("BuyingAnswersUrl"),
            "expires_at": repr(time.time() + self.timeout),
        }
        return {name: value for name, value in (right | changes).items() if value}

    def name(self, output: str) -> str:
        """The name of a queue whose URL is an output, or is given."""
        return self.out.get(output, output).rpartition("/")[2]

    def forge(self, somebodys: str) -> None:
        """Send questions that cannot be answered, and answers that nobody asked for."""
        forged = [
            self.name("FraudQuestionsUrl"),
            self.name("FailedFraudQuestionsUrl"),
            self.name(somebodys),  # of this account, but no asker's
            f"{self.run}-nowhere",
        ]
        for kind, changes in (
            *(("forged", {"reply_to": name}) for name in forged),
            (
                "without an envelope",
                dict.fromkeys(("correlation_id", "reply_to", "expires_at"), ""),
            ),
            ("without reply_to", {"reply_to": ""}),
            ("without an expiry", {"expires_at": "soon"}),
        ):
            body = json.dumps(self.question())
            self.send(kind, "FraudQuestionsUrl", body, **self.envelope(**changes))
        self.strange = {
            self.send("strange", "BuyingAnswersUrl", f"{self.run} is no answer"),
            self.send("strange", "BuyingAnswersUrl", json.dumps({"order_id": f"{self.run}-x"}),
                      outcome="answered", **self.envelope(reply_to="")),
        }  # fmt: skip
        self.stage.say(
            f"sent {len(self.sent)} questions that cannot be answered, {len(forged)} of them with a"
            f" forged reply_to, and {len(self.strange)} answers to nobody"
        )

    def send_copies(self, buying: Any) -> None:
        """Copies of questions, one with other content, and questions that have expired."""
        good = [asked for asked in self.of("good") if asked.asker == "Buying"]
        for asked in good[:COPIES]:
            self.send("copy", "FraudQuestionsUrl", json.dumps(asked.question), sqs=buying,
                      **self.as_sent(asked.pending))  # fmt: skip
        other = json.dumps(self.question())
        self.send("conflicting", "FraudQuestionsUrl", other, **self.as_sent(good[0].pending))
        for _ in range(EXPIRED):
            past = self.envelope(expires_at=repr(time.time() - 1))
            self.send("expired", "FraudQuestionsUrl", json.dumps(self.question()), **past)
        self.stage.say(
            f"sent {COPIES} copies of Buying's questions, one with other content,"
            f" and {EXPIRED} questions that have expired"
        )

    def as_sent(self, pending: Pending) -> dict[str, str]:
        """The attributes of a question that Buying has asked."""
        return self.envelope(
            correlation_id=pending.correlation_id, expires_at=repr(pending.expires_at)
        )

    def slow_way_back(self) -> None:
        """Delay Shipping's answers for longer than Shipping waits."""
        delay, url = 240, self.out["ShippingAnswersUrl"]
        timeout = 0.75 * delay / self.stage.clock
        before = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["DelaySeconds"])
        self.sqs.set_queue_attributes(QueueUrl=url, Attributes={"DelaySeconds": str(delay)})
        try:
            if self.stage.on_aws:  # it takes up to a minute until all of SQS knows
                time.sleep(60)
            late = [self.ask("Shipping", "late", timeout) for _ in range(LATE)]
            self.stage.say(
                f"Shipping asks {LATE} questions and waits {timeout:g} s for each;"
                f" its answers now take {delay / self.stage.clock:g} s"
            )
            wait([asked.pending for asked in late], timeout=timeout + 10)
            self.stage.say(f"Shipping has given up: {late[0].end}")
        finally:
            self.sqs.set_queue_attributes(QueueUrl=url, Attributes=before["Attributes"])

    def die(self) -> None:
        """Ask while CheckFraud dies before it answers; then let it live."""
        with self.faulty_release():
            dying = self.ask("Buying", "dying", self.timeout)
            self.stage.until(
                "a death of CheckFraud", lambda: self.log("Dies before it answers"), seconds=60
            )
            self.stage.say("CheckFraud died with a question of Buying in hand")
        wait([dying.pending], timeout=self.timeout + 10)
        self.stage.say(f"Buying has its answer: {dying.end}")

    @contextmanager
    def faulty_release(self) -> Generator[None]:
        """CheckFraud with a layer before it, and afterwards as it was."""
        archive, name = io.BytesIO(), self.out["CheckFraudName"]
        with zipfile.ZipFile(archive, "w") as files:
            file = zipfile.ZipInfo("python/dies.py")
            file.external_attr = 0o644 << 16  # or only its owner could read it, whom Lambda is not
            files.writestr(file, DIES)
        layer = self.lambda_.publish_layer_version(
            LayerName=self.run, Content={"ZipFile": archive.getvalue()}
        )
        before = self.lambda_.get_function_configuration(FunctionName=name)
        layers = [one["Arn"] for one in before["Layers"]]

        def release(handler: str, layers: list[str]) -> None:
            self.lambda_.update_function_configuration(
                FunctionName=name, Handler=handler, Layers=layers
            )
            self.lambda_.get_waiter("function_updated_v2").wait(FunctionName=name)

        try:
            release("dies.handler", [*layers, layer["LayerVersionArn"]])
            yield
        finally:
            release(before["Handler"], layers)
            self.lambda_.delete_layer_version(LayerName=self.run, VersionNumber=layer["Version"])

    def denied(self, buying: Any) -> bool:
        """Whether Buying is refused when it reads Shipping's answers."""
        try:
            buying.receive_message(QueueUrl=self.out["ShippingAnswersUrl"])
        except ClientError as error:
            return error.response["Error"]["Code"].startswith("AccessDenied")
        return False

    # ---- what has become of it

    def goals(self) -> dict[str, int]:
        """What must have come of everything but the death."""
        return {
            "answered": GOOD,
            "refused": MALFORMED,
            "late": LATE,
            "copies answered": COPIES,
            "expired": EXPIRED,
            "questions parked": len(self.poison()),
            "answers parked": len(self.strange),
        }

    def count(self) -> dict[str, int]:
        """What has come of it so far; a message that SQS delivers twice counts once."""
        return {
            "answered": self.counted("answered"),
            "refused": self.counted("refused"),
            "late": min(self.counted("late"), LATE),
            "copies answered": len(self.sent_as("copy", "Answered question")),
            "expired": len(self.sent_as("expired", "Dropped expired question")),
            "questions parked": self.stage.depth(self.out["FailedFraudQuestionsUrl"]),
            "answers parked": self.stage.depth(self.out["FailedBuyingAnswersUrl"]),
        }

    def sent_as(self, kind: str, text: str) -> set[str]:
        """Ids of the messages sent as of this kind about which CheckFraud logged this text."""
        messages = {entry["message_id"] for entry in self.log(text)}
        return {m for m in messages if self.sent.get(m, ("",))[0] == kind}

    def see_answers_taken(self) -> None:
        """Wait until the askers have taken or dropped every answer that CheckFraud sent."""

        def all_taken() -> bool:
            taken = sum(self.counted(what) for what in ("answered", "refused", "late", "repeated"))
            return taken == len(self.log("Answered question"))

        try:
            self.stage.until("every answer at an asker", all_taken, self.visibility_timeout)
        except ScenarioFailed as failure:
            sent = len(self.log("Answered question"))
            raise ScenarioFailed(f"{failure}: {sent} sent; {self.ends()}") from None

    def counted(self, what: str) -> int:
        """A count of both askers together."""
        return sum(asker.counts[what] for asker in self.askers.values())

    def poison(self) -> set[str]:
        """Message ids of the questions that cannot be answered."""
        return {m for m, (kind, _) in self.sent.items() if kind not in ("copy", "expired")}

    def log(self, text: str) -> list[dict[str, Any]]:
        """What CheckFraud logged with this text about this run's messages."""
        entries = self.stage.logged(
            self.out["CheckFraudLogsName"], f'"{text}"', since=self.stage.began - 5
        )
        ids = {asked.pending.correlation_id for asked in self.asked}
        return [
            entry | {"at": datetime.strptime(entry["timestamp"], WRITTEN).timestamp()}
            for entry in entries
            if entry["message"] == text
            and (entry["message_id"] in self.sent or entry.get("correlation_id") in ids)
        ]

    def what_failed(self) -> str:
        """What CheckFraud logged and the askers say, for a scenario that ends badly."""
        errors = {
            f"{entry.get('exception_name')}: {str(entry.get('exception')).splitlines()[-1]}"
            for entry in self.log("Question failed")
        }
        errors |= {
            entry["reason"]
            for entry in self.log("Rejected question")
            if entry["message_id"] not in self.sent
        }
        problems = {str(asker.problem) for asker in self.askers.values() if asker.problem}
        return " ".join(
            f"{who}: {' | '.join(sorted(texts)[:3])}."
            for who, texts in (("CheckFraud logged", errors), ("Askers say", problems))
            if texts
        )

    def alarms(self) -> dict[str, str]:
        """The states of the alarms that this run must set off."""
        return {
            "FraudQuestionsParked": self.stage.depth_alarm("FailedFraudQuestionsUrl"),
            "BuyingAnswersParked": self.stage.depth_alarm("FailedBuyingAnswersUrl"),
            "CheckFraudErrors": self.stage.alarm(
                "AWS/Lambda", "Errors", FunctionName=self.out["CheckFraudName"]
            ),
        }

    def received(self, queue: str) -> list[dict[str, Any]]:
        """Up to ten messages of a dead-letter queue, which come back after half a minute."""
        return self.sqs.receive_message(
            QueueUrl=self.out[queue],
            MaxNumberOfMessages=10,
            VisibilityTimeout=30,
            WaitTimeSeconds=1,
            MessageSystemAttributeNames=["All"],
        ).get("Messages", [])

    def parked(self, queue: str, expected: set[str]) -> dict[str, dict[str, Any]]:
        """This run's messages in a dead-letter queue by message id; they stay there."""
        found: dict[str, dict[str, Any]] = {}

        def all_found() -> bool:
            for message in self.received(queue):
                if self.run in message["Body"]:
                    found[message["MessageId"]] = message
            return len(found) >= len(expected)

        self.stage.until(f"{len(expected)} messages in {queue[:-3]}", all_found, seconds=60)
        if set(found) != expected:
            raise ScenarioFailed(f"{queue[:-3]} does not hold what could not be taken")
        return found

    def clear_earlier_runs(self) -> None:
        """Take away what earlier runs left, and wait until the alarms rest.

        Messages of others stay, and then the balance could not hold: ScenarioFailed.
        """
        for queue in ("FraudQuestionsUrl", "BuyingAnswersUrl", "ShippingAnswersUrl"):
            self.stage.until(
                f"{queue[:-3]} empty, so that nobody else asks here",
                lambda queue=queue: not self.stage.depth(self.out[queue]),
                seconds=300,
            )
        for queue in ("FailedFraudQuestionsUrl", "FailedBuyingAnswersUrl"):
            before = self.stage.depth(self.out[queue])
            while before and (messages := self.received(queue)):
                for message in messages:
                    if "scenario-" not in message["Body"]:
                        raise ScenarioFailed(
                            f"{queue[:-3]} holds messages of others: try another stack"
                        )
                    self.sqs.delete_message(
                        QueueUrl=self.out[queue], ReceiptHandle=message["ReceiptHandle"]
                    )
            if before:
                self.stage.say(f"removed {before} messages of an earlier run from {queue[:-3]}")
        self.stage.until(
            "alarms at rest", lambda: "ALARM" not in self.alarms().values(), seconds=300
        )

    # ---- the end

    def follow(self, parked: dict[str, dict[str, Any]]) -> None:
        """Three questions, hop by hop: a good one, one whose worker died, a forged one."""
        say = self.stage.say
        answers = defaultdict(list)
        for entry in self.log("Answered question"):
            answers[entry["correlation_id"]].append(entry)
        for title, asked in (
            ("one good question", self.of("good")[0]),
            ("one whose worker died", self.of("dying")[0]),
        ):
            say(f"{title}, {asked.pending.correlation_id}:", style="bold")
            say(f"  {asked.asker} asked about {asked.question['order_id']}", at=asked.at)
            for entry in self.log("Dies before it answers"):
                if entry["correlation_id"] == asked.pending.correlation_id:
                    say(f"  CheckFraud decided at receive {entry['receive_count']}, and died",
                        at=entry["at"])  # fmt: skip
            first = answers[asked.pending.correlation_id][0]
            say(
                f"  CheckFraud answered {first['reply_to']} at receive {first['receive_count']},"
                f" as decided at receive {first['decided_at_receive']}",
                at=first["at"],
            )
            say(f"  {asked.asker}'s future has it: {asked.end}", at=asked.settled)
        forged = next(m for m, (kind, _) in self.sent.items() if kind == "forged")
        say(f"one with a forged reply_to, message {forged}:", style="bold")
        say("  sent", at=self.sent[forged][1])
        for receive, entry in sorted(self.rejections()[forged].items()):
            say(f"  receive {receive} rejected: {entry['reason']}", at=entry["at"])
        source = parked[forged]["Attributes"]["DeadLetterQueueSourceArn"].split(":")[-1]
        say(f"  found in FailedFraudQuestions, come from {source}")

    def rejections(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Message id to receive number to log entry, for every rejected message."""
        found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for entry in self.log("Rejected question"):
            found[entry["message_id"]][entry["receive_count"]] = entry
        return found

    def decided(self) -> set[str]:
        """Correlation ids of this run's rows in Verdicts, but for those that have expired."""
        known = {asked.pending.correlation_id for asked in self.asked}
        pages = (
            self.stage.client("dynamodb")
            .get_paginator("scan")
            .paginate(TableName=self.out["VerdictsName"], ConsistentRead=True)
        )
        ids = {row["question"]["S"].split("/")[1] for page in pages for row in page["Items"]}
        return {one for one in ids if one in known or one.startswith(self.run)}

    def claims(self, parked: dict[str, dict[str, Any]]) -> dict[str, bool]:
        """What must be so, and whether it is."""
        answers, rejections = self.log("Answered question"), self.rejections()
        died = {entry["correlation_id"] for entry in self.log("Dies before it answers")}

        def right(asked: Asked) -> bool:
            doubts = asked.question["total_cents"] > FRAUD_DOUBTS_ABOVE_CENTS
            return (
                asked.end == ("review" if doubts else "clear")
                and asked.pending.result()["order_id"] == asked.question["order_id"]
            )

        def all_end(kind: str, error: type[Exception], text: str) -> bool:
            return all(asked.end == f"{error.__name__}: {text}" for asked in self.of(kind))

        return {
            f"each of {GOOD} answers came to its asker, with the verdict on its own order": all(
                map(right, self.of("good"))
            ),
            f"each of {MALFORMED} malformed questions was refused, with the reason": all_end(
                "malformed", Refused, "customer: Field required"
            ),
            f"each of {LATE} slow answers was given up in time, and dropped when it came": (
                all_end("late", NoAnswer, "no answer in time") and self.counted("late") >= LATE
            ),
            "the question whose worker died has its answer": all(map(right, self.of("dying"))),
            "what the dead worker had decided was not decided again": bool(died)
            and all(
                entry["decided_at_receive"] < entry["receive_count"]
                for entry in answers
                if entry["correlation_id"] in died
            ),
            "no question was decided but those that an asker asked in time": (
                self.decided() <= {asked.pending.correlation_id for asked in self.asked}
            ),
            f"each parked question was received exactly {self.receives} times": all(
                set(rejections[message]) == set(range(1, self.receives + 1)) for message in parked
            ),
            "Buying may not read Shipping's answers": self.private,
            "no queue but two dead-letter queues holds a message": not any(
                self.stage.depth(self.out[f"{queue}Url"])
                for queue in ("FraudQuestions", "BuyingAnswers", "ShippingAnswers")
            )
            and not self.stage.depth(self.out["FailedShippingAnswersUrl"]),
        }

    def account(self, parked: dict[str, dict[str, Any]]) -> None:
        """Every question that was sent, and every answer, ended in exactly one place."""
        claims = self.claims(parked)
        broken = self.stage.judge(claims)
        self.stage.balance(
            "answers sent by CheckFraud",
            len(self.log("Answered question")),
            {
                "verdicts taken": self.counted("answered"),
                "refusals taken": self.counted("refused"),
                "dropped as late": self.counted("late"),
                "dropped as repeated": self.counted("repeated"),
            },
        )
        answered = {entry["message_id"] for entry in self.log("Answered question")}
        expired = {entry["message_id"] for entry in self.log("Dropped expired question")}
        self.stage.balance(
            "questions sent",
            self.counted("asked") + len(self.sent),
            {
                "answered": self.counted("answered"),
                "refused": self.counted("refused"),
                "answered too late": self.counted("timed out"),
                "copies answered alike": len(self.sent_as("copy", "Answered question")),
                "expired": len(expired - answered),
                "parked": len(parked),
            },
        )
        if broken:
            raise ScenarioFailed(f"not so: {'; '.join(broken)}. {self.what_failed()}")
