"""What targets the sandbox cannot reach AWS, whatever the machine knows."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from aws_cdk import App, CfnResource, Stack

from sandbox import cdk, server
from tests.sandbox.cloud import Clients, allow, function, role_of

# A developer's machine on a bad day: a production profile everywhere that an SDK looks.
CONFIG = """
[default]
region = eu-west-1
[profile production]
region = eu-central-1
endpoint_url = https://aws.example.com
role_arn = arn:aws:iam::123456789012:role/Admin
source_profile = default
"""
CREDENTIALS = """
[default]
aws_access_key_id = AKIAREALLOOKINGKEY01
aws_secret_access_key = real/looking/secret
[production]
aws_access_key_id = AKIAREALLOOKINGKEY02
aws_secret_access_key = real/looking/secret
"""


@pytest.fixture
def bad_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(CONFIG)
    (tmp_path / ".aws" / "credentials").write_text(CREDENTIALS)
    (tmp_path / ".cdk.json").write_text(json.dumps({"profile": "production"}))
    for name, value in {
        "HOME": str(tmp_path),
        "AWS_PROFILE": "production",
        "AWS_DEFAULT_PROFILE": "production",
        "AWS_CONFIG_FILE": str(tmp_path / ".aws" / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / ".aws" / "credentials"),
        "AWS_ACCESS_KEY_ID": "AKIAREALLOOKINGKEY03",
        "AWS_SECRET_ACCESS_KEY": "real/looking/secret",
        "AWS_SESSION_TOKEN": "real-looking-token",
        "AWS_REGION": "ap-south-1",
        "AWS_ENDPOINT_URL_SQS": "https://sqs.eu-west-1.amazonaws.com",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token",
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/Admin",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.2/role",
        "HTTPS_PROXY": "http://proxy.example.com:3128",
        "https_proxy": "http://proxy.example.com:3128",
        "CDK_DEFAULT_ACCOUNT": "123456789012",
    }.items():
        monkeypatch.setenv(name, value)


ASK = """
import boto3, json
session = boto3.Session()
print(json.dumps({
    "account": session.client("sts").get_caller_identity()["Account"],
    "key": session.get_credentials().access_key,
    "profile": session.profile_name,
    "endpoints": sorted({session.client(s).meta.endpoint_url for s in ("sqs", "sts", "s3")}),
    "region": session.region_name,
}))
"""


def test_boto3_knows_only_the_sandbox(sandbox: server.Server, bad_day: None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=sandbox.environment(), capture_output=True, check=True
    )
    assert json.loads(done.stdout) == {
        "account": "000000000000",
        "key": sandbox.key_id,
        "profile": "default",
        "endpoints": [f"https://{host}:{sandbox.port}" for host in ("127.0.0.1", "localhost")],
        "region": "us-east-1",
    }


SYNC = """
import boto3
from botocore.exceptions import ClientError
def handler(event, context):
    arn = "arn:aws:states:us-east-1:000000000000:stateMachine:nobody"
    try:
        boto3.client("stepfunctions").start_sync_execution(stateMachineArn=arn)
    except ClientError as error:
        return error.response["Error"]["Code"]
"""


def test_what_asks_a_host_of_its_own_finds_the_sandbox(sandbox: server.Server) -> None:
    """StartSyncExecution of a command, and of a function."""
    command = subprocess.run(
        [sys.executable, "-c", f"{SYNC}\nprint(handler(0, 0))"],
        env=sandbox.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    client = Clients(sandbox)
    name, code = function(client, SYNC), "StateMachineDoesNotExist"
    allow(client, role_of(client, name), "states:StartSyncExecution", "*")
    answer = client("lambda").invoke(FunctionName=name)["Payload"].read()
    assert (command.stdout.strip(), json.loads(answer)) == (code, code)


def test_its_clients_trust_no_authority_but_its_own(sandbox: server.Server) -> None:
    """Even a client with AWS's endpoint spelt out gets no TLS connection."""
    context = ssl.create_default_context(cafile=sandbox.environment()["AWS_CA_BUNDLE"])
    (authority,) = context.get_ca_certs()
    assert "trustme" in str(authority["subject"])


NODE = """
const told = (error) => console.log((error.cause ?? error).message);
require("https").get("https://sqs.us-east-1.amazonaws.com").on("error", told);
fetch("https://sqs.us-east-1.amazonaws.com").catch(told);
require("dns").promises.lookup("x.execute-api.us-east-1.amazonaws.com").catch(told);
require("dns").lookup("localhost", (error, address) => console.log(address));
"""


def test_programs_on_node_do_not_find_aws(sandbox: server.Server) -> None:
    done = subprocess.run(
        [cdk.command()[0], "-e", NODE],
        env=sandbox.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    refused = [line for line in done.stdout.splitlines() if "is AWS, and the sandbox's" in line]
    assert len(refused) == 3
    assert len(done.stdout.splitlines()) == 4


def test_the_cdk_finds_no_credentials_but_the_sandboxs(
    sandbox: server.Server, bad_day: None, tmp_path: Path
) -> None:
    """~/.cdk.json asks for the profile: the command-line interface must fail, not find it."""
    app = App(outdir=str(tmp_path / "assembly"))
    CfnResource(Stack(app, "Nothing"), "Handle", type="AWS::CloudFormation::WaitConditionHandle")
    app.synth()
    diff = cdk.command("diff", "--app", str(tmp_path / "assembly"))
    with_profile = subprocess.run(
        diff, env=sandbox.environment(), capture_output=True, text=True, check=False
    )
    assert with_profile.returncode != 0
    assert "Unable to resolve AWS account" in with_profile.stdout + with_profile.stderr
    (tmp_path / ".cdk.json").unlink()
    without = subprocess.run(
        diff, env=sandbox.environment(), capture_output=True, text=True, check=False
    )
    assert "Number of stacks with differences: 1" in without.stdout + without.stderr


def test_nothing_of_aws_in_the_caller_survives(bad_day: None, tmp_path: Path) -> None:
    from sandbox.environment import Keys, for_clients

    kept = for_clients(4566, tmp_path / "ca.pem", Keys("id", "secret"))
    assert not [value for value in kept.values() if "real" in value.lower() or "12345" in value]
    assert not [name for name in kept if name.upper() == "HTTPS_PROXY"]
    assert kept["AWS_ENDPOINT_URL"] == "https://localhost:4566"
    assert "AWS_PROFILE" not in kept and "AWS_ENDPOINT_URL_SQS" not in kept
