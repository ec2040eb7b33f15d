"""FulfilOrder of two releases: what each knows, and that an order is fulfilled once."""

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

LAMBDAS = Path(__file__).parent.parent.parent / "lambdas" / "sqs_dlq_redrive"

orders = st.fixed_dictionaries(
    {
        "order_id": st.text(min_size=1, max_size=64),
        "customer": st.text(min_size=1, max_size=64),
        "kind": st.sampled_from(["standard", "gift"]),
    }
)


def imported(patch: pytest.MonkeyPatch, accept_gift_orders: str, table: str) -> ModuleType:
    """The handler's module as Lambda imports it."""
    patch.setenv("FULFILLED_ORDERS", table)
    patch.setenv("ACCEPT_GIFT_ORDERS", accept_gift_orders)
    patch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    patch.syspath_prepend(str(LAMBDAS))
    sys.modules.pop("fulfil_order", None)
    return importlib.import_module("fulfil_order")


@pytest.fixture(scope="module")
def fulfil_order() -> Generator[ModuleType]:
    """The first release, with a table that does not exist."""
    with pytest.MonkeyPatch.context() as patch:
        yield imported(patch, "false", "nowhere")
        sys.modules.pop("fulfil_order", None)


@pytest.mark.parametrize(
    ("accept_gift_orders", "kinds"), [("false", {"standard"}), ("true", {"standard", "gift"})]
)
def test_the_option_decides_which_kinds_a_release_knows(
    monkeypatch: pytest.MonkeyPatch, accept_gift_orders: str, kinds: set[str]
) -> None:
    assert kinds == imported(monkeypatch, accept_gift_orders, "nowhere").KINDS
    sys.modules.pop("fulfil_order", None)


@given(order=orders)
def test_an_order_of_a_known_kind_is_understood(
    fulfil_order: ModuleType, order: dict[str, str]
) -> None:
    parsed = fulfil_order.parse_order(json.dumps(order), {"standard", "gift"})
    assert parsed.model_dump() == order


@given(order=orders, kind=st.text(min_size=1, max_size=32).filter("standard".__ne__))
def test_an_order_of_another_kind_is_rejected_with_the_kinds_there_are(
    fulfil_order: ModuleType, order: dict[str, str], kind: str
) -> None:
    with pytest.raises(fulfil_order.Rejected, match=r"^kind: this release knows standard orders"):
        fulfil_order.parse_order(json.dumps({**order, "kind": kind}), {"standard"})


@given(body=st.text())
def test_any_other_text_is_rejected(fulfil_order: ModuleType, body: str) -> None:
    with pytest.raises(fulfil_order.Rejected, match=r"^missing or wrong: "):
        fulfil_order.parse_order(body, {"standard"})


@given(order=orders, field=st.sampled_from(["order_id", "customer", "kind"]))
def test_the_reason_names_the_field_and_does_not_repeat_it(
    fulfil_order: ModuleType, order: dict[str, str], field: str
) -> None:
    with pytest.raises(fulfil_order.Rejected, match=f"^missing or wrong: {field}$"):
        fulfil_order.parse_order(json.dumps({**order, field: ["secret"]}), {"standard"})


# ---- the effect, on a real table


@pytest.fixture
def deployed(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> Generator[SimpleNamespace]:
    """The mended release with a real table of its own."""
    dynamodb, table = boto3.client("dynamodb"), f"fulfilled-{uuid.uuid4().hex[:8]}"
    dynamodb.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "order_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "order_id", "AttributeType": "S"}],
    )
    module, log = imported(monkeypatch, "true", table), io.StringIO()
    module.logger.registered_handler.setStream(log)
    yield SimpleNamespace(module=module, table=table, dynamodb=dynamodb, log=log)
    sys.modules.pop("fulfil_order")
    dynamodb.delete_table(TableName=table)


CONTEXT = SimpleNamespace(
    function_name="FulfilOrder",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:FulfilOrder",
    aws_request_id="request",
    get_remaining_time_in_millis=lambda: 10000,
)


def order(order_id: str, kind: str = "gift", customer: str = "ada") -> str:
    return json.dumps({"order_id": order_id, "customer": customer, "kind": kind})


def handle(deployed: SimpleNamespace, **bodies: str) -> list[str]:
    """The ids of the messages that the handler reports as failed; bodies by message id."""
    records = [
        {
            "messageId": message_id,
            "body": body,
            "attributes": {"ApproximateReceiveCount": "1"},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:Orders",
        }
        for message_id, body in bodies.items()
    ]
    answer = deployed.module.handler({"Records": records}, CONTEXT)
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def rows(deployed: SimpleNamespace) -> dict[str, str]:
    """Order id to the message that wrote its row."""
    items = deployed.dynamodb.scan(TableName=deployed.table, ConsistentRead=True)["Items"]
    return {item["order_id"]["S"]: item["message_id"]["S"] for item in items}


def test_only_the_rejected_order_of_a_batch_comes_back(deployed: SimpleNamespace) -> None:
    bad = order("b", kind="lottery")
    assert handle(deployed, first=order("a"), second=bad, third=order("c", "standard")) == [
        "second"
    ]
    assert rows(deployed) == {"a": "first", "c": "third"}


def test_a_batch_of_rejected_orders_is_no_failed_invocation(deployed: SimpleNamespace) -> None:
    assert handle(deployed, first="poison", second="{}") == ["first", "second"]


def test_an_order_that_a_redrive_delivers_again_has_no_second_effect(
    deployed: SimpleNamespace,
) -> None:
    """A redriven message has another id: only the order's own tells."""
    assert handle(deployed, parked=order("a")) == []
    assert handle(deployed, redriven=order("a")) == []
    assert rows(deployed) == {"a": "parked"}
    dropped = [line for line in deployed.log.getvalue().splitlines() if "Dropped" in line]
    assert [json.loads(line)["message_id"] for line in dropped] == ["redriven"]


def test_an_order_id_used_again_for_another_order_is_rejected(deployed: SimpleNamespace) -> None:
    handle(deployed, first=order("a", customer="ada"))
    assert handle(deployed, second=order("a", customer="bob")) == ["second"]
    assert rows(deployed) == {"a": "first"}


def test_a_failed_write_comes_back_and_says_why(deployed: SimpleNamespace) -> None:
    deployed.module.os.environ["FULFILLED_ORDERS"] = "gone"
    assert handle(deployed, first=order("a")) == ["first"]
    assert "ResourceNotFoundException" in deployed.log.getvalue()


# ---- hostile messages and faults: what may be lost is nothing


@hostile.names(json.loads(order("x")), text="customer")
def test_a_hostile_message_comes_back_alone(deployed: SimpleNamespace, message: str) -> None:
    def call() -> list[str]:
        return handle(deployed, first=order("a"), odd=message, last=order("b"))

    assert hostile.handled(call, message, deployed.log) == ["odd"]
    assert rows(deployed) == {"a": "first", "b": "last"}


@hostile.moments
@hostile.faults
def test_a_call_that_fails_costs_only_its_own_message_a_receive(
    deployed: SimpleNamespace, fault: Exception, moment: str
) -> None:
    module = deployed.module
    module.dynamodb = hostile.Faulty(module.dynamodb, "put_item", 2, fault, moment)
    assert handle(deployed, first=order("a"), second=order("b"), third=order("c")) == ["second"]
    assert handle(deployed, second=order("b")) == []
    assert rows(deployed) == {"a": "first", "b": "second", "c": "third"}
