"""FulfilOrder: claims without AWS, effects on the sandbox's bucket and tables."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import json
import sys
import time
import tracemalloc
import uuid
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
)
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from tests.lambdas import hostile
from workers.sqs_claim_check import sender

LAMBDAS = Path(__file__).parent.parent.parent / "lambdas" / "sqs_claim_check"
LARGEST = 1_000_000
PACKED = gzip.compress(b"order", mtime=0)

sizes = st.integers(1, LARGEST)
hashes = st.binary().map(lambda data: hashlib.sha256(data).hexdigest())
keys = st.uuids().map(lambda value: f"orders/{value}")


@pytest.fixture(scope="module")
def fulfil_order() -> Generator[ModuleType]:
    """The handler's module as Lambda imports it, with tables and a bucket that do not exist."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("LARGE_ORDERS", "FULFILLED_ORDERS", "REDEEMED_CLAIMS"):
            patch.setenv(variable, "nowhere")
        patch.setenv("LARGEST_ORDER", str(LARGEST))
        patch.setenv("KEEP_DAYS", "30")
        patch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
        patch.syspath_prepend(str(LAMBDAS))
        sys.modules.pop("fulfil_order", None)
        yield importlib.import_module("fulfil_order")
        sys.modules.pop("fulfil_order", None)


def values(claim: sender.Claim) -> dict[str, str]:
    """The attributes of a claim, name to value."""
    return {name: one["StringValue"] for name, one in claim.attributes().items()}


def claim_for(data: bytes, size: int, encoding: str = "gzip") -> sender.Claim:
    """A claim to an object with these bytes."""
    return sender.Claim("ours", "orders/a", size, hashlib.sha256(data).hexdigest(), encoding)


def unpack(module: ModuleType, claim: sender.Claim, data: bytes) -> bytes:
    parsed = module.parse_claim(claim.body(), values(claim), "ours", LARGEST)
    return module.unpack(parsed, data)


# ---- claims


@given(key=keys, size=sizes, sha256=hashes, encoding=st.sampled_from(["gzip", "identity"]))
def test_every_claim_that_the_sender_makes_is_understood(
    fulfil_order: ModuleType, key: str, size: int, sha256: str, encoding: str
) -> None:
    claim = sender.Claim("ours", key, size, sha256, encoding)
    parsed = fulfil_order.parse_claim(claim.body(), values(claim), "ours", LARGEST)
    assert parsed.model_dump() == {
        "key": key,
        "size": size,
        "sha256": sha256,
        "encoding": encoding,
    }


@given(body=st.text(), name=st.text().filter(lambda name: name != sender.SIZE))
def test_a_message_without_the_reserved_attribute_is_no_claim(
    fulfil_order: ModuleType, body: str, name: str
) -> None:
    assert fulfil_order.parse_claim(body, {name: "1"}, "ours", LARGEST) is None


@given(body=st.text())
def test_any_text_with_the_reserved_attribute_is_malformed_with_a_reason(
    fulfil_order: ModuleType, body: str
) -> None:
    with pytest.raises(fulfil_order.RejectedOrder, match=r"^the claim is malformed: "):
        fulfil_order.parse_claim(body, values(claim_for(b"", 1)), "ours", LARGEST)


@pytest.mark.parametrize(
    ("changed", "attributes", "reason"),
    [
        ({"bucket": "theirs"}, {}, "^the claim names another bucket$"),
        ({"key": "images/a"}, {}, r"^the claim is malformed: 1\.s3Key"),
        ({"key": "orders/../images/a"}, {}, r"^the claim is malformed: 1\.s3Key"),
        ({"key": "orders/a\n"}, {}, r"^the claim is malformed: 1\.s3Key"),
        ({"size": LARGEST + 1}, {}, f"^the order is larger than {LARGEST} bytes$"),
        ({"size": 0}, {}, "^the claim is malformed: size"),
        ({}, {"ExtendedPayloadSize": "many"}, "^the claim is malformed: size"),
        ({}, {"PayloadSha256": ""}, "^the claim is malformed: sha256"),
        ({}, {"PayloadSha256": "A" * 64}, "^the claim is malformed: sha256"),
        ({"encoding": "br"}, {}, "^the claim is malformed: encoding"),
    ],
)
def test_a_claim_that_may_not_be_redeemed_says_why(
    fulfil_order: ModuleType, changed: dict[str, Any], attributes: dict[str, str], reason: str
) -> None:
    claim = replace(claim_for(b"", 1), **changed)
    with pytest.raises(fulfil_order.RejectedOrder, match=reason):
        fulfil_order.parse_claim(claim.body(), values(claim) | attributes, "ours", LARGEST)


