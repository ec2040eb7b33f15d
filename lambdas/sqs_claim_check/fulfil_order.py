"""Fulfil each order of a batch once, whether its message holds it or a claim to it in a bucket."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import boto3
from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    process_partial_response,
)
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
)
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, FailFast, Field, PositiveInt, TypeAdapter, ValidationError

logger = Logger()
tracer = Tracer()
dynamodb = boto3.client("dynamodb")
s3 = boto3.client("s3")

# A batch of nothing but poison is a normal batch of failed records, not a failed invocation:
# the function's error metric stays free for crashes and timeouts.
processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)

# What tells a claim that comes again from one whose object was never there: it was redeemed. The
# records are kept as long as the objects would be.
redemption = IdempotencyConfig(
    event_key_jmespath="[key, sha256]",
    raise_on_no_idempotency_key=True,
    expires_after_seconds=int(os.environ["KEEP_DAYS"]) * 86400,
)
redeemed_claims = DynamoDBPersistenceLayer(
    table_name=os.environ["REDEEMED_CLAIMS"], boto3_client=dynamodb
)


class Item(BaseModel, strict=True):
    """One line of an order."""

    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(ge=1, le=1_000_000)  # the sum is a number of DynamoDB: 38 digits at most


class Order(BaseModel, strict=True):
    """What Buying sends."""

    order_id: str = Field(min_length=1, max_length=64)
    customer: str = Field(min_length=1, max_length=64)
    # It fails at the first wrong one: an order of a million would fill the memory with errors.
    items: Annotated[list[Item], FailFast()] = Field(min_length=1)


class Address(BaseModel):
    """Where an object is, by the names that AWS's extended clients use."""

    bucket: str = Field(alias="s3BucketName")
    key: str = Field(alias="s3Key", pattern=r"^orders/[\w-]{1,64}$")


class Claim(BaseModel):
    """What fetches one order: its object's key, and what the object must be.

    size: bytes of the order. sha256: of the object's bytes.
    """

    key: str
    size: PositiveInt
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    encoding: Literal["gzip", "identity"] = "identity"


POINTER = TypeAdapter(tuple[Literal["software.amazon.payloadoffloading.PayloadS3Pointer"], Address])


class RejectedOrder(ValueError):
    """Trying again will not help; the text says why, without the order itself."""


class ConflictingOrder(RejectedOrder):
    """Another order was already fulfilled under this order id."""


def reason(error: ValidationError) -> str:
    """Which field is missing or wrong first, without what it holds."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def parse_order(text: bytes) -> Order:
    """The order in a text; RejectedOrder says which field is missing or wrong."""
    try:
        return Order.model_validate_json(text)
    except ValidationError as error:
        raise RejectedOrder(reason(error)) from None


def parse_claim(
    body: str, attributes: Mapping[str, str], bucket: str, largest: int
) -> Claim | None:
    """The claim in a message; None if the message holds the order itself.

    RejectedOrder if it is no claim to an object of `bucket`, or to an order above `largest` bytes.
    """
    if "ExtendedPayloadSize" not in attributes:
        return None
    try:
        _, address = POINTER.validate_json(body)
        claim = Claim.model_validate(
            {
                "key": address.key,
                "size": attributes["ExtendedPayloadSize"],
                "sha256": attributes.get("PayloadSha256", ""),
                "encoding": attributes.get("PayloadEncoding", "identity"),
            }
        )
    except ValidationError as error:
        raise RejectedOrder(f"the claim is malformed: {reason(error)}") from None
    if address.bucket != bucket:
        raise RejectedOrder("the claim names another bucket")
    if claim.size > largest:
        raise RejectedOrder(f"the order is larger than {largest} bytes")
    return claim


def fetch(claim: Claim) -> bytes:
    """The bytes of a claim's object; RejectedOrder if it is not there or cannot be the one."""
    try:
        found = s3.get_object(Bucket=os.environ["LARGE_ORDERS"], Key=claim.key)
    except s3.exceptions.NoSuchKey:
        raise RejectedOrder("the object is not there: deleted, expired or never stored") from None
    if found["ContentLength"] > claim.size:  # before any of it is in memory
        raise RejectedOrder("the object is larger than its claim says")
    return found["Body"].read()


