"""RecordOrder: what it keeps of a message without AWS, the effect on the sandbox's DynamoDB."""

from __future__ import annotations

import base64
import importlib
import io
import json
import sys
import uuid
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from sandbox import rabbitmq
from tests.lambdas import hostile
from tests.sandbox.cloud import soon

LAMBDAS = Path(__file__).parent.parent.parent / "lambdas" / "mq_broker"

orders = st.fixed_dictionaries(
    {
        "order_id": st.text(min_size=1, max_size=64),
        "customer": st.text(min_size=1, max_size=64),
        "items": st.lists(
            st.fixed_dictionaries(
                {"sku": st.text(min_size=1, max_size=64), "quantity": st.integers(1, 10**6)}
            ),
            min_size=1,
            max_size=5,
        ),
    }
)


def encoded(body: bytes) -> str:
    return base64.b64encode(body).decode()


@pytest.fixture(scope="module")
def record_order() -> Generator[ModuleType]:
    """The handler's module as Lambda imports it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORDER_RECORDS", "nowhere")
        patch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
        patch.syspath_prepend(str(LAMBDAS))
        yield importlib.import_module("record_order")
        sys.modules.pop("record_order", None)


@given(order=orders)
def test_an_order_is_kept_as_it_was_sent(record_order: ModuleType, order: dict[str, Any]) -> None:
    kept = record_order.as_record(encoded(json.dumps(order).encode()))
    assert kept["order_id"] == order["order_id"]
    assert json.loads(kept["content"]) == order
    assert "problem" not in kept


@given(body=st.binary())
def test_any_other_bytes_are_kept_with_the_problem(record_order: ModuleType, body: bytes) -> None:
    kept = record_order.as_record(encoded(body))
    assert base64.b64decode(kept["data"]) == body
    assert kept["problem"]
    assert "order_id" not in kept


@given(order=orders, field=st.sampled_from(["order_id", "customer", "items"]))
def test_the_problem_names_the_field(
    record_order: ModuleType, order: dict[str, Any], field: str
) -> None:
    del order[field]
    kept = record_order.as_record(encoded(json.dumps(order).encode()))
    assert kept["problem"] == f"{field}: Field required"


# ---- the effect, on a real table


@pytest.fixture
def deployed(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> Generator[SimpleNamespace]:
    """The handler with a real table of its own."""
    dynamodb, table = boto3.client("dynamodb"), f"records-{uuid.uuid4().hex[:8]}"
    dynamodb.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "message_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "message_id", "AttributeType": "S"}],
    )
    monkeypatch.setenv("ORDER_RECORDS", table)
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    monkeypatch.syspath_prepend(str(LAMBDAS))
    sys.modules.pop("record_order", None)
    module, log = importlib.import_module("record_order"), io.StringIO()
    module.logger.registered_handler.setStream(log)
    yield SimpleNamespace(module=module, table=table, dynamodb=dynamodb, log=log)
    sys.modules.pop("record_order")
    dynamodb.delete_table(TableName=table)


CONTEXT = SimpleNamespace(
    function_name="RecordOrder",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:RecordOrder",
    aws_request_id="request",
)


def message(message_id: str | None, body: str, redelivered: bool = False) -> dict[str, Any]:
    return {
        "basicProperties": {"messageId": message_id},
        "redelivered": redelivered,
        "data": encoded(body.encode()),
    }


def handle(deployed: SimpleNamespace, *messages: dict[str, Any]) -> None:
    event = {"eventSource": "aws:rmq", "rmqMessagesByQueue": {"orders.analytics::/": messages}}
    deployed.module.handler(event, CONTEXT)


def rows(deployed: SimpleNamespace) -> dict[str, dict[str, str]]:
    items = deployed.dynamodb.scan(TableName=deployed.table, ConsistentRead=True)["Items"]
    found = [{name: value["S"] for name, value in item.items()} for item in items]
    return {row["message_id"]: row for row in found}


ORDER = json.dumps({"order_id": "a", "customer": "ada", "items": [{"sku": "tea", "quantity": 1}]})


def test_a_poison_message_does_not_bring_the_batch_back(deployed: SimpleNamespace) -> None:
    handle(deployed, message("1", ORDER), message("2", "poison"), message("3", ORDER))
    found = rows(deployed)
    assert set(found) == {"1", "2", "3"}
    assert {name for name in found if "problem" in found[name]} == {"2"}


def test_what_no_row_can_hold_is_kept_in_part_and_says_so(deployed: SimpleNamespace) -> None:
    """DynamoDB refuses a row of more than 400 KB, and a refused row would fail the batch."""
    many = json.loads(ORDER) | {"items": [{"sku": "s" * 64, "quantity": 10**4199}] * 100}
    sys.set_int_max_str_digits(0)
    try:
        endless = json.dumps(many)
    finally:
        sys.set_int_max_str_digits(4300)
    handle(deployed, message("1", "?" * 320_000), message("2", endless), message("3", ORDER))
    found = rows(deployed)
    assert set(found) == {"1", "2", "3"}
    assert "problem" not in found["3"]
    assert found["1"]["problem"].endswith("(the first 196608 of 320000 bytes are kept)")
    assert base64.b64decode(found["1"]["data"]) == b"?" * 196_608
    assert all(sum(map(len, row.values())) < 300_000 for row in found.values())


@given(order=orders)
def test_a_row_of_an_order_is_never_too_large(
    record_order: ModuleType, order: dict[str, Any]
) -> None:
    largest = order | {"items": [{"sku": "\U0010ffff" * 64, "quantity": 10**6}] * 100}
    kept = record_order.as_record(encoded(json.dumps(largest).encode()))
    assert "problem" not in kept and len(kept["content"].encode()) < 100_000


def test_a_message_that_cannot_be_written_costs_no_other_its_row(
    deployed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = deployed.module.dynamodb.put_item

    def refuse_the_first(Item: dict[str, Any], **more: Any) -> Any:
        if Item["message_id"]["S"] == "1":
            raise ClientError({"Error": {"Code": "ValidationException"}}, "PutItem")
        return put(Item=Item, **more)

    monkeypatch.setattr(deployed.module.dynamodb, "put_item", refuse_the_first)
    with pytest.raises(ClientError, match="ValidationException"):
        handle(deployed, message("1", ORDER), message("2", ORDER))
    assert set(rows(deployed)) == {"2"}


def test_a_message_delivered_twice_has_one_row(deployed: SimpleNamespace) -> None:
    handle(deployed, message("1", ORDER))
    first = rows(deployed)
    handle(deployed, message("1", ORDER, redelivered=True))
    assert rows(deployed) == first
    logged = [json.loads(line) for line in deployed.log.getvalue().splitlines()]
    assert [line["message"] for line in logged] == ["Recorded message", "Dropped duplicate message"]


def test_a_message_without_an_id_gets_one_from_its_content(deployed: SimpleNamespace) -> None:
    handle(deployed, message(None, ORDER), message(None, ORDER), message(None, "other"))
    assert len(rows(deployed)) == 2


def test_a_write_that_fails_brings_the_batch_back(
    deployed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDER_RECORDS", "no-such-table")
    with pytest.raises(Exception, match="ResourceNotFoundException"):
        handle(deployed, message("1", ORDER))


def test_the_log_holds_no_message(deployed: SimpleNamespace) -> None:
    handle(deployed, message("1", json.dumps({"card": "4111-secret"})))
    assert "4111" not in deployed.log.getvalue()


# ---- DeclareQueues, on a real broker

LOGIN = {"username": "shop", "password": "only-for-this-test"}


@pytest.fixture(scope="module")
def broker() -> Generator[rabbitmq.Broker]:
    try:
        with rabbitmq.running(**LOGIN) as started:
            yield started
    except rabbitmq.BrokerMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def declaring(broker: rabbitmq.Broker, monkeypatch: pytest.MonkeyPatch) -> Generator[ModuleType]:
    """The handler's module, at a broker without queues."""
    monkeypatch.setenv("CONSOLE_URL", broker.console)
    monkeypatch.setenv("PASSWORD_ARN", "password")
    monkeypatch.setenv("SSL_CERT_FILE", str(broker.authority))
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    monkeypatch.syspath_prepend(str(LAMBDAS))
    module = importlib.import_module("declare_queues")
    secret = {"SecretString": json.dumps(LOGIN)}
    monkeypatch.setattr(
        module, "secrets", SimpleNamespace(get_secret_value=lambda SecretId: secret)
    )
    yield module
    sys.modules.pop("declare_queues")
    with closing(broker.connect(**LOGIN)) as connection:
        for queue in ("orders.shipping", "orders.analytics", "orders.dead"):
            connection.channel().queue_delete(queue)


