"""Gaps of what passes a queue by way of a bucket."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.sandbox.cloud import Clients, allow, role

MIB = 1024 * 1024


def sqs_message_size(client: Clients) -> bool:
    """A message of exactly 1 MiB, counted with its attributes, is taken; one byte more is not."""
    sqs = client("sqs")
    url = sqs.create_queue(QueueName=f"size-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    attributes = {
        "kind": {"DataType": "String", "StringValue": "größer"},
        "raw": {"DataType": "Binary", "BinaryValue": bytes(range(256))},
    }
    counted = len("kind" + "String") + len("größer".encode()) + len("raw" + "Binary") + 256
    fits = {"MessageBody": "x" * (MIB - counted), "MessageAttributes": attributes}
    larger = {**fits, "MessageBody": fits["MessageBody"] + "x"}
    assert sqs.send_message(QueueUrl=url, **fits)["MessageId"]
    try:
        sqs.send_message(QueueUrl=url, **larger)
    except sqs.exceptions.ClientError as error:
        assert "must be shorter than 1048576 bytes" in str(error)
    else:
        return False
    half = {**fits, "MessageBody": "x" * (MIB // 2 - counted)}
    entries = [{"Id": "a", **half}, {"Id": "b", **half}]
    assert len(sqs.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]) == 2
    entries[1] = {**entries[1], "MessageBody": half["MessageBody"] + "x"}
    with pytest.raises(sqs.exceptions.BatchRequestTooLong):
        sqs.send_message_batch(QueueUrl=url, Entries=entries)
    return True


def s3_missing_object(client: Clients) -> bool:
    """Without s3:ListBucket a missing object is refused, with it missing; others are read."""
    s3, name = client("s3"), f"missing-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="there", Body=b"x")
    account = client("sts").get_caller_identity()["Account"]
    reader = role(client, "lambda.amazonaws.com")
    trust = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"AWS": f"arn:aws:iam::{account}:root"},
    }
    client("iam").update_assume_role_policy(
        RoleName=reader, PolicyDocument=json.dumps({"Statement": [trust]})
    )
    session = client("sts").assume_role(
        RoleArn=f"arn:aws:iam::{account}:role/{reader}", RoleSessionName="reader"
    )["Credentials"]

    def as_reader(key: str) -> str:
        """The error code that the reader's GetObject gets; "" if it gets the object."""
        theirs = client(
            "s3",
            aws_access_key_id=session["AccessKeyId"],
            aws_secret_access_key=session["SecretAccessKey"],
            aws_session_token=session["SessionToken"],
        )
        try:
            theirs.get_object(Bucket=name, Key=key)
        except theirs.exceptions.ClientError as error:
            return error.response["Error"]["Code"]
        return ""

    objects = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{name}/*"}
    bucket = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{name}"}
    allow(client, reader, "s3:GetObject", objects["Resource"])
    assert as_reader("there") == ""
    if as_reader("missing") != "AccessDenied":
        return False
    client("iam").put_role_policy(
        RoleName=reader,
        PolicyName="one",
        PolicyDocument=json.dumps({"Statement": [objects, bucket]}),
    )
    return as_reader("missing") == "NoSuchKey" and as_reader("there") == ""
