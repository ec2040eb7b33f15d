"""Firehose collects records and writes them to S3 as one object, with the stream's role.

Seen in MiniStack 1.5.33: each record becomes an object at once, neither compressed nor with its
delimiter; the role is never asked; what the bucket refuses is lost, and what a processor fails is
passed on as if nothing were. Here a stream's records are written when they reach SizeInMBs or the
oldest has waited IntervalInSeconds, which passes SANDBOX_CLOCK times faster like SQS time, but
never in less than 1 s. As on AWS, what the bucket refuses is tried again (here for ever, there for
24 hours) with an entry in the stream's error log, and only what a processor fails lies under the
error prefix. The metrics DeliveryToS3.Success and DeliveryToS3.DataFreshness are published.

Streams that convert formats or partition by content stay with MiniStack's own code.
"""

import asyncio
import base64
import gzip
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import roles
from ministack.core.responses import new_uuid, request_scope
from ministack.services import cloudwatch, cloudwatch_logs, firehose, lambda_svc, s3

PATCHES = (
    *roles.NEEDS,
    "services.firehose._streams",
    "services.firehose._deliver_records_to_s3",
    "services.firehose._evaluate_prefix",
    "services.firehose._java_time",
    "services.firehose._s3_bucket_from_arn",
    "services.lambda_svc._get_func_record_for_ref",
    "services.lambda_svc._execute_function",
    "services.cloudwatch_logs._put_log_events",
    "services.cloudwatch.record_metric",
)

MIB = 2**20
EXTENSIONS = {"UNCOMPRESSED": "", "GZIP": ".gz"}

logger = logging.getLogger("gaps.firehose_buffering")


class Record(NamedTuple):
    """One record and when it came, in Unix time."""

    id: str
    data: bytes
    arrived: float


class Refused(Exception):
    """The bucket did not take an object: a code of Firehose's error log, and why."""


_collected: dict[str, list[Record]] = {}  # by the stream's ARN, in order of arrival
_try_again: dict[str, float] = {}  # by the stream's ARN, the Unix time of the next attempt
_lock = threading.Lock()


def close() -> None:
    """Collect what MiniStack would write at once, and write it when it is due."""
    firehose._deliver_records_to_s3 = _collect(firehose._deliver_records_to_s3)
    threading.Thread(target=_write_what_is_due, daemon=True, name="gap-firehose").start()


def _collect(at_once: Any) -> Any:
    def collect(stream: dict, destination: dict, records: list[tuple[str, bytes]]) -> None:
        settings = destination["config"]
        if settings.get("CompressionFormat", "UNCOMPRESSED") not in EXTENSIONS:
            raise NotImplementedError(f"the sandbox has no {settings['CompressionFormat']}")
        for other in ("DynamicPartitioningConfiguration", "DataFormatConversionConfiguration"):
            if settings.get(other, {}).get("Enabled", other in settings):
                at_once(stream, destination, records)
                return
        now = time.time()
        with _lock:
            collected = _collected.setdefault(stream["arn"], [])
            collected.extend(Record(record_id, data, now) for record_id, data in records)

    return collect


def _write_what_is_due() -> None:
    measured = 0.0
    while True:
        time.sleep(0.1)
        measure = time.time() - measured >= 1
        measured = time.time() if measure else measured
        for arn in list(_collected):
            region, account = arn.split(":")[3:5]
            with request_scope(account, region):
                try:
                    _write(arn)
                    if measure:
                        _publish_freshness(arn)
                except Exception:
                    logger.exception("%s cannot be written", arn)


def _write(arn: str) -> None:
    """Write the objects that are due; what a deleted stream still held is dropped."""
    name = arn.rpartition("/")[2]
    stream = firehose._streams.get(name)
    if stream is None or stream["arn"] != arn or not stream["destinations"]:
        with _lock:
            del _collected[arn]
        return
    settings = stream["destinations"][0]["config"]
    while time.time() >= _try_again.get(arn, 0) and (due := _due(arn, settings)):
        try:
            _write_objects(stream, settings, due)
        except Refused as refusal:
            _try_again[arn] = time.time() + 1
            _record(name, "DeliveryToS3.Success", 0)
            _log(stream, settings, *refusal.args)
            return
        with _lock:
            del _collected[arn][: len(due)]
        _record(name, "DeliveryToS3.Success", 1)


