"""What every scenario needs: clients, the stack's outputs, patience, and a voice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import boto3
import tenacity
from botocore.config import Config
from botocore.exceptions import ClientError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from sandbox import cdk
from sandbox.cli import animated

# Seconds until an alarm has fired. The metrics of a queue that nobody used for six hours come up to
# 15 minutes late, says SQS's guide, and the alarm takes its period.
ALARMED = 1020
# Of every client. What AWS throttles, such as a sixth look into logs in a second, is tried again.
CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 8})


class ScenarioFailed(AssertionError):
    """The pattern did not do what it must; the text says what and, where known, why."""


class ScenarioCannotRun(ScenarioFailed):
    """Something outside the pattern is missing; the text says what, and how to get it."""


class Stage:
    """One deployed stack and somebody who watches it.

    stack: the deployed stack's name. console: where it tells; standard output if none.
    options: what the stack was deployed with, by name.
    Clients take their endpoint, credentials and Region from the environment, as boto3 does.
    """

    def __init__(
        self,
        stack: str,
        console: Console | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.stack, self.options = stack, dict(options or {})
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.began = time.time()
        # In the sandbox SQS time and alarm periods run faster than the wall clock; on AWS 1.
        self.clock = float(os.environ.get("SANDBOX_CLOCK", "1"))
        # An endpoint of one's own is an embedded AWS, this sandbox or another.
        self.on_aws = not os.environ.get("AWS_ENDPOINT_URL")
        self.guards: list[Callable[[], str]] = []  # each says what has ended that must not, if any
        self.pause = 0.2 if self.clock > 1 else 3.0  # seconds between two looks at something
        self.client = cache(partial(boto3.client, config=CONFIG))
        self.told: dict[str, str] = {}  # an alarm's name to its description, of those in ALARM
        self.outputs = self._outputs()

    def _outputs(self) -> dict[str, str]:
        try:
            found = self.client("cloudformation").describe_stacks(StackName=self.stack)
        except ClientError as error:
            raise ScenarioFailed(f"stack {self.stack} is not deployed: {error}") from None
        return {
            one["OutputKey"]: one["OutputValue"] for one in found["Stacks"][0].get("Outputs", [])
        }

    def redeploy(self, **options: str) -> None:
        """Deploy the stack again with these options changed, as a new release of it would be.

        ScenarioFailed, with its last words, if the CDK's command-line interface says no.
        """
        self.options |= options
        with tempfile.TemporaryDirectory() as assembly:  # beside no other synthesis
            done = subprocess.run(
                cdk.command(
                    "deploy", self.stack, "-e", "--app", f"'{sys.executable}' app.py",
                    "-o", assembly, "--require-approval", "never", *cdk.contexts(self.options),
                ),
                cwd=cdk.PROJECT,
                # Skipped in the sandbox only, as when it deploys by itself.
                env=os.environ | ({"CDK_VALIDATION": "false"} if self.clock > 1 else {}),
                capture_output=True,
                text=True,
                check=False,
            )  # fmt: skip
        if done.returncode:
            last = " | ".join(done.stderr.strip().splitlines()[-3:])
            raise ScenarioFailed(f"cdk deploy {self.stack} failed: {last}")

    def say(self, text: str, *, at: float | None = None, style: str = "") -> None:
        """One line with the seconds since the scenario began; `at` is a Unix time, now if none."""
        seconds = (time.time() if at is None else at) - self.began
        self.console.print(f"[dim]{seconds:7.2f} s[/dim]  {text}", style=style)

    def patience(self, seconds: float) -> float:
        """How long to wait for what takes `seconds` of SQS or alarm time: that, and a minute."""
        return seconds / self.clock + 60

    def until(self, what: str, probe: Callable[[], Any], seconds: float) -> Any:
        """What `probe` returns as soon as it is true, asked every `pause` seconds.

        ScenarioFailed after patience(seconds), and at once if a guard says why it is in vain.
        """

        def look() -> Any:
            found = probe()
            if not found and (why := " ".join(filter(None, (guard() for guard in self.guards)))):
                raise ScenarioFailed(f"{what}: {why}")
            return found

        try:
            return tenacity.Retrying(
                retry=tenacity.retry_if_result(lambda result: not result),
                wait=tenacity.wait_fixed(self.pause),
                stop=tenacity.stop_after_delay(self.patience(seconds)),
            )(look)
        except tenacity.RetryError:
            waited = self.patience(seconds)
            raise ScenarioFailed(f"{what}: not seen within {waited:.0f} s") from None

    def watch(
        self,
        goals: dict[str, int],
        count: Callable[[], dict[str, int]],
        seconds: float,
        why: Callable[[], str] = lambda: "",
    ) -> None:
        """Show counts grow to their goals: bars on a terminal, elsewhere a line if they changed.

        `count` returns the present number for each goal. ScenarioFailed, with what `why` says, at
        once if one is exceeded, or if all are not reached within patience(seconds).
        """
        spoken, said = 0.0, ""
        moves = animated(self.console)
        # Where there is little room, the bar and the name give way, the numbers stay.
        name = TextColumn(
            "{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
        )
        wide = [BarColumn(), TimeElapsedColumn()] if self.console.width >= 80 else []
        with Progress(
            MofNCompleteColumn(table_column=Column(no_wrap=True, justify="right")), *wide, name,
            console=self.console, transient=True, disable=not moves, expand=True,
        ) as bars:  # fmt: skip
            tasks = {name: bars.add_task(name, total=goal) for name, goal in goals.items()}

            def reached() -> bool:
                nonlocal spoken, said
                counts = count()
                for name, number in counts.items():
                    bars.update(tasks[name], completed=number)
                done = counts == goals
                line = ", ".join(f"{counts[name]}/{goals[name]} {name}" for name in goals)
                if done or (not moves and line != said and time.time() - spoken > 2):
                    spoken, said = time.time(), line
                    self.say(line)
                too_many = [name for name in goals if counts[name] > goals[name]]
                if too_many:
                    numbers = ", ".join(f"{counts[name]} of {goals[name]}" for name in too_many)
                    raise ScenarioFailed(
                        f"more {' and '.join(too_many)} than there can be: {numbers}."
                    )
                return done

            try:
                self.until("all accounted for", reached, seconds)
            except ScenarioFailed as failure:
                raise ScenarioFailed(f"{failure} {why()}".strip()) from None

    def judge(self, claims: Mapping[str, bool]) -> list[str]:
        """Print each claim and whether it holds; those that do not."""
        for claim, holds in claims.items():
            self.say(f"{'✓' if holds else '✗'} {claim}", style="" if holds else "red")
        return [claim for claim, holds in claims.items() if not holds]

    def balance(self, whole: str, total: int, parts: dict[str, int]) -> None:
        """Print `whole` = the sum of `parts`, and fail if it is not."""
        sides = " + ".join(f"{number} {name}" for name, number in parts.items())
        holds = total == sum(parts.values())
        self.say(
            f"balance: {total} {whole} {'=' if holds else '≠'} {sides}",
            style="bold green" if holds else "bold red",
        )
        if not holds:
            raise ScenarioFailed(f"{total} {whole} but {sides}")

    def logged(self, group: str, pattern: str, since: float) -> Iterator[dict[str, Any]]:
        """The JSON log entries of a function that match a CloudWatch Logs pattern, oldest first.

        `since` is a Unix time. Each has the time in seconds at which it was logged as "at".
        """
        pages = (
            self.client("logs")
            .get_paginator("filter_log_events")
            .paginate(logGroupName=group, filterPattern=pattern, startTime=int(since * 1000))
        )
        for page in pages:
            for event in page["events"]:
                try:
                    entry = json.loads(event["message"])
                except ValueError:
                    continue
                yield entry | {"at": event["timestamp"] / 1000}

    def depth(self, url: str) -> int:
        """Messages in a queue: visible, in flight and delayed."""
        names = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        ]
        found = self.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)
        return sum(int(found["Attributes"][name]) for name in names)

    def alarm(self, namespace: str, metric: str, **dimensions: str) -> str:
        """The state of the alarm on a metric: "OK", "ALARM" or "INSUFFICIENT_DATA"."""
        (alarm,) = self.client("cloudwatch").describe_alarms_for_metric(
            Namespace=namespace,
            MetricName=metric,
            Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
        )["MetricAlarms"]
        return alarm["StateValue"]

    def depth_alarm(self, output: str) -> str:
        """The state of the alarm on the depth of the queue whose URL is this output."""
        queue = self.outputs[output].rpartition("/")[2]
        return self.alarm("AWS/SQS", "ApproximateNumberOfMessagesVisible", QueueName=queue)

    def until_at_rest(self, *outputs: str) -> None:
        """Wait until no alarm on the depth of these queues is in ALARM: it could not fire anew."""
        for output in outputs:
            self.until(
                f"the alarm on {output.removesuffix('Url')} at rest",
                lambda output=output: self.depth_alarm(output) != "ALARM",
                seconds=300,
            )

    def see_alarms(self, listener: str, *alarms: str) -> None:
        """Wait until a listener of Alerts was told that each of these alarms is in ALARM.

        alarms: their construct ids. What was heard of others meanwhile is remembered.
        """

        def all_told() -> bool:
            for message in self.heard(listener):
                notice = json.loads(message["Message"])
                if notice.get("NewStateValue") == "ALARM":
                    self.told[notice["AlarmName"]] = notice["AlarmDescription"]
            return all(map(self._told_of, alarms))

        try:
            self.until(f"notices of {' and '.join(alarms)}", all_told, seconds=ALARMED)
        except ScenarioFailed as failure:
            raise ScenarioFailed(f"{failure}: told of {sorted(self.told)}") from None
        for alarm in alarms:
            self.say(f"{alarm} is in ALARM: a subscriber was told “{self._told_of(alarm)}”")

    def _told_of(self, alarm: str) -> str:
        """What a notice said of an alarm, whose name is the stack's and its construct's ids."""
        named = (text for name, text in self.told.items() if f"-{alarm}" in name)
        return next(named, "")

    @contextmanager
    def listener(self, topic: str) -> Generator[str]:
        """The URL of a queue of our own that hears a topic for as long as the block runs."""
        sqs, sns = self.client("sqs"), self.client("sns")
        name = f"{self.stack[:60]}-listener-{uuid.uuid4().hex[:8]}"  # of 80 characters at most
        _, partition, _, region, account, _ = topic.split(":")
        arn = f"arn:{partition}:sqs:{region}:{account}:{name}"
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
            "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        # From the start: a changed policy takes SQS up to a minute, and SNS drops what is denied.
        url = sqs.create_queue(QueueName=name, Attributes={"Policy": policy})["QueueUrl"]
        time.sleep(1 / self.clock)  # a new queue can be used after a second, SQS says
        subscription = sns.subscribe(
            TopicArn=topic, Protocol="sqs", Endpoint=arn, ReturnSubscriptionArn=True
        )["SubscriptionArn"]
        try:
            yield url
        finally:
            sns.unsubscribe(SubscriptionArn=subscription)
            sqs.delete_queue(QueueUrl=url)

    def heard(self, url: str) -> list[dict[str, Any]]:
        """What a listener's queue has received since it was last asked: SNS envelopes."""
        answer = self.client("sqs").receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=2
        )
        messages = answer.get("Messages", [])
        if messages:  # or they come back after their visibility timeout
            self.client("sqs").delete_message_batch(
                QueueUrl=url,
                Entries=[
                    {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
                    for index, message in enumerate(messages)
                ],
            )
        return [json.loads(message["Body"]) for message in messages]
