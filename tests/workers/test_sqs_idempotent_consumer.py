"""The worker: decisions without AWS, effects on the sandbox's SQS and DynamoDB."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from hypothesis import given
from hypothesis import strategies as st

from sandbox import imds
from tests.sandbox.cloud import soon
from tests.workers.table import FAULTS, Table

PROJECT = Path(__file__).parent.parent.parent
PROGRAMS = PROJECT / "workers" / "sqs_idempotent_consumer"
STACK = PROJECT / "stacks" / "sqs_idempotent_consumer.py"
REQUIRED = ["--queue", "https://sqs/orders", "--table", "rows"]
MODULES = ("program", "orders", "messages", "lifecycle", "worker")
ITEM = {"sku": "tea", "quantity": 1}
ORDER = {"order_id": "a", "customer": "ada", "items": [ITEM]}

orders = st.fixed_dictionaries(
    {
        "order_id": st.text(min_size=1, max_size=64),
        "customer": st.text(min_size=1),
        "items": st.lists(
            st.fixed_dictionaries({"sku": st.text(), "quantity": st.integers(1, 10**6)}),
            min_size=1,
        ),
    },
    optional={"packing_seconds": st.integers(0, 300) | st.floats(0, 300)},
)


@pytest.fixture(scope="module")
def programs() -> Generator[Callable[[str], ModuleType]]:
    """Imports a module of the worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROGRAMS))
        for name in MODULES:
            sys.modules.pop(name, None)
        yield importlib.import_module
        for name in MODULES:
            sys.modules.pop(name, None)


# ---- the files, as Amazon Linux 2023 takes them


@pytest.mark.parametrize("name", MODULES)
def test_the_program_keeps_to_python_3_9(name: str) -> None:
    source = (PROGRAMS / f"{name}.py").read_text()
    tree = ast.parse(source, feature_version=(3, 9))
    assert "from __future__ import annotations" in source
    newer = {"StrEnum", "UTC", "batched", "pairwise", "TaskGroup", "tomllib"}
    assert not newer & {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    keywords = {
        keyword.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
    }
    assert not keywords & {"slots", "kw_only", "strict"}  # dataclass of 3.10, zip of 3.10
    assert (
        "MessageSystemAttributeNames" not in keywords
    )  # SQS has it since May 2024, boto3 1.34.100


def test_the_service_is_understood_by_systemd() -> None:
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("this machine has no systemd-analyze")
    done = subprocess.run(
        [analyze, "verify", PROGRAMS / "fulfil-orders.service"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_is_stopped_with_patience_and_not_started_again(
    programs: Callable[[str], ModuleType],
) -> None:
    unit = (PROGRAMS / "fulfil-orders.service").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in unit if "=" in line and line[0] != "#")
    assert settings["User"] == "fulfil-orders"
    assert settings["Restart"] == "on-failure"
    assert settings["Type"] == "notify"
    assert int(settings["TimeoutStartSec"]) > 20  # the first long poll
    orders = programs("orders")
    # A long poll, an order, and a call of DynamoDB that takes all of its time; and then the group.
    assert int(settings["TimeoutStopSec"]) >= 20 + orders.LONGEST_PACKING + 30
    assert programs("worker").settings(REQUIRED).longest >= orders.LONGEST_PACKING + 30
    (hook,) = re.findall(r"heartbeat_timeout=(\d+)", STACK.read_text())
    assert int(hook) >= int(settings["TimeoutStopSec"]) + 60
    assert (settings["NoNewPrivileges"], settings["ProtectSystem"]) == ("yes", "strict")


def test_the_installation_is_a_shell_script() -> None:
    subprocess.run(["bash", "-n", PROGRAMS / "install.sh"], check=True, timeout=60)


# ---- decisions


@given(order=orders)
def test_every_order_is_understood(
    programs: Callable[[str], ModuleType], order: dict[str, Any]
) -> None:
    assert programs("orders").parse_order(json.dumps(order)) == order


@given(body=st.text())
def test_any_text_is_an_order_or_malformed_with_a_reason(
    programs: Callable[[str], ModuleType], body: str
) -> None:
    module = programs("orders")
    with pytest.raises(module.MalformedOrder, match=r": |not "):
        module.parse_order(body)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"order_id": ""}, "order_id"),
        ({"order_id": ["a"]}, "order_id"),
        ({"order_id": 65 * "a"}, "order_id: longer than 64 characters"),
        # A row holds the order as JSON, which takes six bytes for this letter.
        ({"note": 60_000 * "é"}, "larger than 350000 bytes"),
        ({"customer": None}, "customer"),
        ({"items": []}, "items: missing or empty"),
        ({"items": "tea"}, "items: missing or empty"),
        ({"items": ["tea"]}, "items: each"),
        ({"items": [ITEM, ITEM | {"quantity": 0}]}, "items: each"),
        ({"items": [ITEM | {"quantity": True}]}, "items: each"),
        ({"packing_seconds": "long"}, "packing_seconds"),
        ({"packing_seconds": -1}, "packing_seconds"),
        ({"packing_seconds": float("nan")}, "not JSON"),
        ({"packing_seconds": True}, "packing_seconds"),
        ({"packing_seconds": 300.1}, "packing_seconds: more than 300"),
        ({"note": "\ud800"}, "not JSON"),
    ],
)
def test_the_reason_names_the_field_that_is_missing_or_wrong(
    programs: Callable[[str], ModuleType], change: dict[str, Any], reason: str
) -> None:
    module = programs("orders")
    with pytest.raises(module.MalformedOrder, match=f"^{reason}"):
        module.parse_order(json.dumps(ORDER | change))