def _due(arn: str, settings: dict) -> list[Record]:
    """The records of the next object: up to the buffer's size, or all if time is up."""
    hints = {"SizeInMBs": 5, "IntervalInSeconds": 300} | settings.get("BufferingHints", {})
    interval = max(1, int(hints["IntervalInSeconds"]) / float(os.environ["SANDBOX_CLOCK"]))
    with _lock:
        waiting = list(_collected[arn])
    size = 0
    for index, record in enumerate(waiting):
        size += len(record.data)
        if size >= int(hints["SizeInMBs"]) * MIB:
            return waiting[: index + 1]
    return waiting if waiting and time.time() - waiting[0].arrived >= interval else []


def _write_objects(stream: dict, settings: dict, records: list[Record]) -> None:
    """One object with what was processed, and one with what was not.

    Refused if one of them is: then both are written again, for delivery is at least once.
    """
    processed, failed = _process(stream, settings, records)
    if failed:
        errors = "".join(json.dumps(failure) + "\n" for failure in failed)
        _put(
            stream,
            settings,
            records[0],
            errors.encode(),
            extension="",
            error="processing-failed",
        )
    if processed:
        delimiter = _delimiter(settings)
        body, extension = b"".join(data + delimiter for data in processed), ""
        if settings.get("CompressionFormat") == "GZIP":
            body, extension = gzip.compress(body), EXTENSIONS["GZIP"]
        extension = settings.get("FileExtension") or extension
        _put(stream, settings, records[0], body, extension=extension)


def _processors(settings: dict, kind: str) -> Iterator[dict[str, str]]:
    """The parameters of each processor of this kind that is on."""
    processing = settings.get("ProcessingConfiguration") or {}
    for processor in processing.get("Processors", []) if processing.get("Enabled") else []:
        if processor["Type"] == kind:
            yield {
                one["ParameterName"]: one["ParameterValue"]
                for one in processor.get("Parameters") or []
            }


def _delimiter(settings: dict) -> bytes:
    for parameters in _processors(settings, "AppendDelimiterToRecord"):
        return parameters.get("Delimiter", r"\n").encode().decode("unicode_escape").encode()
    return b""


def _process(
    stream: dict, settings: dict, records: list[Record]
) -> tuple[list[bytes], list[dict[str, Any]]]:
    """(the data to write, error entries), after all Lambda processors."""
    good, failed = list(records), []
    for parameters in _processors(settings, "Lambda"):
        arn = parameters["LambdaArn"]
        answers, problem = _ask(arn, stream, good)
        unasked, good = good, []
        for record in unasked:
            answer = answers.get(record.id, {"result": "ProcessingFailed"})
            if answer["result"] == "Ok":
                good.append(record._replace(data=base64.b64decode(answer["data"])))
            elif answer["result"] != "Dropped":
                failed.append(
                    {
                        "attemptsMade": 1,
                        "arrivalTimestamp": int(record.arrived * 1000),
                        "errorCode": "Lambda.FunctionError",
                        "errorMessage": problem or "The Lambda function failed this record.",
                        "attemptEndingTimestamp": int(time.time() * 1000),
                        "rawData": base64.b64encode(record.data).decode(),
                        "lambdaArn": arn,
                    }
                )
    return [record.data for record in good], failed


