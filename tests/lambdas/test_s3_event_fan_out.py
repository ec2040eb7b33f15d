"""ScanImage: the decisions without AWS, the effects on the sandbox's S3 and DynamoDB."""

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
from urllib.parse import quote_plus

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from tests.lambdas import hostile

LAMBDAS = Path(__file__).parent.parent.parent / "lambdas" / "s3_event_fan_out"
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"

keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def scan_image() -> Generator[ModuleType]:
    """The handler's module as Lambda imports it, with a table that does not exist."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCANNED_IMAGES", "nowhere")
        patch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
        patch.syspath_prepend(str(LAMBDAS))
        yield importlib.import_module("scan_image")
        sys.modules.pop("scan_image", None)


def event(key: str, version: str | None = "v1", size: int = 9, bucket: str = "uploads") -> str:
    """S3's news of one new object, as it writes it."""
    told = {"key": quote_plus(key, safe="/"), "size": size, "eTag": "e", "sequencer": "0A"}
    if version:
        told["versionId"] = version
    record = {
        "eventVersion": "2.3",
        "eventSource": "aws:s3",
        "awsRegion": "us-east-1",
        "eventName": "ObjectCreated:Put",
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": bucket}, "object": told},
    }
    return json.dumps({"Records": [record]})


TEST_EVENT = json.dumps(
    {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "uploads", "RequestId": "R"}
)


@given(key=keys)
def test_every_key_comes_out_as_it_was_uploaded(scan_image: ModuleType, key: str) -> None:
    (image,) = scan_image.images(event(key))
    assert image == scan_image.Image("uploads", key, "v1", 9, "0A")


@given(message=st.text() | json_values.map(json.dumps))
def test_anything_else_is_an_unknown_event_and_no_test(
    scan_image: ModuleType, message: str
) -> None:
    assert scan_image.request_of_test(message) is None
    with pytest.raises(scan_image.UnknownEvent):
        scan_image.images(message)


def test_an_object_without_a_version_is_an_unknown_event(scan_image: ModuleType) -> None:
    with pytest.raises(scan_image.UnknownEvent, match="KeyError"):
        scan_image.images(event("a", version=None))


@given(secret=st.from_regex(r"[a-z]{20}", fullmatch=True))
def test_the_reason_does_not_repeat_the_message(scan_image: ModuleType, secret: str) -> None:
    with pytest.raises(scan_image.UnknownEvent) as unknown:
        scan_image.images(json.dumps({secret: secret}))
    assert secret not in str(unknown.value)


def test_s3s_own_test_is_known(scan_image: ModuleType) -> None:
    assert scan_image.request_of_test(TEST_EVENT) == "R"
    assert scan_image.request_of_test(event("a")) is None


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (PNG, "png"),
        (JPEG, "jpeg"),
        (b"GIF87a", "gif"),
        (b"GIF89a", "gif"),
        (b"RIFF\0\0\0\0WEBP", "webp"),
        (b"RIFF\0\0\0\0WAVE", "unknown"),
        (b"\x89PNG", "unknown"),
        (b"", "unknown"),
    ],
)
def test_the_first_bytes_tell_the_format(scan_image: ModuleType, head: bytes, found: str) -> None:
    assert scan_image.image_format(head) == found


@given(tail=st.binary(max_size=4))
def test_what_follows_does_not_matter(scan_image: ModuleType, tail: bytes) -> None:
    assert scan_image.image_format((PNG + tail)[: scan_image.HEAD]) == "png"


# ---- the effect, on a real bucket and a real table


@pytest.fixture
def deployed(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> Generator[SimpleNamespace]:
    """The handler with a versioned bucket and a table of its own."""
    s3, dynamodb = boto3.client("s3"), boto3.client("dynamodb")
    name = f"scanned-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[
            {"AttributeName": "image", "KeyType": "HASH"},
            {"AttributeName": "version_id", "KeyType": "RANGE"},
        ],
        AttributeDefinitions=[
            {"AttributeName": "image", "AttributeType": "S"},
            {"AttributeName": "version_id", "AttributeType": "S"},
        ],
    )
    monkeypatch.setenv("SCANNED_IMAGES", name)
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    monkeypatch.syspath_prepend(str(LAMBDAS))
    sys.modules.pop("scan_image", None)
    module, log = importlib.import_module("scan_image"), io.StringIO()
    module.logger.registered_handler.setStream(log)
    yield SimpleNamespace(module=module, name=name, s3=s3, dynamodb=dynamodb, log=log)
    sys.modules.pop("scan_image")
    dynamodb.delete_table(TableName=name)
    for one in s3.list_object_versions(Bucket=name).get("Versions", []):
        s3.delete_object(Bucket=name, Key=one["Key"], VersionId=one["VersionId"])
    s3.delete_bucket(Bucket=name)


CONTEXT = SimpleNamespace(
    function_name="ScanImage",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:ScanImage",
    aws_request_id="request",
    get_remaining_time_in_millis=lambda: 10000,
)


def handle(deployed: SimpleNamespace, *messages: str, first: int = 0) -> None:
    """Call the handler as SNS does; the messages' ids are numbered from `first`."""
    records = [
        {
            "EventVersion": "1.0",
            "EventSubscriptionArn": "arn:aws:sns:us-east-1:000000000000:ImageEvents:one",
            "EventSource": "aws:sns",
            "Sns": {"Type": "Notification", "MessageId": f"message-{index}", "Message": message},
        }
        for index, message in enumerate(messages, first)
    ]
    deployed.module.handler({"Records": records}, CONTEXT)


