"""Sender: what goes which way and in which form, told by stubs; its limit, by the sandbox's SQS."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import ANY, Stubber
from hypothesis import given
from hypothesis import strategies as st

from workers.sqs_claim_check.sender import LIMIT, Claim, Sender, check, size

QUEUE, BUCKET = "https://sqs.us-east-1.amazonaws.com/000000000000/Orders", "large-orders"
READER = Path(__file__).parent / "sqs_claim_check" / "extended_client.py"
KIND = {"kind": {"DataType": "String", "StringValue": "größer"}}
KIND_SIZE = len("kind" + "String") + len("größer".encode())


class Recorded:
    """A client that notes its calls and answers as SQS and S3 do; it raises what it is given."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self.problem = problem

    def send_message(self, **call: Any) -> dict[str, str]:
        self.calls.append(call)
        if self.problem:
            raise self.problem
        return {"MessageId": "message"}

    def put_object(self, **call: Any) -> None:
        self.calls.append(call)
        if self.problem:
            raise self.problem


def sender(**options: Any) -> tuple[Sender, Recorded, Recorded]:
    sqs, s3 = Recorded(), Recorded()
    return Sender(QUEUE, BUCKET, **{"sqs": sqs, "s3": s3, **options}), sqs, s3


def test_a_message_of_the_threshold_goes_without_the_bucket_and_a_byte_more_with_it() -> None:
    ours, sqs, s3 = sender(threshold=1000)
    fits = "ä" * 100 + "x" * (800 - KIND_SIZE)  # 1,000 bytes with the attribute
    assert ours.send(fits, KIND).claim is None and not s3.calls
    assert sqs.calls == [{"QueueUrl": QUEUE, "MessageBody": fits, "MessageAttributes": KIND}]
    assert ours.send(fits + "x", KIND).claim and len(s3.calls) == 1
    assert sqs.calls[1]["MessageBody"] != fits + "x"


def test_a_claim_is_in_the_form_of_the_extended_clients_with_hash_and_encoding() -> None:
    ours, sqs, s3 = sender(threshold=0)
    sent = ours.send("order " * 100, KIND)
    (stored,), (message,) = s3.calls, sqs.calls
    assert stored["Bucket"] == BUCKET
    assert re.fullmatch("orders/[0-9a-f-]{36}", stored["Key"])
    assert json.loads(message["MessageBody"]) == [
        "software.amazon.payloadoffloading.PayloadS3Pointer",
        {"s3BucketName": BUCKET, "s3Key": stored["Key"]},
    ]
    assert message["MessageAttributes"] == {
        **KIND,
        "ExtendedPayloadSize": {"DataType": "Number", "StringValue": "600"},
        "PayloadSha256": {
            "DataType": "String",
            "StringValue": hashlib.sha256(stored["Body"]).hexdigest(),
        },
        "PayloadEncoding": {"DataType": "String", "StringValue": "gzip"},
    }
    assert gzip.decompress(stored["Body"]) == b"order " * 100
    assert sent.claim == Claim(
        BUCKET, stored["Key"], 600, hashlib.sha256(stored["Body"]).hexdigest(), "gzip"
    )


def test_uncompressed_the_object_is_the_order_itself_as_the_extended_clients_read_it() -> None:
    ours, _, s3 = sender(threshold=0, compress=False)
    claim = ours.send("größer " * 100).claim
    assert claim and claim.encoding == "identity"
    assert s3.calls[0]["Body"].decode() == "größer " * 100


@given(order=st.text(alphabet=st.characters(codec="utf-8"), min_size=1))
def test_an_object_is_never_larger_than_its_order(order: str) -> None:
    ours, _, s3 = sender()
    claim = ours.store(order)
    (stored,) = s3.calls
    body = gzip.decompress(stored["Body"]) if claim.encoding == "gzip" else stored["Body"]
    assert body == order.encode()
    assert len(stored["Body"]) <= claim.size == len(order.encode())


def test_each_order_has_a_key_of_its_own() -> None:
    ours, _, _ = sender()
    assert len({ours.store("the same order").key for _ in range(100)}) == 100