def test_a_pointer_of_another_kind_is_no_claim(fulfil_order: ModuleType) -> None:
    body = json.dumps(["java.lang.Runtime", {"s3BucketName": "ours", "s3Key": "orders/a"}])
    with pytest.raises(fulfil_order.RejectedOrder, match="malformed: 0: Input should be 'software"):
        fulfil_order.parse_claim(body, values(claim_for(b"", 1)), "ours", LARGEST)


# ---- objects


@given(text=st.binary(min_size=1))
def test_what_was_packed_is_unpacked(fulfil_order: ModuleType, text: bytes) -> None:
    for encoding, data in (("gzip", gzip.compress(text)), ("identity", text)):
        assert unpack(fulfil_order, claim_for(data, len(text), encoding), data) == text


@given(text=st.binary(min_size=1), data=st.data())
def test_an_object_with_one_bit_changed_is_not_looked_into(
    fulfil_order: ModuleType, text: bytes, data: st.DataObject
) -> None:
    packed = gzip.compress(text)
    changed = bytearray(packed)
    changed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(fulfil_order.RejectedOrder, match="SHA-256"):
        unpack(fulfil_order, claim_for(packed, len(text)), bytes(changed))


def test_a_bomb_does_not_fill_the_memory(fulfil_order: ModuleType) -> None:
    bomb = gzip.compress(bytes(200_000_000), 1)
    tracemalloc.start()
    try:
        with pytest.raises(fulfil_order.RejectedOrder, match="not of the size"):
            unpack(fulfil_order, claim_for(bomb, LARGEST), bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 * LARGEST
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "size", "reason"),
    [
        pytest.param(PACKED[:-9], 5, "ends too early", id="no end"),
        pytest.param(PACKED[:-1], 5, "ends too early", id="no whole checksum"),
        pytest.param(PACKED[:4], 5, "ends too early", id="no whole header"),
        pytest.param(PACKED, 4, "not of the size", id="too long"),
        pytest.param(PACKED, 6, "not of the size", id="too short"),
        pytest.param(b"order", 5, "not compressed with gzip", id="no gzip"),
    ],
)
def test_an_object_that_is_not_what_its_claim_says_is_rejected(
    fulfil_order: ModuleType, data: bytes, size: int, reason: str
) -> None:
    with pytest.raises(fulfil_order.RejectedOrder, match=reason):
        unpack(fulfil_order, claim_for(data, size), data)


@given(secret=st.from_regex(r"[a-z]{20}", fullmatch=True))
def test_the_reason_does_not_repeat_the_order(fulfil_order: ModuleType, secret: str) -> None:
    with pytest.raises(fulfil_order.RejectedOrder) as rejected:
        fulfil_order.parse_order(json.dumps({"order_id": [secret], "card": secret}).encode())
    assert secret not in str(rejected.value)
    with pytest.raises(fulfil_order.RejectedOrder) as rejected:
        fulfil_order.parse_claim(secret, values(claim_for(b"", 1)), "ours", LARGEST)
    assert secret not in str(rejected.value)


def test_a_quantity_of_more_digits_than_a_row_takes_is_rejected(fulfil_order: ModuleType) -> None:
    text = order("a").replace('"quantity": 2', f'"quantity": {10**38}')
    with pytest.raises(fulfil_order.RejectedOrder, match=r"^items\.0\.quantity: "):
        fulfil_order.parse_order(text.encode())


@given(body=st.binary())
def test_any_bytes_are_an_order_or_rejected(fulfil_order: ModuleType, body: bytes) -> None:
    with pytest.raises(fulfil_order.RejectedOrder, match=r"JSON|Input"):
        fulfil_order.parse_order(body)


# ---- the effect, on a real bucket and real tables


