"""Nobody else can use the sandbox: access."""

from __future__ import annotations

import hashlib
import ssl
import urllib.error
import urllib.request
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.sandbox.cloud import Clients, function, role_of


def access__keys(client: Clients) -> bool:
    """The keys that MiniStack's manual names open nothing, nor do others that a person tries."""
    return all(
        refused(client, key, secret)
        for key, secret in (
            ("test", "test"),
            ("000000000000", "test"),
            ("AKIAIOSFODNN7EXAMPLE", "test"),
            ("test", ""),
        )
    )


def access__right_key_wrong_secret(client: Clients) -> bool:
    """Knowing the key's id is not enough; a key with its secret is known by who it is."""
    key = client("sts").meta.config and client._session.get_credentials()
    return key.access_key != "test" and refused(client, key.access_key, "test")


def access__functions_keys(client: Clients) -> bool:
    """The keys of a function's role do not follow from its name."""
    arn = function(client, "def handler(event, context):\n    return 1")
    role = f"arn:aws:iam::000000000000:role/{role_of(client, arn)}"
    client("lambda").invoke(FunctionName=arn)
    digest = hashlib.sha256(f"{arn}:{role}".encode()).hexdigest()
    secret = hashlib.sha256(f"secret:{digest}".encode()).hexdigest()
    token = hashlib.sha256(f"token:{digest}".encode()).hexdigest()
    return refused(client, f"ASIA{digest[:16].upper()}", secret, token)


def access__unsigned(client: Clients) -> bool:
    """Without a signature there is the server's health, and nothing else."""
    return status(client, "GET", "/_ministack/health") == 200 and {
        status(client, method, path)
        for method, path in (
            ("POST", "/_ministack/reset?dry"),
            ("GET", "/_ministack/sqs/messages"),
            ("GET", "/_ministack/ready"),
            ("POST", "/_ministack/config"),
            ("GET", "/_localstack/health"),
            ("GET", "/"),
            ("GET", "/2015-03-31/functions"),
            ("GET", "/?Action=ListQueues"),
            ("POST", "/?Action=CreateTopic&Name=a"),
        )
    } == {403}


def access__host(client: Clients) -> bool:
    """A page that reaches loopback under a name of its own gets nothing."""
    return {
        status(client, "GET", "/_ministack/health", Host=host)
        for host in ("attacker.example", "localhost.attacker.example", "")
    } == {403}


def access__web_pages(client: Clients) -> bool:
    """No page of another origin may read an answer."""
    asked = {"Origin": "https://attacker.example", "Access-Control-Request-Method": "POST"}
    open_, _ = answer(client, "OPTIONS", "/", **asked)
    name = client("s3").create_bucket(Bucket="pages-of-nobody")["Location"]
    url = client("s3").generate_presigned_url("list_objects_v2", {"Bucket": name.strip("/")})
    _, headers = answer(client, "GET", url.removeprefix(client.url), Origin=asked["Origin"])
    return open_ == 403 and "Access-Control-Allow-Origin" not in headers


def access(client: Clients) -> bool:
    """What has a right to be asked without a signature still is."""
    made = client("apigatewayv2").create_api(Name="open", ProtocolType="HTTP")
    host = made["ApiEndpoint"].partition("//")[2]
    topic = client("sns").create_topic(Name="confirmed-by-link")["TopicArn"]
    link = f"/?Action=ConfirmSubscription&TopicArn={topic}&Token=none"
    said = [
        status(client, "GET", "/", Host=host),
        status(client, "GET", link),
        status(client, "PUT", "/_ministack/cfn-response/none"),
    ]
    return 403 not in said and refused(client, "test", "test")


def refused(client: Clients, key: str, secret: str, token: str | None = None) -> bool:
    """Whether neither a question nor a function of one's own gets through with these keys."""
    session = boto3.Session(key or "x", secret or "x", token, region_name="us-east-1")
    asked = {"endpoint_url": client.url, "verify": client.authority}
    once = Config(retries={"total_max_attempts": 1})
    calls: list[Any] = [
        session.client("sqs", config=once, **asked).list_queues,
        session.client("lambda", config=once, **asked).list_functions,
        session.client("s3", config=once, **asked).list_buckets,
        session.client("sts", config=once, **asked).get_caller_identity,
    ]
    for call in calls:
        try:
            call()
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (400, 401, 403):
                return False
        else:
            return False
    return True


def status(client: Clients, method: str, path: str, **headers: str) -> int:
    """The HTTP status of an unsigned request."""
    return answer(client, method, path, **headers)[0]


def answer(client: Clients, method: str, path: str, **headers: str) -> tuple[int, Any]:
    """(HTTP status, headers) of an unsigned request."""
    request = urllib.request.Request(client.url + path, method=method, headers=headers)
    context = ssl.create_default_context(cafile=client.authority)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as got:
            return got.status, got.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers
