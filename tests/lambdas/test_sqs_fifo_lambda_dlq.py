"""ApplyChange: the decisions without AWS, the effect on the sandbox's DynamoDB."""

from __future__ import annotations

import importlib
import io
import json
import sys
import uuid
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lambdas import hostile

LAMBDAS = Path(__file__).parent.parent.parent / "lambdas" / "sqs_fifo_lambda_dlq"
MAX_RECEIVE_COUNT = 5

changes = st.fixed_dictionaries(
    {
        "order_id": st.text(min_size=1, max_size=64),
        "revision": st.integers(1, 1000),
        "address": st.text(min_size=1, max_size=200),
        "items": st.lists(
            st.fixed_dictionaries(
                {"sku": st.text(min_size=1, max_size=64), "quantity": st.integers(1, 10**6)}
            ),
            min_size=1,
            max_size=5,
        ),
    }
)


def load(patch: pytest.MonkeyPatch, table: str, stops: bool) -> ModuleType:
    """The handler's module as Lambda imports it."""
    patch.setenv("CHANGED_ORDERS", table)
    patch.setenv("MAX_RECEIVE_COUNT", str(MAX_RECEIVE_COUNT))
    patch.setenv("STOP_AT_GAPS", str(stops).lower())
    patch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    patch.syspath_prepend(str(LAMBDAS))
    sys.modules.pop("apply_change", None)
    return importlib.import_module("apply_change")


@pytest.fixture(scope="module")
def apply_change() -> Generator[ModuleType]:
    """The module, with a table that does not exist."""
    with pytest.MonkeyPatch.context() as patch:
        yield load(patch, "nowhere", stops=False)
        sys.modules.pop("apply_change", None)


@given(change=changes)
def test_every_change_is_understood_in_its_orders_group(
    apply_change: ModuleType, change: dict[str, Any]
) -> None:
    parsed = apply_change.parse_change(json.dumps(change), change["order_id"])
    assert parsed.model_dump() == change


@given(change=changes, group=st.text())
def test_a_change_under_another_group_is_malformed(
    apply_change: ModuleType, change: dict[str, Any], group: str
) -> None:
    if group != change["order_id"]:
        with pytest.raises(apply_change.MalformedChange, match="not the message's group"):
            apply_change.parse_change(json.dumps(change), group)


@given(body=st.text())
def test_any_text_is_a_change_or_malformed_with_a_reason(
    apply_change: ModuleType, body: str
) -> None:
    with pytest.raises(apply_change.MalformedChange, match=r"JSON|Input"):
        apply_change.parse_change(body, "order")


@given(change=changes, field=st.sampled_from(["order_id", "revision", "address", "items"]))
def test_the_reason_names_the_field_that_is_missing_or_wrong(
    apply_change: ModuleType, change: dict[str, Any], field: str
) -> None:
    without = {name: value for name, value in change.items() if name != field}
    group = change["order_id"]
    with pytest.raises(apply_change.MalformedChange, match=f"^{field}: Field required$"):
        apply_change.parse_change(json.dumps(without), group)
    with pytest.raises(apply_change.MalformedChange, match=rf"^{field}(\.|:)"):
        apply_change.parse_change(json.dumps({**change, field: {"wrong": True}}), group)


@given(secret=st.from_regex(r"[a-z]{20}", fullmatch=True))
def test_the_reason_does_not_repeat_the_message(apply_change: ModuleType, secret: str) -> None:
    with pytest.raises(apply_change.MalformedChange) as malformed:
        apply_change.parse_change(json.dumps({"order_id": [secret], "card": secret}), secret)
    assert secret not in str(malformed.value)