@pytest.fixture
def deployed(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> Generator[SimpleNamespace]:
    """The handler with a bucket and two tables of its own, and a sender that always stores."""
    dynamodb, s3, made = boto3.client("dynamodb"), boto3.client("s3"), []
    for variable, key in (("FULFILLED_ORDERS", "order_id"), ("REDEEMED_CLAIMS", "id")):
        table = f"{variable}-{uuid.uuid4().hex[:8]}"
        dynamodb.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
        )
        monkeypatch.setenv(variable, table)
        made.append(table)
    bucket = f"large-orders-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=bucket)
    monkeypatch.setenv("LARGE_ORDERS", bucket)
    monkeypatch.setenv("LARGEST_ORDER", str(LARGEST))
    monkeypatch.setenv("KEEP_DAYS", "30")
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    monkeypatch.syspath_prepend(str(LAMBDAS))
    sys.modules.pop("fulfil_order", None)
    module, log = importlib.import_module("fulfil_order"), io.StringIO()
    module.logger.registered_handler.setStream(log)
    yield SimpleNamespace(
        module=module,
        rows=made[0],
        records=made[1],
        bucket=bucket,
        s3=s3,
        dynamodb=dynamodb,
        log=log,
        store=sender.Sender("nowhere", bucket, s3=s3).store,
    )
    sys.modules.pop("fulfil_order")
    for table in made:
        dynamodb.delete_table(TableName=table)
    for key in objects_in(s3, bucket):
        s3.delete_object(Bucket=bucket, Key=key)
    s3.delete_bucket(Bucket=bucket)


def objects_in(s3: Any, bucket: str) -> set[str]:
    return {one["Key"] for one in s3.list_objects_v2(Bucket=bucket).get("Contents", [])}


def objects(deployed: SimpleNamespace) -> set[str]:
    return objects_in(deployed.s3, deployed.bucket)


CONTEXT = SimpleNamespace(
    function_name="FulfilOrder",
    memory_limit_in_mb=1769,
    invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:FulfilOrder",
    aws_request_id="request",
    get_remaining_time_in_millis=lambda: 10000,
)


def order(order_id: str, customer: str = "ada", lines: int = 1) -> str:
    items = [{"sku": f"tea-{number}", "quantity": 2} for number in range(lines)]
    return json.dumps({"order_id": order_id, "customer": customer, "items": items})


def handle(deployed: SimpleNamespace, *messages: str | sender.Claim) -> list[str]:
    """The ids of the messages that the handler reports as failed."""
    records = []
    for index, message in enumerate(messages):
        claim = message if isinstance(message, sender.Claim) else None
        attributes = claim.attributes() if claim else {}
        records.append(
            {
                "messageId": f"message-{index}",
                "body": claim.body() if claim else message,
                "attributes": {"ApproximateReceiveCount": "1"},
                "messageAttributes": {
                    name: {"stringValue": one["StringValue"], "dataType": one["DataType"]}
                    for name, one in attributes.items()
                }
                | {"photo": {"binaryValue": "AAAA", "dataType": "Binary"}},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:Orders",
            }
        )
    answer = deployed.module.handler({"Records": records}, CONTEXT)
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def rows(deployed: SimpleNamespace) -> dict[str, tuple[str, int]]:
    """Order id to (the message that wrote its row, units)."""
    items = deployed.dynamodb.scan(TableName=deployed.rows, ConsistentRead=True)["Items"]
    return {one["order_id"]["S"]: (one["message_id"]["S"], int(one["units"]["N"])) for one in items}


def lose_records(deployed: SimpleNamespace) -> None:
    for record in deployed.dynamodb.scan(TableName=deployed.records)["Items"]:
        deployed.dynamodb.delete_item(TableName=deployed.records, Key={"id": record["id"]})


def logged(deployed: SimpleNamespace, message: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in deployed.log.getvalue().splitlines()]
    return [entry for entry in entries if entry["message"] == message]


def test_orders_of_both_kinds_are_fulfilled_and_objects_deleted(deployed: SimpleNamespace) -> None:
    claim = deployed.store(order("b", lines=5000))
    assert handle(deployed, order("a"), claim, "poison") == ["message-2"]
    assert rows(deployed) == {"a": ("message-0", 2), "b": ("message-1", 10000)}
    assert objects(deployed) == set()


def test_a_batch_of_poison_is_no_failed_invocation(deployed: SimpleNamespace) -> None:
    assert handle(deployed, "poison", "{}") == ["message-0", "message-1"]


