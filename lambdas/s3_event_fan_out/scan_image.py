"""Find what an uploaded image really is, once for each of its versions."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_plus

import boto3
from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.utilities.data_classes import S3Event, SNSEvent, event_source
from aws_lambda_powertools.utilities.data_classes.sns_event import SNSMessage
from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger()
tracer = Tracer()
s3 = boto3.client("s3")
dynamodb = boto3.client("dynamodb")

HEAD = 12  # bytes that tell the formats apart


class UnknownEvent(ValueError):
    """The message is no news of versioned objects from S3."""


@dataclass(frozen=True)
class Image:
    """One version of an uploaded object."""

    bucket: str
    key: str
    version_id: str
    size: int
    sequencer: str


def images(message: str) -> list[Image]:
    """The images that a message of S3 tells of; UnknownEvent if it tells of none.

    Keys come URL-encoded, with `+` for a space.
    """
    try:
        return [
            Image(
                bucket=record.s3.bucket.name,
                key=unquote_plus(record.s3.get_object.key, errors="strict"),
                version_id=record.s3.get_object["versionId"],
                size=record.s3.get_object.size,
                sequencer=record.s3.get_object.sequencer,
            )
            for record in S3Event(json.loads(message)).records
        ]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UnknownEvent(f"{type(error).__name__} in what should be S3's event") from None


def request_of_test(message: str) -> str | None:
    """The id of the request that made S3 send this `s3:TestEvent`; None if it is not one."""
    with suppress(ValueError, RecursionError):
        event = json.loads(message)
        if isinstance(event, dict) and event.get("Event") == "s3:TestEvent":
            return str(event.get("RequestId"))
    return None


def image_format(head: bytes) -> str:
    """What a file is by its first bytes, whatever its name claims; "unknown" if no image."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return "unknown"


def scan(image: Image, message_id: str) -> str:
    """Write the row of this version once; returns the id of the message that wrote it."""
    head = b""
    if image.size:  # an empty object has no range to ask for
        head = s3.get_object(
            Bucket=image.bucket,
            Key=image.key,
            VersionId=image.version_id,
            Range=f"bytes=0-{HEAD - 1}",
        )["Body"].read()
    try:
        dynamodb.put_item(
            TableName=os.environ["SCANNED_IMAGES"],
            Item={
                "image": {"S": image.key},
                "version_id": {"S": image.version_id},
                "sequencer": {"S": image.sequencer},
                "format": {"S": image_format(head)},
                "message_id": {"S": message_id},
                "scanned_at": {"S": datetime.now(UTC).isoformat()},
            },
            ConditionExpression="attribute_not_exists(version_id)",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    except dynamodb.exceptions.ConditionalCheckFailedException as error:
        return error.response["Item"]["message_id"]["S"]
    return message_id


def scan_message(message: SNSMessage) -> None:
    """Scan what one message tells of; what it raises makes Lambda try again, twice."""
    logger.append_keys(message_id=message.message_id)
    try:
        if request := request_of_test(message.message):
            logger.info("Ignored test event", request=request)
            return
        for image in images(message.message):
            logger.append_keys(image=image.key, version_id=image.version_id)
            scanned_by = scan(image, message.message_id)
            if scanned_by == message.message_id:
                logger.info("Scanned image")
            else:
                logger.info("Dropped duplicate event", scanned_by=scanned_by)
    except Exception:
        logger.exception("Scan failed")
        raise
    finally:
        logger.remove_keys(["message_id", "image", "version_id"])


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
@event_source(data_class=SNSEvent)
def handler(event: SNSEvent, context: LambdaContext) -> None:  # noqa: ARG001
    """Entry point: messages of ImageEvents in; there is nobody to answer to."""
    for record in event.records:
        scan_message(record.sns)
