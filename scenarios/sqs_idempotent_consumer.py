"""Workers killed and stopped in the middle of 1,000 orders: one row per order, none lost."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from scenarios.roles import denied, keys, role_with
from scenarios.stage import ScenarioCannotRun, ScenarioFailed, Stage

GOOD, LONG, DUPLICATE, MALFORMED = 868, 2, 100, 30
TOTAL = GOOD + LONG + DUPLICATE + MALFORMED
FIRST = 900  # sent while all workers live; the rest, with the long orders, when one is left
WORKERS = 3
SEED = 7
ENOUGH = 5  # orders that a worker must have in hand when it is killed or stopped


# Commands for a deployed stack, with its outputs in them: `make show`.
SEND = {
    "send an order": (
        'aws sqs send-message --queue-url \'$OrdersUrl\' --message-body \'{"order_id": "try-1", '
        '"customer": "ada", "items": [{"sku": "tea", "quantity": 2}]}\''
    ),
}


def play(stage: Stage) -> None:
    """Send orders to three workers, end two of them in the middle, and account for all."""
    OrdersToWorkers(stage).play()


class Processes:
    """The workers as processes of this machine: the program, its settings and its role as deployed.

    For the sandbox, whose Auto Scaling groups start nothing. Each process takes credentials and
    lifecycle state from a stand-in for the metadata service of an instance of its own.
    """

    ways = ("killed (SIGKILL)", "stopped (SIGTERM)")

    def __init__(self, stage: Stage) -> None:
        self.stage, self.reported = stage, []
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.killed: set[str] = set()  # on purpose
        self.instances: dict[str, Any] = {}
        self.readers: list[threading.Thread] = []

    @contextmanager
    def started(self) -> Generator[list[str]]:
        """The names of workers, which run as long as the block does."""
        from sandbox import imds

        settings, (bucket, key) = self._launch_template()
        with ExitStack() as stack:
            role = stack.enter_context(self._role())
            self.role = role.client("sts").get_caller_identity()["Arn"].split("/")[1]
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._download(role, bucket, key, folder)
            stack.callback(self._end)
            self.stage.guards.append(self.trouble)
            stack.callback(self.stage.guards.remove, self.trouble)
            for _ in range(WORKERS):
                instance = stack.enter_context(imds.served(imds.Instance(keys(role))))
                self.instances[instance.id] = instance
                self._start(instance.id, folder, settings, instance.address)
            self.stage.until("every worker ready", self._ready, seconds=60)
            yield list(self.running)

    def _launch_template(self) -> tuple[dict[str, str], tuple[str, str]]:
        """(settings, (bucket, key) of the program) in the user data that instances start with."""
        (group,) = self.stage.client("autoscaling").describe_auto_scaling_groups(
            AutoScalingGroupNames=[self.stage.outputs["WorkersName"]]
        )["AutoScalingGroups"]
        (version,) = self.stage.client("ec2").describe_launch_template_versions(
            LaunchTemplateId=group["LaunchTemplate"]["LaunchTemplateId"], Versions=["$Latest"]
        )["LaunchTemplateVersions"]
        text = base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode()
        found = re.search(r"<<'END'\n(.*?)\nEND\n.*?s3://([^/]+)/(\S+)", text, re.S)
        assert found, text
        settings = dict(line.split("=", 1) for line in found[1].splitlines())
        return settings, (found[2], found[3])

    def _role(self) -> AbstractContextManager[boto3.Session]:
        """A role with the policies of WorkerRole, which only EC2 may assume."""
        iam, deployed = self.stage.client("iam"), self.stage.outputs["WorkerRoleName"]
        policies = {
            name: iam.get_role_policy(RoleName=deployed, PolicyName=name)["PolicyDocument"]
            for name in iam.list_role_policies(RoleName=deployed)["PolicyNames"]
        }
        return role_with(self.stage, lambda _: True, inline=policies)

    def _download(self, role: boto3.Session, bucket: str, key: str, folder: Path) -> None:
        """Unpack the program as an instance does, with the role."""
        try:
            archive = role.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            raise ScenarioFailed(f"the workers' program cannot be downloaded: {error}") from None
        zipfile.ZipFile(io.BytesIO(archive)).extractall(folder)

    def _start(self, name: str, folder: Path, settings: dict[str, str], address: str) -> None:
        """Start a worker with what an instance has: its settings and its metadata service."""
        own = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        inherited = {
            variable: value
            for variable, value in os.environ.items()
            if variable not in (*own, "AWS_EC2_METADATA_DISABLED")
        }
        timeout = int(settings["VISIBILITY_TIMEOUT"])
        process = subprocess.Popen(
            [sys.executable, "-B", folder / "worker.py"],
            env=inherited
            | settings
            | {
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": address,
                # The worker's own clock does not run faster with SQS's.
                "HEARTBEAT": str(timeout / 3 / self.stage.clock),
                "ASK_EVERY": "0.5",
                "LINGER": "0",  # nobody ships its reports
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.running[name] = process
        reader = threading.Thread(target=self._read, args=(name, process), daemon=True)
        reader.start()
        self.readers.append(reader)

    def _read(self, name: str, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self.reported.append(json.loads(line) | {"worker": name})

    def _ready(self) -> bool:
        """Whether each worker has told systemd, whom there is none of, that it works."""
        said = {one["worker"] for one in self.reported if one.get("state") == "ready"}
        return said == set(self.running)

    def reports(self) -> list[dict[str, Any]]:
        """What all workers have reported so far, each report with its worker."""
        return list(self.reported)

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.killed.add(name)
        self.running[name].kill()
        self.running[name].wait()

    def stop(self, name: str) -> None:
        """SIGTERM."""
        self.running[name].send_signal(signal.SIGTERM)

    def terminate(self, name: str) -> None:
        """What Auto Scaling does first: the instance is told in its metadata."""
        self.instances[name].lifecycle_state = "Terminated"

    def gone(self, name: str) -> bool:
        """Whether the worker has let its instance go and ended."""
        said = any(one["worker"] == name and one.get("state") == "let go" for one in self.reported)
        return said and self.running[name].poll() == 0

    def trouble(self) -> str:
        """Workers that ended by themselves."""
        codes = {name: process.poll() for name, process in self.running.items()}
        ended = [
            f"worker {name} has ended with {code}"
            for name, code in codes.items()
            if code and name not in self.killed
        ]
        return f"{', '.join(ended)}." if ended else ""

    def _end(self) -> None:
        for process in self.running.values():
            if process.poll() is None:
                process.terminate()
        for process in self.running.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for reader in self.readers:
            reader.join(5)


class Instances:
    """The workers as instances of the group, seen by what they log."""

    ways = ("cut off", "terminated by its group")

    def __init__(self, stage: Stage) -> None:
        self.stage, self.group = stage, stage.outputs["WorkersName"]
        self.role = stage.outputs["WorkerRoleName"]
        self.autoscaling, self.seen = stage.client("autoscaling"), {}

    @contextmanager
    def started(self) -> Generator[list[str]]:
        """Three instances in service; afterwards the group gets back the size that it had."""
        before = self._group()
        if before["MaxSize"] < WORKERS:
            raise ScenarioCannotRun(f"the group has at most {before['MaxSize']} workers, not three")
        # The alarm on too little work has been in ALARM since the queue was empty: the policy would
        # take the idle workers away again.
        scaling = {"AutoScalingGroupName": self.group, "ScalingProcesses": ["AlarmNotification"]}
        self.autoscaling.suspend_processes(**scaling)
        try:
            self._size(max(WORKERS, before["DesiredCapacity"]))
            yield self.stage.until("three workers in service", self._in_service, seconds=900)
        finally:
            self._size(before["DesiredCapacity"])
            self.autoscaling.resume_processes(**scaling)

    def _group(self) -> dict[str, Any]:
        (group,) = self.autoscaling.describe_auto_scaling_groups(
            AutoScalingGroupNames=[self.group]
        )["AutoScalingGroups"]
        return group

    def _size(self, desired: int) -> None:
        self.autoscaling.set_desired_capacity(
            AutoScalingGroupName=self.group, DesiredCapacity=desired, HonorCooldown=False
        )

    def _in_service(self) -> list[str] | None:
        (group,) = self.autoscaling.describe_auto_scaling_groups(
            AutoScalingGroupNames=[self.group]
        )["AutoScalingGroups"]
        found = [
            one["InstanceId"] for one in group["Instances"] if one["LifecycleState"] == "InService"
        ]
        return found if len(found) >= WORKERS else None

    def reports(self) -> list[dict[str, Any]]:
        """What all workers have logged so far, each report with its instance."""
        pages = (
            self.stage.client("logs")
            .get_paginator("filter_log_events")
            .paginate(
                logGroupName=self.stage.outputs["WorkerLogsName"],
                startTime=int(self.stage.began * 1000),
            )
        )
        for event in (event for page in pages for event in page["events"]):
            try:
                report = json.loads(event["message"])
            except ValueError:
                continue  # what Python itself says
            self.seen[event["eventId"]] = report | {"worker": event["logStreamName"]}
        return sorted(self.seen.values(), key=lambda report: report["at"])

    def kill(self, name: str) -> None:
        """Take its power away: the system is not shut down, so nobody gets a signal."""
        self.stage.client("ec2").terminate_instances(InstanceIds=[name], SkipOsShutdown=True)

    def stop(self, name: str) -> None:
        """Let Auto Scaling terminate it; its program learns that from the metadata."""
        self.autoscaling.terminate_instance_in_auto_scaling_group(
            InstanceId=name, ShouldDecrementDesiredCapacity=True
        )

    terminate = stop

    def gone(self, name: str) -> bool:
        """Whether the group has it no more: its worker let it go, or the hook's time was over."""
        return name not in [one["InstanceId"] for one in self._group()["Instances"]]

    def trouble(self) -> str:
        """What Auto Scaling says of the group."""
        (last,) = self.autoscaling.describe_scaling_activities(
            AutoScalingGroupName=self.group, MaxRecords=1
        )["Activities"]
        return f"Auto Scaling: {last['Description']} {last.get('StatusMessage', '')}."