def test_a_claim_that_comes_again_after_its_object_is_gone_is_dropped(
    deployed: SimpleNamespace,
) -> None:
    claim = deployed.store(order("a"))
    assert handle(deployed, claim) == []
    assert handle(deployed, claim) == []  # the same message, which Lambda could not delete
    assert handle(deployed, "poison", claim) == ["message-0"]  # another one, sent twice
    assert [one["message_id"] for one in logged(deployed, "Dropped duplicate order")] == [
        "message-1"
    ]
    assert rows(deployed) == {"a": ("message-0", 2)}


def test_a_crash_before_the_claim_was_noted_costs_nothing(deployed: SimpleNamespace) -> None:
    claim = deployed.store(order("a"))
    handle(deployed, order("a"))  # the row is there, the note and the deletion are not
    assert handle(deployed, claim) == []
    assert objects(deployed) == set()
    assert rows(deployed) == {"a": ("message-0", 2)}


def test_a_claim_in_work_elsewhere_comes_back_and_keeps_its_object(
    deployed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, write_row = deployed.store(order("a")), deployed.module.write_row
    seen: list[set[str]] = []

    def meanwhile(text: bytes, message_id: str) -> str:
        with pytest.raises(IdempotencyAlreadyInProgressError):
            deployed.module.fulfil(claim.body(), values(claim), "another")
        seen.append(objects(deployed))
        return write_row(text, message_id)

    monkeypatch.setattr(deployed.module, "write_row", meanwhile)
    assert handle(deployed, claim) == []
    assert seen == [{claim.key}] and objects(deployed) == set()
    assert rows(deployed) == {"a": ("message-0", 2)}


def test_only_with_its_note_a_redeemed_claim_is_told_from_a_missing_object(
    deployed: SimpleNamespace,
) -> None:
    claim = deployed.store(order("a"))
    handle(deployed, claim)
    lose_records(deployed)
    assert handle(deployed, claim) == ["message-0"]


def test_a_failed_deletion_is_left_to_the_lifecycle(
    deployed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "SlowDown", "Message": "later"}}, "DeleteObject")

    claim = deployed.store(order("a"))
    monkeypatch.setattr(deployed.module.s3, "delete_object", refuse)
    assert handle(deployed, claim) == []
    assert objects(deployed) == {claim.key}
    (entry,) = logged(deployed, "Left object to the lifecycle")
    assert "SlowDown" in entry["reason"] and entry["key"] == claim.key


def test_the_object_stays_until_the_effect_is_there(deployed: SimpleNamespace) -> None:
    claim = deployed.store(order("a"))
    table = deployed.dynamodb.describe_table(TableName=deployed.rows)["Table"]
    deployed.dynamodb.delete_table(TableName=deployed.rows)
    assert handle(deployed, claim) == ["message-0"]
    assert objects(deployed) == {claim.key}
    deployed.dynamodb.create_table(
        TableName=deployed.rows,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=table["KeySchema"],
        AttributeDefinitions=table["AttributeDefinitions"],
    )
    assert handle(deployed, claim) == []
    assert rows(deployed) == {"a": ("message-0", 2)}
    assert objects(deployed) == set()


def test_an_order_id_used_again_for_another_order_fails_and_keeps_its_object(
    deployed: SimpleNamespace,
) -> None:
    handle(deployed, order("a", customer="ada"))
    claim = deployed.store(order("a", customer="bob"))
    assert handle(deployed, claim) == ["message-0"]
    assert objects(deployed) == {claim.key}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "the object is not there: deleted, expired or never stored"),
        (b"other", "the object's SHA-256 is not its claim's"),
        (bytes(2 * LARGEST), "the object is larger than its claim says"),
    ],
    ids=["missing", "tampered", "larger"],
)
def test_an_object_that_was_changed_is_rejected_with_the_reason(
    deployed: SimpleNamespace, data: bytes | None, reason: str
) -> None:
    claim = deployed.store(order("a", lines=100))
    if data is None:
        deployed.s3.delete_object(Bucket=deployed.bucket, Key=claim.key)
    else:
        deployed.s3.put_object(Bucket=deployed.bucket, Key=claim.key, Body=data)
    assert handle(deployed, claim) == ["message-0"]
    assert [one["reason"] for one in logged(deployed, "Rejected order")] == [reason]
    assert rows(deployed) == {}
    assert len(objects(deployed)) == (data is not None)


