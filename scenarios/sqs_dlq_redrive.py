"""A release that does not know gift orders parks them; the next is deployed, and they are redriven.

Slowly at first: somebody looks at the progress, a second redrive is refused, the first is
cancelled. Then the rest. Every order must be fulfilled once.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from scenarios.roles import assume
from scenarios.stage import ScenarioFailed, Stage

STANDARD, GIFT = 60, 30
SLOW = 1  # orders a second
SEEN = 3  # orders moved until the slow redrive is cancelled


# Commands for a deployed stack, with its outputs in them: `make show`.
SEND = {
    "send an order": (
        'aws sqs send-message --queue-url \'$OrdersUrl\' --message-body \'{"order_id": "try-1", '
        '"customer": "ada", "kind": "parcel"}\''
    ),
    "start the runbook": (
        "aws stepfunctions start-execution --state-machine-arn '$RunbookArn' --input '{}'"
    ),
}


def play(stage: Stage) -> None:
    """Park the gift orders, mend, redrive, and account for all."""
    OrdersRedriven(stage).play()


class OrdersRedriven:
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
        self.sent: dict[str, tuple[str, float]] = {}  # message id to (order id, Unix time)
        self.mended = 0.0  # the Unix time at which the fix was deployed
        self.moved = 0  # orders that ended redrives have moved
        self.claims: dict[str, bool] = {}

    def play(self) -> None:
        """The whole story; ScenarioFailed as soon as it cannot end well."""
        stage = self.stage
        self.begin_with_the_first_release()
        self.clear_earlier_runs()
        with stage.listener(self.out["AlertsArn"]) as notices:
            self.park(notices)
            self.mend()
            operator = Operator(stage)
            self.claims["the operator can neither read nor move an order"] = operator.is_harmless()
            self.redrive_slowly_and_cancel(operator)
            self.stage.see_alarms(notices, "RedriveFailed")
            self.redrive_the_rest(operator)
        stage.until(
            "OrdersParked at rest",
            lambda: stage.depth_alarm("FailedOrdersUrl") == "OK",
            seconds=300,
        )
        stage.say("alarm OrdersParked is at rest")
        self.follow()
        self.account()

    # ---- orders

    def park(self, notices: str) -> None:
        """Send all orders, and see the gift orders end in FailedOrders."""
        self.send()
        self.stage.watch(
            {"fulfilled": STANDARD, "parked": GIFT},
            lambda: {
                "fulfilled": len(self.rows()),
                "parked": self.stage.depth(self.out["FailedOrdersUrl"]),
            },
            seconds=self.visibility_timeout * (self.receives + 1),
            why=self.what_failed,
        )
        self.stage.see_alarms(notices, "OrdersParked")

    def begin_with_the_first_release(self) -> None:
        """An earlier run may have left the mended one there."""
        function = self.stage.client("lambda").get_function_configuration(
            FunctionName=self.out["FulfilOrderName"]
        )
        if function["Environment"]["Variables"]["ACCEPT_GIFT_ORDERS"] == "true":
            self.stage.say("cdk deploy -c accept_gift_orders=false: the first release again")
            self.stage.redeploy(accept_gift_orders="false")

    def clear_earlier_runs(self) -> None:
        """Take away what earlier runs left in FailedOrders, and what they left running.

        ScenarioFailed if messages are there that no scenario sent.
        """
        listed = self.sqs.list_message_move_tasks(SourceArn=self.out["FailedOrdersArn"])
        for task in listed.get("Results", []):
            if task["Status"] == "RUNNING":
                self.sqs.cancel_message_move_task(TaskHandle=task["TaskHandle"])
        self.stage.until(
            "Orders empty",
            lambda: self.stage.depth(self.out["OrdersUrl"]) == 0,
            seconds=self.visibility_timeout * (self.receives + 1),
        )
        before = self.stage.depth(self.out["FailedOrdersUrl"])
        while before and (
            messages := self.sqs.receive_message(
                QueueUrl=self.out["FailedOrdersUrl"],
                MaxNumberOfMessages=10,
                WaitTimeSeconds=1,
                MessageAttributeNames=["scenario"],
            ).get("Messages")
        ):
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

    def send(self) -> None:
        """All orders in batches of ten, two standard ones beside each gift order."""
        orders = [
            {
                "order_id": f"{self.run}-{kind}-{number:02}",
                "customer": f"customer-{number:02}",
                "kind": kind,
            }
            for kind, count in (("standard", STANDARD), ("gift", GIFT))
            for number in range(count)
        ]
        orders.sort(key=lambda order: order["customer"])
        for first in range(0, len(orders), 10):
            batch = orders[first : first + 10]
            answer = self.sqs.send_message_batch(
                QueueUrl=self.out["OrdersUrl"],
                Entries=[
                    {
                        "Id": str(index),
                        "MessageBody": json.dumps(order),
                        "MessageAttributes": {
                            "scenario": {"DataType": "String", "StringValue": self.run}
                        },
                    }
                    for index, order in enumerate(batch)
                ],
            )
            if answer.get("Failed"):
                raise ScenarioFailed(f"SQS refused messages: {answer['Failed']}")
            for one in answer["Successful"]:
                self.sent[one["MessageId"]] = batch[int(one["Id"])]["order_id"], time.time()
        clock = self.stage.clock
        self.stage.say(
            f"sent {STANDARD} standard orders and {GIFT} gift orders, which this release rejects"
            f" {self.receives} times, {self.visibility_timeout} s apart"
            + (f"; SQS time runs {clock:g} times faster here" if clock > 1 else "")
        )

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
        """What FulfilOrder logged with exactly this text in this run, oldest first."""
        entries = self.stage.logged(
            self.out["FulfilOrderLogsName"], f'"{text}"', since=self.stage.began - 5
        )
        return [
            entry
            for entry in entries
            if entry.get("message") == text
            and (
                entry.get("message_id") in self.sent
                or str(entry.get("order_id")).startswith(self.run)
            )
        ]

    def what_failed(self) -> str:
        """The distinct errors that FulfilOrder logged, for a scenario that ends badly."""
        errors = {
            f"{entry.get('exception_name')}: {str(entry.get('exception')).splitlines()[-1]}"
            for entry in self.log("Order failed")
        }
        return "FulfilOrder logged: " + " | ".join(sorted(errors)[:3]) if errors else ""

    # ---- the fix and the redrives

    def mend(self) -> None:
        """Deploy the release that knows gift orders."""
        began = time.monotonic()
        self.stage.redeploy(accept_gift_orders="true")
        self.mended = time.time()
        self.stage.say(
            "cdk deploy -c accept_gift_orders=true: the fix is deployed,"
            f" in {time.monotonic() - began:.0f} s"
        )

    def redrive_slowly_and_cancel(self, operator: Operator) -> None:
        """Watch a slow redrive, be refused a second one, and cancel the first."""
        stage = self.stage
        slow, began = operator.start(messages_per_second=SLOW), time.time()
        stage.say(f"the operator starts the runbook with {SLOW} order a second")

        def moved() -> int:
            """By rows: a queue's depth may be a minute late, and then all have moved."""
            return len(self.rows()) - STANDARD

        def some_moved() -> bool:
            operator.check(slow)
            if moved() == GIFT:
                raise ScenarioFailed(f"not slow: all {GIFT} moved")
            return moved() >= SEEN

        stage.until(f"{SEEN} orders moved", some_moved, seconds=120)
        seen, took = moved(), time.time() - began
        task = operator.task()
        stage.say(
            f"  progress: {seen} of {GIFT} are fulfilled;"
            f" SQS counts {task.get('ApproximateNumberOfMessagesMoved', 'none yet')}"
        )
        self.claims[f"the slow redrive moved no more than {SLOW} order a second"] = (
            seen <= took * SLOW + 1
        )
        self.refused(operator, "a second redrive", "RedriveAlreadyRunning", {})
        stage.say(f"  by hand, SQS refuses it: {self.start_by_hand()}")
        stopped = operator.output(operator.start(cancel=True))
        stage.say(f"  the operator cancels: {stopped['moved']} of {stopped['to_move']} moved")
        self.claims["both executions saw that the redrive is cancelled"] = (
            stopped["status"] == operator.output(slow)["status"] == "CANCELLED"
        )
        self.count_moved()
        stage.say(f"  {GIFT - self.moved} orders stay in FailedOrders")
        self.refused(operator, "to cancel what does not run", "NoRedriveRunning", {"cancel": True})
        self.refused(
            operator, "too fast a redrive", "InvalidVelocity", {"messages_per_second": 501}
        )

    def redrive_the_rest(self, operator: Operator) -> None:
        """Redrive what is left, as fast as the runbook may, and see every order fulfilled."""
        stage, execution = self.stage, operator.start()
        stage.say("the operator starts the runbook for the rest")
        end = operator.output(execution)
        for progress in operator.progress(execution):
            stage.say(
                f"  progress: {progress['moved']} of {progress['to_move']} moved,"
                f" {progress['status']}",
                at=progress["at"],
            )
        self.claims["the second redrive completed"] = end["status"] == "COMPLETED"
        self.count_moved()
        stage.watch(
            {"fulfilled": STANDARD + GIFT},
            lambda: {"fulfilled": len(self.rows())},
            seconds=self.visibility_timeout,
            why=self.what_failed,
        )

    def refused(self, operator: Operator, what: str, error: str, settings: dict[str, Any]) -> None:
        """The runbook must end with this error, started like this."""
        end = operator.ended(operator.start(**settings))
        self.stage.say(f"  {what} is refused: {end.get('error')}: {end.get('cause')}")
        self.claims[f"{what} is refused"] = end.get("error") == error

    def start_by_hand(self) -> str:
        """What SQS says to `aws sqs start-message-move-task` while a redrive runs."""
        try:
            self.sqs.start_message_move_task(
                SourceArn=self.out["FailedOrdersArn"], MaxNumberOfMessagesPerSecond=SLOW
            )
        except ClientError as error:
            return error.response["Error"]["Message"]
        raise ScenarioFailed("SQS started a second redrive while one ran")

    def parked(self) -> int:
        """Orders in FailedOrders."""
        return self.stage.depth(self.out["FailedOrdersUrl"])

    def count_moved(self) -> None:
        """Count what the redrives have moved so far, once all of it is in rows.

        SQS's own counts are approximate and come late: what it says decides nothing.
        """
        self.stage.until(
            "what was moved fulfilled, and the rest in FailedOrders",
            lambda: len(self.rows()) - STANDARD + self.parked() == GIFT,
            seconds=self.visibility_timeout,
        )
        self.moved = len(self.rows()) - STANDARD

    # ---- the account

    def follow(self) -> None:
        """One gift order, hop by hop."""
        say = self.stage.say
        order_id = f"{self.run}-gift-00"
        message_id, at = next((m, at) for m, (o, at) in self.sent.items() if o == order_id)
        (row,) = [row for row in self.rows() if row["order_id"]["S"] == order_id]
        say(f"one gift order, {order_id}:", style="bold")
        say(f"  sent as message {message_id}", at=at)
        for entry in self.log("Rejected order"):
            if entry["message_id"] == message_id:
                say(f"  receive {entry['receive_count']}: {entry['reason']}", at=entry["at"])
        for entry in self.log("Fulfilled order"):
            if entry["order_id"] == order_id:
                say(
                    f"  redriven as message {row['message_id']['S']} and fulfilled"
                    f" at receive {entry['receive_count']}",
                    at=entry["at"],
                )

    def account(self) -> None:
        """Every order has one row; the gift orders by way of FailedOrders and a redrive."""
        rows = {row["order_id"]["S"]: row["message_id"]["S"] for row in self.rows()}
        at_once = {order for order, message in rows.items() if message in self.sent}
        after = set(rows) - at_once
        ordered = {order for order, _ in self.sent.values()}
        gifts = {order for order in ordered if "-gift-" in order}
        fulfilled = [entry["order_id"] for entry in self.log("Fulfilled order")]
        self.claims |= {
            "every order was fulfilled, and none twice": (
                set(rows) == ordered and len(fulfilled) == len(set(fulfilled))
            ),
            "the gift orders, and only they, came back as new messages": after == gifts,
            "nothing was rejected after the fix": not any(
                entry["at"] > self.mended for entry in self.log("Rejected order")
            ),
            "FailedOrders is empty": self.stage.depth(self.out["FailedOrdersUrl"]) == 0,
            "Orders is empty": self.stage.depth(self.out["OrdersUrl"]) == 0,
        }
        broken = self.stage.judge(self.claims)
        self.stage.balance("parked", GIFT, {"moved by the two redrives": self.moved})
        self.stage.balance(
            "sent",
            len(self.sent),
            {"fulfilled at once": len(at_once), "fulfilled after the redrives": len(after)},
        )
        if broken:
            raise ScenarioFailed(f"not so: {'; '.join(broken)}. {self.what_failed()}")


