"""Answer each question to the queue that its asker names, the same question always alike."""

from __future__ import annotations

import json
import os
import time
from functools import cache
from hashlib import sha256
from math import ceil
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    process_partial_response,
)
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import ClientError
from pydantic import BaseModel, Field, ValidationError

logger = Logger()
tracer = Tracer()
sqs, dynamodb = boto3.client("sqs"), boto3.client("dynamodb")

# A batch of nothing but poison is a normal batch of failed records, not a failed invocation:
# the function's error metric stays free for crashes and timeouts.
processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)

REVIEW_ABOVE_CENTS = 100_000


class Envelope(BaseModel):
    """A question's message attributes: where its answer goes, and until when it is of use."""

    correlation_id: str = Field(pattern=r"^[!-~]{1,128}$")  # goes into the log
    reply_to: str = Field(pattern=r"^[A-Za-z0-9_-]{1,80}$")
    expires_at: float = Field(gt=0, lt=1e11)  # Unix time in seconds, not in milliseconds


class Question(BaseModel, strict=True):
    """What an asker wants to know: may this order cost the shop money."""

    order_id: str = Field(min_length=1, max_length=64)
    customer: str = Field(min_length=1, max_length=64)
    total_cents: int = Field(ge=0, le=10**12)


class Unanswerable(ValueError):
    """No answer can be sent; the text says why, without the message itself."""


class ConflictingQuestion(ValueError):
    """Another question was already answered under this correlation id."""


def reason(error: ValidationError) -> str:
    """Which field is missing or wrong first, without its value."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def parse_envelope(record: SQSRecord) -> Envelope:
    """How to answer this message; Unanswerable says what is missing or wrong."""
    attributes = record["messageAttributes"].items()
    try:
        return Envelope.model_validate({key: one.get("stringValue") for key, one in attributes})
    except ValidationError as error:
        raise Unanswerable(reason(error)) from None


def decide(body: str) -> tuple[str, dict[str, Any]]:
    """("answered", the verdict), or ("refused", the reason) if the body is not a question."""
    try:
        question = Question.model_validate_json(body)
    except ValidationError as error:
        return "refused", {"reason": reason(error)}
    verdict = "review" if question.total_cents > REVIEW_ABOVE_CENTS else "clear"
    return "answered", {"order_id": question.order_id, "verdict": verdict}


@cache
def answers_url(reply_to: str) -> str:
    """The URL of the queue that an asker names; Unanswerable if this role may not use it."""
    try:
        return sqs.get_queue_url(QueueName=reply_to)["QueueUrl"]
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if not code.startswith("AccessDenied") and not code.endswith(
            ("NonExistentQueue", "QueueDoesNotExist")
        ):
            raise
        raise Unanswerable(f"reply_to: no queue of an asker ({code})") from None


def keep(envelope: Envelope, record: SQSRecord) -> dict[str, Any]:
    """The row of this question in Verdicts, written by the first who decides it.

    Who comes second, after a death or beside it, gets the first one's row; ConflictingQuestion
    if that is of another question.
    """
    outcome, answer = decide(record.body)
    digest = sha256(record.body.encode()).hexdigest()  # a question may be larger than a row
    row = {
        "question": {"S": f"{envelope.reply_to}/{envelope.correlation_id}"},
        "digest": {"S": digest},
        "outcome": {"S": outcome},
        "answer": {"S": json.dumps(answer)},
        "message_id": {"S": record.message_id},
        "receive_count": {"N": record.attributes.approximate_receive_count},
        "expires_at": {"N": str(ceil(envelope.expires_at))},
    }
    try:
        dynamodb.put_item(
            TableName=os.environ["VERDICTS"],
            Item=row,
            ConditionExpression="attribute_not_exists(question)",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    except dynamodb.exceptions.ConditionalCheckFailedException as error:
        row = error.response["Item"]
        if row["digest"]["S"] != digest:
            raise ConflictingQuestion("correlation_id belongs to another question") from None
    return row


def reply(url: str, envelope: Envelope, row: dict[str, Any]) -> None:
    """Send a question's answer to its asker."""
    sqs.send_message(
        QueueUrl=url,
        MessageBody=row["answer"]["S"],
        MessageAttributes={
            "correlation_id": {"DataType": "String", "StringValue": envelope.correlation_id},
            "expires_at": {"DataType": "Number", "StringValue": repr(envelope.expires_at)},
            "outcome": {"DataType": "String", "StringValue": row["outcome"]["S"]},
        },
    )


def answer_record(record: SQSRecord) -> None:
    """Answer one message's question; what it raises makes only this message come back."""
    logger.append_keys(
        message_id=record.message_id,
        receive_count=int(record.attributes.approximate_receive_count),
    )
    try:
        envelope = parse_envelope(record)
        logger.append_keys(correlation_id=envelope.correlation_id, reply_to=envelope.reply_to)
        if envelope.expires_at <= time.time():
            logger.info("Dropped expired question")
            return
        url = answers_url(envelope.reply_to)  # before the work: a forged one costs nothing
        row = keep(envelope, record)
        # Whether the first answer has left, nobody knows who comes second: so it is sent again.
        reply(url, envelope, row)
        logger.info(
            "Answered question",
            outcome=row["outcome"]["S"],
            decided_by=row["message_id"]["S"],
            decided_at_receive=int(row["receive_count"]["N"]),
        )
    except (Unanswerable, ConflictingQuestion) as error:
        logger.warning("Rejected question", reason=str(error))
        raise
    except Exception:
        logger.exception("Question failed")
        raise
    finally:
        logger.remove_keys(["message_id", "receive_count", "correlation_id", "reply_to"])


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Entry point: an SQS batch in, the ids of the failed messages out."""
    return process_partial_response(event, answer_record, processor, context)