def test_an_order_that_was_rejected_is_fulfilled_once_its_object_is_back(
    deployed: SimpleNamespace,
) -> None:
    claim = deployed.store(order("a"))
    body = deployed.s3.get_object(Bucket=deployed.bucket, Key=claim.key)["Body"].read()
    deployed.s3.delete_object(Bucket=deployed.bucket, Key=claim.key)
    assert handle(deployed, claim) == ["message-0"]
    deployed.s3.put_object(Bucket=deployed.bucket, Key=claim.key, Body=body)
    assert handle(deployed, claim) == []


def test_the_log_says_why_and_holds_no_message(deployed: SimpleNamespace) -> None:
    secret = json.dumps({"order_id": "a", "customer": "ada", "card": "4111-secret"})
    handle(deployed, secret, deployed.store(secret))
    assert deployed.log.getvalue().count("items: Field required") == 2
    assert "4111-secret" not in deployed.log.getvalue()


# ---- hostile messages and faults: what may be lost is nothing


@hostile.names(json.loads(order("x")), text="customer")
@pytest.mark.parametrize("way", ["in the message", "in the bucket"])
def test_a_hostile_order_comes_back_alone(
    deployed: SimpleNamespace, message: str, way: str
) -> None:
    """Compressed, an order of nothing but errors is a thousandth of its size."""
    odd = message
    if way == "in the bucket":
        try:
            odd = deployed.store(message)
        except UnicodeEncodeError:
            return

    def call() -> list[str]:
        return handle(deployed, order("a"), odd, order("b"))

    assert hostile.handled(call, message, deployed.log) == ["message-1"]
    assert rows(deployed) == {"a": ("message-0", 2), "b": ("message-2", 2)}


def test_a_claim_that_is_in_work_elsewhere_comes_back(
    deployed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the handler: whose word it is whether the message is deleted."""
    claim = deployed.store(order("a"))

    def dies(text: bytes, message_id: str) -> str:
        raise KeyboardInterrupt  # as Lambda ends a function that is out of time

    with monkeypatch.context() as patch:
        patch.setattr(deployed.module, "write_row", dies)
        with pytest.raises(KeyboardInterrupt):
            handle(deployed, claim)
    assert handle(deployed, claim) == ["message-0"]
    assert logged(deployed, "Claim is in work elsewhere")
    assert objects(deployed) == {claim.key}


def test_a_redemption_is_known_for_as_long_as_objects_are_kept(deployed: SimpleNamespace) -> None:
    began = time.time()
    handle(deployed, deployed.store(order("a")))
    (record,) = deployed.dynamodb.scan(TableName=deployed.records)["Items"]
    assert -1 <= int(record["expiration"]["N"]) - began - 30 * 86400 < 10


@hostile.moments
@hostile.faults
@pytest.mark.parametrize(
    ("client", "call", "nth"),
    [
        ("dynamodb", "put_item", 1),
        ("dynamodb", "put_item", 2),
        ("dynamodb", "update_item", 1),
        ("s3", "get_object", 1),
        ("s3", "delete_object", 1),
    ],
)
def test_a_call_that_fails_loses_no_order(
    deployed: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    client: str,
    call: str,
    nth: int,
    fault: Exception,
    moment: str,
) -> None:
    """Of the note, the row and the object; a claim is redeemed once the note is out of the way."""
    module, claim = deployed.module, deployed.store(order("a"))
    faulty = hostile.Faulty(getattr(module, client), call, nth, fault, moment)
    monkeypatch.setattr(module, client, faulty)
    if client == "dynamodb":
        monkeypatch.setattr(module.redeemed_claims, "client", faulty)
    deleting = call == "delete_object" and not isinstance(fault, KeyError)
    assert handle(deployed, order("b"), claim) == ([] if deleting else ["message-1"]) or nth == 1
    for record in deployed.dynamodb.scan(TableName=deployed.records)["Items"]:
        if record["status"]["S"] == "INPROGRESS":
            deployed.dynamodb.delete_item(TableName=deployed.records, Key={"id": record["id"]})
    assert handle(deployed, order("b"), claim) == []
    assert rows(deployed).keys() == {"a", "b"}


def test_a_line_of_the_log_is_about_its_own_claim(deployed: SimpleNamespace) -> None:
    claim = deployed.store(order("b"))
    handle(deployed, order("a"), claim, "poison")
    told = [json.loads(line) for line in deployed.log.getvalue().splitlines()]
    keys = {(one["message_id"], one.get("key")) for one in told}
    assert keys == {("message-0", None), ("message-1", claim.key), ("message-2", None)}