def test_what_it_declares_is_what_the_programs_declare(
    declaring: ModuleType, broker: rabbitmq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ closes the channel of whoever declares a queue or an exchange otherwise."""
    monkeypatch.syspath_prepend(str(LAMBDAS.parent.parent / "workers" / "mq_broker"))
    topology = importlib.import_module("topology")
    try:
        declaring.handler({}, CONTEXT)
        with closing(broker.connect(**LOGIN)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            topology.declare(channel)
            for kind, queue in topology.ROUTES.items():  # unroutable if it were not bound
                channel.basic_publish(topology.ORDERS, kind, b"order", mandatory=True)
                assert channel.queue_declare(queue, passive=True).method.message_count == 1
            channel.basic_publish(topology.DEAD_ORDERS, "", b"order", mandatory=True)
    finally:
        sys.modules.pop("topology")


def test_it_may_be_called_again_and_says_how_many_messages_wait(
    declaring: ModuleType, broker: rabbitmq.Broker
) -> None:
    declaring.handler({}, CONTEXT)
    with closing(broker.connect(**LOGIN)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("orders", "parcel", b"order", mandatory=True)
    wanted = {"orders.analytics": 0, "orders.dead": 0, "orders.shipping": 1}
    assert soon(lambda: declaring.handler({}, CONTEXT) == {"messages": wanted}, 20)


def test_a_queue_that_differs_is_told_and_left(
    declaring: ModuleType, broker: rabbitmq.Broker
) -> None:
    with closing(broker.connect(**LOGIN)) as connection:
        connection.channel().queue_declare("orders.dead", durable=True)
    with pytest.raises(declaring.BrokerRefused, match=r"orders.dead: 400 .*inequivalent arg"):
        declaring.handler({}, CONTEXT)


def test_a_wrong_password_is_told(declaring: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {"SecretString": json.dumps(LOGIN | {"password": "wrong"})}
    monkeypatch.setattr(
        declaring, "secrets", SimpleNamespace(get_secret_value=lambda SecretId: secret)
    )
    with pytest.raises(declaring.BrokerRefused, match=": 401 "):
        declaring.handler({}, CONTEXT)


# ---- RecordOrder: hostile messages and faults; what may be lost is nothing


@hostile.names(json.loads(ORDER), text="customer")
def test_a_hostile_message_is_kept_with_its_problem(
    deployed: SimpleNamespace, message: str
) -> None:
    batch = [
        {"basicProperties": {"messageId": name}, "data": encoded(body.encode("utf-8", "replace"))}
        for name, body in (("1", ORDER), ("odd", message), ("3", ORDER))
    ]
    hostile.handled(lambda: handle(deployed, *batch), message, deployed.log)
    found = rows(deployed)
    assert found.keys() == {"1", "odd", "3"}
    assert "problem" in found["odd"] and len(found["odd"]["problem"]) < 300
    assert sum(map(len, found["odd"].values())) < 400_000


def test_another_message_under_a_used_id_is_kept_too(deployed: SimpleNamespace) -> None:
    other = json.dumps(json.loads(ORDER) | {"customer": "bob"})
    for _ in range(2):
        handle(deployed, message("1", ORDER), message("1", other))
    kept = rows(deployed)
    assert len(kept) == 2
    assert kept["1"]["order_id"] == "a" and "problem" not in kept["1"]
    (second,) = (row for name, row in kept.items() if name != "1")
    assert second["problem"] == "message id 1 belongs to another message"
    assert base64.b64decode(second["data"]).decode() == other


def test_a_message_without_the_property_gets_an_id(deployed: SimpleNamespace) -> None:
    handle(deployed, {"basicProperties": {}, "data": encoded(ORDER.encode())})
    assert len(rows(deployed)) == 1


@hostile.moments
@hostile.faults
def test_a_call_that_fails_brings_the_batch_back_and_loses_none(
    deployed: SimpleNamespace, fault: Exception, moment: str
) -> None:
    module, batch = deployed.module, [message(one, ORDER) for one in "123"]
    module.dynamodb = hostile.Faulty(module.dynamodb, "put_item", 2, fault, moment)
    with pytest.raises(type(fault)):
        handle(deployed, *batch)
    assert {"1", "3"} <= rows(deployed).keys()
    handle(deployed, *batch)
    assert rows(deployed).keys() == {"1", "2", "3"}
