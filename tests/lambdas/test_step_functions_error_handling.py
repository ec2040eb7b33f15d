"""ChargeOrder: the decisions without AWS, the effect on the sandbox's DynamoDB."""

from __future__ import annotations

import importlib
import io
import json
import sys
import uuid
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lambdas import hostile

LAMBDAS = Path(__file__).parent.parent.parent / "lambdas" / "step_functions_error_handling"

orders = st.fixed_dictionaries(
    {
        "order_id": st.text(min_size=1, max_size=64),
        "customer": st.text(min_size=1, max_size=64),
        "card": st.text(min_size=1, max_size=64),
        "amount_cents": st.integers(1, 10**9),
    }
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def charge_order() -> Generator[ModuleType]:
    """The handler's module as Lambda imports it, with a table that does not exist."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARGES", "nowhere")
        patch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
        patch.syspath_prepend(str(LAMBDAS))
        yield importlib.import_module("charge_order")
        sys.modules.pop("charge_order", None)


@given(order=orders)
def test_every_order_is_understood(charge_order: ModuleType, order: dict[str, Any]) -> None:
    assert charge_order.parse_order(order).model_dump() == order


@given(event=json_values)
def test_any_input_is_an_order_or_malformed_with_a_reason(
    charge_order: ModuleType, event: Any
) -> None:
    with pytest.raises(charge_order.MalformedOrder, match=r"required|Input"):
        charge_order.parse_order(event)


@given(
    order=orders,
    field=st.sampled_from(["order_id", "customer", "card", "amount_cents"]),
    other=json_values,
)
def test_the_reason_names_the_field_that_is_missing_or_wrong(
    charge_order: ModuleType, order: dict[str, Any], field: str, other: Any
) -> None:
    without = {name: value for name, value in order.items() if name != field}
    with pytest.raises(charge_order.MalformedOrder, match=f"^{field}: Field required$"):
        charge_order.parse_order(without)
    with pytest.raises(charge_order.MalformedOrder, match=f"^{field}: "):
        charge_order.parse_order({**order, field: {"wrong": other}})


@given(secret=st.from_regex(r"[a-z]{20}", fullmatch=True))
def test_the_reason_does_not_repeat_the_input(charge_order: ModuleType, secret: str) -> None:
    with pytest.raises(charge_order.MalformedOrder) as malformed:
        charge_order.parse_order({"order_id": [secret], "card": {"number": secret}})
    assert secret not in str(malformed.value)


@given(times=st.integers(0, 50), attempt=st.integers(1, 100))
def test_an_unavailable_card_is_charged_after_its_number_of_attempts(
    charge_order: ModuleType, times: int, attempt: int
) -> None:
    answer = charge_order.answer_to(f"card-unavailable-{times}", attempt)
    assert answer == ("unavailable" if attempt <= times else "charged")


@given(card=st.text(), attempt=st.integers(1, 100))
def test_a_card_that_is_no_test_card_is_declined(
    charge_order: ModuleType, card: str, attempt: int
) -> None:
    assert charge_order.answer_to(card, attempt) == "declined"
    assert charge_order.answer_to(f"card-unavailable-{card}x", attempt) == "declined"


@given(key=st.text(), attempts=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_the_provider_gives_a_key_one_charge_however_often_it_is_asked(
    charge_order: ModuleType, key: str, attempts: tuple[int, int]
) -> None:
    first, second = (
        charge_order.DemoPayments(attempt).charge("card-ok", 100, key) for attempt in attempts
    )
    assert first == second


# ---- the effect, on a real table


@pytest.fixture
def deployed(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> Generator[SimpleNamespace]:
    """The handler with a real table of its own."""
    dynamodb, table = boto3.client("dynamodb"), f"charges-{uuid.uuid4().hex[:8]}"
    dynamodb.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "order_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "order_id", "AttributeType": "S"}],
    )
    monkeypatch.setenv("CHARGES", table)
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    monkeypatch.syspath_prepend(str(LAMBDAS))
    sys.modules.pop("charge_order", None)
    module, log = importlib.import_module("charge_order"), io.StringIO()
    module.logger.registered_handler.setStream(log)
    yield SimpleNamespace(module=module, table=table, dynamodb=dynamodb, log=log)
    sys.modules.pop("charge_order")
    dynamodb.delete_table(TableName=table)


CONTEXT = SimpleNamespace(
    function_name="ChargeOrder",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:ChargeOrder",
    aws_request_id="request",
    get_remaining_time_in_millis=lambda: 10000,
)


def order(card: str = "card-ok", amount_cents: int = 1999) -> dict[str, Any]:
    return {"order_id": "a", "customer": "ada", "card": card, "amount_cents": amount_cents}


def row(deployed: SimpleNamespace) -> dict[str, Any]:
    return deployed.dynamodb.get_item(
        TableName=deployed.table, Key={"order_id": {"S": "a"}}, ConsistentRead=True
    )["Item"]


def test_an_order_is_charged_and_its_charge_recorded(deployed: SimpleNamespace) -> None:
    answer = deployed.module.handler(order(), CONTEXT)
    assert answer["order_id"] == "a"
    assert row(deployed)["charge_id"]["S"] == answer["charge_id"]
    assert row(deployed)["amount_cents"]["N"] == "1999"


def test_the_service_is_back_at_the_third_attempt(deployed: SimpleNamespace) -> None:
    for _ in range(2):
        with pytest.raises(deployed.module.PaymentServiceUnavailable):
            deployed.module.handler(order("card-unavailable-2"), CONTEXT)
        assert "charge_id" not in row(deployed)
    deployed.module.handler(order("card-unavailable-2"), CONTEXT)
    assert row(deployed)["attempts"]["N"] == "3" and "charge_id" in row(deployed)


def test_the_log_says_which_attempt_charged_the_order(deployed: SimpleNamespace) -> None:
    with pytest.raises(deployed.module.PaymentServiceUnavailable):
        deployed.module.handler(order("card-unavailable-1"), CONTEXT)
    deployed.module.handler(order("card-unavailable-1"), CONTEXT)
    lines = [json.loads(line) for line in deployed.log.getvalue().splitlines()]
    assert [one["attempt"] for one in lines if one["message"] == "Charged order"] == [2]


def test_a_declined_card_is_not_charged(deployed: SimpleNamespace) -> None:
    with pytest.raises(deployed.module.CardDeclined, match=r"the bank declined 19\.99"):
        deployed.module.handler(order("card-declined"), CONTEXT)
    assert "charge_id" not in row(deployed)


def test_a_charged_order_is_not_charged_again(
    deployed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deployed.module.handler(order(), CONTEXT)
    monkeypatch.delattr(deployed.module, "DemoPayments")  # nobody is there to ask
    assert deployed.module.handler(order(), CONTEXT) == first
    assert deployed.log.getvalue().count('"Charged order"') == 1


def test_attempts_at_the_same_time_record_one_charge(deployed: SimpleNamespace) -> None:
    parsed = deployed.module.parse_order(order())
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda _: deployed.module.record(parsed, "ch-1"), range(8)))
    assert sorted(written) == [False] * 7 + [True]


def test_an_order_id_used_again_for_another_order_is_neither_charged_nor_confirmed(
    deployed: SimpleNamespace,
) -> None:
    deployed.module.handler(order(amount_cents=1999), CONTEXT)
    before = row(deployed)
    with pytest.raises(deployed.module.ConflictingOrder):
        deployed.module.handler(order(amount_cents=1), CONTEXT)
    assert row(deployed) == before


def test_log_and_table_hold_no_card(deployed: SimpleNamespace) -> None:
    deployed.module.handler(order(), CONTEXT)
    with pytest.raises(deployed.module.MalformedOrder):
        deployed.module.handler({"order_id": "a", "card": "card-ok"}, CONTEXT)
    assert "customer: Field required" in deployed.log.getvalue()
    assert "card-ok" not in deployed.log.getvalue() + json.dumps(row(deployed))


# ---- hostile input and faults: an order is never taken for charged that is not


@hostile.names(order(), text="customer", number="amount_cents")
def test_a_hostile_input_is_no_order(deployed: SimpleNamespace, message: str) -> None:
    try:
        given = json.loads(message)
    except (ValueError, RecursionError):
        given = message

    def call() -> None:
        with pytest.raises(deployed.module.MalformedOrder) as malformed:
            deployed.module.handler(given, CONTEXT)
        assert len(str(malformed.value)) < 300

    hostile.handled(call, message, deployed.log)
    assert deployed.dynamodb.scan(TableName=deployed.table)["Items"] == []


@hostile.moments
@hostile.faults
@pytest.mark.parametrize("nth", [1, 2])
def test_a_call_that_fails_is_the_tasks_error_and_the_next_attempt_charges_once(
    deployed: SimpleNamespace, nth: int, fault: Exception, moment: str
) -> None:
    """Counting the attempt, and recording the charge. Not null, which the workflow would take."""
    module = deployed.module
    module.dynamodb = hostile.Faulty(module.dynamodb, "update_item", nth, fault, moment)
    with pytest.raises(type(fault)):
        module.handler(order(), CONTEXT)
    answer = module.handler(order(), CONTEXT)
    assert row(deployed)["charge_id"]["S"] == answer["charge_id"]
    assert "Order failed" in deployed.log.getvalue()


def test_what_an_order_holds_has_these_bounds(charge_order: ModuleType) -> None:
    takes = hostile.accepts(charge_order.MalformedOrder, charge_order.parse_order)
    hostile.bounded(
        takes, order(), order_id=(1, 64), customer=(1, 64), card=(1, 64), amount_cents=(1, 10**12)
    )
