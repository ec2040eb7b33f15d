"""Publisher and Worker: decisions without a broker, effects on a real RabbitMQ and DynamoDB."""

from __future__ import annotations

import importlib
import io
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
from typing import Any, cast
from urllib.parse import urlsplit

import boto3
import pika
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st
from pika.exceptions import (
    AMQPConnectionError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from sandbox import rabbitmq
from tests.sandbox.cloud import soon
from tests.workers.table import FAULTS, Table

PROGRAMS = Path(__file__).parent.parent.parent / "workers" / "mq_broker"
NAMES = ("worker", "publisher", "topology", "program")
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
        for name in NAMES:
            sys.modules.pop(name, None)
        yield importlib.import_module("worker")
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def publisher(worker: ModuleType) -> ModuleType:
    return importlib.import_module("publisher")


@pytest.fixture(scope="module")
def topology(worker: ModuleType) -> ModuleType:
    return importlib.import_module("topology")


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


def test_dead_letters_may_be_looked_at_a_million_times(topology: ModuleType) -> None:
    """Work has a limit of its own, for RabbitMQ would take its default of 20."""
    declared: dict[str, dict[str, Any]] = {}

    def declare(queue: str, durable: bool, arguments: dict[str, Any]) -> None:
        assert durable
        declared[queue] = arguments

    unheard = lambda *words, **names: None  # noqa: E731
    topology.declare(
        SimpleNamespace(queue_declare=declare, queue_bind=unheard, exchange_declare=unheard)
    )
    limits = {queue: arguments["x-delivery-limit"] for queue, arguments in declared.items()}
    dead = limits.pop("orders.dead")
    assert dead == 1_000_000 and set(limits.values()) == {1000}
    assert {arguments["x-queue-type"] for arguments in declared.values()} == {"quorum"}


def test_a_failed_order_waits_twice_as_long_each_time(worker: ModuleType) -> None:
    waits = []
    for failures in range(1, 6):
        channel = object()
        later: list[tuple[float, Any]] = []
        itself = SimpleNamespace(
            channel=channel, later=later, settings=SimpleNamespace(first_wait="2")
        )
        delivery = SimpleNamespace(channel=channel, failures=failures)
        began = time.monotonic()
        worker.Worker.settle(itself, delivery, "again")
        waits.append(round(later[0][0] - began))
    assert waits == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        ("done", ("ack", 7)),
        ("park", ("reject", 7, False)),
        ("give back", ("reject", 7, True)),
    ],
)
def test_the_broker_is_told_what_becomes_of_a_message(
    worker: ModuleType, verdict: str, told: tuple[Any, ...]
) -> None:
    heard: list[tuple[Any, ...]] = []
    channel = SimpleNamespace(
        basic_ack=lambda tag: heard.append(("ack", tag)),
        basic_reject=lambda tag, requeue: heard.append(("reject", tag, requeue)),
    )
    itself = SimpleNamespace(channel=channel, hand={7}, link=SimpleNamespace(progress=lambda: None))
    worker.Worker.settle(itself, SimpleNamespace(channel=channel, tag=7), verdict)
    assert heard == [told]
    assert not itself.hand


@pytest.fixture
def fulfilled(sandbox: Any) -> Generator[tuple[Any, str]]:
    """DynamoDB, and the name of a table of fulfilled orders; no broker."""
    dynamodb, table = boto3.client("dynamodb"), f"orders-{uuid.uuid4().hex[:8]}"
    dynamodb.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "order_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "order_id", "AttributeType": "S"}],
    )
    yield dynamodb, table
    dynamodb.delete_table(TableName=table)


def test_an_order_written_before_is_told_by_the_message_that_wrote_it(
    worker: ModuleType, fulfilled: tuple[Any, str]
) -> None:
    assert [worker.fulfil(*fulfilled, ORDER, name) for name in ("m1", "m2")] == ["m1", "m1"]


def test_another_order_under_a_used_id_conflicts(
    worker: ModuleType, fulfilled: tuple[Any, str]
) -> None:
    worker.fulfil(*fulfilled, ORDER, "m1")
    with pytest.raises(worker.ConflictingOrder):
        worker.fulfil(*fulfilled, ORDER | {"customer": "bob"}, "m2")


def test_the_secret_is_said_by_an_argument(topology: ModuleType) -> None:
    words = ["--url", "amqps://broker:5671", "--secret", "arn"]
    assert topology.arguments("").parse_args(words).secret == "arn"


def test_a_duplicate_has_no_second_effect(shop: SimpleNamespace) -> None:
    same = parcel("m2", dict(reversed(ORDER.items())))  # in another sequence
    code, _ = publish(shop, parcel("m1", ORDER), same)
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


