"""Publisher and Worker: decisions without a broker, effects on a real RabbitMQ and DynamoDB."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import rabbitmq
from tests.sandbox.cloud import soon

PROGRAMS = Path(__file__).parent.parent.parent / "workers" / "mq_broker"
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
    }
)


@pytest.fixture(scope="module")
def worker() -> Generator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROGRAMS))
        yield importlib.import_module("worker")
        for name in ("worker", "publisher", "topology", "program"):
            sys.modules.pop(name, None)


@given(order=orders)
def test_every_order_is_understood(worker: ModuleType, order: dict[str, Any]) -> None:
    assert worker.parse_order(json.dumps(order).encode()) == order


@given(body=st.binary())
def test_any_bytes_are_an_order_or_malformed_with_a_reason(worker: ModuleType, body: bytes) -> None:
    with pytest.raises(worker.MalformedOrder, match=r": |not "):
        worker.parse_order(body)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"order_id": ""}, "order_id"),
        ({"order_id": ["a"]}, "order_id"),
        ({"order_id": 65 * "a"}, "order_id: longer than 64 characters"),
        ({"note": float("nan")}, "not JSON"),
        ({"note": "\ud800"}, "not JSON"),
        ({"customer": None}, "customer"),
        ({"items": []}, "items: missing or empty"),
        ({"items": "tea"}, "items: missing or empty"),
        ({"items": ["tea"]}, "items: each"),
        ({"items": [ITEM, ITEM | {"quantity": 0}]}, "items: each"),
        ({"items": [ITEM | {"quantity": True}]}, "items: each"),
        ({"items": [{"quantity": 1}]}, "items: each"),
    ],
)
def test_the_reason_names_the_field_that_is_missing_or_wrong(
    worker: ModuleType, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(worker.MalformedOrder, match=f"^{reason}"):
        worker.parse_order(json.dumps(ORDER | change).encode())


# ---- effects; a RabbitMQ of this machine, the sandbox's DynamoDB


LOGIN = {"username": "shop", "password": "only-for-this-test"}


@pytest.fixture(scope="module")
def broker() -> Generator[rabbitmq.Broker]:
    try:
        with rabbitmq.running(**LOGIN) as started:
            yield started
    except rabbitmq.BrokerMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def shop(sandbox: Any, broker: rabbitmq.Broker, tmp_path: Path) -> Generator[SimpleNamespace]:
    """The programs' environment, with a table and empty queues."""
    dynamodb, table = boto3.client("dynamodb"), f"fulfilled-{uuid.uuid4().hex[:8]}"
    dynamodb.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "order_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "order_id", "AttributeType": "S"}],
    )
    login = tmp_path / "login.json"
    login.write_text(json.dumps(LOGIN))
    environment = os.environ | {
        "BROKER_URL": broker.url,
        "BROKER_CA": str(broker.authority),
        "BROKER_LOGIN_FILE": str(login),
        "BROKER_NAME": table,  # the metric's namespace: its own for each test
        "FULFILLED_ORDERS": table,
        "FIRST_WAIT": "0.02",
        "MEASURE_EVERY": "1",
    }
    yield SimpleNamespace(
        environment=environment, table=table, dynamodb=dynamodb, login=login, broker=broker
    )
    with closing(broker.connect(**LOGIN)) as connection:
        for queue in ("orders.shipping", "orders.analytics", "orders.dead"):
            connection.channel().queue_delete(queue)
    dynamodb.delete_table(TableName=table)