@given(applied=st.lists(st.integers(1, 20), unique=True).map(sorted), revision=st.integers(1, 20))
def test_a_row_says_whether_a_revision_was_applied_overtaken_or_comes_too_early(
    apply_change: ModuleType, applied: list[int], revision: int
) -> None:
    row: dict[str, Any] = (
        {
            "revision": {"N": str(applied[-1])},
            "applied": {
                "L": [
                    {
                        "M": {
                            "revision": {"N": str(one)},
                            "digest": {"S": "digest"},
                            "message_id": {"S": f"message-{one}"},
                        }
                    }
                    for one in applied
                ]
            },
        }
        if applied
        else {}
    )
    fields = {"order_id": "a", "address": "1 Mill Lane", "items": [{"sku": "tea", "quantity": 1}]}
    change = apply_change.OrderChange(revision=revision, **fields)

    def decide(digest: str = "digest") -> str:
        return apply_change.applied_by(change, digest, row)

    if revision in applied:
        assert decide() == f"message-{revision}"
        with pytest.raises(apply_change.ConflictingChange):
            decide("another")
    elif applied and revision < applied[-1]:
        with pytest.raises(apply_change.OvertakenChange, match=f"revision {applied[-1]} has"):
            decide()
    else:
        latest = applied[-1] if applied else 0
        with pytest.raises(apply_change.EarlyChange, match=f"revision {latest + 1} has not"):
            decide()


# ---- the effect, on a real table

Deploy = Callable[[bool], SimpleNamespace]


@pytest.fixture
def deploy(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> Generator[Deploy]:
    """A function that makes the handler, stopping at gaps or not, with a table of its own."""
    dynamodb, made = boto3.client("dynamodb"), []

    def deploy(stops: bool) -> SimpleNamespace:
        table = f"orders-{uuid.uuid4().hex[:8]}"
        create_table(dynamodb, table)
        made.append(table)
        module, log = load(monkeypatch, table, stops), io.StringIO()
        module.logger.registered_handler.setStream(log)
        return SimpleNamespace(module=module, table=table, dynamodb=dynamodb, log=log)

    yield deploy
    sys.modules.pop("apply_change", None)
    for table in made:
        dynamodb.delete_table(TableName=table)


def create_table(dynamodb: Any, table: str) -> None:
    dynamodb.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "order_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "order_id", "AttributeType": "S"}],
    )


@pytest.fixture
def going_on(deploy: Deploy) -> SimpleNamespace:
    return deploy(False)


@pytest.fixture
def stopping(deploy: Deploy) -> SimpleNamespace:
    return deploy(True)


def change(order: str, revision: int, **other: Any) -> dict[str, Any]:
    return {
        "order_id": order,
        "revision": revision,
        "address": "1 Mill Lane",
        "items": [{"sku": "tea", "quantity": revision}],
    } | other


def poison(order: str, revision: int) -> dict[str, Any]:
    return change(order, revision, items=[])


CONTEXT = SimpleNamespace(
    function_name="ApplyChange",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:ApplyChange",
    aws_request_id="request",
    get_remaining_time_in_millis=lambda: 10000,
)


def handle(
    deployed: SimpleNamespace,
    *batch: dict[str, Any],
    receive: int | list[int] = 1,
    message: str = "message",
    odd: dict[int, str] | None = None,
) -> list[int]:
    """The indexes of the messages that the handler reports as failed; odd: other bodies."""
    receives = receive if isinstance(receive, list) else [receive] * len(batch)
    records = [
        {
            "messageId": f"{message}-{index}",
            "body": (odd or {}).get(index, json.dumps(one)),
            "attributes": {
                "ApproximateReceiveCount": str(receives[index]),
                "MessageGroupId": one["order_id"],
                "MessageDeduplicationId": f"{one['order_id']}-{one['revision']}",
            },
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:OrderChanges.fifo",
        }
        for index, one in enumerate(batch)
    ]
    answer = deployed.module.handler({"Records": records}, CONTEXT)
    failed = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
    return [int(one.rpartition("-")[2]) for one in failed]


def applied(deployed: SimpleNamespace, order: str) -> list[int]:
    """The revisions that an order's row lists; it must hold the last one's content."""
    key = {"order_id": {"S": order}}
    found = deployed.dynamodb.get_item(TableName=deployed.table, Key=key, ConsistentRead=True)
    if "Item" not in found:
        return []
    row = found["Item"]
    revisions = [int(one["M"]["revision"]["N"]) for one in row["applied"]["L"]]
    assert row["revision"]["N"] == str(revisions[-1])
    assert json.loads(row["content"]["S"])["revision"] == revisions[-1]
    return revisions


def logged(deployed: SimpleNamespace, text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in deployed.log.getvalue().splitlines() if text in line]


def test_changes_are_applied_in_sequence_order_by_order(going_on: SimpleNamespace) -> None:
    assert handle(going_on, change("a", 1), change("b", 1), change("a", 2), change("b", 2)) == []
    assert handle(going_on, change("a", 3)) == []
    assert applied(going_on, "a") == [1, 2, 3]
    assert applied(going_on, "b") == [1, 2]


