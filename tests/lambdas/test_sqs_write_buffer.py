"""WriteOrders: the decision without AWS, throttling from a stub, the effect on real tables."""

from __future__ import annotations

import importlib
import io
import json
import sys
import uuid
from collections.abc import Generator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from tests.lambdas import hostile
from tests.synthesis import synthesized

LAMBDAS = Path(__file__).parent.parent.parent / "lambdas" / "sqs_write_buffer"

words = st.from_regex(r"\A[A-Za-z0-9-]{1,32}\Z")
orders = st.fixed_dictionaries(
    {
        "order_id": words,
        "customer": words,
        "items": st.lists(
            st.fixed_dictionaries({"sku": words, "quantity": st.integers(1, 1000)}),
            min_size=1,
            max_size=20,
        ),
    }
)


class Clock:
    """A time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Table:
    """What BatchWriteItem would do at a table that takes so many units of each call."""

    def __init__(self, takes: list[int], units: float = 1) -> None:
        self.takes, self.units = takes, units
        self.calls: list[list[str]] = []
        self.written: list[str] = []

    def batch_write_item(self, RequestItems: Any, ReturnConsumedCapacity: str) -> Any:
        ((table, requests),) = RequestItems.items()
        keys = [one["PutRequest"]["Item"]["order_id"]["S"] for one in requests]
        assert len(keys) <= 25 and len(set(keys)) == len(keys)
        self.calls.append(keys)
        takes = self.takes.pop(0) if self.takes else len(keys)
        if takes == 0:
            raise ClientError({"Error": {"Code": "ThrottlingException"}}, "BatchWriteItem")
        self.written += keys[:takes]
        return {
            "UnprocessedItems": {table: requests[takes:]} if requests[takes:] else {},
            "ConsumedCapacity": [{"CapacityUnits": self.units * len(keys[:takes])}],
        }


def imported(patch: pytest.MonkeyPatch, table: str) -> ModuleType:
    """The handler's module as Lambda imports it; its share is 50 units a second."""
    patch.setenv("WRITTEN_ORDERS", table)
    patch.setenv("WRITES_PER_SECOND", "50.0")
    patch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    patch.syspath_prepend(str(LAMBDAS))
    sys.modules.pop("write_orders", None)
    return importlib.import_module("write_orders")


@pytest.fixture(scope="module")
def write_orders() -> Generator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        yield imported(patch, "nowhere")
        sys.modules.pop("write_orders", None)