def publish(shop: SimpleNamespace, *messages: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """Publisher's exit code and reports."""
    done = subprocess.run(
        [sys.executable, PROGRAMS / "publisher.py"],
        env=shop.environment,
        input="".join(json.dumps(message) + "\n" for message in messages),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def parcel(message_id: str, body: Any) -> dict[str, Any]:
    return {"id": message_id, "kind": "parcel", "body": json.dumps(body)}


def work(shop: SimpleNamespace, until: Callable[[list[dict[str, Any]]], bool]) -> list[Any]:
    """What a Worker reports until it has reported enough; then it is told to stop."""
    process = subprocess.Popen(
        [sys.executable, PROGRAMS / "worker.py"],
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
                break
        process.send_signal(signal.SIGTERM)
        reports += [json.loads(line) for line in process.stdout or ()]
        assert process.wait(timeout=20) == 0
    finally:
        too_late.cancel()
        process.kill()
        process.wait()
    return reports


def outcomes(reports: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["message_id"], one["outcome"]) for one in reports if "outcome" in one]


def dead(shop: SimpleNamespace) -> dict[str, str]:
    """Message id to reason, of what is in the dead-letter queue."""
    with closing(shop.broker.connect(**LOGIN)) as connection:
        channel, found = connection.channel(), {}
        for method, properties, _ in channel.consume("orders.dead", inactivity_timeout=1):
            if method is None:
                return found
            found[properties.message_id] = properties.headers["x-death"][0]["reason"]
    return found


def test_a_duplicate_has_no_second_effect(shop: SimpleNamespace) -> None:
    code, _ = publish(shop, parcel("m1", ORDER), parcel("m2", ORDER))
    assert code == 0
    found = outcomes(work(shop, lambda reports: len(outcomes(reports)) == 2))
    assert sorted(message for message, _ in found) == ["m1", "m2"]
    assert sorted(outcome for _, outcome in found) == ["duplicate", "fulfilled"]
    (row,) = shop.dynamodb.scan(TableName=shop.table)["Items"]
    assert (row["message_id"]["S"], "fulfilled") in found


def test_an_order_id_used_again_for_another_order_is_a_dead_letter(shop: SimpleNamespace) -> None:
    publish(shop, parcel("m1", ORDER))
    assert outcomes(work(shop, lambda reports: bool(outcomes(reports)))) == [("m1", "fulfilled")]
    publish(shop, parcel("m2", ORDER | {"customer": "bob"}))
    assert outcomes(work(shop, lambda reports: bool(outcomes(reports)))) == [("m2", "rejected")]
    assert dead(shop) == {"m2": "rejected"}


def test_what_fails_is_tried_six_times_and_is_then_a_dead_letter(shop: SimpleNamespace) -> None:
    publish(shop, parcel("large", ORDER | {"note": "x" * 420_000}), parcel("small", ORDER))
    reports = work(shop, lambda reports: len(outcomes(reports)) == 7)
    assert sorted(outcomes(reports)) == [*[("large", "failed")] * 6, ("small", "fulfilled")]
    attempts = [one["attempt"] for one in reports if one.get("message_id") == "large"]
    assert attempts == [1, 2, 3, 4, 5, 6]
    assert {one["delivery"] for one in reports if "delivery" in one} == {1}
    assert soon(lambda: dead(shop) == {"large": "rejected"}, 10)


def test_worker_measures_the_dead_letters(shop: SimpleNamespace) -> None:
    publish(shop, parcel("m1", "poison"), parcel("m2", "poison"))
    reports = work(shop, lambda reports: reports[-1].get("dead") == 2)
    assert sorted(outcomes(reports)) == [("m1", "rejected"), ("m2", "rejected")]
    now = time.time()
    points = boto3.client("cloudwatch").get_metric_statistics(
        Namespace=shop.table,
        MetricName="DeadOrders",
        Dimensions=[{"Name": "Queue", "Value": "orders.dead"}],
        StartTime=now - 60,
        EndTime=now + 60,
        Period=60,
        Statistics=["Maximum"],
    )["Datapoints"]
    assert max(point["Maximum"] for point in points) == 2


def test_a_message_that_no_queue_takes_is_not_confirmed(shop: SimpleNamespace) -> None:
    code, reports = publish(
        shop, {"id": "m1", "kind": "balloon", "body": "{}"}, parcel("m2", ORDER)
    )
    assert code == 1
    results = [one for one in reports if "attempts" in one]
    assert [set(one) - {"at", "attempts"} for one in results] == [{"unroutable"}, {"confirmed"}]


def test_a_wrong_password_is_one_line(shop: SimpleNamespace) -> None:
    shop.login.write_text(json.dumps(LOGIN | {"password": "wrong"}))
    done = subprocess.run(
        [sys.executable, PROGRAMS / "topology.py"],
        env=shop.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == "error: the broker does not accept the login in the secret\n"
    publish_login(shop)


def publish_login(shop: SimpleNamespace) -> None:
    """Put the right login back, and the queues that the fixture takes away."""
    shop.login.write_text(json.dumps(LOGIN))
    assert publish(shop)[0] == 0


def test_a_broker_with_another_certificate_gets_no_login(shop: SimpleNamespace) -> None:
    """The system's authorities do not know this broker: no connection, and it is tried again."""
    process = subprocess.Popen(
        [sys.executable, PROGRAMS / "topology.py"],
        env=shop.environment | {"BROKER_CA": ""},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        states = [json.loads(process.stdout.readline()) for _ in range(2)]
    finally:
        process.kill()
        process.wait()
    assert all(one["state"] == "no connection" for one in states)
    assert "CERTIFICATE_VERIFY_FAILED" in states[0]["error"]
    publish_login(shop)


def test_plain_text_is_refused() -> None:
    done = subprocess.run(
        [
            sys.executable,
            PROGRAMS / "topology.py",
            "--url",
            "amqp://localhost",
            "--login-file",
            "x",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == "error: the broker's URL must begin with amqps://\n"
