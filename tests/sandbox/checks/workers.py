"""Gaps of programs on instances: their image, and what their role may do."""

from __future__ import annotations

import json
import uuid

from botocore.exceptions import ClientError

from tests.sandbox.cloud import Clients


def ec2_arm64_image(client: Clients) -> bool:
    """The public parameter of the newest Amazon Linux 2023 for arm64 leads to such an image."""
    name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-6.1-arm64"
    found = client("ssm").get_parameters(Names=[name])["Parameters"]
    if not found:
        return False
    (image,) = client("ec2").describe_images(ImageIds=[found[0]["Value"]])["Images"]
    kinds = client("ec2").describe_images(Owners=["amazon"])["Images"]
    assert {"x86_64", "arm64"} == {one["Architecture"] for one in kinds}
    return image["Architecture"] == "arm64" and image["Name"].startswith("al2023-ami-2023.")


def iam_sqs_batches(client: Clients) -> bool:
    """A role that may send and hide one message may send and hide ten, and delete none."""
    iam, name = client("iam"), f"batches-{uuid.uuid4().hex[:8]}"
    url = client("sqs").create_queue(QueueName=name)["QueueUrl"]
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam::000000000000:root"},
        "Action": "sts:AssumeRole",
    }
    role = iam.create_role(
        RoleName=name,
        AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
    )["Role"]["Arn"]
    statement = {
        "Effect": "Allow",
        "Action": ["sqs:SendMessage", "sqs:ReceiveMessage", "sqs:ChangeMessageVisibility"],
        "Resource": f"arn:aws:sqs:us-east-1:000000000000:{name}",
    }
    iam.put_role_policy(
        RoleName=name,
        PolicyName="messages",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
    credentials = client("sts").assume_role(RoleArn=role, RoleSessionName="check")["Credentials"]
    sqs = client(
        "sqs",
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
    )

    def may(call: str, **entry: object) -> bool:
        try:
            getattr(sqs, call)(QueueUrl=url, Entries=[{"Id": "0", **entry}])
        except ClientError as error:
            assert error.response["Error"]["Code"].startswith("AccessDenied")
            return False
        return True

    sent = may("send_message_batch", MessageBody="one")
    client("sqs").send_message(QueueUrl=url, MessageBody="another")
    (message,) = sqs.receive_message(QueueUrl=url)["Messages"]
    receipt = message["ReceiptHandle"]
    hidden = may("change_message_visibility_batch", ReceiptHandle=receipt, VisibilityTimeout=30)
    deleted = may("delete_message_batch", ReceiptHandle=receipt)
    return (sent, hidden, deleted) == (True, True, False)
