"""The commands behind the Makefile: bad input is one line and exit code 2, and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from functools import partial
from pathlib import Path

import boto3
import pytest
from typer.testing import CliRunner

import gallery as gallery_module
from tests.synthesis import PATTERNS, PROJECT

THERE_ARE = f"there are: {', '.join(sorted(PATTERNS.values()))}"


def gallery(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "gallery.py", *words],
        cwd=PROJECT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(*words: str, **environment: str) -> str:
    done = gallery(*words, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr.strip()


@pytest.mark.parametrize("command", ["synth", "deploy", "demo", "destroy", "test", "snapshots"])
def test_an_unknown_pattern_is_one_line_with_those_there_are(command: str) -> None:
    assert refusal(command, "Nope") == f"error: no pattern Nope; {THERE_ARE}"


@pytest.mark.parametrize("command", ["deploy", "demo", "destroy"])
def test_a_missing_pattern_is_one_line_with_those_there_are(command: str) -> None:
    line = refusal(command)
    assert line.startswith("error: say which pattern") and line.endswith(THERE_ARE)


def test_the_only_pattern_need_not_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a project made from one."""
    only = {"SqsLambdaDlq": PROJECT / "stacks" / "sqs_lambda_dlq.py"}
    monkeypatch.setattr(gallery_module, "patterns", lambda: only)
    assert gallery_module.known("") == "SqsLambdaDlq"
    assert gallery_module.stem("") == "sqs_lambda_dlq"


def test_an_option_without_a_value_is_one_line() -> None:
    line = refusal("deploy", "SqsLambdaDlq", "--option", "max_receive_count")
    assert line == "error: an option is name=value, not max_receive_count"


def test_aws_without_a_region_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "gallery.py", "deploy", "SqsLambdaDlq", "--target", "aws"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "HOME": "/nowhere", "AWS_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no AWS Region is set")
    assert len(done.stderr.splitlines()) == 1


def test_aws_without_credentials_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "gallery.py", "destroy", "SqsLambdaDlq", "--target", "aws"],
        cwd=PROJECT,
        env={
            "PATH": os.environ["PATH"],
            "HOME": "/nowhere",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: AWS does not know you: Unable to locate credentials")
    assert len(done.stderr.splitlines()) == 1


def test_aws_says_the_account_and_the_region_first(sandbox: object) -> None:
    """The caller's own environment is used as it is: here it happens to lead to the sandbox."""
    started = subprocess.Popen(
        [sys.executable, "gallery.py", "destroy", "SqsLambdaDlq", "--target", "aws"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with started as process:
        assert process.stdout
        said = process.stdout.readline()
        os.killpg(process.pid, signal.SIGKILL)  # what the CDK does then is no matter of this test
    assert said.startswith("AWS account 000000000000, Region us-east-1, as arn:aws:iam::")


def test_a_bucket_that_holds_objects_is_named_and_emptied_only_if_told_to(
    sandbox: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On AWS it would stop the stack's deletion half way; one that is retained would not.

    A stack that is protected keeps its objects, whatever is said: it will not be deleted.
    """
    stack = f"holds-{uuid.uuid4().hex[:8]}"
    buckets: dict[str, dict[str, object]] = {
        name: {
            "Type": "AWS::S3::Bucket",
            "Properties": {
                "BucketName": f"{stack}-{name.lower()}",
                "VersioningConfiguration": {"Status": "Enabled"},
            },
        }
        for name in ("Full", "Empty", "Retained")
    }
    buckets["Retained"]["DeletionPolicy"] = "Retain"
    cloudformation, s3 = boto3.client("cloudformation"), boto3.client("s3")
    cloudformation.create_stack(StackName=stack, TemplateBody=json.dumps({"Resources": buckets}))
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName=stack, WaiterConfig={"Delay": 0.2}
    )
    for name in ("full", "retained"):
        s3.put_object(Bucket=f"{stack}-{name}", Key="order", Body=b"1")
        s3.delete_object(Bucket=f"{stack}-{name}", Key="order")  # a version and a marker are left
    ran = []
    monkeypatch.setattr(gallery_module, "known", lambda name: name)
    monkeypatch.setattr(gallery_module, "run", lambda *words, env: ran.append(words[2:]) or 0)
    words = ["destroy", stack, "--target", "aws"]
    protect = partial(cloudformation.update_termination_protection, StackName=stack)
    protect(EnableTerminationProtection=True)
    assert CliRunner().invoke(gallery_module.app, [*words, "--empty"]).exit_code == 0
    assert "Versions" in s3.list_object_versions(Bucket=f"{stack}-full")
    ran.clear()
    protect(EnableTerminationProtection=False)
    refused = CliRunner().invoke(gallery_module.app, words)
    assert refused.exit_code == 2 and not ran
    assert refused.stderr == (
        f"error: CloudFormation deletes no bucket that holds objects: {stack}-full; add EMPTY=yes\n"
    )
    done = CliRunner().invoke(gallery_module.app, [*words, "--empty"])
    assert done.exit_code == 0 and ran == [("destroy", "-e", stack)]
    assert f"emptied {stack}-full\n" in done.stdout
    assert "Versions" not in s3.list_object_versions(Bucket=f"{stack}-full")
    assert "Versions" in s3.list_object_versions(Bucket=f"{stack}-retained")
    boto3.resource("s3").Bucket(f"{stack}-retained").object_versions.delete()
    cloudformation.delete_stack(StackName=stack)


def test_list_names_every_pattern_with_its_problem() -> None:
    listed = gallery("list", COLUMNS="200")
    assert listed.returncode == 0
    for pattern in PATTERNS.values():
        assert pattern in listed.stdout
    assert "Park orders that keep failing" in listed.stdout


@pytest.mark.parametrize("module", [["gallery.py"], ["-m", "sandbox"], ["-m", "scenarios"]])
def test_help_is_there(module: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *module, "--help"], cwd=PROJECT, capture_output=True, check=False
    )
    assert done.returncode == 0


def test_a_scenario_of_a_stack_that_is_not_deployed_fails_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scenarios", "Nope"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "error: Nope has no scenario\n")


@pytest.mark.parametrize("interpreter", ["nowhere-python", "false"])
def test_make_without_a_fit_python_is_one_line(interpreter: str, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "package-lock.json"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    (tmp_path / "sandbox").mkdir()
    for name in ("requirements.lock", "layer.lock"):
        (tmp_path / "sandbox" / name).touch()
    done = subprocess.run(
        ["make", "setup", f"PYTHON={interpreter}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        f"error: {interpreter} is missing or older than 3.11; install Python 3.11 or newer,"
        " or say make PYTHON=python3.12"
    )
