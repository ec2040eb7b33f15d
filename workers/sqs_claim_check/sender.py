"""Sender: orders of any size to a queue; what is too large to a bucket, and a claim to the queue.

Take this file into your program; it needs boto3 only. The caller's role needs s3:PutObject under
`orders/` of the bucket and sqs:SendMessage on the queue, as the stack's role Buying has them.

A claim is a message in the form of AWS's own extended clients (Java, Python and others):

    body        ["software.amazon.payloadoffloading.PayloadS3Pointer",
                 {"s3BucketName": "...", "s3Key": "orders/..."}]
    attribute   ExtendedPayloadSize  bytes of the order, before compression

and two attributes of ours. They are no fields of the pointer, because the Java client takes no
pointer with a field that it does not know:

    attribute   PayloadSha256        of the object as it is stored, in hexadecimal digits
    attribute   PayloadEncoding      "gzip" or "identity"

So the extended clients can read what is sent here with compress=False; they know no compression.
FulfilOrder in turn refuses a claim without a hash. Why not their library for Python,
amazon-sqs-extended-client: no release since September 2024; what is above 256 KiB always goes
to S3, although SQS has taken 1 MiB since August 2025; no compression; and on receipt it reads
whatever bucket the message names and checks no hash.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config

# A service that hangs costs a minute and a half at most, and what it takes to store an object.
CONFIG = Config(connect_timeout=5, read_timeout=25, retries={"mode": "standard"})
LIMIT = 1024 * 1024  # bytes; what SQS takes at most, the attributes included
MOST_ATTRIBUTES = 10  # of a message in SQS
PREFIX = "orders/"
POINTER = "software.amazon.payloadoffloading.PayloadS3Pointer"
SIZE, SHA256, ENCODING = "ExtendedPayloadSize", "PayloadSha256", "PayloadEncoding"

Attributes = Mapping[str, Mapping[str, Any]]  # as SendMessage takes them


@dataclass(frozen=True)
class Claim:
    """What fetches one order: where its object is, and what it must be.

    size: bytes of the order. sha256: of the object's bytes. encoding: "gzip" or "identity".
    """

    bucket: str
    key: str
    size: int
    sha256: str
    encoding: str

    def body(self) -> str:
        """The message's body: a pointer."""
        return json.dumps([POINTER, {"s3BucketName": self.bucket, "s3Key": self.key}])

    def attributes(self) -> dict[str, dict[str, str]]:
        """The message attributes that belong to the pointer."""
        return {
            SIZE: {"DataType": "Number", "StringValue": str(self.size)},
            SHA256: {"DataType": "String", "StringValue": self.sha256},
            ENCODING: {"DataType": "String", "StringValue": self.encoding},
        }


@dataclass(frozen=True)
class Sent:
    """What SQS called the message, and the claim if the order went through the bucket."""

    message_id: str
    claim: Claim | None = None


class Sender:
    """Sends orders to one queue, large ones by way of one bucket.

    threshold: the largest message, in bytes with its attributes, that goes without the bucket (0
        to 1,048,576). SQS bills each 64 KiB as a request, so less can be cheaper.
    largest: bytes of the largest order that the receiver opens: the stack's largest_order_mib.
    compress: store objects compressed where that makes them smaller.
    sqs, s3: boto3 clients; made with the default session if none.
    """

    def __init__(
        self,
        queue_url: str,
        bucket: str,
        *,
        threshold: int = LIMIT,
        largest: int = 8 * LIMIT,
        compress: bool = True,
        sqs: Any = None,
        s3: Any = None,
    ) -> None:
        if not 0 <= threshold <= LIMIT:
            raise ValueError(f"threshold is 0 to {LIMIT}, not {threshold}")
        self.queue_url, self.bucket = queue_url, bucket
        self.threshold, self.largest, self.compress = threshold, largest, compress
        self.sqs = sqs or boto3.client("sqs", config=CONFIG)
        self.s3 = s3 or boto3.client("s3", config=CONFIG)

    def send(self, order: str, attributes: Attributes | None = None) -> Sent:
        """Send one order; `attributes` travel with the message.

        ValueError if they cannot go with a claim, or if the order is larger than the receiver
        opens; botocore's errors if AWS refuses or does not answer. When the message is refused
        after its object was stored, the object stays: the answer may have been
        lost on its way, and the message be there. The bucket's lifecycle removes it in time.
        """
        if size(order, attributes or {}) <= self.threshold:
            answer = self.sqs.send_message(
                QueueUrl=self.queue_url, MessageBody=order, MessageAttributes=attributes or {}
            )
            return Sent(answer["MessageId"])
        check(attributes or {})
        return self.send_claim(self.store(order), attributes)

    def store(self, order: str) -> Claim:
        """Put one order into the bucket; the claim that fetches it."""
        text = order.encode()
        if len(text) > self.largest:
            raise ValueError(f"an order has at most {self.largest} bytes, not {len(text)}")
        data, encoding = text, "identity"
        if self.compress and len(packed := gzip.compress(text, 6, mtime=0)) < len(text):
            data, encoding = packed, "gzip"
        key = f"{PREFIX}{uuid.uuid4()}"
        # Without ContentEncoding: the consumer, and no HTTP client on the way, checks and unpacks.
        self.s3.put_object(
            Bucket=self.bucket, Key=key, Body=data, ContentType="application/octet-stream"
        )
        return Claim(self.bucket, key, len(text), hashlib.sha256(data).hexdigest(), encoding)

    def send_claim(self, claim: Claim, attributes: Attributes | None = None) -> Sent:
        """Send the claim to an order that is in the bucket."""
        check(attributes or {})
        answer = self.sqs.send_message(
            QueueUrl=self.queue_url,
            MessageBody=claim.body(),
            MessageAttributes={**(attributes or {}), **claim.attributes()},
        )
        return Sent(answer["MessageId"], claim)


def size(body: str, attributes: Attributes) -> int:
    """Bytes of a message as SQS counts them: the body, and each attribute's name, type, value."""
    total = len(body.encode())
    for name, attribute in attributes.items():
        value = attribute.get("BinaryValue") or attribute.get("StringValue", "").encode()
        total += len(name.encode()) + len(attribute["DataType"].encode()) + len(value)
    return total


def check(attributes: Attributes) -> None:
    """ValueError if these attributes cannot go with a claim's own."""
    ours = {SIZE, SHA256, ENCODING}
    if taken := ours & set(attributes):
        raise ValueError(f"a claim has its own {', '.join(sorted(taken))}")
    if len(attributes) > MOST_ATTRIBUTES - len(ours):
        raise ValueError(
            f"{MOST_ATTRIBUTES - len(ours)} attributes fit beside a claim's, not {len(attributes)}"
        )