def _ask(arn: str, stream: dict, records: list[Record]) -> tuple[dict[str, dict], str]:
    """(the function's answers by record id, what went wrong)."""
    function, _, _ = lambda_svc._get_func_record_for_ref(arn)
    if not function:
        return {}, "The Lambda function was not found."
    event = {
        "invocationId": new_uuid(),
        "deliveryStreamArn": stream["arn"],
        "region": stream["arn"].split(":")[3],
        "records": [
            {
                "recordId": record.id,
                "approximateArrivalTimestamp": int(record.arrived * 1000),
                "data": base64.b64encode(record.data).decode(),
            }
            for record in records
        ],
    }
    result = lambda_svc._execute_function(function, event)
    body = result.get("body")
    body = json.loads(body) if isinstance(body, (str, bytes)) else body
    if result.get("error") or not isinstance(body, dict) or "records" not in body:
        return {}, f"The Lambda function did not answer with records: {body}"
    return {answer["recordId"]: answer for answer in body["records"]}, ""


def _put(
    stream: dict, settings: dict, oldest: Record, body: bytes, *, extension: str, error: str = ""
) -> None:
    """Write one object under its prefix and AWS's name, at the time of its oldest record."""
    zone = settings.get("CustomTimeZone") or "UTC"
    arrived = datetime.fromtimestamp(oldest.arrived, UTC if zone == "UTC" else ZoneInfo(zone))
    moment = arrived.timetuple()
    template = settings.get("Prefix", "")
    if error:
        template = settings.get("ErrorOutputPrefix") or f"{template}{error}/"
    prefix = firehose._evaluate_prefix(template, moment, error_type=error)
    stamp = firehose._java_time("yyyy-MM-dd-HH-mm-ss", moment)
    key = f"{prefix}{stream['name']}-{stream['version']}-{stamp}-{new_uuid()}{extension}"
    bucket = firehose._s3_bucket_from_arn(settings["BucketARN"])
    account = stream["arn"].split(":")[4]
    if not roles.allows(
        settings.get("RoleARN", ""),
        "firehose.amazonaws.com",
        "s3:PutObject",
        f"arn:aws:s3:::{bucket}/{key}",
        sts_ExternalId=account,
        aws_SourceAccount=account,
        aws_SourceArn=stream["arn"],
    ):
        raise Refused("S3.AccessDenied", f"The role may not write to {bucket}/{prefix}.")
    headers = {
        "content-type": "application/octet-stream",
        "content-length": str(len(body)),
        "host": "s3.localhost",
    }
    written = s3.handle_request("PUT", f"/{bucket}/{key}", headers, body, {}, internal=True)
    status, _, answer = asyncio.run(written)
    if status == 404:
        raise Refused("S3.NoSuchBucket", f"There is no bucket {bucket}.")
    if status >= 400:
        raise Refused("S3.AccessDenied", answer.decode(errors="replace"))


def _publish_freshness(arn: str) -> None:
    """The age of the oldest record that waits, in the time that intervals pass in."""
    with _lock:
        waiting = _collected.get(arn, [])[:1]
    age = time.time() - waiting[0].arrived if waiting else 0
    _record(
        arn.rpartition("/")[2],
        "DeliveryToS3.DataFreshness",
        age * float(os.environ["SANDBOX_CLOCK"]),
    )


def _record(name: str, metric: str, value: float) -> None:
    unit = "Seconds" if metric.endswith("Freshness") else "Count"
    cloudwatch.record_metric("AWS/Firehose", metric, value, unit, {"DeliveryStreamName": name})


def _log(stream: dict, settings: dict, code: str, message: str) -> None:
    """An entry in the stream's error log, if it has one."""
    logger.warning("%s: %s %s", stream["name"], code, message)
    options = settings.get("CloudWatchLoggingOptions") or {}
    if options.get("Enabled"):
        entry = {
            "deliveryStreamARN": stream["arn"],
            "destination": settings["BucketARN"],
            "deliveryStreamVersionId": stream["version"],
            "message": message,
            "errorCode": code,
        }
        cloudwatch_logs._put_log_events(
            {
                "logGroupName": options["LogGroupName"],
                "logStreamName": options["LogStreamName"],
                "logEvents": [{"timestamp": int(time.time() * 1000), "message": json.dumps(entry)}],
            }
        )