def test_an_order_that_cannot_be_stored_is_not_sent() -> None:
    problem = ClientError({"Error": {"Code": "AccessDenied"}}, "PutObject")
    ours, sqs, _ = sender(threshold=0, s3=Recorded(problem))
    with pytest.raises(ClientError, match="AccessDenied"):
        ours.send("order")
    assert not sqs.calls


def test_the_object_of_a_message_that_was_refused_stays() -> None:
    problem = ClientError({"Error": {"Code": "ServiceUnavailable"}}, "SendMessage")
    s3 = boto3.client("s3", region_name="us-east-1")
    ours = Sender(QUEUE, BUCKET, threshold=0, sqs=Recorded(problem), s3=s3)
    with Stubber(s3) as stub:  # which fails at any other call, such as a deletion
        stub.add_response(
            "put_object", {}, {"Bucket": BUCKET, "Key": ANY, "Body": ANY, "ContentType": ANY}
        )
        with pytest.raises(ClientError, match="ServiceUnavailable"):
            ours.send("order")
        stub.assert_no_pending_responses()


@pytest.mark.parametrize("threshold", [-1, LIMIT + 1])
def test_a_threshold_that_sqs_would_not_take_is_refused(threshold: int) -> None:
    with pytest.raises(ValueError, match=f"threshold is 0 to 1048576, not {threshold}"):
        sender(threshold=threshold)


def test_attributes_that_cannot_go_with_a_claim_are_refused_before_anything_is_stored() -> None:
    ours, _, s3 = sender(threshold=0)
    one = KIND["kind"]
    check({str(number): one for number in range(7)})
    with pytest.raises(ValueError, match="7 attributes fit beside a claim's, not 8"):
        ours.send("order", {str(number): one for number in range(8)})
    with pytest.raises(ValueError, match="a claim has its own PayloadSha256"):
        ours.send("order", {"PayloadSha256": one})
    assert not s3.calls


def test_the_size_is_the_one_that_sqs_counts(sandbox: Any) -> None:
    sqs = boto3.client("sqs")
    url = sqs.create_queue(QueueName=f"sender-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    attributes = {**KIND, "photo": {"DataType": "Binary", "BinaryValue": bytes(range(256))}}
    body = "x" * (LIMIT - size("", attributes))
    assert size(body, attributes) == LIMIT
    sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=attributes)
    with pytest.raises(ClientError, match="must be shorter than 1048576 bytes"):
        sqs.send_message(QueueUrl=url, MessageBody=body + "x", MessageAttributes=attributes)
    sqs.delete_queue(QueueUrl=url)


def test_awss_own_client_reads_and_deletes_what_is_sent_without_compression(sandbox: Any) -> None:
    sqs, s3, name = boto3.client("sqs"), boto3.client("s3"), f"extended-{uuid.uuid4().hex[:8]}"
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    s3.create_bucket(Bucket=name)
    try:
        order = "größer " * 100_000
        assert Sender(url, name, compress=False, threshold=0).send(order, KIND).claim
        done = subprocess.run(
            [sys.executable, READER, name, url],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.stdout, done.stderr, done.returncode) == (order, "", 0)
        assert s3.list_objects_v2(Bucket=name)["KeyCount"] == 0
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        left = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        assert set(left.values()) == {"0"}
    finally:
        sqs.delete_queue(QueueUrl=url)
        s3.delete_bucket(Bucket=name)


# ---- what the receiver would refuse, and faults


def test_an_order_that_the_receiver_would_not_open_is_not_stored() -> None:
    ours, sqs, s3 = sender(threshold=0, largest=1000)
    ours.send("x" * 1000)
    with pytest.raises(ValueError, match="at most 1000 bytes, not 1001"):
        ours.send("x" * 1001)
    assert len(s3.calls) == len(sqs.calls) == 1


def test_by_default_it_takes_what_the_stack_opens_by_default(sandbox: object) -> None:
    stack = (Path(__file__).parent.parent.parent / "stacks" / "sqs_claim_check.py").read_text()
    (mib,) = re.findall(r"largest_order_mib: int = (\d+)", stack)
    ours = Sender("https://sqs/orders", "bucket")
    assert ours.largest == int(mib) * 2**20
    assert ours.sqs.meta.config.read_timeout == ours.s3.meta.config.read_timeout == 25