@pytest.mark.parametrize("stops", [False, True])
def test_a_failing_change_holds_back_its_order_and_no_other(deploy: Deploy, stops: bool) -> None:
    deployed = deploy(stops)
    batch = [change("a", 1), poison("a", 2), change("b", 1), change("a", 3), change("b", 2)]
    assert handle(deployed, *batch) == [1, 3]
    assert applied(deployed, "a") == [1]
    assert applied(deployed, "b") == [1, 2]


def test_an_order_is_served_again_in_the_next_batch(going_on: SimpleNamespace) -> None:
    assert handle(going_on, poison("a", 1), change("a", 2)) == [0, 1]
    assert handle(going_on, change("a", 1), change("a", 2), receive=2) == []
    assert applied(going_on, "a") == [1, 2]


def test_a_poison_change_takes_nobody_along_into_the_dead_letter_queue(
    going_on: SimpleNamespace,
) -> None:
    """Those behind it have been received as often as it; at its last receive they are tried."""
    batch = [poison("a", 1), change("a", 2), change("a", 3)]
    for receive in range(1, MAX_RECEIVE_COUNT):
        assert handle(going_on, *batch, receive=receive) == [0, 1, 2]
    assert handle(going_on, *batch, receive=MAX_RECEIVE_COUNT) == [0]
    assert applied(going_on, "a") == [2, 3]
    assert [one["missing"] for one in logged(going_on, "Applied change")] == [[1], []]


def test_a_second_poison_change_with_receives_left_holds_again(going_on: SimpleNamespace) -> None:
    batch = [poison("a", 1), change("a", 2), poison("a", 3), change("a", 4)]
    receives = [MAX_RECEIVE_COUNT, MAX_RECEIVE_COUNT, 2, 2]
    assert handle(going_on, *batch, receive=receives) == [0, 2, 3]
    assert applied(going_on, "a") == [2]


def test_a_parked_change_that_is_redriven_does_not_undo_what_came_later(
    going_on: SimpleNamespace,
) -> None:
    handle(going_on, change("a", 1), change("a", 3))
    assert handle(going_on, change("a", 2)) == [0]
    assert applied(going_on, "a") == [1, 3]
    (refused,) = logged(going_on, "Refused change")
    assert (refused["kind"], refused["group"], refused["revision"]) == ("OvertakenChange", "a", 2)


def test_an_order_that_stops_at_gaps_refuses_all_behind_one(stopping: SimpleNamespace) -> None:
    """Then all of them end in the dead-letter queue, in order behind the poison change."""
    batch = [change("a", 1), poison("a", 2), change("a", 3), change("a", 4)]
    assert handle(stopping, *batch, receive=MAX_RECEIVE_COUNT) == [1, 2, 3]
    assert handle(stopping, change("a", 5), change("b", 1)) == [0]
    assert applied(stopping, "a") == [1]
    assert applied(stopping, "b") == [1]
    kinds = [one["kind"] for one in logged(stopping, "Refused change")]
    assert kinds == ["MalformedChange", *["EarlyChange"] * 3]


def test_a_mended_change_and_those_behind_it_can_be_redriven(stopping: SimpleNamespace) -> None:
    handle(stopping, change("a", 1), poison("a", 2), change("a", 3), receive=MAX_RECEIVE_COUNT)
    assert handle(stopping, change("a", 2), change("a", 3), message="redriven") == []
    assert applied(stopping, "a") == [1, 2, 3]


def test_an_order_that_stops_at_gaps_begins_with_revision_1(stopping: SimpleNamespace) -> None:
    assert handle(stopping, change("a", 2)) == [0]
    assert applied(stopping, "a") == []


@pytest.mark.parametrize("stops", [False, True])
def test_a_late_copy_has_no_second_effect(deploy: Deploy, stops: bool) -> None:
    deployed = deploy(stops)
    handle(deployed, change("a", 1), change("a", 2), message="first")
    assert handle(deployed, change("a", 1), change("a", 2), message="copy") == []
    assert applied(deployed, "a") == [1, 2]
    dropped = logged(deployed, "Dropped duplicate change")
    assert [(one["message_id"], one["applied_by"]) for one in dropped] == [
        ("copy-0", "first-0"),
        ("copy-1", "first-1"),
    ]


