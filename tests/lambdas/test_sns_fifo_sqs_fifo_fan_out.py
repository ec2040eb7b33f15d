"""CheckFraud and ShipOrder: decisions without AWS, effects on the sandbox's DynamoDB."""

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

LAMBDAS = Path(__file__).parent.parent.parent / "lambdas" / "sns_fifo_sqs_fifo_fan_out"
MAX_RECEIVE_COUNT = 5
FUNCTIONS = ["check_fraud", "ship_order"]
NEEDED = {"check_fraud": "total_cents", "ship_order": "address"}

events = st.fixed_dictionaries(
    {
        "event_id": st.text(min_size=1, max_size=64),
        "customer": st.text(min_size=1, max_size=64),
        "sequence": st.integers(1, 10**9),
        "order_id": st.text(min_size=1, max_size=64),
        "kind": st.sampled_from(["placed", "changed", "cancelled"]),
        "total_cents": st.integers(0, 10**9),
        "address": st.text(min_size=1, max_size=200),
    }
)


def load(patch: pytest.MonkeyPatch, name: str, table: str) -> ModuleType:
    """A handler's module as Lambda imports it."""
    patch.setenv("EFFECTS", table)
    patch.setenv("MAX_RECEIVE_COUNT", str(MAX_RECEIVE_COUNT))
    patch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    patch.syspath_prepend(str(LAMBDAS))
    sys.modules.pop(name, None)
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def modules() -> Generator[dict[str, ModuleType]]:
    """Both handlers, with tables that do not exist."""
    with pytest.MonkeyPatch.context() as patch:
        yield {name: load(patch, name, "nowhere") for name in FUNCTIONS}
        for name in FUNCTIONS:
            sys.modules.pop(name, None)


@given(event=events, name=st.sampled_from(FUNCTIONS))
def test_each_service_reads_of_an_event_what_it_needs(
    modules: dict[str, ModuleType], event: dict[str, Any], name: str
) -> None:
    read = modules[name].parse_event(json.dumps(event)).model_dump()
    assert read.items() <= event.items()
    assert NEEDED[name] in read and len(read) == len(event) - 1


@given(event=events, name=st.sampled_from(FUNCTIONS), data=st.data())
def test_the_reason_names_the_field_that_is_missing_or_wrong(
    modules: dict[str, ModuleType], event: dict[str, Any], name: str, data: st.DataObject
) -> None:
    module = modules[name]
    field = data.draw(st.sampled_from(["event_id", "customer", "sequence", "kind", NEEDED[name]]))
    without = {key: value for key, value in event.items() if key != field}
    with pytest.raises(module.MalformedEvent, match=f"^{field}: Field required$"):
        module.parse_event(json.dumps(without))
    with pytest.raises(module.MalformedEvent, match=rf"^{field}(\.|:)"):
        module.parse_event(json.dumps({**event, field: {"wrong": True}}))


@given(secret=st.from_regex(r"[a-z]{20}", fullmatch=True), name=st.sampled_from(FUNCTIONS))
def test_the_reason_does_not_repeat_the_message(
    modules: dict[str, ModuleType], secret: str, name: str
) -> None:
    with pytest.raises(modules[name].MalformedEvent) as malformed:
        modules[name].parse_event(json.dumps({"event_id": [secret], "address": 1, "card": secret}))
    assert secret not in str(malformed.value)


@given(event=events)
def test_a_person_reviews_what_is_dear_and_not_cancelled(
    modules: dict[str, ModuleType], event: dict[str, Any]
) -> None:
    fraud = modules["check_fraud"]
    dear = event["total_cents"] > 100_000 and event["kind"] != "cancelled"
    verdict = fraud.verdict(fraud.parse_event(json.dumps(event)))
    assert verdict == ("review" if dear else "clear")


# ---- the effects, on a real table


@pytest.fixture(params=FUNCTIONS)
def deployed(
    request: pytest.FixtureRequest, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> Generator[SimpleNamespace]:
    """One of the handlers with a real table of its own."""
    dynamodb, table = boto3.client("dynamodb"), f"effects-{uuid.uuid4().hex[:8]}"
    keys = {"customer": ("HASH", "S"), "sequence": ("RANGE", "N")}
    dynamodb.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": key, "KeyType": use} for key, (use, _) in keys.items()],
        AttributeDefinitions=[
            {"AttributeName": key, "AttributeType": kind} for key, (_, kind) in keys.items()
        ],
    )
    module, log = load(monkeypatch, request.param, table), io.StringIO()
    module.logger.registered_handler.setStream(log)
    yield SimpleNamespace(
        name=request.param, module=module, table=table, dynamodb=dynamodb, log=log
    )
    sys.modules.pop(request.param)
    dynamodb.delete_table(TableName=table)


def event(customer: str, sequence: int, **changes: Any) -> dict[str, Any]:
    return {
        "event_id": f"{customer}-{sequence}",
        "customer": customer,
        "sequence": sequence,
        "order_id": "order-1",
        "kind": "placed",
        "total_cents": 1200,
        "address": "1 Mill Lane",
    } | changes


