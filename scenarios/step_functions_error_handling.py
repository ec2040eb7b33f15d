"""Orders whose charge works, recovers, fails, hangs or is stopped: each ends right and is told."""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from scenarios.stage import ALARMED, ScenarioFailed, Stage

# Kind of order: (how many, its card, how its execution must end, attempts to charge it).
KINDS = {
    "good": (18, "card-ok", "SUCCEEDED", 1),
    "recovering": (6, "card-unavailable-2", "SUCCEEDED", 3),
    "exhausting": (4, "card-unavailable-9", "FAILED", 3),
    "declined": (5, "card-declined", "FAILED", 1),
    "malformed": (2, "card-ok", "FAILED", 1),
    "stopped": (2, "card-hangs", "ABORTED", None),
    "hanging": (2, "card-hangs", "TIMED_OUT", None),
    "untold": (1, "card-declined", "FAILED", 1),  # while the rule may not publish
}
AT_ONCE = 6  # executions in work, so that a small machine is not swamped with functions
SEED = 7
SUBJECT = "Order not charged"  # of an alert from the Catch; those from the rule have another


# Commands for a deployed stack, with its outputs in them: `make show`.
SEND = {
    "start an order's workflow": (
        "aws stepfunctions start-execution --state-machine-arn '$OrderWorkflowArn' --input "
        '\'{"order_id": "try-1", "customer": "ada", "card": "card-ok", "amount_cents": 100}\''
    ),
}


def play(stage: Stage) -> None:
    """Start the orders, hear the alerts, follow four of them, and account for all."""
    OrdersThroughTheWorkflow(stage).play()


