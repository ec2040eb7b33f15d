"""FulfilOrder: the decision without AWS, the effect on the sandbox's DynamoDB."""

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
from hypothesis import given
from hypothesis import strategies as st

from tests.lambdas import hostile

LAMBDAS = Path(__file__).parent.parent.parent / "lambdas" / "sqs_lambda_dlq"

skus = st.fixed_dictionaries(
    {"sku": st.text(min_size=1, max_size=64), "quantity": st.integers(1, 10**6)}
)
orders = st.fixed_dictionaries(
    {
        "order_id": st.text(min_size=1, max_size=64),
        "customer": st.text(min_size=1, max_size=64),
        "items": st.lists(skus, min_size=1, max_size=5),
    }
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def fulfil_order() -> Generator[ModuleType]:
    """The handler's module as Lambda imports it, with tables that do not exist."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FULFILLED_ORDERS", "nowhere")
        patch.setenv("IDEMPOTENCY_RECORDS", "nowhere")
        patch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
        patch.syspath_prepend(str(LAMBDAS))
        yield importlib.import_module("fulfil_order")
        sys.modules.pop("fulfil_order", None)


@given(order=orders)
def test_every_order_is_understood(fulfil_order: ModuleType, order: dict[str, Any]) -> None:
    assert fulfil_order.parse_order(json.dumps(order)).model_dump() == order


@given(body=st.text())
def test_any_text_is_an_order_or_malformed_with_a_reason(
    fulfil_order: ModuleType, body: str
) -> None:
    with pytest.raises(fulfil_order.MalformedOrder, match=r"JSON|Input"):
        fulfil_order.parse_order(body)


@given(order=orders, field=st.sampled_from(["order_id", "customer", "items"]), other=json_values)
def test_the_reason_names_the_field_that_is_missing_or_wrong(
    fulfil_order: ModuleType, order: dict[str, Any], field: str, other: Any
) -> None:
    without = {name: value for name, value in order.items() if name != field}
    with pytest.raises(fulfil_order.MalformedOrder, match=f"^{field}: Field required$"):
        fulfil_order.parse_order(json.dumps(without))
    with pytest.raises(fulfil_order.MalformedOrder, match=rf"^{field}(\.|:)"):
        fulfil_order.parse_order(json.dumps({**order, field: {"wrong": other}}))


@given(secret=st.from_regex(r"[a-z]{20}", fullmatch=True))
def test_the_reason_does_not_repeat_the_message(fulfil_order: ModuleType, secret: str) -> None:
    with pytest.raises(fulfil_order.MalformedOrder) as malformed:
        fulfil_order.parse_order(json.dumps({"order_id": [secret], "card": secret}))
    assert secret not in str(malformed.value)


# ---- the effect, on real tables


@pytest.fixture
def deployed(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> Generator[SimpleNamespace]:
    """The handler with two real tables of its own."""
    dynamodb, made = boto3.client("dynamodb"), []
    for variable, key in (("FULFILLED_ORDERS", "order_id"), ("IDEMPOTENCY_RECORDS", "id")):
        table = f"{variable}-{uuid.uuid4().hex[:8]}"
        dynamodb.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
        )
        monkeypatch.setenv(variable, table)
        made.append(table)
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    monkeypatch.syspath_prepend(str(LAMBDAS))
    sys.modules.pop("fulfil_order", None)
    module, log = importlib.import_module("fulfil_order"), io.StringIO()
    module.logger.registered_handler.setStream(log)
    yield SimpleNamespace(module=module, rows=made[0], records=made[1], dynamodb=dynamodb, log=log)
    sys.modules.pop("fulfil_order")
    for table in made:
        dynamodb.delete_table(TableName=table)


def batch(*bodies: str) -> dict[str, Any]:
    return {
        "Records": [
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
    }


CONTEXT = SimpleNamespace(
    function_name="FulfilOrder",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:FulfilOrder",
    aws_request_id="request",
    get_remaining_time_in_millis=lambda: 10000,
)


def order(order_id: str, customer: str = "ada") -> str:
    return json.dumps(
        {"order_id": order_id, "customer": customer, "items": [{"sku": "tea", "quantity": 1}]}
    )


def handle(deployed: SimpleNamespace, *bodies: str) -> list[str]:
    """The ids of the messages that the handler reports as failed."""
    answer = deployed.module.handler(batch(*bodies), CONTEXT)
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def rows(deployed: SimpleNamespace) -> dict[str, str]:
    """Order id to the message that wrote its row."""
    items = deployed.dynamodb.scan(TableName=deployed.rows, ConsistentRead=True)["Items"]
    return {item["order_id"]["S"]: item["message_id"]["S"] for item in items}


def test_only_the_poison_message_of_a_batch_comes_back(deployed: SimpleNamespace) -> None:
    assert handle(deployed, order("a"), "poison", order("b")) == ["message-1"]
    assert rows(deployed) == {"a": "message-0", "b": "message-2"}


def test_a_batch_of_poison_is_no_failed_invocation(deployed: SimpleNamespace) -> None:
    assert handle(deployed, "poison", "{}") == ["message-0", "message-1"]


def test_a_duplicate_in_the_same_batch_has_no_second_effect(deployed: SimpleNamespace) -> None:
    assert handle(deployed, order("a"), order("a")) == []
    assert rows(deployed) == {"a": "message-0"}


def test_a_duplicate_after_the_record_is_lost_has_no_second_effect(
    deployed: SimpleNamespace,
) -> None:
    handle(deployed, order("a"))
    for record in deployed.dynamodb.scan(TableName=deployed.records)["Items"]:
        deployed.dynamodb.delete_item(TableName=deployed.records, Key={"id": record["id"]})
    assert handle(deployed, order("z"), order("a")) == []
    assert rows(deployed)["a"] == "message-0"
    dropped = [line for line in deployed.log.getvalue().splitlines() if "Dropped" in line]
    assert [json.loads(line)["message_id"] for line in dropped] == ["message-1"]


@pytest.mark.parametrize("record_lost", [False, True])
def test_an_order_id_used_again_for_another_order_is_not_dropped_but_fails(
    deployed: SimpleNamespace, record_lost: bool
) -> None:
    handle(deployed, order("a", customer="ada"))
    if record_lost:
        for record in deployed.dynamodb.scan(TableName=deployed.records)["Items"]:
            deployed.dynamodb.delete_item(TableName=deployed.records, Key={"id": record["id"]})
    assert handle(deployed, order("a", customer="bob")) == ["message-0"]


def test_a_failed_write_is_tried_again_and_then_done(deployed: SimpleNamespace) -> None:
    table = deployed.dynamodb.describe_table(TableName=deployed.rows)["Table"]
    deployed.dynamodb.delete_table(TableName=deployed.rows)
    assert handle(deployed, order("a")) == ["message-0"]
    deployed.dynamodb.create_table(
        TableName=deployed.rows,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=table["KeySchema"],
        AttributeDefinitions=table["AttributeDefinitions"],
    )
    assert handle(deployed, order("a")) == []
    assert rows(deployed) == {"a": "message-0"}


def test_the_log_says_why_and_holds_no_message(
    deployed: SimpleNamespace,
) -> None:
    handle(deployed, json.dumps({"order_id": "a", "customer": "ada", "card": "4111-secret"}))
    assert "items: Field required" in deployed.log.getvalue()
    assert "4111-secret" not in deployed.log.getvalue()


# ---- hostile messages and faults: what may be lost is nothing


@hostile.names(json.loads(order("x")), text="customer")
def test_a_hostile_message_comes_back_alone(deployed: SimpleNamespace, message: str) -> None:
    def call() -> list[str]:
        return handle(deployed, order("a"), message, order("b"))

    assert hostile.handled(call, message, deployed.log) == ["message-1"]
    assert rows(deployed) == {"a": "message-0", "b": "message-2"}


@pytest.mark.parametrize("length", [1, 64])
def test_the_shortest_and_the_longest_texts_are_understood(
    fulfil_order: ModuleType, length: int
) -> None:
    item = {"sku": "s" * length, "quantity": 1_000_000}
    text = json.dumps({"order_id": "o" * length, "customer": "c" * length, "items": [item] * 100})
    assert fulfil_order.parse_order(text)
    for name in ("order_id", "customer"):
        with pytest.raises(fulfil_order.MalformedOrder, match=f"^{name}: "):
            fulfil_order.parse_order(json.dumps(json.loads(text) | {name: "x" * 65}))
    with pytest.raises(fulfil_order.MalformedOrder, match=r"^items: "):
        fulfil_order.parse_order(json.dumps(json.loads(text) | {"items": [item] * 101}))


@hostile.moments
@hostile.faults
@pytest.mark.parametrize("call", ["put_item", "update_item"])
def test_a_call_that_fails_costs_only_its_own_message_a_receive(
    deployed: SimpleNamespace, call: str, fault: Exception, moment: str
) -> None:
    """Of the row, the idempotency record before it (put), and that record's end (update)."""
    module = deployed.module
    client = hostile.Faulty(module.dynamodb, call, 2, fault, moment)
    module.dynamodb = module.records.client = client
    failed = handle(deployed, order("a"), order("b"), order("c"))
    assert failed in (["message-0"], ["message-1"])
    bodies = [order("a"), order("b"), order("c")]
    # A record that is in progress is in the way for as long as its invocation could have run.
    for record in deployed.dynamodb.scan(TableName=deployed.records)["Items"]:
        if record["status"]["S"] == "INPROGRESS":
            deployed.dynamodb.delete_item(TableName=deployed.records, Key={"id": record["id"]})
    assert handle(deployed, *[bodies[int(one[-1])] for one in failed]) == []
    assert rows(deployed).keys() == {"a", "b", "c"}


def test_the_keys_of_an_order_in_another_sequence_are_the_same_order(
    deployed: SimpleNamespace,
) -> None:
    one = json.loads(order("a"))
    assert handle(deployed, json.dumps(one)) == []
    for record in deployed.dynamodb.scan(TableName=deployed.records)["Items"]:
        deployed.dynamodb.delete_item(TableName=deployed.records, Key={"id": record["id"]})
    assert handle(deployed, json.dumps(dict(reversed(one.items())))) == []


def test_what_an_order_holds_has_these_bounds(fulfil_order: ModuleType) -> None:
    takes = hostile.accepts(
        fulfil_order.MalformedOrder, lambda given: fulfil_order.parse_order(json.dumps(given))
    )
    hostile.bounded(
        takes, json.loads(order("a")), order_id=(1, 64), customer=(1, 64), items=(1, 100),
        item__sku=(1, 64), item__quantity=(1, 10**6),
    )  # fmt: skip


def test_a_line_of_the_log_is_about_its_own_message(deployed: SimpleNamespace) -> None:
    handle(deployed, order("a"), "poison", order("b"))
    told = [json.loads(line) for line in deployed.log.getvalue().splitlines()]
    assert [(one["message"], one["message_id"], one.get("order_id")) for one in told] == [
        ("Fulfilled order", "message-0", "a"),
        ("Rejected order", "message-1", None),
        ("Fulfilled order", "message-2", "b"),
    ]
    assert {one["receive_count"] for one in told} == {1}


def test_a_dropped_duplicate_names_the_message_that_was_first(deployed: SimpleNamespace) -> None:
    """By the idempotency record, and by the row when the record is gone."""
    handle(deployed, order("a"))
    handle(deployed, order("z"), order("a"))
    for record in deployed.dynamodb.scan(TableName=deployed.records)["Items"]:
        deployed.dynamodb.delete_item(TableName=deployed.records, Key={"id": record["id"]})
    handle(deployed, order("y"), order("a"))
    told = [json.loads(line) for line in deployed.log.getvalue().splitlines()]
    dropped = [one["fulfilled_by"] for one in told if one["message"] == "Dropped duplicate order"]
    assert dropped == ["message-0", "message-0"]