class Operator:
    """Somebody who has assumed the role Operator, and has no other right."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.out = stage, stage.outputs
        session = assume(
            stage,
            self.out["OperatorArn"],
            lambda operator: operator.client("sqs").list_message_move_tasks(
                SourceArn=self.out["FailedOrdersArn"]
            ),
        )
        self.sqs, self.sfn = session.client("sqs"), session.client("stepfunctions")

    def is_harmless(self) -> bool:
        """Whether all that would touch an order without the runbook is denied."""
        dead = {"QueueUrl": self.out["FailedOrdersUrl"]}
        attempts: list[tuple[Callable[..., Any], dict[str, str]]] = [
            (self.sqs.receive_message, dead),
            (self.sqs.purge_queue, dead),
            (self.sqs.send_message, {"QueueUrl": self.out["OrdersUrl"], "MessageBody": "mine"}),
            (self.sqs.start_message_move_task, {"SourceArn": self.out["FailedOrdersArn"]}),
        ]
        return all(self.denied(call, parameters) for call, parameters in attempts)

    def denied(self, call: Callable[..., Any], parameters: dict[str, str]) -> bool:
        """Whether AWS says no for want of a right."""
        try:
            call(**parameters)
        except ClientError as error:
            return "AccessDenied" in error.response["Error"]["Code"]
        return False

    def start(self, **settings: Any) -> str:
        """The ARN of a new execution of the runbook."""
        return self.asks(
            self.sfn.start_execution,
            stateMachineArn=self.out["RunbookArn"],
            input=json.dumps(settings),
        )["executionArn"]

    def asks(self, call: Callable[..., Any], **parameters: Any) -> dict[str, Any]:
        """The answer to a call that the role must allow; ScenarioFailed if there is none."""
        try:
            return call(**parameters)
        except ClientError as error:
            raise ScenarioFailed(f"the operator is refused: {error}") from None

    def check(self, execution: str) -> None:
        """ScenarioFailed, with the reason, if an execution has ended without success."""
        now = self.asks(self.sfn.describe_execution, executionArn=execution)
        if now["status"] not in ("RUNNING", "SUCCEEDED"):
            raise ScenarioFailed(
                f"the runbook {now['status']}: {now.get('error')}: {now.get('cause')}"
            )

    def ended(self, execution: str) -> dict[str, Any]:
        """An execution at its end, however it ended."""

        def end() -> dict[str, Any] | None:
            now = self.asks(self.sfn.describe_execution, executionArn=execution)
            return now if now["status"] != "RUNNING" else None

        return self.stage.until("the end of a runbook", end, seconds=300)

    def output(self, execution: str) -> dict[str, Any]:
        """What an execution that must succeed says at its end: status, moved, to_move."""
        end = self.ended(execution)
        self.check(execution)
        return json.loads(end["output"])

    def progress(self, execution: str) -> list[dict[str, Any]]:
        """What the runbook read at each look, with the time of it as "at"."""
        pages = self.sfn.get_paginator("get_execution_history").paginate(executionArn=execution)
        details = [
            (event["timestamp"].timestamp(), event["stateExitedEventDetails"])
            for page in pages
            for event in page["events"]
            if "stateExitedEventDetails" in event
        ]
        return [
            {**json.loads(exited["output"]), "at": at}
            for at, exited in details
            if exited["name"] == "ReadProgress"
        ]

    def task(self) -> dict[str, Any]:
        """The newest redrive of FailedOrders as SQS shows it; empty if there is none."""
        listed = self.asks(self.sqs.list_message_move_tasks, SourceArn=self.out["FailedOrdersArn"])
        return next(iter(listed.get("Results", [])), {})