# ---- faults: what may happen, and when; what may be lost is nothing


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not JSON", "not JSON"),
        (b"null", "not an object"),
        (b"{}", "id: missing or not text"),
        (b"[" * 100_000, "not JSON"),
        (b'{"id": "", "kind": "parcel", "body": "{}"}', "id: missing or not text"),
        (b'{"id": 7, "kind": "parcel", "body": "{}"}', "id: missing or not text"),
        (b'{"id": "a", "body": "{}"}', "kind: missing or not text"),
        (b'{"id": "a", "kind": "parcel", "body": {}}', "body: missing or not text"),
        (b'{"id": "a", "kind": "parcel", "body": "\\ud800"}', "body: not Unicode"),
        (b'{"id": "a", "kind": "parcel", "body": "\xff"}', "body: not Unicode"),
        (b'{"id": "%s", "kind": "parcel", "body": ""}' % (256 * b"a"), "id: longer than 255 bytes"),
        (b'{"id": "a", "kind": "%s", "body": ""}' % (256 * b"a"), "kind: longer than 255 bytes"),
    ],
)
def test_a_line_that_can_never_be_sent_is_refused_and_the_rest_is_sent(
    publisher: ModuleType, line: bytes, reason: str
) -> None:
    good = json.dumps(parcel("good", ORDER)).encode()
    sent, told = published(publisher, good + b"\n\n" + line + b"\n" + good)
    assert sent == ["good", "good"]
    assert told.refused == 1
    (report,) = [one for one in told.reports if "refused" in one]
    assert report == {"refused": None, "line": 3, "reason": reason}


def test_an_id_and_a_kind_of_255_bytes_are_sent(publisher: ModuleType) -> None:
    longest = {"id": 127 * "é" + "e", "kind": 255 * "k", "body": ""}
    sent, told = published(publisher, json.dumps(longest).encode())
    assert (sent, told.refused) == ([longest["id"]], 0)


def test_a_message_for_which_the_broker_closes_the_channel_is_refused_and_the_rest_is_sent(
    publisher: ModuleType,
) -> None:
    lines = "".join(json.dumps(parcel(one, ORDER)) + "\n" for one in "abc").encode()
    too_large = ChannelClosedByBroker(406, "PRECONDITION_FAILED - message size")
    sent, told = published(publisher, lines, {"b": [too_large] * 9})
    assert sent == ["a", "c"]
    (report,) = [one for one in told.reports if "refused" in one]
    assert (report["refused"], report["line"]) == ("b", 2)
    assert "message size" in report["reason"]
    assert told.connections == 3  # two are closed for it


def test_a_lost_connection_is_no_message_s_fault(publisher: ModuleType) -> None:
    lines = json.dumps(parcel("a", ORDER)).encode()
    sent, told = published(publisher, lines, {"a": [ConnectionClosedByBroker(320, "gone")] * 9})
    assert (sent, told.refused, told.connections) == (["a"], 0, 10)
    assert [one["attempts"] for one in told.reports if "confirmed" in one] == [10]


def published(
    module: ModuleType, lines: bytes, faults: dict[str, list[Exception]] | None = None
) -> tuple[list[str], SimpleNamespace]:
    """(the ids that a broker took, what Publisher told), of a broker with these faults."""
    sent: list[str] = []
    told = SimpleNamespace(reports=[], connections=0, refused=0)

    class Channel:
        def confirm_delivery(self) -> None: ...

        def basic_publish(self, exchange: str, kind: str, body: bytes, properties: Any, **_: Any):
            waiting = (faults or {}).get(properties.message_id)
            if waiting:
                raise waiting.pop(0)
            sent.append(properties.message_id)

    def connections() -> Generator[SimpleNamespace]:
        for told.connections in range(1, 20):
            yield SimpleNamespace(channel=Channel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "report", lambda **facts: told.reports.append(facts))
        patch.setattr(module, "declare", lambda channel: None)
        text = io.TextIOWrapper(io.BytesIO(lines), "utf-8", errors="surrogateescape")
        publishing = module.Publisher(text)
        publishing.publish(SimpleNamespace(connections=connections, progress=lambda: None))
    told.refused = publishing.refused
    return sent, told


def test_lines_that_are_refused_are_told_by_the_exit_code(shop: SimpleNamespace) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAMS / "publisher.py"],
        env=shop.environment,
        input=b"null\n" + json.dumps(parcel("m1", ORDER)).encode() + b"\n\xff{}\n",
        capture_output=True,
        check=False,
        timeout=60,
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert [one["line"] for one in reports if "refused" in one] == [1, 3]
    assert [one["confirmed"] for one in reports if "confirmed" in one] == ["m1"]