def poison(customer: str, sequence: int) -> dict[str, Any]:
    """An event that neither service can handle."""
    return event(customer, sequence, address="", total_cents=-1)


CONTEXT = SimpleNamespace(
    function_name="Handler",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:Handler",
    aws_request_id="request",
    get_remaining_time_in_millis=lambda: 10000,
)


def handle(
    deployed: SimpleNamespace,
    *events: dict[str, Any],
    receive: int = 1,
    message: str = "message",
    odd: dict[int, str] | None = None,
) -> list[int]:
    """The indexes of the messages that the handler reports as failed; odd: other bodies."""
    records = [
        {
            "messageId": f"{message}-{index}",
            "body": (odd or {}).get(index, json.dumps(one)),
            "attributes": {
                "ApproximateReceiveCount": str(receive),
                "MessageGroupId": one["customer"],
                "MessageDeduplicationId": one["event_id"],
                "SequenceNumber": str(index),
            },
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:Events.fifo",
        }
        for index, one in enumerate(events)
    ]
    answer = deployed.module.handler({"Records": records}, CONTEXT)
    failed = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
    return [int(one.rpartition("-")[2]) for one in failed]


def rows(deployed: SimpleNamespace, customer: str) -> list[tuple[int, int]]:
    """(position, sequence) of a customer's handled events, in the order of their handling."""
    items = deployed.dynamodb.scan(TableName=deployed.table, ConsistentRead=True)["Items"]
    return sorted(
        (int(item["position"]["N"]), int(item["sequence"]["N"]))
        for item in items
        if item["customer"]["S"] == customer and item["sequence"]["N"] != "0"
    )


def logged(deployed: SimpleNamespace, text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in deployed.log.getvalue().splitlines() if text in line]


def test_positions_follow_the_order_of_handling_customer_by_customer(
    deployed: SimpleNamespace,
) -> None:
    mixed = [event("ada", 1), event("bob", 1), event("ada", 2), event("bob", 2)]
    assert handle(deployed, *mixed) == []
    assert handle(deployed, event("ada", 3)) == []
    assert rows(deployed, "ada") == [(1, 1), (2, 2), (3, 3)]
    assert rows(deployed, "bob") == [(1, 1), (2, 2)]


def test_a_failing_event_stops_its_customer_and_no_other(deployed: SimpleNamespace) -> None:
    batch = [event("ada", 1), poison("ada", 2), event("bob", 1), event("ada", 3), event("bob", 2)]
    assert handle(deployed, *batch) == [1, 3]
    assert rows(deployed, "ada") == [(1, 1)]
    assert rows(deployed, "bob") == [(1, 1), (2, 2)]


def test_a_stopped_customer_is_served_again_in_the_next_batch(deployed: SimpleNamespace) -> None:
    assert handle(deployed, poison("ada", 1), event("ada", 2)) == [0, 1]
    assert handle(deployed, event("ada", 1), event("ada", 2), receive=2) == []
    assert rows(deployed, "ada") == [(1, 1), (2, 2)]


def test_a_poison_event_takes_nobody_along_into_the_dead_letter_queue(
    deployed: SimpleNamespace,
) -> None:
    """Those behind it have been received as often as it; at its last receive they are tried."""
    batch = [poison("ada", 1), event("ada", 2), event("ada", 3)]
    for receive in range(1, MAX_RECEIVE_COUNT):
        assert handle(deployed, *batch, receive=receive) == [0, 1, 2]
    assert handle(deployed, *batch, receive=MAX_RECEIVE_COUNT) == [0]
    assert rows(deployed, "ada") == [(1, 2), (2, 3)]


def test_a_batch_of_poison_is_no_failed_invocation(deployed: SimpleNamespace) -> None:
    assert handle(deployed, poison("ada", 1), poison("bob", 1)) == [0, 1]


def test_a_redelivered_event_has_no_second_effect_and_takes_no_position(
    deployed: SimpleNamespace,
) -> None:
    handle(deployed, event("ada", 1), message="first")
    assert handle(deployed, event("ada", 1), event("ada", 2), message="second") == []
    assert rows(deployed, "ada") == [(1, 1), (2, 2)]
    assert [one["message_id"] for one in logged(deployed, "Dropped")] == ["second-0"]


def test_another_event_under_the_same_sequence_is_not_dropped_but_fails(
    deployed: SimpleNamespace,
) -> None:
    handle(deployed, event("ada", 1))
    assert handle(deployed, event("ada", 1, event_id="another")) == [0]
    assert rows(deployed, "ada") == [(1, 1)]