class OrdersToWorkers:
    """One run; all that it sends carries its id, which tells it from other runs on the stack."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.out = stage, stage.outputs
        self.run = uuid.uuid4().hex[:8]
        self.sqs, self.dynamodb = stage.client("sqs"), stage.client("dynamodb")
        settings = self.sqs.get_queue_attributes(
            QueueUrl=self.out["OrdersUrl"], AttributeNames=["VisibilityTimeout", "RedrivePolicy"]
        )["Attributes"]
        self.receives = int(json.loads(settings["RedrivePolicy"])["maxReceiveCount"])
        self.timeout = int(settings["VisibilityTimeout"]) / stage.clock  # seconds of the wall clock
        self.fleet = Instances(stage) if stage.on_aws else Processes(stage)
        # On AWS a worker's reports arrive some seconds late: a batch must take longer than that.
        self.packing = 4.0 if stage.on_aws else 0.02
        # And what is given back must be soon another's, though SQS has no order: so when the second
        # worker ends, not many others may be waiting. Rows at the end of the first and the second.
        self.rows_at_end = (100, 600) if stage.on_aws else (100, 250)
        self.long_packing = round(1.4 * self.timeout, 2)
        self.kinds: dict[str, str] = {}  # message id to what it is
        self.bodies: dict[str, str] = {}
        self.ends: dict[str, float] = {}  # worker to the time at which it was killed or stopped

    def play(self) -> None:
        """The whole story; ScenarioFailed as soon as it cannot end well."""
        stage = self.stage
        stage.say(
            f"a worker that dies keeps its orders for {self.timeout:g} s"
            + (f"; SQS time runs {stage.clock:g} times faster here" if stage.clock > 1 else "")
        )
        self.clear_earlier_runs()
        orders = list(self.orders())
        with stage.listener(self.out["AlertsArn"]) as notices, self.fleet.started() as workers:
            stage.say(f"{len(workers)} workers: {', '.join(workers)}")
            self.killed, self.stopped, self.last = workers[:WORKERS]
            self.send(orders[:FIRST])
            self.end_two()
            self.refuse()
            self.send(orders[FIRST:])
            stage.watch(
                {"fulfilled": GOOD + LONG, "parked": MALFORMED, "out of Orders": TOTAL},
                self.count,
                seconds=self.timeout * stage.clock * (self.receives + 1) + TOTAL,
                why=self.what_failed,
            )
            self.stage.see_alarms(notices, "OrdersParked")
            self.leave()
        parked = self.parked()
        self.follow()
        self.account(parked)

    # ---- the orders

    def orders(self) -> Iterator[tuple[str, str]]:
        """(what it is, body) of every message, shuffled, the long orders among the last."""
        chance = random.Random(SEED)

        def order(number: int, seconds: float) -> str:
            return json.dumps(
                {
                    "order_id": f"{self.run}-{number:03}",
                    "customer": f"customer-{chance.randrange(200):03}",
                    "items": [{"sku": f"sku-{chance.randrange(900)}", "quantity": 1}],
                    "packing_seconds": seconds,
                }
            )

        good = [order(number, self.packing) for number in range(GOOD)]
        known = json.loads(good[0])
        malformed = [
            "not JSON at all",
            json.dumps(known | {"items": []}),
            json.dumps(known | {"items": [{"sku": "sku-1", "quantity": "many"}]}),
            json.dumps({"customer": "ada", "items": [{"sku": "sku-1", "quantity": 1}]}),
        ]
        mixed = [
            *(("good", body) for body in good),
            *(("duplicate", body) for body in chance.choices(good, k=DUPLICATE)),
            *(("malformed", malformed[n % len(malformed)]) for n in range(MALFORMED)),
        ]
        chance.shuffle(mixed)
        for number in range(LONG):
            mixed.insert(FIRST + number, ("long", order(GOOD + number, self.long_packing)))
        yield from mixed

    def send(self, orders: list[tuple[str, str]]) -> None:
        """These orders, in batches of ten."""
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
                kind, body = batch[int(one["Id"])]
                self.kinds[one["MessageId"]], self.bodies[one["MessageId"]] = kind, body
        self.stage.say(f"sent {len(orders)} orders, {len(self.kinds)} of {TOTAL}")

    # ---- what happens to the workers

    def end_two(self) -> None:
        """Kill one worker and stop another, each with orders in hand, while others wait."""
        killed, stopped = self.fleet.ways
        for worker, end, how, done in zip(
            (self.killed, self.stopped),
            (self.fleet.kill, self.fleet.stop),
            (killed, stopped),
            self.rows_at_end,
            strict=True,
        ):
            self.stage.until(
                f"{done} orders done and {ENOUGH} in the hands of {worker}",
                lambda worker=worker, done=done: (
                    len(self.rows()) >= done and len(self.in_hand(worker)) >= ENOUGH
                ),
                seconds=900,
            )
            self.ends[worker] = time.time()
            end(worker)
            self.stage.say(
                f"{worker} was {how} with {len(self.in_hand(worker))} orders in hand,"
                f" {len(self.rows())} orders done by all"
            )
        self.stage.until(
            f"{self.stopped} stopped", lambda: self.said(self.stopped, "stopped"), seconds=120
        )

    def refuse(self) -> None:
        """Let the table refuse the last worker's rows for longer than its orders' timeout."""
        began = time.time()

        def waits() -> bool:
            said = self.said(self.last, "waiting for AWS")
            return bool(said) and time.time() - said[0]["at"] > 1.5 * self.timeout

        with denied(self.stage, self.fleet.role, "dynamodb:PutItem", "*"):
            self.stage.until(f"{self.last} waiting", waits, seconds=600)
            rows = len(self.rows())
        self.refused = time.time() - began
        self.stage.say(
            f"the table refused {self.last} for {self.refused:.0f} s, {rows} orders done by then"
        )

    def leave(self) -> None:
        """Have the last worker told that its instance is to be terminated."""
        self.fleet.terminate(self.last)
        self.stage.until(
            f"{self.last} let go by its worker",
            lambda: self.fleet.gone(self.last) or self.said(self.last, "not let go"),
            seconds=300,  # less than the hook has
        )
        for report in self.said(self.last, "not let go"):
            raise ScenarioFailed(f"the lifecycle action was not completed: {report['reason']}")

    def reports(self, worker: str = "") -> list[dict[str, Any]]:
        """The reports of one worker, or of all."""
        return [one for one in self.fleet.reports() if not worker or one["worker"] == worker]

    def said(self, worker: str, state: str) -> list[dict[str, Any]]:
        """A worker's reports of this state."""
        return [one for one in self.reports(worker) if one.get("state") == state]

    def received(self, worker: str = "") -> dict[str, list[dict[str, Any]]]:
        """Message id to the reports in which it was received, by one worker or by all."""
        found: dict[str, list[dict[str, Any]]] = {}
        for report in self.reports(worker):
            for message in report.get("messages", ()):
                if message in self.kinds:
                    found.setdefault(message, []).append(report)
        return found

    def outcomes(self, worker: str = "") -> dict[str, list[dict[str, Any]]]:
        """Message id to the reports of what was done with it."""
        found: dict[str, list[dict[str, Any]]] = {}
        for report in self.reports(worker):
            if "outcome" in report and report["message_id"] in self.kinds:
                found.setdefault(report["message_id"], []).append(report)
        return found

    def in_hand(self, worker: str) -> set[str]:
        """The messages that a worker has received and neither settled nor given back."""
        given = {m for one in self.said(worker, "stopped") for m in one["given_back"]}
        return set(self.received(worker)) - set(self.outcomes(worker)) - given

    def again(self, worker: str, messages: set[str]) -> dict[str, float]:
        """Message id to the seconds from the end of a worker until another received it.

        Malformed ones are left out: their last receive is the dead-letter queue's.
        """
        found = {}
        for message, reports in self.received().items():
            after = [one["at"] for one in reports if one["worker"] != worker]
            after = [at for at in after if at > self.ends[worker]]
            if message in messages and self.kinds[message] != "malformed" and after:
                found[message] = min(after) - self.ends[worker]
        return found

    # ---- what has become of the orders

    def count(self) -> dict[str, int]:
        """What has become of this run's messages so far, by what is there and not by reports.

        What a killed instance had not shipped yet is lost with it.
        """
        return {
            "fulfilled": len(self.rows()),
            "parked": self.stage.depth(self.out["FailedOrdersUrl"]),
            "out of Orders": TOTAL - self.stage.depth(self.out["OrdersUrl"]),
        }

    def what_failed(self) -> str:
        """The distinct failures that workers reported, for a scenario that ends badly."""
        reasons = {
            one["reason"]
            for one in self.reports()
            if "reason" in one and one.get("outcome") != "rejected"
        }
        said = f"Workers reported: {' | '.join(sorted(reasons)[:3])}." if reasons else ""
        return f"{said} {self.fleet.trouble()}".strip()

    def rows(self) -> list[dict[str, str]]:
        """This run's rows in FulfilledOrders."""
        pages = self.dynamodb.get_paginator("scan").paginate(
            TableName=self.out["FulfilledOrdersName"],
            ConsistentRead=True,
            FilterExpression="begins_with(order_id, :run)",
            ExpressionAttributeValues={":run": {"S": self.run}},
        )
        return [
            {name: value["S"] for name, value in row.items()}
            for page in pages
            for row in page["Items"]
        ]

    def receive(self, queue: str) -> list[dict[str, Any]]:
        """Up to ten messages of a queue, which come back after half a minute."""
        return self.sqs.receive_message(
            QueueUrl=self.out[queue],
            MaxNumberOfMessages=10,
            VisibilityTimeout=30,
            WaitTimeSeconds=1,
            MessageAttributeNames=["scenario"],
        ).get("Messages", [])

    def parked(self) -> set[str]:
        """This run's messages in FailedOrders; they stay there."""
        found: set[str] = set()

        def all_found() -> bool:
            found.update(one["MessageId"] for one in self.receive("FailedOrdersUrl"))
            return len(found & set(self.kinds)) >= MALFORMED

        self.stage.until(f"{MALFORMED} orders in FailedOrders", all_found, seconds=60)
        return found & set(self.kinds)

    def clear_earlier_runs(self) -> None:
        """Take what earlier runs left out of both queues, and wait until the alarm rests.

        Messages that no scenario sent stay, and then nothing adds up: ScenarioFailed.
        """
        removed = 0
        for queue in ("OrdersUrl", "FailedOrdersUrl"):

            def emptied(queue: str = queue) -> bool:
                nonlocal removed
                for message in self.receive(queue) if self.stage.depth(self.out[queue]) else []:
                    if "scenario" not in message.get("MessageAttributes", {}):
                        raise ScenarioFailed(
                            f"{queue[:-3]} holds messages that no scenario sent: try another stack"
                        )
                    self.sqs.delete_message(
                        QueueUrl=self.out[queue], ReceiptHandle=message["ReceiptHandle"]
                    )
                    removed += 1
                return self.stage.depth(self.out[queue]) == 0

            self.stage.until(f"{queue[:-3]} empty", emptied, seconds=900)
        if removed:
            self.stage.say(f"removed {removed} orders of earlier runs")
        self.stage.until_at_rest("FailedOrdersUrl")

    # ---- the end

    def follow(self) -> None:
        """One order out of the hands of each worker that ended, and a long one, hop by hop."""
        say, received, outcomes = self.stage.say, self.received(), self.outcomes()
        back = self.again(self.killed, self.in_hand(self.killed))
        given = self.again(self.stopped, self.given_back())
        (long, *_) = (message for message, kind in self.kinds.items() if kind == "long")
        for what, message in (
            ("one order that the killed worker held", next(iter(back), "")),
            ("one order that the stopped worker gave back", next(iter(given), "")),
            ("one order that takes longer than the visibility timeout", long),
        ):
            if not message:
                continue
            say(f"{what}, {message}:", style="bold")
            for report in sorted(received[message], key=lambda one: one["at"]):
                say(f"  received by {report['worker']}", at=report["at"])
                worker, seconds = report["worker"], self.ends.get(report["worker"])
                if seconds and message not in self.outcomes(worker):
                    how = "died with it" if worker == self.killed else "gave it back"
                    say(f"  {worker} {how}", at=seconds)
            for report in outcomes[message]:
                say(f"  {report['outcome']} by {report['worker']}", at=report["at"])
        repeated = sum(
            len(reports) - 1
            for reports in outcomes.values()
            if {one["outcome"] for one in reports} == {"fulfilled"}
        )
        say(f"orders whose row was written and that came back all the same: {repeated}")

    def given_back(self) -> set[str]:
        """The messages that the stopped worker gave back."""
        found = {m for one in self.said(self.stopped, "stopped") for m in one["given_back"]}
        return found & set(self.kinds)

    def account(self, parked: set[str]) -> None:
        """Every message that was sent ended in exactly one place, and every order once."""
        stage, rows = self.stage, self.rows()
        by = {row["order_id"]: row["message_id"] for row in rows}
        fulfilled = set(by.values())
        dropped = {
            message
            for message, kind in self.kinds.items()
            if kind != "malformed"
            and by.get(json.loads(self.bodies[message])["order_id"], message) != message
        }
        contents = {row["order_id"]: json.loads(row["content"]) for row in rows}
        sent = {
            order["order_id"]: order
            for message, kind in self.kinds.items()
            if kind != "malformed"
            for order in [json.loads(self.bodies[message])]
        }
        # Done before it was killed, though its report of that may be lost.
        done = {
            row["message_id"]
            for row in rows
            if moment(row) < self.ends[self.killed] + 0.4 * self.timeout
        }
        held = {m for m in self.in_hand(self.killed) if self.kinds[m] != "malformed"} - done
        given = {m for m in self.given_back() if self.kinds[m] != "malformed"}
        back = self.again(self.killed, held)
        again = self.again(self.stopped, given)
        # The last heartbeat was about a third of the timeout before the end, if nothing was slow:
        # what is another's sooner than two thirds later was given back.
        early, soon = 0.4 * self.timeout, 0.6 * self.timeout
        places = (fulfilled, dropped, parked)
        received = self.received()
        claims = {
            f"each of {GOOD + LONG} orders has exactly one row, as it was sent": (
                len(rows) == GOOD + LONG and contents == sent
            ),
            "no message ended in two places": (sum(map(len, places)) == len(set().union(*places))),
            "only malformed orders are parked": (
                parked == {m for m, kind in self.kinds.items() if kind == "malformed"}
            ),
            f"what the killed worker held ({len(held)}) was another's after its timeout": (
                bool(held) and set(back) == held and min(back.values()) >= early
            ),
            f"what the stopped worker gave back ({len(given)}) was another's before that": (
                bool(given) and set(again) == given and min(again.values()) < soon
            ),
            "the stopped worker left nothing in its hands": not self.in_hand(self.stopped),
            f"an order of {self.long_packing:g} s was received once: the heartbeat kept it": all(
                len(received[m]) == 1 for m, kind in self.kinds.items() if kind == "long"
            ),
            f"no order failed in the {self.refused:.0f} s in which the table refused every row": (
                "failed" not in {one.get("outcome") for one in self.reports(self.last)}
            ),
            "the last worker stopped because its instance had to, and let it go": (
                self.said(self.last, "stopped")[0]["why"] == "lifecycle"
            ),
            "Orders is empty": stage.depth(self.out["OrdersUrl"]) == 0,
        }
        broken = stage.judge(claims)
        stage.balance(
            "sent",
            len(self.kinds),
            {
                "fulfilled": len(fulfilled),
                "parked": len(parked),
                "duplicates dropped": len(dropped),
            },
        )
        if broken:
            raise ScenarioFailed(f"not so: {'; '.join(broken)}. {self.what_failed()}")


def moment(row: dict[str, str]) -> float:
    """The Unix time, in whole seconds, at which a row was written."""
    return datetime.fromisoformat(row["fulfilled_at"]).timestamp()