def unpack(claim: Claim, data: bytes) -> bytes:
    """The order's text; RejectedOrder if the object is not the claim's.

    The hash is checked before anything looks into the object, and the size while it grows.
    """
    if hashlib.sha256(data).hexdigest() != claim.sha256:
        raise RejectedOrder("the object's SHA-256 is not its claim's")
    text = data
    if claim.encoding == "gzip":
        unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # 16: with gzip's header and checksum
        try:
            text = unzip.decompress(data, claim.size + 1)
        except zlib.error:
            raise RejectedOrder("the object is not compressed with gzip") from None
        if not unzip.eof and len(text) <= claim.size:
            raise RejectedOrder("the object ends too early")
    if len(text) != claim.size:
        raise RejectedOrder("the order is not of the size that its claim says")
    return text


def write_row(text: bytes, message_id: str) -> str:
    """Write the row of this order once; returns the id of the message that wrote it.

    ConflictingOrder if the row is that of an order with another text. A row takes 400 KB at most:
    it holds what Shipping asks for and the order's hash, not the order.
    """
    order = parse_order(text)
    logger.append_keys(order_id=order.order_id)
    sha256 = hashlib.sha256(text).hexdigest()
    try:
        dynamodb.put_item(
            TableName=os.environ["FULFILLED_ORDERS"],
            Item={
                "order_id": {"S": order.order_id},
                "customer": {"S": order.customer},
                "lines": {"N": str(len(order.items))},
                "units": {"N": str(sum(item.quantity for item in order.items))},
                "sha256": {"S": sha256},
                "message_id": {"S": message_id},
                "fulfilled_at": {"S": datetime.now(UTC).isoformat()},
            },
            ConditionExpression="attribute_not_exists(order_id)",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    except dynamodb.exceptions.ConditionalCheckFailedException as error:
        row = error.response["Item"]
        if row["sha256"]["S"] != sha256:
            raise ConflictingOrder("this order id belongs to an order with other content") from None
        return row["message_id"]["S"]
    logger.info("Fulfilled order", size=len(text))
    return message_id


@idempotent_function(
    data_keyword_argument="claim", config=redemption, persistence_store=redeemed_claims
)
def redeem(*, claim: dict[str, Any], message_id: str) -> str:
    """Fulfil a claim's order once; returns the id of the message that did.

    A claim that was redeemed is not fetched again: its object may be gone.
    """
    wanted = Claim.model_validate(claim)
    return write_row(unpack(wanted, fetch(wanted)), message_id)


def discard(claim: Claim) -> None:
    """Delete the object of a redeemed claim.

    Where that fails the order is fulfilled all the same, and the bucket's lifecycle is left to
    remove the object: the message must not come back for it.
    """
    try:
        s3.delete_object(Bucket=os.environ["LARGE_ORDERS"], Key=claim.key)
    except (BotoCoreError, ClientError) as error:
        logger.warning("Left object to the lifecycle", key=claim.key, reason=str(error))


def fulfil(body: str, attributes: Mapping[str, str], message_id: str) -> str:
    """Fulfil one message's order; returns the id of the message that did it first."""
    claim = parse_claim(
        body, attributes, os.environ["LARGE_ORDERS"], int(os.environ["LARGEST_ORDER"])
    )
    if claim is None:
        return write_row(body.encode(), message_id)
    logger.append_keys(key=claim.key)
    fulfilled_by = redeem(claim=claim.model_dump(), message_id=message_id)
    discard(claim)
    return fulfilled_by


def fulfil_record(record: SQSRecord) -> None:
    """Fulfil one message's order; what it raises makes only this message come back."""
    logger.append_keys(
        message_id=record.message_id,
        receive_count=int(record.attributes.approximate_receive_count),
    )
    attributes = {
        name: attribute["stringValue"]
        for name, attribute in record["messageAttributes"].items()
        if "stringValue" in attribute
    }
    try:
        fulfilled_by = fulfil(record.body, attributes, record.message_id)
        if fulfilled_by != record.message_id:
            logger.info("Dropped duplicate order", fulfilled_by=fulfilled_by)
    except RejectedOrder as error:
        logger.warning("Rejected order", reason=str(error))
        raise
    except IdempotencyAlreadyInProgressError:
        logger.info("Claim is in work elsewhere")  # come back and see what became of it
        raise
    except Exception:
        logger.exception("Order failed")
        raise
    finally:
        logger.remove_keys(["message_id", "receive_count", "key", "order_id"])


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Entry point: an SQS batch in, the ids of the failed messages out."""
    redemption.register_lambda_context(context)
    return process_partial_response(event, fulfil_record, processor, context)
