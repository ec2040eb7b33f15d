"""The worker: decisions without AWS, effects on the sandbox's SQS and DynamoDB."""

from __future__ import annotations

import ast
import importlib
import json
import os
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
from hypothesis import given
from hypothesis import strategies as st

from sandbox import imds

PROGRAMS = Path(__file__).parent.parent.parent / "workers" / "sqs_idempotent_consumer"
MODULES = ("orders", "messages", "lifecycle", "worker")
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
    optional={"packing_seconds": st.integers(0, 600) | st.floats(0, 600)},
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


def test_the_service_is_stopped_with_patience_and_not_started_again() -> None:
    unit = (PROGRAMS / "fulfil-orders.service").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in unit if "=" in line and line[0] != "#")
    assert settings["User"] == "fulfil-orders"
    assert settings["Restart"] == "on-failure"
    assert settings["Type"] == "notify"
    assert int(settings["TimeoutStartSec"]) > 20  # the first long poll
    assert int(settings["TimeoutStopSec"]) > 20 + 60  # a long poll, and an order
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
        ({"packing_seconds": float("nan")}, "packing_seconds"),
        ({"packing_seconds": 601}, "packing_seconds: more than 600"),
    ],
)
def test_the_reason_names_the_field_that_is_missing_or_wrong(
    programs: Callable[[str], ModuleType], change: dict[str, Any], reason: str
) -> None:
    module = programs("orders")
    with pytest.raises(module.MalformedOrder, match=f"^{reason}"):
        module.parse_order(json.dumps(ORDER | change))


# ---- the metadata of an instance


@pytest.fixture
def instance(
    programs: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Generator[SimpleNamespace]:
    """The worker's view of an instance, and what that instance is told."""
    with imds.served(imds.Instance()) as told:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", told.address)
        yield SimpleNamespace(told=told, seen=programs("lifecycle").Instance(every=0))


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
    instance: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    instance.seen.host = "127.0.0.1:9"
    assert not instance.seen.leaving()
    assert json.loads(capsys.readouterr().out)["state"] == "no metadata"


def test_a_metadata_service_that_talks_nonsense_stops_nobody(
    instance: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """The main thread keeps messages from others: it must outlive whatever it is told."""
    with socket.create_server(("127.0.0.1", 0)) as nonsense:
        instance.seen.host = f"127.0.0.1:{nonsense.getsockname()[1]}"

        def answer() -> None:
            connection, _ = nonsense.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"nonsense\r\n\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        assert not instance.seen.leaving()
        answering.join()
    assert json.loads(capsys.readouterr().out)["state"] == "no metadata"


def test_it_is_asked_now_and_then(instance: SimpleNamespace) -> None:
    instance.seen.every = 60
    assert not instance.seen.leaving()
    instance.told.lifecycle_state = "Terminated"
    assert not instance.seen.leaving()


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
    return programs("messages").Hand(queue.sqs, queue.url, **given | settings)


def test_what_is_not_begun_is_given_back_at_once(
    programs: Callable[[str], ModuleType], queue: SimpleNamespace
) -> None:
    sent = queue.send("a", "b", "c")
    held = hand(programs, queue)
    first, *others = held.take()
    assert held.begin(first)
    assert sorted(held.give_back()) == sorted(message.id for message in others)
    assert sorted(queue.visible()) == sorted(set(sent) - {first.id})
    assert not held.begin(others[0])
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
    capsys: pytest.CaptureFixture[str],
) -> None:
    queue.send("a")
    held = hand(programs, queue, longest=0.1)
    (message,) = held.take()
    time.sleep(0.6)
    held.extend()
    assert not held.held
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
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
    first, again = shop.queue.send(ORDER, ORDER)
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


def test_an_order_whose_row_cannot_be_written_is_not_deleted(shop: SimpleNamespace) -> None:
    (sent,) = shop.queue.send(ORDER)
    table = shop.environment["FULFILLED_ORDERS"]
    shop.environment["FULFILLED_ORDERS"] = "nowhere"
    reports = work(shop, lambda reports: bool(outcomes(reports)))
    assert outcomes(reports) == [(sent, "failed")]
    shop.environment["FULFILLED_ORDERS"] = table
    reports = work(shop, lambda reports: bool(outcomes(reports)))
    assert outcomes(reports) == [(sent, "fulfilled")]
    assert next(one["receives"] for one in reports if "outcome" in one) == 2
    assert rows(shop) == {"a": sent}
