"""Receive, print and delete one message with AWS's own extended client: BUCKET URL.

A program of its own, because the client's import puts a class in the place of boto3's for all.
"""

import sys

import boto3
import sqs_extended_client  # noqa: F401

bucket, url = sys.argv[1:]
sqs = boto3.client("sqs")
sqs.large_payload_support, sqs.delete_payload_from_s3 = bucket, True
(message,) = sqs.receive_message(QueueUrl=url)["Messages"]
sys.stdout.write(message["Body"])
sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