def upload(deployed: SimpleNamespace, key: str, body: bytes) -> str:
    """Upload an object; the event that S3 would write of it."""
    made = deployed.s3.put_object(Bucket=deployed.name, Key=key, Body=body)
    return event(key, made["VersionId"], len(body), deployed.name)


def rows(deployed: SimpleNamespace) -> list[tuple[str, str, str]]:
    """(key, format, message that wrote it) of every row."""
    items = deployed.dynamodb.scan(TableName=deployed.name, ConsistentRead=True)["Items"]
    return sorted((one["image"]["S"], one["format"]["S"], one["message_id"]["S"]) for one in items)


@pytest.mark.parametrize(
    "key", ["images/two words+plus 100%25.png", "images/写真 🌻/ü%2F.png", "images/a//b?c#d&e=f"]
)
def test_the_very_object_is_read_whatever_its_key(deployed: SimpleNamespace, key: str) -> None:
    handle(deployed, upload(deployed, key, PNG))
    assert rows(deployed) == [(key, "png", "message-0")]


def test_each_version_is_read_and_has_a_row(deployed: SimpleNamespace) -> None:
    older, newer = upload(deployed, "a", PNG), upload(deployed, "a", JPEG)
    handle(deployed, newer, older)
    assert rows(deployed) == [("a", "jpeg", "message-0"), ("a", "png", "message-1")]


def test_a_doubled_event_has_one_effect(deployed: SimpleNamespace) -> None:
    told = upload(deployed, "a", PNG)
    handle(deployed, told)
    handle(deployed, told, first=1)
    assert rows(deployed) == [("a", "png", "message-0")]
    dropped = [line for line in deployed.log.getvalue().splitlines() if "Dropped" in line]
    assert [json.loads(line)["scanned_by"] for line in dropped] == ["message-0"]


def test_an_empty_object_is_no_image_and_no_failure(deployed: SimpleNamespace) -> None:
    handle(deployed, upload(deployed, "a", b""))
    assert rows(deployed) == [("a", "unknown", "message-0")]


def test_s3s_own_test_has_no_effect(deployed: SimpleNamespace) -> None:
    handle(deployed, TEST_EVENT)
    assert rows(deployed) == []


def test_an_image_that_is_gone_fails_so_that_lambda_tries_again(
    deployed: SimpleNamespace,
) -> None:
    told = upload(deployed, "a", PNG)
    version = json.loads(told)["Records"][0]["s3"]["object"]["versionId"]
    deployed.s3.delete_object(Bucket=deployed.name, Key="a", VersionId=version)
    with pytest.raises(ClientError, match="NoSuchVersion"):
        handle(deployed, told)
    assert rows(deployed) == []


def test_a_message_of_somebody_else_fails_and_its_log_does_not_hold_it(
    deployed: SimpleNamespace,
) -> None:
    with pytest.raises(deployed.module.UnknownEvent):
        handle(deployed, json.dumps({"card": "4111-secret"}))
    assert "UnknownEvent" in deployed.log.getvalue()
    assert "4111-secret" not in deployed.log.getvalue()


# ---- faults: what may be lost is nothing


def test_the_log_tells_a_scan_from_a_copy(deployed: SimpleNamespace) -> None:
    told = upload(deployed, "a", PNG)
    handle(deployed, told, told)
    lines = [json.loads(line) for line in deployed.log.getvalue().splitlines()]
    said = [(line["message_id"], line["message"]) for line in lines if "message_id" in line]
    assert said == [("message-0", "Scanned image"), ("message-1", "Dropped duplicate event")]


@hostile.moments
@hostile.faults
@pytest.mark.parametrize(("client", "call"), [("s3", "get_object"), ("dynamodb", "put_item")])
def test_a_call_that_fails_fails_the_message_so_that_lambda_tries_again(
    deployed: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    client: str,
    call: str,
    fault: Exception,
    moment: str,
) -> None:
    told, module = upload(deployed, "a", PNG), deployed.module
    faulty = hostile.Faulty(getattr(module, client), call, 1, fault, moment)
    monkeypatch.setattr(module, client, faulty)
    with pytest.raises(type(fault)):
        handle(deployed, told)
    handle(deployed, told)
    assert rows(deployed) == [("a", "png", "message-0")]


@pytest.mark.parametrize(
    "message", ["[" * 900_000, "[" + "{}," * 300_000 + "{}]", "null", "7", "{}"]
)
def test_a_hostile_message_fails_and_takes_and_tells_little(
    deployed: SimpleNamespace, message: str
) -> None:
    def call() -> None:
        with pytest.raises(deployed.module.UnknownEvent):
            handle(deployed, message)

    hostile.handled(call, message, deployed.log)


def test_of_a_large_image_only_the_head_is_read(
    deployed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gigabyte would neither fit into memory nor be read in time."""
    asked: list[str] = []

    def get_object(Range: str = "", **where: str) -> Any:
        asked.append(Range)
        return {"Body": io.BytesIO(PNG)}

    monkeypatch.setattr(deployed.module, "s3", SimpleNamespace(get_object=get_object))
    image = SimpleNamespace(
        bucket=deployed.name, key="images/a", version_id="1", size=2**30, sequencer="1"
    )
    deployed.module.scan(image, "message-0")
    assert asked == ["bytes=0-11"]