class OrdersThroughTheWorkflow:
    """One run; each execution is named after its order, which begins with the run's id."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.out = stage, stage.outputs
        self.run = uuid.uuid4().hex[:8]
        self.sfn, self.sqs = stage.client("stepfunctions"), stage.client("sqs")
        self.sns, self.dynamodb = stage.client("sns"), stage.client("dynamodb")
        machine = self.sfn.describe_state_machine(stateMachineArn=self.out["OrderWorkflowArn"])
        definition = json.loads(machine["definition"])
        self.timeout: int = definition["TimeoutSeconds"]
        (retrier,) = definition["States"]["ChargeCard"]["Retry"]
        self.retries: int = retrier["MaxAttempts"]
        self.orders = self.make_orders()
        self.arns: dict[str, str] = {}  # order id to execution, as soon as it is started
        self.ended: dict[str, str] = {}  # order id to final status
        self.told: dict[str, list[dict[str, Any]]] = {"Catch": [], "rule": []}
        self.alarms: dict[str, dict[str, Any]] = {}  # part of its name to the notice of ALARM

    def play(self) -> None:
        """The whole story; ScenarioFailed as soon as it cannot end well."""
        stage = self.stage
        stage.say(
            f"a transient error is retried {self.retries} times;"
            f" an order still in work after {self.timeout} s is cut off"
        )
        self.clear_undelivered()
        stage.until("the alarms at rest", self.at_rest, seconds=300)
        with stage.listener(self.out["AlertsArn"]) as self.notices:
            self.drive()
            self.hear_alarm("OrdersFailed")
            undelivered = self.lose_an_alert()
            self.hear_alarm("AlertsUndelivered")
        self.clear_undelivered()
        for kind in ("recovering", "exhausting", "hanging", "stopped"):
            self.follow(kind)
        self.start_again()
        self.account(undelivered)

    def make_orders(self) -> dict[str, dict[str, Any]]:
        """Order id to order, shuffled; the same in each run but for the run's id."""
        chance = random.Random(SEED)
        kinds = [kind for kind, (many, *_) in KINDS.items() for _ in range(many)]
        chance.shuffle(kinds)
        kinds.sort(key=lambda kind: kind != "hanging")  # the slowest begin first
        orders = {}
        for number, kind in enumerate(kinds):
            order_id = f"{self.run}-{number:03}-{kind}"
            orders[order_id] = {
                "order_id": order_id,
                "customer": f"customer-{chance.randrange(40):02}",
                "card": KINDS[kind][1],
                "amount_cents": chance.randrange(100, 20000),
            }
            if kind == "malformed":
                del orders[order_id]["customer"], orders[order_id]["amount_cents"]
        return orders

    def of(self, *kinds: str) -> set[str]:
        """The ids of the orders of these kinds."""
        return {order_id for order_id in self.orders if order_id.split("-")[2] in kinds}

    def ending(self, status: str) -> set[str]:
        """The ids of the orders whose executions must end so."""
        return self.of(*(kind for kind, (_, _, ends, _) in KINDS.items() if ends == status))

    # ---- what happens

    def drive(self) -> None:
        """Run every order but the untold one to its end, a few at a time, and hear the alerts."""
        now = [order_id for order_id in self.orders if order_id not in self.of("untold")]
        goals = {
            status: len(self.ending(status) - self.of("untold"))
            for status in ("SUCCEEDED", "FAILED", "ABORTED", "TIMED_OUT")
        }
        with ThreadPoolExecutor(AT_ONCE) as pool:
            futures = [pool.submit(self.run_to_its_end, order_id) for order_id in now]
            try:
                self.stage.watch(
                    goals
                    | {
                        "told by the Catch": goals["FAILED"],
                        "told by the rule": len(now) - goals["SUCCEEDED"],
                    },
                    lambda: self.count(futures),
                    # Workflows keep the wall clock's time, in the sandbox too.
                    seconds=self.stage.clock * 4 * self.timeout,
                    why=self.what_failed,
                )
            finally:
                for future in futures:
                    future.cancel()
        self.stage.say(f"{len(self.arns)} executions have ended")

    def run_to_its_end(self, order_id: str) -> None:
        """Start an order's execution, stop it if it is one of those, and wait for its end."""
        arn = self.arns[order_id] = self.sfn.start_execution(
            stateMachineArn=self.out["OrderWorkflowArn"],
            name=order_id,
            input=json.dumps(self.orders[order_id]),
        )["executionArn"]
        if order_id in self.of("stopped"):
            self.stage.until(
                f"{order_id} in ChargeCard",
                lambda: self.attempts(order_id),
                seconds=self.stage.clock * 30,
            )
            self.sfn.stop_execution(executionArn=arn, cause="The customer has cancelled.")
        while (status := self.sfn.describe_execution(executionArn=arn)["status"]) == "RUNNING":
            time.sleep(0.5)
        self.ended[order_id] = status

    def count(self, futures: list[Future[None]]) -> dict[str, int]:
        """How many executions have ended how, and how many alerts were heard."""
        for future in futures:
            if future.done():
                future.result()  # raises what went wrong
        self.listen()
        statuses = list(self.ended.values())
        return {
            status: statuses.count(status)
            for status in ("SUCCEEDED", "FAILED", "ABORTED", "TIMED_OUT")
        } | {f"told by the {who}": len(alerts) for who, alerts in self.told.items()}

    def listen(self) -> None:
        """Sort what Alerts has said: alarms by name, alerts by the order that they link to."""
        heard = {alert["MessageId"] for alerts in self.told.values() for alert in alerts}
        for notice in self.stage.heard(self.notices):
            if notice["Message"].startswith('{"AlarmName"'):
                alarm = json.loads(notice["Message"])
                if alarm["NewStateValue"] == "ALARM":
                    self.alarms[alarm["AlarmName"].removeprefix(f"{self.stage.stack}-")] = alarm
                continue
            link = re.search(r"#/v2/executions/details/arn:[\w:-]+:([\w-]+)", notice["Message"])
            if link and link[1] in self.orders and notice["MessageId"] not in heard:
                who = "Catch" if notice.get("Subject") == SUBJECT else "rule"
                self.told[who].append(notice | {"order_id": link[1], "heard": time.time()})

    def hear_alarm(self, name: str) -> None:
        """Wait for the notice of an alarm that has gone to ALARM."""

        def notice() -> dict[str, Any] | None:
            self.listen()
            return next((told for full, told in self.alarms.items() if full.startswith(name)), None)

        told = self.stage.until(f"the notice of alarm {name}", notice, seconds=ALARMED)
        self.stage.say(
            f"alarm {name} went to {told['NewStateValue']} and was told:"
            f" “{told['AlarmDescription']}”"
        )

    def at_rest(self) -> bool:
        """Whether the two alarms that are to be heard can fire anew."""
        failed = self.stage.alarm(
            "AWS/States", "ExecutionsFailed", StateMachineArn=self.out["OrderWorkflowArn"]
        )
        undelivered = self.stage.alarm(
            "AWS/SQS",
            "ApproximateNumberOfMessagesVisible",
            QueueName=self.out["UndeliveredAlertsArn"].split(":")[-1],
        )
        return "ALARM" not in (failed, undelivered)

    def lose_an_alert(self) -> list[str]:
        """Forbid the rule to publish: its event must wait in UndeliveredAlerts.

        Returns the ids of the orders found there.
        """
        topic = self.out["AlertsArn"]
        policy = self.sns.get_topic_attributes(TopicArn=topic)["Attributes"]["Policy"]
        document = json.loads(policy)
        document["Statement"] = [
            statement
            for statement in document["Statement"]
            if "events.amazonaws.com" not in json.dumps(statement["Principal"])
        ]
        (order_id,) = self.of("untold")
        self.sns.set_topic_attributes(
            TopicArn=topic, AttributeName="Policy", AttributeValue=json.dumps(document)
        )
        try:
            time.sleep(60 / self.stage.clock)  # until the policy holds everywhere
            self.run_to_its_end(order_id)
            found = self.stage.until("an undelivered alert", self.undelivered, seconds=300)
        finally:
            self.sns.set_topic_attributes(
                TopicArn=topic, AttributeName="Policy", AttributeValue=policy
            )
        self.stage.say(f"while the rule may not publish, {order_id} waits in UndeliveredAlerts")
        return list(found)

    def undelivered(self) -> dict[str, str]:
        """Up to ten events in UndeliveredAlerts, order id to receipt; they come back in 30 s."""
        answer = self.sqs.receive_message(
            QueueUrl=self.out["UndeliveredAlertsUrl"],
            MaxNumberOfMessages=10,
            VisibilityTimeout=30,
            WaitTimeSeconds=1,
        )
        return {
            json.loads(message["Body"])["detail"]["name"]: message["ReceiptHandle"]
            for message in answer.get("Messages", [])
        }

    def clear_undelivered(self) -> None:
        """Delete what this and earlier runs left in UndeliveredAlerts.

        Events that no scenario caused stay, and then the alarm cannot fire anew: ScenarioFailed.
        """
        url = self.out["UndeliveredAlertsUrl"]

        def empty() -> bool:
            for order_id, receipt in self.undelivered().items():
                if not re.fullmatch(rf"[0-9a-f]{{8}}-\d{{3}}-({'|'.join(KINDS)})", order_id):
                    raise ScenarioFailed(
                        "UndeliveredAlerts holds events that no scenario caused: try another stack"
                    )
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=receipt)
            return self.stage.depth(url) == 0

        self.stage.until("UndeliveredAlerts empty", empty, seconds=60)

    def start_again(self) -> None:
        """A second start of an order that is done must start nothing."""
        order_id = min(self.of("good"))
        try:
            self.sfn.start_execution(
                stateMachineArn=self.out["OrderWorkflowArn"],
                name=order_id,
                input=json.dumps(self.orders[order_id]),
            )
        except self.sfn.exceptions.ExecutionAlreadyExists:
            self.stage.say(f"a second start of {order_id} started nothing")
        else:
            raise ScenarioFailed(f"{order_id} was started twice")

    # ---- what was seen

    def events(self, order_id: str) -> list[dict[str, Any]]:
        """The history of an order's execution, oldest first."""
        pages = self.sfn.get_paginator("get_execution_history").paginate(
            executionArn=self.arns[order_id]
        )
        return [event for page in pages for event in page["events"]]

    def attempts(self, order_id: str) -> list[dict[str, Any]]:
        """When each attempt of ChargeCard began, and how and when it ended, if it did."""
        found: list[dict[str, Any]] = []
        for event in self.events(order_id):
            kind = event["type"]
            if kind == "TaskStateExited":
                break
            if kind == "LambdaFunctionScheduled":
                found.append({"began": event["timestamp"].timestamp()})
            elif re.match("LambdaFunction(Failed|TimedOut|Succeeded)$", kind):
                details = event[f"{kind[0].lower()}{kind[1:]}EventDetails"]
                found[-1]["ended"] = event["timestamp"].timestamp()
                found[-1]["with"] = details.get("error", "success")
        return found

    def rows(self) -> dict[str, dict[str, Any]]:
        """Order id to this run's row in Charges."""
        pages = self.dynamodb.get_paginator("scan").paginate(
            TableName=self.out["ChargesName"],
            ConsistentRead=True,
            FilterExpression="begins_with(order_id, :run)",
            ExpressionAttributeValues={":run": {"S": self.run}},
        )
        return {row["order_id"]["S"]: row for page in pages for row in page["Items"]}

    def log(self, text: str) -> list[dict[str, Any]]:
        """What ChargeOrder logged with just this text about this run's orders."""
        entries = self.stage.logged(
            self.out["ChargeOrderLogsName"], f'"{text}"', since=self.stage.began - 5
        )
        return [
            entry
            for entry in entries
            if entry["message"] == text and entry.get("order_id") in self.orders
        ]

    def what_failed(self) -> str:
        """What is known of executions that ended otherwise than they must, and of lost alerts."""
        errors = set()
        for order_id, status in dict(self.ended).items():
            if order_id not in self.ending(status):
                end = self.sfn.describe_execution(executionArn=self.arns[order_id])
                errors.add(f"{end.get('error')}: {end.get('cause')}")
        known = "Executions ended with: " + " | ".join(sorted(errors)[:3]) if errors else ""
        lost = self.stage.depth(self.out["UndeliveredAlertsUrl"])
        return f"{known} {lost} alerts are in UndeliveredAlerts." if lost else known

    def follow(self, kind: str) -> None:
        """One order of a kind, attempt by attempt, to its end and its alerts."""
        say, order_id = self.stage.say, min(self.of(kind))
        first, *_, last = self.events(order_id)
        say(f"one {kind} order, {order_id}:", style="bold")
        say("  execution started", at=first["timestamp"].timestamp())
        for number, attempt in enumerate(self.attempts(order_id), 1):
            say(f"  attempt {number} to charge the card", at=attempt["began"])
            if "ended" in attempt:
                say(f"  attempt {number} ended with {attempt['with']}", at=attempt["ended"])
        say(f"  {last['type']}", at=last["timestamp"].timestamp())
        for who, alerts in self.told.items():
            for alert in alerts:
                if alert["order_id"] == order_id:
                    say(f"  a subscriber of Alerts heard the {who}:", at=alert["heard"])
                    for line in alert["Message"].splitlines():
                        say(f"    {line}", at=alert["heard"])

    def account(self, undelivered: list[str]) -> None:
        """Every execution ended as its card says, was charged as it ended, and told as it must."""
        rows, charged = self.rows(), [entry["order_id"] for entry in self.log("Charged order")]
        by_catch = sorted(alert["order_id"] for alert in self.told["Catch"])
        by_rule = sorted(alert["order_id"] for alert in self.told["rule"])
        listed = self.listed()
        unsuccessful = set(self.orders) - self.ending("SUCCEEDED")
        counted = {
            kind: {len(self.attempts(order_id)) for order_id in self.of(kind)} for kind in KINDS
        }
        in_rows = {
            order_id: int(row["attempts"]["N"])
            for order_id, row in rows.items()
            if order_id in self.of("good", "recovering", "exhausting", "declined")
        }
        alerts = [alert["Message"] for heard in self.told.values() for alert in heard]
        claims = {
            "every execution ended as its order's card says": all(
                listed.get(status, set()) == self.ending(status) for status in listed
            ),
            f"a recovering order had {1 + self.retries} attempts and succeeded": (
                counted["recovering"] == {1 + self.retries}
            ),
            f"an exhausting order had {1 + self.retries} attempts, a declined or malformed one 1": (
                counted["exhausting"] == {1 + self.retries}
                and counted["declined"] == counted["malformed"] == {1}
            ),
            "ChargeOrder counted as many attempts as the histories": all(
                {attempts} == counted[order_id.split("-")[2]]
                for order_id, attempts in in_rows.items()
            ),
            "each order that succeeded was charged once, and no other was": (
                sorted(charged)
                == sorted(self.ending("SUCCEEDED"))
                == sorted(order_id for order_id, row in rows.items() if "charge_id" in row)
            ),
            "each failed order was told once by the Catch": (
                by_catch == sorted(self.ending("FAILED"))
            ),
            "each order without success was told once by the rule, or waits undelivered": (
                sorted([*by_rule, *undelivered]) == sorted(unsuccessful)
            ),
            "no alert holds a card": not any("card-" in alert for alert in alerts),
        }
        broken = self.stage.judge(claims)
        self.stage.balance(
            "executions without success",
            len(unsuccessful),
            {"told by the rule": len(set(by_rule)), "undelivered": len(undelivered)},
        )
        self.stage.balance(
            "executions started",
            len(self.arns),
            {
                status.lower().replace("_", " "): len(listed.get(status, ()))
                for status in ("SUCCEEDED", "FAILED", "ABORTED", "TIMED_OUT")
            },
        )
        if broken:
            raise ScenarioFailed(f"not so: {'; '.join(broken)}. {self.what_failed()}")

    def listed(self) -> dict[str, set[str]]:
        """Status to this run's orders, as Step Functions lists its executions."""
        pages = self.sfn.get_paginator("list_executions").paginate(
            stateMachineArn=self.out["OrderWorkflowArn"]
        )
        found: dict[str, set[str]] = {}
        for page in pages:
            for execution in page["executions"]:
                if execution["name"] in self.orders:
                    found.setdefault(execution["status"], set()).add(execution["name"])
        return found