def test_a_redelivered_message_has_no_second_effect(going_on: SimpleNamespace) -> None:
    handle(going_on, change("a", 1))
    assert handle(going_on, change("a", 1), receive=2) == []
    assert applied(going_on, "a") == [1]


def test_another_change_under_the_same_revision_is_not_dropped_but_fails(
    going_on: SimpleNamespace,
) -> None:
    handle(going_on, change("a", 1))
    assert handle(going_on, change("a", 1, address="2 Mill Lane")) == [0]
    (refused,) = logged(going_on, "Refused change")
    assert refused["kind"] == "ConflictingChange"


def test_a_batch_of_nothing_but_poison_is_no_failed_invocation(going_on: SimpleNamespace) -> None:
    assert handle(going_on, poison("a", 1), poison("b", 1)) == [0, 1]


def test_a_failed_write_holds_back_its_order_and_is_then_done(going_on: SimpleNamespace) -> None:
    going_on.dynamodb.delete_table(TableName=going_on.table)
    assert handle(going_on, change("a", 1), change("a", 2)) == [0, 1]
    create_table(going_on.dynamodb, going_on.table)
    assert handle(going_on, change("a", 1), change("a", 2), receive=2) == []
    assert applied(going_on, "a") == [1, 2]


def test_the_log_says_why_and_holds_no_message(going_on: SimpleNamespace) -> None:
    handle(going_on, poison("a", 1) | {"card": "4111-secret"})
    (refused,) = logged(going_on, "Refused change")
    assert refused["reason"].startswith("items: ")
    assert "4111-secret" not in going_on.log.getvalue()


# ---- hostile messages and faults: what may be lost is nothing


@hostile.names(change("x", 1), text="address", number="revision")
def test_a_hostile_message_comes_back_and_holds_no_other_order(
    going_on: SimpleNamespace, message: str
) -> None:
    def call() -> list[int]:
        return handle(going_on, change("a", 1), change("x", 1), change("b", 1), odd={1: message})

    assert hostile.handled(call, message, going_on.log) == [1]
    assert (applied(going_on, "a"), applied(going_on, "x"), applied(going_on, "b")) == (
        [1],
        [],
        [1],
    )


@hostile.moments
@hostile.faults
def test_a_call_that_fails_holds_back_its_order_only(
    deploy: Deploy, fault: Exception, moment: str
) -> None:
    deployed = deploy(True)
    module, sent = deployed.module, [change("a", 1), change("b", 1), change("b", 2), change("a", 2)]
    module.dynamodb = hostile.Faulty(module.dynamodb, "update_item", 2, fault, moment)
    assert handle(deployed, *sent) == [1, 2]
    assert handle(deployed, *sent[1:3]) == []
    assert applied(deployed, "a") == applied(deployed, "b") == [1, 2]


def test_what_a_change_holds_has_these_bounds(apply_change: ModuleType) -> None:
    takes = hostile.accepts(
        apply_change.MalformedChange,
        lambda given: apply_change.parse_change(json.dumps(given), given["order_id"]),
    )
    hostile.bounded(
        takes, change("a", 1), order_id=(1, 64), revision=(1, 1000), address=(1, 200),
        items=(1, 100), item__sku=(1, 64), item__quantity=(1, 10**6),
    )  # fmt: skip


def test_after_a_batch_the_log_speaks_of_none_of_its_messages(going_on: SimpleNamespace) -> None:
    handle(going_on, change("a", 1))
    kept = going_on.module.logger.get_current_keys()
    assert not {"message_id", "group", "receive_count", "revision"} & kept.keys()


def test_a_line_of_the_log_is_about_its_own_message(going_on: SimpleNamespace) -> None:
    handle(going_on, change("a", 1), poison("b", 1), change("c", 1), receive=[1, 2, 3])
    told = [json.loads(line) for line in going_on.log.getvalue().splitlines()]
    found = [
        (one["message"], one["message_id"], one["group"], one["receive_count"]) for one in told
    ]
    assert found == [
        ("Applied change", "message-0", "a", 1),
        ("Refused change", "message-1", "b", 2),
        ("Applied change", "message-2", "c", 3),
    ]