@pytest.fixture
def clock(write_orders: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(write_orders, "time", clock)
    monkeypatch.setattr(write_orders.random, "uniform", lambda least, most: most)
    return clock


@pytest.fixture
def table(
    write_orders: ModuleType, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Table:
    table = Table(list(getattr(request, "param", [])))
    monkeypatch.setattr(write_orders, "dynamodb", table)
    return table


def items(count: int) -> list[dict[str, Any]]:
    return [{"order_id": {"S": f"order-{number:03}"}} for number in range(count)]


# ---- what is an order


@given(order=orders)
def test_every_order_is_understood(write_orders: ModuleType, order: dict[str, Any]) -> None:
    assert write_orders.parse_order(json.dumps(order)).model_dump() == order


@given(order=orders, field=st.sampled_from(["order_id", "customer", "items"]))
def test_the_reason_names_the_field_and_repeats_no_message(
    write_orders: ModuleType, order: dict[str, Any], field: str
) -> None:
    without = {name: value for name, value in order.items() if name != field}
    with pytest.raises(write_orders.MalformedOrder, match=f"^{field}: Field required$"):
        write_orders.parse_order(json.dumps(without))
    with pytest.raises(write_orders.MalformedOrder) as malformed:
        write_orders.parse_order(json.dumps({**order, field: {"card": "4111-secret"}}))
    assert str(malformed.value).startswith(field) and "secret" not in str(malformed.value)


@given(body=st.text())
def test_any_text_is_an_order_or_malformed(write_orders: ModuleType, body: str) -> None:
    with pytest.raises(write_orders.MalformedOrder):
        write_orders.parse_order(body)


def test_writer_and_api_ask_the_same_of_an_order(write_orders: ModuleType) -> None:
    """What the API lets through must not be parked behind it."""
    (model,) = synthesized("sqs_write_buffer").resources("AWS::ApiGateway::Model").values()
    ours = write_orders.Order.model_json_schema()
    line = ours.pop("$defs")["Line"]

    def plain(schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in schema:
            return plain(line)
        return {
            key: {name: plain(one) for name, one in value.items()}
            if key == "properties"
            else plain(value)
            if key == "items"
            else value
            for key, value in schema.items()
            if key not in ("title", "description", "$schema")
        }

    assert plain(ours) == plain(model["Schema"])


# ---- how it writes


def test_a_writer_writes_at_its_share(write_orders: ModuleType, clock: Clock, table: Table) -> None:
    """100 units at 50 a second take two seconds, in calls of 25."""
    assert write_orders.write(items(100), until=3) == []
    assert [len(keys) for keys in table.calls] == [25] * 4
    assert clock.slept == [0.5] * 4


def test_an_order_of_two_units_takes_twice_as_long(
    write_orders: ModuleType, clock: Clock, table: Table
) -> None:
    table.units = 2
    write_orders.write(items(25), until=3)
    assert clock.slept == [1.0]


@pytest.mark.parametrize("table", [[5, 0, 0]], indirect=True)
def test_what_the_table_refuses_is_tried_again_after_growing_pauses(
    write_orders: ModuleType, clock: Clock, table: Table
) -> None:
    assert write_orders.write(items(25), until=3) == []
    assert sorted(table.written) == [f"order-{number:03}" for number in range(25)]
    assert clock.slept == pytest.approx([0.1, 0.2, 0.4, 0.4])  # the last for 20 units
    assert table.calls[1] == table.calls[2] == table.calls[3]


@pytest.mark.parametrize("table", [[5, *[0] * 99]], indirect=True)
def test_what_is_not_written_in_time_is_left(
    write_orders: ModuleType, clock: Clock, table: Table
) -> None:
    left = write_orders.write(items(30), until=3)
    assert len(table.written) == 5 and len(left) == 25
    assert {one["order_id"]["S"] for one in left}.isdisjoint(table.written)
    assert 3 <= clock.now <= 4


@given(takes=st.lists(st.integers(0, 25), max_size=12), count=st.integers(0, 60))
def test_every_item_is_written_or_left_and_never_both(
    write_orders: ModuleType, takes: list[int], count: int
) -> None:
    clock, table = Clock(), Table(takes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_orders, "time", clock)
        patch.setattr(write_orders, "dynamodb", table)
        left = [one["order_id"]["S"] for one in write_orders.write(items(count), until=3)]
    assert sorted(table.written + left) == [one["order_id"]["S"] for one in items(count)]


def test_an_error_that_is_no_throttling_is_not_waited_for(
    write_orders: ModuleType, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "BatchWriteItem")

    monkeypatch.setattr(write_orders, "dynamodb", SimpleNamespace(batch_write_item=denied))
    with pytest.raises(ClientError, match="AccessDenied"):
        write_orders.write(items(1), until=3)
    assert clock.slept == []


# ---- what comes back


def order(order_id: str, customer: str = "ada") -> str:
    return json.dumps(
        {"order_id": order_id, "customer": customer, "items": [{"sku": "tea", "quantity": 1}]}
    )


def handle(module: ModuleType, *bodies: str, remaining: int = 20000) -> list[str]:
    """The ids of the messages that the handler reports as failed."""
    records = [
        {
            "messageId": f"message-{index}",
            "body": body,
            "attributes": {"ApproximateReceiveCount": "1"},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:Orders",
        }
        for index, body in enumerate(bodies)
    ]
    context = SimpleNamespace(
        function_name="WriteOrders",
        memory_limit_in_mb=512,
        invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:WriteOrders",
        aws_request_id="request",
        get_remaining_time_in_millis=lambda: remaining,
    )
    answer = module.handler({"Records": records}, context)
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


@pytest.mark.parametrize("table", [[1, *[0] * 99]], indirect=True)
def test_all_messages_of_an_order_that_was_left_come_back(
    write_orders: ModuleType, clock: Clock, table: Table
) -> None:
    failed = handle(write_orders, order("a"), order("b"), "poison", order("b"), order("a"))
    assert table.written == ["a"]
    assert failed == ["message-2", "message-1", "message-3"]


@pytest.mark.parametrize("table", [[0] * 99], indirect=True)
def test_it_stops_in_time_to_say_what_is_left(
    write_orders: ModuleType, clock: Clock, table: Table
) -> None:
    assert handle(write_orders, order("a"), remaining=2000) == ["message-0"]
    assert clock.now < 2


# ---- the effect, on a real table


@pytest.fixture
def deployed(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> Generator[SimpleNamespace]:
    """The handler with a real table of its own."""
    dynamodb, name = boto3.client("dynamodb"), f"written-{uuid.uuid4().hex[:8]}"
    dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "order_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "order_id", "AttributeType": "S"}],
    )
    before = sys.modules.get("write_orders")
    module, log = imported(monkeypatch, name), io.StringIO()
    module.logger.registered_handler.setStream(log)
    yield SimpleNamespace(module=module, name=name, dynamodb=dynamodb, log=log)
    sys.modules.pop("write_orders")
    if before:
        sys.modules["write_orders"] = before
    dynamodb.delete_table(TableName=name)


def rows(deployed: SimpleNamespace) -> dict[str, dict[str, str]]:
    """Order id to the texts of its row."""
    found = deployed.dynamodb.scan(TableName=deployed.name, ConsistentRead=True)["Items"]
    return {
        row["order_id"]["S"]: {name: value["S"] for name, value in row.items()} for row in found
    }


def test_only_the_poison_of_a_batch_comes_back(deployed: SimpleNamespace) -> None:
    bodies = [order(f"order-{number}") for number in range(30)]
    assert handle(deployed.module, *bodies[:7], "poison", *bodies[7:]) == ["message-7"]
    written = rows(deployed)
    assert len(written) == 30
    assert json.loads(written["order-0"]["content"]) == json.loads(bodies[0])
    assert written["order-0"]["message_id"] == "message-0" and written["order-0"]["written_at"]


def test_an_order_twice_in_a_batch_and_once_more_is_one_row(deployed: SimpleNamespace) -> None:
    assert handle(deployed.module, order("a"), order("b"), order("a")) == []
    assert handle(deployed.module, order("a")) == []
    assert rows(deployed).keys() == {"a", "b"}


def test_an_id_used_again_for_another_order_replaces_it(deployed: SimpleNamespace) -> None:
    """What the stack's docstring warns of: BatchWriteItem knows no conditions."""
    handle(deployed.module, order("a", customer="ada"))
    handle(deployed.module, order("a", customer="bob"))
    assert json.loads(rows(deployed)["a"]["content"])["customer"] == "bob"


def test_a_real_maximum_leaves_what_the_table_does_not_take(deployed: SimpleNamespace) -> None:
    deployed.dynamodb.update_table(
        TableName=deployed.name, OnDemandThroughput={"MaxWriteRequestUnits": 1}
    )
    bodies = [order(f"order-{number}") for number in range(20)]
    failed = handle(deployed.module, *bodies)
    written = {f"message-{name.partition('-')[2]}" for name in rows(deployed)}
    assert 1 <= len(written) < 20
    assert set(failed) == {f"message-{number}" for number in range(20)} - written
    deployed.dynamodb.update_table(
        TableName=deployed.name, OnDemandThroughput={"MaxWriteRequestUnits": -1}
    )
    assert handle(deployed.module, *bodies) == [] and len(rows(deployed)) == 20


def test_the_log_says_why_and_holds_no_message(deployed: SimpleNamespace) -> None:
    handle(deployed.module, json.dumps({"order_id": "a", "customer": "ada", "card": "4111-secret"}))
    assert "items: Field required" in deployed.log.getvalue()
    assert "4111-secret" not in deployed.log.getvalue()


# ---- hostile messages and faults: what may be lost is nothing


@hostile.names(json.loads(order("x")), text="customer")
def test_a_hostile_message_comes_back_alone(deployed: SimpleNamespace, message: str) -> None:
    def call() -> list[str]:
        return handle(deployed.module, order("a"), message, order("b"))

    assert hostile.handled(call, message, deployed.log) == ["message-1"]
    assert rows(deployed).keys() == {"a", "b"}


@hostile.moments
@hostile.faults
def test_a_call_that_fails_brings_all_of_its_messages_back_or_waits(
    deployed: SimpleNamespace, fault: Exception, moment: str
) -> None:
    """Where the whole batch comes back, what was written is written again, alike."""
    module, bodies = deployed.module, [order("a"), "poison", order("b")]
    module.dynamodb = hostile.Faulty(module.dynamodb, "batch_write_item", 1, fault, moment)
    if "Throttl" in str(fault):
        assert handle(module, *bodies) == ["message-1"]
    else:
        with pytest.raises(type(fault)):
            handle(module, *bodies)
        assert handle(module, *bodies) == ["message-1"]
    assert rows(deployed).keys() == {"a", "b"}


def test_what_an_order_holds_has_these_bounds(write_orders: ModuleType) -> None:
    takes = hostile.accepts(
        write_orders.MalformedOrder, lambda given: write_orders.parse_order(json.dumps(given))
    )
    hostile.bounded(
        takes, json.loads(order("a")), order_id=(1, 64), customer=(1, 64), items=(1, 20),
        item__sku=(1, 32), item__quantity=(1, 1000),
    )  # fmt: skip


@pytest.mark.parametrize("table", [[0]], indirect=True)
def test_a_refusal_that_used_nothing_costs_its_pause_and_no_units(
    write_orders: ModuleType, clock: Clock, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_orders, "SHARE", 0.5)  # a unit would be worth two seconds
    monkeypatch.setattr(write_orders.random, "uniform", lambda least, most: least)
    assert write_orders.write(items(1), until=10) == []
    assert clock.slept == [0, 2]


def test_the_log_counts_what_was_written_and_what_was_not(deployed: SimpleNamespace) -> None:
    handle(deployed.module, order("a"), "poison", order("b"), order("a"))
    told = [json.loads(line) for line in deployed.log.getvalue().splitlines()]
    (wrote,) = (one for one in told if one["message"] == "Wrote orders")
    assert (wrote["written"], wrote["rejected"]) == (2, 1)