@pytest.mark.parametrize("program", ["publisher.py", "worker.py", "topology.py"])
def test_a_queue_that_is_declared_otherwise_is_one_line(
    shop: SimpleNamespace, program: str
) -> None:
    with closing(shop.broker.connect(**LOGIN)) as connection:
        connection.channel().queue_declare("orders.shipping", durable=True)
    done = subprocess.run(
        [sys.executable, PROGRAMS / program],
        env=shop.environment,
        input=json.dumps(parcel("m1", ORDER)),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: PRECONDITION_FAILED") and "orders.shipping" in line
    assert line.endswith("let that queue run empty, delete it, and start again")


def raised(module: ModuleType, error: Exception) -> list[str]:
    """What a link says of an error of the first try to connect; the second try succeeds."""
    life, tries = module.Program(), [error]

    def connect(_: Any) -> Any:
        if tries:
            raise tries.pop()
        return SimpleNamespace(close=lambda: None)

    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "report", lambda **facts: told.append(facts["state"]))
        patch.setattr(module, "waits", lambda **_: iter([0.001] * 99))
        patch.setattr(module, "parameters", lambda settings: None)
        patch.setattr(module.pika, "BlockingConnection", connect)
        for _ in module.Link(life, SimpleNamespace()).connections():
            break
    return told


REFUSED_BY_AWS = {"Error": {"Code": "AccessDeniedException", "Message": "no"}}


@pytest.mark.parametrize(
    "error",
    [
        ProbableAuthenticationError(AMQPConnectionError("connection reset by peer")),
        ProbableAuthenticationError(ConnectionClosedByBroker(320, "CONNECTION_FORCED")),
        AMQPConnectionError("nobody there"),
        OSError("no route"),
        ClientError({"Error": {"Code": "ThrottlingException", "Message": "slow"}}, "Get"),
        ClientError(cast(Any, REFUSED_BY_AWS), "GetSecretValue"),
        EndpointConnectionError(endpoint_url="https://secretsmanager"),
    ],
    ids=lambda error: repr(error)[:60],
)
def test_what_is_no_refusal_of_the_broker_is_waited_for(
    topology: ModuleType, error: Exception
) -> None:
    assert raised(topology, error) == ["no connection", "connected"]


@pytest.mark.parametrize(
    "error",
    [
        ProbableAuthenticationError(ConnectionClosedByBroker(403, "ACCESS_REFUSED - Login")),
        ProbableAccessDeniedError(ConnectionClosedByBroker(530, "NOT_ALLOWED - vhost")),
    ],
    ids=repr,
)
def test_a_refusal_of_the_broker_is_the_end(topology: ModuleType, error: Exception) -> None:
    with pytest.raises(topology.Hopeless, match="does not accept the login"):
        raised(topology, error)


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"username": "u"}', "null"])
def test_a_secret_without_a_login_is_one_line(
    topology: ModuleType, tmp_path: Path, text: str
) -> None:
    (tmp_path / "login").write_text(text)
    settings = SimpleNamespace(url="amqps://b", ca="", login_file=str(tmp_path / "login"))
    with pytest.raises(topology.Hopeless, match="no username and password"):
        topology.parameters(settings)