def test_two_writers_at_once_cannot_both_take_a_position(
    deployed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer comes between this one's look at row 0 and its write."""
    client = deployed.module.dynamodb
    look = client.get_item

    def look_then_be_overtaken(**request: Any) -> Any:
        found = look(**request)
        monkeypatch.setattr(client, "get_item", look)
        assert handle(deployed, event("ada", 1), message="other") == []
        return found

    monkeypatch.setattr(client, "get_item", look_then_be_overtaken)
    module = deployed.module
    act = module.check if deployed.name == "check_fraud" else module.ship
    with pytest.raises(client.exceptions.TransactionCanceledException):
        act(module.parse_event(json.dumps(event("ada", 2))), "message")
    assert handle(deployed, event("ada", 2), receive=2) == []
    assert rows(deployed, "ada") == [(1, 1), (2, 2)]


def test_a_failed_write_is_tried_again_and_then_done(deployed: SimpleNamespace) -> None:
    table = deployed.dynamodb.describe_table(TableName=deployed.table)["Table"]
    deployed.dynamodb.delete_table(TableName=deployed.table)
    assert handle(deployed, event("ada", 1)) == [0]
    deployed.dynamodb.create_table(
        TableName=deployed.table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=table["KeySchema"],
        AttributeDefinitions=table["AttributeDefinitions"],
    )
    assert handle(deployed, event("ada", 1), receive=2) == []
    assert rows(deployed, "ada") == [(1, 1)]


@pytest.mark.parametrize("deployed", ["ship_order"], indirect=True)
def test_nothing_is_shipped_to_a_held_customer_until_it_is_released(
    deployed: SimpleNamespace,
) -> None:
    handle(deployed, event("ada", 1))
    latest = {"customer": {"S": "ada"}, "sequence": {"N": "0"}}
    deployed.dynamodb.update_item(
        TableName=deployed.table,
        Key=latest,
        UpdateExpression="SET held = :yes",
        ExpressionAttributeValues={":yes": {"BOOL": True}},
    )
    assert handle(deployed, event("ada", 2), event("bob", 1), event("ada", 3)) == [0, 2]
    assert [one["event_id"] for one in logged(deployed, "Held back")] == ["ada-2"]
    deployed.dynamodb.update_item(
        TableName=deployed.table, Key=latest, UpdateExpression="REMOVE held"
    )
    assert handle(deployed, event("ada", 2), event("ada", 3), receive=2) == []
    assert rows(deployed, "ada") == [(1, 1), (2, 2), (3, 3)]


def test_the_log_says_why_and_holds_no_message(deployed: SimpleNamespace) -> None:
    handle(deployed, poison("ada", 1) | {"card": "4111-secret"})
    (rejected,) = logged(deployed, "Rejected event")
    assert NEEDED[deployed.name] in rejected["reason"]
    assert rejected["deduplication_id"] == "ada-1"
    assert "4111-secret" not in deployed.log.getvalue()


# ---- hostile messages and faults: what may be lost is nothing


@pytest.mark.parametrize(
    ("kind", "total_cents", "of_checks", "of_shipping"),
    [
        ("placed", 100_000, "clear", "pack"),
        ("placed", 100_001, "review", "pack"),
        ("changed", 1, "clear", "repack"),
        ("cancelled", 100_001, "clear", "unpack"),
    ],
)
def test_a_row_says_what_was_done(
    deployed: SimpleNamespace, kind: str, total_cents: int, of_checks: str, of_shipping: str
) -> None:
    assert handle(deployed, event("ada", 1, kind=kind, total_cents=total_cents)) == []
    items = deployed.dynamodb.scan(TableName=deployed.table)["Items"]
    (row,) = (item for item in items if item["sequence"]["N"] != "0")
    said = {name: value["S"] for name, value in row.items() if "S" in value}
    assert (said["order_id"], said["event_id"]) == ("order-1", "ada-1")
    if deployed.name == "ship_order":
        assert said["step"] == of_shipping
    else:
        assert said["verdict"] == of_checks


@hostile.names(event("eve", 1), text="order_id", number="sequence")
def test_a_hostile_message_comes_back_and_stops_no_other(
    deployed: SimpleNamespace, message: str
) -> None:
    def call() -> list[int]:
        return handle(deployed, event("ada", 1), event("eve", 1), event("bob", 1), odd={1: message})

    assert hostile.handled(call, message, deployed.log) == [1]
    assert rows(deployed, "ada") == rows(deployed, "bob") == [(1, 1)]
    assert rows(deployed, "eve") == []


@hostile.moments
@hostile.faults
@pytest.mark.parametrize("call", ["get_item", "transact_write_items"])
def test_a_call_that_fails_stops_its_customer_only(
    deployed: SimpleNamespace, call: str, fault: Exception, moment: str
) -> None:
    sent = [event("ada", 1), event("bob", 1), event("bob", 2), event("ada", 2)]
    module = deployed.module
    module.dynamodb = hostile.Faulty(module.dynamodb, call, 2, fault, moment)
    assert handle(deployed, *sent) == [1, 2]
    assert handle(deployed, *sent[1:3]) == []
    assert rows(deployed, "ada") == rows(deployed, "bob") == [(1, 1), (2, 2)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_an_event_holds_has_these_bounds(modules: dict[str, ModuleType], name: str) -> None:
    module = modules[name]
    takes = hostile.accepts(
        module.MalformedEvent, lambda given: module.parse_event(json.dumps(given))
    )
    bounds = {"event_id": (1, 64), "customer": (1, 64), "sequence": (1, 10**15)}
    hostile.bounded(takes, event("ada", 1), **bounds, order_id=(1, 64))
    if name == "ship_order":
        hostile.bounded(takes, event("ada", 1), address=(1, 200))