@pytest.mark.parametrize(
    "body",
    [
        '{"order_id": "a", "order_id": "b"}',
        "[" * 100_000,
        '{"order_id": ' + "9" * 5000 + "}",
        '{"order_id": Infinity}',
    ],
    ids=["a name twice", "deep", "a long number", "no number"],
)
def test_what_readers_differ_in_is_no_order(
    programs: Callable[[str], ModuleType], body: str
) -> None:
    module = programs("orders")
    with pytest.raises(module.MalformedOrder, match=r"^not JSON$"):
        module.parse_order(body)


@pytest.mark.parametrize("seconds", [0, 300])
def test_the_longest_packing_is_an_order(
    programs: Callable[[str], ModuleType], seconds: int
) -> None:
    order = ORDER | {"order_id": 64 * "a", "packing_seconds": seconds}
    assert programs("orders").parse_order(json.dumps(order)) == order


# ---- the metadata of an instance


@pytest.fixture
def instance(
    programs: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Generator[SimpleNamespace]:
    """The worker's view of an instance, and what that instance is told."""
    with imds.served(imds.Instance()) as told:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", told.address)
        yield SimpleNamespace(told=told, seen=programs("lifecycle").Instance())


def test_an_instance_leaves_when_it_is_told_to(instance: SimpleNamespace) -> None:
    assert not instance.seen.leaving()
    instance.told.lifecycle_state = "Terminated"
    assert instance.seen.leaving()


def test_a_token_that_has_expired_is_got_anew(instance: SimpleNamespace) -> None:
    assert not instance.seen.leaving()
    instance.told.tokens.clear()
    instance.told.lifecycle_state = "Terminated"
    assert instance.seen.leaving()
    assert len(instance.told.tokens) == 1


def test_an_instance_in_no_group_stays(instance: SimpleNamespace) -> None:
    instance.told.lifecycle_state = None
    assert not instance.seen.leaving()


def test_a_metadata_service_that_is_gone_stops_nobody(
    instance: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    instance.seen.host = "127.0.0.1:9"
    assert not instance.seen.leaving()
    assert json.loads(capfd.readouterr().out)["state"] == "no metadata"


PAGE = b"HTTP/1.1 %d Oh\r\nContent-Length: 14\r\n\r\n<html>\n</html>"


@pytest.mark.parametrize(
    "answers",
    [
        [b"nonsense\r\n\r\n"],
        [PAGE % 503],
        [PAGE % 401, PAGE % 503],  # a page for a token, which would make a header of two lines
        [PAGE % 401, PAGE % 200],
        [PAGE % 401, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe"],
        [b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000],
    ],
    ids=["nonsense", "a page", "no token", "a page for a token", "no text", "endless"],
)
def test_a_metadata_service_that_is_broken_stops_nobody(
    instance: SimpleNamespace, answers: list[bytes]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as broken:
        instance.seen.host = f"127.0.0.1:{broken.getsockname()[1]}"

        def answer() -> None:
            for one in answers:
                connection, _ = broken.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(one)

        answering = threading.Thread(target=answer, daemon=True)
        answering.start()
        assert not instance.seen.leaving()
        answering.join(10)


def test_the_hook_is_completed_for_this_instance(instance: SimpleNamespace) -> None:
    called: dict[str, str] = {}
    autoscaling = SimpleNamespace(complete_lifecycle_action=called.update)
    instance.seen.let_go(autoscaling, "Workers", "Drain")
    assert called == {
        "AutoScalingGroupName": "Workers",
        "LifecycleHookName": "Drain",
        "InstanceId": instance.told.id,
        "LifecycleActionResult": "CONTINUE",
    }


# ---- messages in hand, on a real queue


@pytest.fixture
def queue(sandbox: Any) -> Generator[SimpleNamespace]:
    """A queue with a visibility timeout of a minute (3 s here), and how to fill and read it."""
    sqs = boto3.client("sqs")
    url = sqs.create_queue(
        QueueName=f"orders-{uuid.uuid4().hex[:8]}", Attributes={"VisibilityTimeout": "60"}
    )["QueueUrl"]

    def send(*bodies: Any) -> list[str]:
        return [
            sqs.send_message(QueueUrl=url, MessageBody=json.dumps(body))["MessageId"]
            for body in bodies
        ]

    def visible() -> list[str]:
        answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)
        return [message["MessageId"] for message in answer.get("Messages", [])]

    yield SimpleNamespace(sqs=sqs, url=url, send=send, visible=visible)
    sqs.delete_queue(QueueUrl=url)


def hand(programs: Callable[[str], ModuleType], queue: SimpleNamespace, **settings: float) -> Any:
    given: dict[str, Any] = {"visibility_timeout": 60, "heartbeat": 0.5, "longest": 60}
    return programs("messages").Hand(queue.sqs, queue.sqs, queue.url, **given | settings)


def test_a_message_that_is_begun_makes_room_for_the_next_at_once(
    programs: Callable[[str], ModuleType], queue: SimpleNamespace
) -> None:
    queue.send("a")
    held = hand(programs, queue)
    held.take()
    room: list[bool] = []
    began = time.monotonic()
    looker = threading.Thread(target=lambda: room.append(held.wants(1, 20)))
    looker.start()
    assert not room and held.begin(0)
    looker.join(5)
    assert room == [True] and time.monotonic() - began < 5


def test_what_is_not_begun_is_given_back_at_once(
    programs: Callable[[str], ModuleType], queue: SimpleNamespace
) -> None:
    sent = queue.send("a", "b", "c")
    held = hand(programs, queue)
    first, *others = held.take()
    assert held.begin(0) is first
    assert sorted(held.give_back()) == sorted(message.id for message in others)
    assert sorted(queue.visible()) == sorted(set(sent) - {first.id})
    assert held.begin(0) is None
    assert held.give_back() == []


def test_a_heartbeat_keeps_a_message_longer_than_its_timeout(
    programs: Callable[[str], ModuleType], queue: SimpleNamespace
) -> None:
    queue.send("a")
    held = hand(programs, queue)
    (message,) = held.take()
    ends = time.monotonic() + 5
    while time.monotonic() < ends:
        held.extend()
        assert queue.visible() == []
        time.sleep(0.2)
    held.delete(message)
    assert not held.held


def test_a_stuck_order_is_kept_from_others_no_longer(
    programs: Callable[[str], ModuleType],
    queue: SimpleNamespace,
    capfd: pytest.CaptureFixture[str],
) -> None:
    queue.send("a")
    held = hand(programs, queue, longest=0.1)
    (message,) = held.take()
    assert held.begin(0) is message
    time.sleep(0.6)
    held.extend()
    assert not held.held
    said = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [one["message_id"] for one in said if one["state"] == "stuck"] == [message.id]


# ---- the whole program


@pytest.fixture
def shop(queue: SimpleNamespace) -> Generator[SimpleNamespace]:
    """A queue and a table, and the environment of a worker on them."""
    dynamodb, table = boto3.client("dynamodb"), f"fulfilled-{uuid.uuid4().hex[:8]}"
    dynamodb.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "order_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "order_id", "AttributeType": "S"}],
    )
    environment = os.environ | {
        "ORDERS_URL": queue.url,
        "FULFILLED_ORDERS": table,
        "ORDERS_AT_ONCE": "1",
        "HEARTBEAT": "1",
    }
    yield SimpleNamespace(queue=queue, dynamodb=dynamodb, table=table, environment=environment)
    dynamodb.delete_table(TableName=table)


def work(
    shop: SimpleNamespace, until: Callable[[list[dict[str, Any]]], bool]
) -> list[dict[str, Any]]:
    """What a worker reports until SIGTERM, which it gets when it has reported enough, and after.

    One that never does is killed, and the test fails.
    """
    process = subprocess.Popen(
        [sys.executable, "-B", PROGRAMS / "worker.py"],
        env=shop.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    reports: list[dict[str, Any]] = []
    too_late = threading.Timer(45, process.kill)
    too_late.start()
    try:
        for line in process.stdout or ():
            reports.append(json.loads(line))
            if until(reports):
                process.send_signal(signal.SIGTERM)
                break
        reports += [json.loads(line) for line in process.stdout or ()]
        assert process.wait(timeout=20) == 0
    finally:
        too_late.cancel()
        process.kill()
        process.wait()
    return reports


def outcomes(reports: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["message_id"], one["outcome"]) for one in reports if "outcome" in one]


def rows(shop: SimpleNamespace) -> dict[str, str]:
    items = shop.dynamodb.scan(TableName=shop.table, ConsistentRead=True)["Items"]
    return {item["order_id"]["S"]: item["message_id"]["S"] for item in items}


def test_a_duplicate_is_dropped_and_another_order_of_the_same_id_is_not(
    shop: SimpleNamespace,
) -> None:
    first, again = shop.queue.send(ORDER, dict(reversed(ORDER.items())))  # in another sequence
    reports = work(shop, lambda reports: len(outcomes(reports)) == 2)
    assert outcomes(reports) == [(first, "fulfilled"), (again, "duplicate")]
    (conflict,) = shop.queue.send(ORDER | {"customer": "bob"})
    reports = work(shop, lambda reports: bool(outcomes(reports)))
    assert outcomes(reports)[0] == (conflict, "rejected")
    assert rows(shop) == {"a": first}
    assert shop.queue.visible() == [conflict]


def test_a_worker_that_is_stopped_finishes_what_it_has_begun_and_gives_the_rest_back(
    shop: SimpleNamespace,
) -> None:
    sent = shop.queue.send(*(ORDER | {"order_id": one, "packing_seconds": 2} for one in "abc"))

    def in_the_middle(reports: list[dict[str, Any]]) -> bool:
        if reports[-1].get("state") != "received":
            return False
        time.sleep(0.5)  # it begins the first at once, without another call
        return True

    reports = work(shop, in_the_middle)
    done = outcomes(reports)
    (stopped,) = [one for one in reports if one.get("state") == "stopped"]
    assert stopped["why"] == "SIGTERM"
    assert [outcome for _, outcome in done] == ["fulfilled"]
    assert sorted([message for message, _ in done] + stopped["given_back"]) == sorted(sent)
    assert sorted(shop.queue.visible()) == sorted(stopped["given_back"])


def test_a_worker_is_started_once_sqs_has_answered_it(shop: SimpleNamespace) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        systemd.bind(f"{folder}/notify")
        systemd.settimeout(0)
        shop.environment["NOTIFY_SOCKET"] = f"{folder}/notify"
        url = shop.environment["ORDERS_URL"]
        shop.environment["ORDERS_URL"] = url + "-which-is-not-there"
        work(shop, lambda reports: reports[-1].get("state") == "cannot receive")
        with pytest.raises(BlockingIOError):
            systemd.recv(100)
        shop.environment["ORDERS_URL"] = url
        shop.queue.send(ORDER)
        work(shop, lambda reports: reports[-1].get("state") == "ready")
        assert systemd.recv(100) == b"READY=1"


# ---- faults: what may happen, and when; what may be lost is nothing


@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_of_the_table_costs_no_order_a_receive(shop: SimpleNamespace, fault: str) -> None:
    table = Table(*[fault] * (1 if fault == "hangs" else 4))
    shop.environment["AWS_ENDPOINT_URL_DYNAMODB"] = f"http://127.0.0.1:{table.server_port}"
    shop.environment["VISIBILITY_TIMEOUT"] = "300"
    sent = shop.queue.send(*(ORDER | {"order_id": one} for one in "abc"))
    reports = work(shop, lambda reports: len(outcomes(reports)) == 3)
    assert sorted(message for message, _ in outcomes(reports)) == sorted(sent)
    assert {outcome for _, outcome in outcomes(reports)} <= {"fulfilled", "duplicate"}
    assert [one["receives"] for one in reports if "outcome" in one] == [1, 1, 1]
    assert {key: row["message_id"]["S"] for key, row in table.rows.items()}.keys() == set("abc")
    assert shop.queue.visible() == []


def test_an_order_that_the_table_rejects_is_its_own_failure(shop: SimpleNamespace) -> None:
    table = Table("rejects")
    shop.environment["AWS_ENDPOINT_URL_DYNAMODB"] = f"http://127.0.0.1:{table.server_port}"
    bad, good = shop.queue.send(ORDER), shop.queue.send(ORDER | {"order_id": "b"})
    reports = work(shop, lambda reports: len(outcomes(reports)) == 3)
    assert sorted(outcomes(reports)[:2]) != sorted(outcomes(reports)[1:])
    assert [outcome for _, outcome in outcomes(reports)] == ["failed", "fulfilled", "fulfilled"]
    assert {message for message, _ in outcomes(reports)} == {*bad, *good}


def test_a_worker_that_is_stopped_in_an_outage_gives_its_order_back_at_once(
    shop: SimpleNamespace,
) -> None:
    table = Table(*["refuses"] * 100)
    shop.environment["AWS_ENDPOINT_URL_DYNAMODB"] = f"http://127.0.0.1:{table.server_port}"
    shop.environment["VISIBILITY_TIMEOUT"] = "3600"
    sent = shop.queue.send(*(ORDER | {"order_id": one} for one in "abcd"))
    waits = "waiting for AWS"
    reports = work(shop, lambda reports: reports[-1].get("state") == waits)
    assert [outcome for _, outcome in outcomes(reports)] == ["failed"]
    back = []
    assert soon(lambda: back.extend(shop.queue.visible()) or len(back) == 4)
    assert sorted(back) == sorted(sent)


def test_an_order_that_was_in_work_when_its_worker_was_killed_is_done_by_another(
    shop: SimpleNamespace,
) -> None:
    sent = shop.queue.send(ORDER | {"packing_seconds": 2})
    killed = subprocess.Popen(
        [sys.executable, "-B", PROGRAMS / "worker.py"],
        env=shop.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    with killed:
        for line in killed.stdout or ():
            if json.loads(line).get("state") == "received":
                break
        killed.kill()
    reports = work(shop, lambda reports: bool(outcomes(reports)))
    assert outcomes(reports) == [(*sent, "fulfilled")]
    assert next(one["receives"] for one in reports if "outcome" in one) == 2


def test_a_full_disk_costs_no_order(shop: SimpleNamespace) -> None:
    shop.queue.send(*(ORDER | {"order_id": one} for one in "abcde"))
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-B", PROGRAMS / "worker.py"], env=shop.environment, stdout=full
        )
        try:
            assert soon(lambda: len(rows(shop)) == 5, 20)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
            process.wait()
    assert shop.queue.visible() == []


# A minute of these tests' queue: what is due in it is not due within a test.
FOR_LONG = 3600.0


class Queue:
    """SQS as far as the worker asks it, by a clock that can be as fast as one likes.

    faults: what to do before a call of that name is answered, each once.
    """

    def __init__(self, visibility_timeout: float) -> None:
        self.visibility_timeout, self.lock = visibility_timeout, threading.Lock()
        self.messages: dict[str, dict[str, Any]] = {}
        self.faults: dict[str, list[Callable[[], None]]] = {}
        self.receives: dict[str, int] = {}

    def send(self, message: str, body: str) -> None:
        self.messages[message] = {"body": body, "visible": 0.0}
        self.receives[message] = 0

    def _fault(self, call: str) -> None:
        with self.lock:
            faults = self.faults.get(call)
            fault = faults.pop(0) if faults else None
        if fault:
            fault()

    def receive_message(self, MaxNumberOfMessages: int, **_: Any) -> dict[str, Any]:
        self._fault("receive")
        time.sleep(0.02)
        now, found = time.monotonic(), []
        with self.lock:
            for name, message in self.messages.items():
                if message["visible"] <= now and len(found) < MaxNumberOfMessages:
                    message["visible"] = now + self.visibility_timeout
                    self.receives[name] += 1
                    count = {"ApproximateReceiveCount": str(self.receives[name])}
                    found.append({"MessageId": name, "ReceiptHandle": name,
                                  "Body": message["body"], "Attributes": count})  # fmt: skip
        return {"Messages": found}

    def change_message_visibility_batch(self, Entries: list[Any], **_: Any) -> Any:
        self._fault("extend")
        for entry in Entries:
            self._hide(entry["ReceiptHandle"], entry["VisibilityTimeout"])
        return {}

    def change_message_visibility(
        self, ReceiptHandle: str, VisibilityTimeout: int, **_: Any
    ) -> None:
        self._fault("release")
        self._hide(ReceiptHandle, VisibilityTimeout)

    def _hide(self, name: str, seconds: float) -> None:
        with self.lock:
            if name in self.messages:
                hidden = self.visibility_timeout if seconds else 0
                self.messages[name]["visible"] = time.monotonic() + hidden

    def delete_message(self, ReceiptHandle: str, **_: Any) -> None:
        self._fault("delete")
        with self.lock:
            self.messages.pop(ReceiptHandle, None)


class Rows:
    """DynamoDB as far as the worker asks it."""

    class exceptions:
        class ConditionalCheckFailedException(Exception):
            response: dict[str, Any]

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}

    def put_item(self, Item: dict[str, Any], **_: Any) -> None:
        kept = self.rows.setdefault(Item["order_id"]["S"], Item)
        if kept is not Item:
            error = self.exceptions.ConditionalCheckFailedException()
            error.response = {"Item": kept}
            raise error


@pytest.fixture
def at_work(
    programs: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Generator[Callable[..., Any]]:
    """Starts a worker in this process, on a queue of ours; ends it."""
    started: list[tuple[Any, threading.Thread]] = []

    def start(queue: Queue, rows: Rows, **settings: Any) -> Any:
        module = programs("worker")
        fakes = {"sqs": queue, "dynamodb": rows}
        monkeypatch.setattr(module, "client", lambda service, **_: fakes[service])
        worker = module.Worker(module.settings(REQUIRED))
        worker.settings.at_once = settings.pop("at_once", 2)
        for name, value in settings.items():
            setattr(worker.hand, name, value)
        thread = threading.Thread(target=worker.run)
        thread.start()
        started.append((worker, thread))
        return worker

    yield start
    for worker, thread in started:
        worker.stop("the test is over")
        thread.join(20)
        assert not thread.is_alive()


def some_orders(queue: Queue, number: int, **more: Any) -> set[str]:
    names = {f"o{index}" for index in range(number)}
    for name in names:
        queue.send(name, json.dumps(ORDER | {"order_id": name} | more))
    return names


def test_orders_that_wait_behind_slow_ones_are_kept_and_are_not_stuck(
    at_work: Callable[..., Any],
) -> None:
    """Ten are received at once, two are in work: the last begin when four pairs are done."""
    queue, rows = Queue(0.6), Rows()
    names = some_orders(queue, 10, packing_seconds=0.5)
    at_work(queue, rows, heartbeat=0.2, longest=1.5)
    assert soon(lambda: not queue.messages, 20)
    assert rows.rows.keys() == names
    assert set(queue.receives.values()) == {1}


def test_by_default_an_order_is_extended_three_times_within_its_timeout(
    programs: Callable[[str], ModuleType],
) -> None:
    """As the stack starts it, which sets the timeout and nothing else."""
    module = programs("worker")
    worker = module.Worker(module.settings([*REQUIRED, "--visibility-timeout", "60"]))
    assert worker.hand.heartbeat == 20
    config = worker.hand.settling.meta.config
    # Two extensions that hang, and a third that does not.
    slowest = 2 * (config.connect_timeout + config.read_timeout)
    assert config.retries["total_max_attempts"] == 1
    assert worker.hand.heartbeat + slowest < 60
    assert worker.hand.polling.meta.config.read_timeout > 20
    assert worker.dynamodb.meta.config.read_timeout <= 5


def refused() -> None:
    raise ClientError({"Error": {"Code": "RequestThrottled", "Message": "no"}}, "Call")


def unreachable() -> None:
    raise EndpointConnectionError(endpoint_url="https://sqs")


def odd() -> None:
    raise KeyError("ReceiptHandle")


@pytest.mark.parametrize("fault", [refused, unreachable, odd])
@pytest.mark.parametrize("call", ["receive", "extend", "delete", "release"])
def test_a_call_of_sqs_that_fails_loses_nothing(
    at_work: Callable[..., Any], call: str, fault: Callable[[], None]
) -> None:
    queue, rows = Queue(0.5), Rows()
    names = some_orders(queue, 6, packing_seconds=0.3)
    queue.send("bad", "no order")
    queue.faults[call] = [fault]
    worker = at_work(queue, rows, heartbeat=0.1)
    assert soon(lambda: queue.messages.keys() == {"bad"} and queue.receives["bad"] > 2, 20)
    assert rows.rows.keys() == names
    assert not worker.failed
    others = [count for name, count in queue.receives.items() if name != "bad"]
    assert sorted(others) == ([1] * 5 + [2] if call == "delete" else [1] * 6)


def test_an_extension_that_hangs_keeps_the_others_from_nothing(
    at_work: Callable[..., Any],
) -> None:
    """The client gives up by its own time limit; the next extension comes at once."""
    queue, rows = Queue(1.5), Rows()
    names = some_orders(queue, 4, packing_seconds=2)

    def hangs() -> None:
        time.sleep(0.3)
        raise ReadTimeoutError(endpoint_url="https://sqs")

    queue.faults["extend"] = [hangs, hangs]
    at_work(queue, rows, at_once=4, heartbeat=0.3)
    assert soon(lambda: not queue.messages, 20)
    assert rows.rows.keys() == names
    assert set(queue.receives.values()) == {1}


def test_a_thread_that_dies_ends_the_program(
    at_work: Callable[..., Any], programs: Callable[[str], ModuleType], monkeypatch: Any
) -> None:
    monkeypatch.setattr(programs("worker"), "pack", lambda order: sys.exit("gone"))
    queue, rows = Queue(FOR_LONG), Rows()
    some_orders(queue, 1)
    worker = at_work(queue, rows)
    assert soon(lambda: worker.failed, 10)
    assert soon(lambda: not worker.working(), 10)


@given(body=st.text() | orders.map(json.dumps) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)).map(json.dumps))  # fmt: skip
def test_no_body_does_more_than_be_an_order_or_be_rejected_and_its_text_is_not_told(
    programs: Callable[[str], ModuleType], body: str
) -> None:
    module, told = programs("worker"), list[dict[str, Any]]()
    rows, done = Rows(), list[str]()
    worker = SimpleNamespace(
        dynamodb=rows, why="", settings=SimpleNamespace(table="rows", longest=480),
        through_outages=lambda work, longest: work(),
        settle=lambda how, message: done.append(how),
        hand=SimpleNamespace(release="release", delete="delete", forget="forget"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "report", lambda **facts: told.append(facts))
        patch.setattr(module, "pack", lambda order: None)
        module.Worker.fulfil(worker, programs("messages").Message("m", "r", body, 1))
    (said,) = told
    assert done == (["delete"] if said["outcome"] == "fulfilled" else ["release"])
    assert said["outcome"] in ("fulfilled", "rejected")
    assert len(json.dumps(said)) < 1000


# ---- settings


def test_a_setting_is_its_variable_its_flag_or_its_default(
    programs: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers are seconds, but for the orders at once."""
    worker = programs("worker")
    defaults = {
        "VISIBILITY_TIMEOUT": 60, "ORDERS_AT_ONCE": 4, "HEARTBEAT": 0, "LONGEST": 480,
        "GROUP_NAME": "", "HOOK_NAME": "Drain", "ASK_EVERY": 5, "LINGER": 10,
    }  # fmt: skip
    flags = {
        "VISIBILITY_TIMEOUT": "visibility_timeout", "ORDERS_AT_ONCE": "at_once",
        "HEARTBEAT": "heartbeat", "LONGEST": "longest", "GROUP_NAME": "group",
        "HOOK_NAME": "hook", "ASK_EVERY": "ask_every", "LINGER": "linger",
    }  # fmt: skip
    for name in (*defaults, "ORDERS_URL", "FULFILLED_ORDERS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        worker.settings([])
    needed = ["--queue", "q", "--table", "t"]
    settings = vars(worker.settings(needed))
    assert settings == {"queue": "q", "table": "t"} | {
        flags[name]: value for name, value in defaults.items()
    }
    for name, flag in flags.items():
        monkeypatch.setenv(name, "7")
        assert str(vars(worker.settings(needed))[flag]).rstrip(".0") == "7", name
        words = [*needed, f"--{flag.replace('_', '-')}", "9"]
        assert str(vars(worker.settings(words))[flag]).rstrip(".0") == "9", name