def test_only_progress_makes_the_waits_short_again(
    topology: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that closes each connection is not asked five times a second."""
    waited: list[float] = []
    life = topology.Program()
    monkeypatch.setattr(life, "pause", waited.append)
    monkeypatch.setattr(topology, "report", lambda **facts: None)
    monkeypatch.setattr(topology, "parameters", lambda settings: None)
    closed: list[int] = []
    monkeypatch.setattr(
        topology.pika,
        "BlockingConnection",
        lambda _: SimpleNamespace(close=lambda: closed.append(1)),
    )
    link = topology.Link(life, SimpleNamespace())
    for number, _ in enumerate(link.connections()):
        if number == 8:
            link.progress()
        if number == 9:
            break
    assert 5 <= waited[7] <= 10  # the longest of all
    assert waited[8] < 1
    assert len(closed) == 10


def test_a_worker_stops_while_its_broker_cannot_be_reached(shop: SimpleNamespace) -> None:
    shop.environment["BROKER_URL"] = "amqps://127.0.0.1:9"
    reports = work(shop, lambda reports: reports[-1].get("state") == "no connection")
    assert {one["state"] for one in reports} == {"no connection"}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_of_the_table_costs_no_order_a_delivery(
    shop: SimpleNamespace, fault: str
) -> None:
    table = Table(*[fault] * (2 if fault == "hangs" else 6))
    shop.environment["AWS_ENDPOINT_URL_DYNAMODB"] = f"http://127.0.0.1:{table.server_port}"
    publish(shop, *(parcel(one, ORDER | {"order_id": one}) for one in "abc"))
    reports = work(shop, lambda reports: len(outcomes(reports)) == 3)
    assert sorted(outcomes(reports)) == [(one, "fulfilled") for one in "abc"]
    assert {one["delivery"] for one in reports if "outcome" in one} == {1}
    assert table.rows.keys() == set("abc")
    assert dead(shop) == {}


def test_restarts_in_an_outage_park_nothing(shop: SimpleNamespace) -> None:
    """More of them than a quorum queue's limit of deliveries used to be."""
    table = Table(*["refuses"] * 10_000)
    shop.environment["AWS_ENDPOINT_URL_DYNAMODB"] = f"http://127.0.0.1:{table.server_port}"
    names = [f"o{number}" for number in range(80)]
    publish(shop, *(parcel(name, ORDER | {"order_id": name}) for name in names))
    for _ in range(7):
        work(shop, lambda reports: reports[-1].get("state") == "waiting for AWS")
    table.faults.clear()
    reports = work(shop, lambda reports: len(outcomes(reports)) == 80)
    assert sorted(outcomes(reports)) == sorted((name, "fulfilled") for name in names)
    assert dead(shop) == {}


def test_a_metric_that_hangs_holds_up_no_order(shop: SimpleNamespace) -> None:
    metrics = Table(*["hangs"] * 100)
    shop.environment["AWS_ENDPOINT_URL_CLOUDWATCH"] = f"http://127.0.0.1:{metrics.server_port}"
    shop.environment["MEASURE_EVERY"] = "0.1"
    names = [f"o{number}" for number in range(40)]
    publish(shop, *(parcel(name, ORDER | {"order_id": name}) for name in names))
    began = time.monotonic()
    reports = work(shop, lambda reports: len(outcomes(reports)) == 40)
    assert time.monotonic() - began < 10
    assert {one["delivery"] for one in reports if "outcome" in one} == {1}
    assert not [one for one in reports if one.get("state") == "lost"]


def test_an_order_in_work_when_its_worker_is_killed_is_another_s(shop: SimpleNamespace) -> None:
    table = Table("is late", "hangs")
    shop.environment["AWS_ENDPOINT_URL_DYNAMODB"] = f"http://127.0.0.1:{table.server_port}"
    publish(shop, parcel("m1", ORDER))
    killed = subprocess.Popen(
        [sys.executable, PROGRAMS / "worker.py"], env=shop.environment, stdout=subprocess.DEVNULL
    )
    try:
        assert soon(lambda: len(table.faults) == 0, 20)  # its row is written, its answer lost
    finally:
        killed.kill()
        killed.wait()
    assert outcomes(work(shop, lambda reports: bool(outcomes(reports)))) == [("m1", "fulfilled")]
    assert table.rows.keys() == {"a"}
    assert dead(shop) == {}


@pytest.mark.parametrize("header", ["many", -3, 2**60, None, True])
def test_a_publisher_s_own_header_ends_no_worker(shop: SimpleNamespace, header: object) -> None:
    publish(shop)
    with closing(shop.broker.connect(**LOGIN)) as connection:
        properties = pika.BasicProperties(message_id="m1", headers={"x-delivery-count": header})
        body = json.dumps(ORDER).encode()
        connection.channel().basic_publish("orders", "parcel", body, properties)
    assert outcomes(work(shop, lambda reports: bool(outcomes(reports)))) == [("m1", "fulfilled")]


def test_a_deleted_queue_is_declared_again_and_no_connection_is_left_open(
    shop: SimpleNamespace,
) -> None:
    def delete(reports: list[dict[str, Any]]) -> bool:
        states = [one.get("state") for one in reports]
        if states[-1] == "measured" and states.count("cancelled") < 3:
            with closing(shop.broker.connect(**LOGIN)) as connection:
                connection.channel().queue_delete("orders.shipping")
        done = states.count("cancelled") == 3 and states.count("connected") >= 4
        return done and states[-1] == "measured"

    shop.environment["MEASURE_EVERY"] = "0.2"
    reports = work(shop, lambda reports: delete(reports) and sockets(shop) <= 1)
    assert [one["state"] for one in reports].count("connected") >= 4


def sockets(shop: SimpleNamespace) -> int:
    """Connections to the broker that are established, by this machine's table."""
    port = f"{urlsplit(shop.broker.url).port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2].endswith(f":{port}") and line.split()[3] == "01" for line in lines)


@given(body=st.binary() | orders.map(lambda order: json.dumps(order).encode()))
def test_no_body_does_more_than_be_an_order_or_be_rejected_and_its_text_is_not_told(
    worker: ModuleType, body: bytes
) -> None:
    told: list[dict[str, Any]] = []
    wrote = SimpleNamespace(
        write=lambda delivery, order: "m", through_outages=lambda work, longest: work()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "report", lambda **facts: told.append(facts))
        delivery = worker.Delivery(None, None, 1, "m", 1, body)
        verdict = worker.Worker.fulfil(wrote, delivery)
    (said,) = told
    assert (said["outcome"], verdict) in [("fulfilled", "done"), ("rejected", "park")]
    assert len(json.dumps(said)) < 1000
