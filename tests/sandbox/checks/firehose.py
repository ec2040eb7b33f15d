"""Gaps of Firehose."""

from __future__ import annotations

import base64
import gzip
import json
import re
import uuid
from typing import Any

from tests.sandbox.cloud import Clients, allow, function, highest, role, soon


def delivery_stream(client: Clients, role_name: str, **settings: Any) -> tuple[str, str]:
    """(bucket, stream): a stream to a new bucket, with this role."""
    name = f"stream-{uuid.uuid4().hex[:8]}"
    client("s3").create_bucket(Bucket=name)
    client("firehose").create_delivery_stream(
        DeliveryStreamName=name,
        ExtendedS3DestinationConfiguration={
            "RoleARN": f"arn:aws:iam::000000000000:role/{role_name}",
            "BucketARN": f"arn:aws:s3:::{name}",
            **settings,
        },
    )
    return name, f"arn:aws:firehose:us-east-1:000000000000:deliverystream/{name}"


def objects(client: Clients, bucket: str, prefix: str = "") -> dict[str, bytes]:
    """Key to content of all objects under a prefix."""
    s3 = client("s3")
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return {
        one["Key"]: s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in listed
    }


def put_records(client: Clients, stream: str, *data: bytes) -> None:
    """Put each piece of data on the stream as a record of its own."""
    for one in data:
        client("firehose").put_record(
            DeliveryStreamName=stream.rpartition("/")[2], Record={"Data": one}
        )


DELIMITED = {"Enabled": True, "Processors": [{"Type": "AppendDelimiterToRecord"}]}


HOUR = r"\d{4}/\d\d/\d\d/\d\d/"


def firehose_buffering(client: Clients) -> bool:
    """Records become an object when the buffer's time is up, and when it is full; compressed, with
    a newline each, under the prefix of its hour; one that is refused is written when it may be."""
    firehose = role(client, "firehose.amazonaws.com")
    bucket, stream = delivery_stream(
        client,
        firehose,
        BufferingHints={"SizeInMBs": 1, "IntervalInSeconds": 60},
        CompressionFormat="GZIP",
        ProcessingConfiguration=DELIMITED,
        Prefix="records/!{timestamp:yyyy/MM/dd/HH}/",
        ErrorOutputPrefix="errors/!{firehose:error-output-type}/",
    )
    full, to_be_filled = delivery_stream(
        client,
        firehose,
        BufferingHints={"SizeInMBs": 1, "IntervalInSeconds": 900},
        ProcessingConfiguration=DELIMITED,
        Prefix="by-size/",
    )
    half = [letter * (2**19) for letter in (b"a", b"b", b"c")]
    put_records(client, to_be_filled, *half)
    put_records(client, stream, b"one", "zwei \u2028 🛒".encode())
    if soon(lambda: bool(objects(client, bucket)), 4):  # its role may not write yet
        return False
    allow(client, firehose, "s3:PutObject", "arn:aws:s3:::*")
    if not soon(lambda: bool(objects(client, bucket) and objects(client, full))):
        return False  # each stream tries again at its own time
    ((key, content),) = objects(client, bucket).items()
    ((full_key, full_content),) = objects(client, full).items()
    late = "DeliveryToS3.DataFreshness"
    stamp = r"-1-\d{4}(-\d\d){5}-[0-9a-f-]{36}"
    return bool(
        re.fullmatch(f"records/{HOUR}{bucket}{stamp}.gz", key)
        and gzip.decompress(content) == "one\nzwei \u2028 🛒\n".encode()
        and re.fullmatch(f"by-size/{HOUR}{full}{stamp}", full_key)
        and full_content == half[0] + b"\n" + half[1] + b"\n"
        # The oldest record waited for four seconds, which are 80 of Firehose's.
        and highest(client, "AWS/Firehose", late, DeliveryStreamName=bucket) > 50
        and errors_of_a_processor(client, firehose)
    )


def errors_of_a_processor(client: Clients, firehose: str) -> bool:
    """A record that a Lambda processor fails lies under the error prefix, the others do not."""
    code = (
        "def handler(event, context):\n"
        "    results = ['Ok', 'ProcessingFailed', 'Dropped']\n"
        "    records = zip(event['records'], results)\n"
        "    return {'records': [{**record, 'result': result} for record, result in records]}\n"
    )
    processor = {
        "Type": "Lambda",
        "Parameters": [{"ParameterName": "LambdaArn", "ParameterValue": function(client, code)}],
    }
    bucket, stream = delivery_stream(
        client,
        firehose,
        BufferingHints={"SizeInMBs": 1, "IntervalInSeconds": 0},
        ProcessingConfiguration={"Enabled": True, "Processors": [processor]},
        Prefix="records/!{timestamp:yyyy}/",
        ErrorOutputPrefix="errors/!{firehose:error-output-type}/",
    )
    put_records(client, stream, b"good", b"bad", b"dropped")
    if not soon(lambda: len(objects(client, bucket)) == 2):
        return False
    ((failed_key, failed),) = objects(client, bucket, "errors/").items()
    return (
        failed_key.startswith("errors/processing-failed/")
        and base64.b64decode(json.loads(failed)["rawData"]) == b"bad"
        and list(objects(client, bucket, "records/").values()) == [b"good"]
    )


def sns_to_firehose(client: Clients) -> bool:
    """A topic's message is on the stream while the subscription's role may put it there, and in
    the subscription's dead-letter queue when it may not."""
    sns, sqs, iam = client("sns"), client("sqs"), client("iam")
    firehose, subscriber = (role(client, f"{one}.amazonaws.com") for one in ("firehose", "sns"))
    allow(client, firehose, "s3:PutObject", "arn:aws:s3:::*")
    bucket, stream = delivery_stream(
        client, firehose, BufferingHints={"SizeInMBs": 1, "IntervalInSeconds": 0}
    )
    allow(client, subscriber, "firehose:PutRecord", stream)
    topic = sns.create_topic(Name=f"topic-{uuid.uuid4().hex[:8]}")["TopicArn"]
    url = sqs.create_queue(QueueName=f"parked-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    got = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    queue = got["Attributes"]["QueueArn"]
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue,
    }
    sqs.set_queue_attributes(
        QueueUrl=url, Attributes={"Policy": json.dumps({"Statement": [statement]})}
    )
    sns.subscribe(
        TopicArn=topic,
        Protocol="firehose",
        Endpoint=stream,
        Attributes={
            "SubscriptionRoleArn": f"arn:aws:iam::000000000000:role/{subscriber}",
            "RawMessageDelivery": "true",
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": queue}),
        },
    )
    sns.publish(TopicArn=topic, Message="first")
    if not soon(lambda: list(objects(client, bucket).values()) == [b"first"]):
        return False
    iam.delete_role_policy(RoleName=subscriber, PolicyName="one")
    sns.publish(TopicArn=topic, Message="second")
    allow(client, subscriber, "firehose:PutRecord", stream)
    sns.publish(TopicArn=topic, Message="third")
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "no.such"}}
    iam.update_assume_role_policy(
        RoleName=subscriber, PolicyDocument=json.dumps({"Statement": [trust]})
    )
    sns.publish(TopicArn=topic, Message="fourth")
    parked = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return sorted(one["Body"] for one in parked) == ["fourth", "second"] and soon(
        lambda: sorted(objects(client, bucket).values()) == [b"first", b"third"]
    )
