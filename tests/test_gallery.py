"""The commands behind the Makefile: bad input is one line and exit code 2, and loses nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import boto3
import pytest
from typer.testing import CliRunner

import gallery as gallery_module
from sandbox import server
from tests.mutate import INSTALLED
from tests.synthesis import PATTERNS, PROJECT

Start = Callable[..., subprocess.Popen[str]]
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
    line = refusal("deploy", "SqsLambdaDlq", "--options", "max_receive_count")
    assert line == "error: an option is name=value, not max_receive_count"


@pytest.mark.parametrize("near", ["sqslambdadlq", "SqsLamdaDlq", "sqs_lambda_dlq"])
def test_a_near_miss_is_told_what_was_meant(near: str) -> None:
    assert refusal("demo", near) == f"error: no pattern {near}; did you mean SqsLambdaDlq?"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("max_receive_count=0", "SqsLambdaDlq: max_receive_count is 1 to 1000, not 0"),
        ("max_receive_count=few", "SqsLambdaDlq: max_receive_count is int, not 'few'"),
        ("alert_email=o'brien", 'SqsLambdaDlq: alert_email is an e-mail address, not "o\'brien"'),
        ("timeout_seconds=5 timeout_seconds=6", "timeout_seconds is said twice: 5 and 6"),
    ],
)
def test_a_wrong_option_is_said_before_anything_starts(
    options: str, problem: str, tmp_path: Path
) -> None:
    for command in ("deploy", "demo", "synth"):
        assert refusal(command, "SqsLambdaDlq", "--options", options) == f"error: {problem}"
    assert not server.FOLDER.exists() or server.find()


def test_a_wrong_target_or_word_is_one_line() -> None:
    assert "'azure' is not one of 'sandbox', 'aws'" in refusal("demo", "--target", "azure")
    assert refusal("deploy", "--nope") == "error: No such option: --nope"


@pytest.mark.parametrize(
    "value", ["`touch pwned`", "$(touch pwned)", "$(shell touch pwned)", "'; touch pwned; '", 'a"b']
)
def test_what_is_said_to_make_is_never_run(value: str, project: Path) -> None:
    """Neither by the shell nor by make itself: it reaches the command as it was typed."""
    done = subprocess.run(
        ["make", "demo", f"PATTERN={value}"],
        cwd=project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr.splitlines()[0].startswith(f"error: no pattern {value}; there are: ")
    assert not (project / "pwned").exists()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the commands in a folder with a space, with what is installed here."""
    copy = tmp_path / "a folder"
    for name in INSTALLED:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).symlink_to((PROJECT / name).resolve())
    for name in ("app.py", "cdk.json", "gallery.py", "Makefile", "install.py", "package.json"):
        (copy / name).write_bytes((PROJECT / name).read_bytes())
    for name in ("bin", "sandbox", "rules", "lambdas", "workers", "scenarios", "stacks"):
        shutil.copytree(PROJECT / name, copy / name, dirs_exist_ok=True)
    for name in ("requirements.lock", "package-lock.json"):
        shutil.copy2(PROJECT / name, copy / name)
        os.utime(copy / name, (0, 0))
    for name in ("requirements.lock", "layer.lock", "sam.lock"):
        os.utime(copy / "sandbox" / name, (0, 0))
    return copy


def heeds_ctrl_c() -> None:
    """As on a terminal, though whoever runs the tests in the background may ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def make(project: Path) -> Generator[Callable[..., subprocess.Popen[str]]]:
    """Starts make in that folder, on a machine with a proxy; its sandbox ends with the test."""

    def started(*words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["make", *words], cwd=project, text=True, start_new_session=True,
            env=os.environ | {"HTTPS_PROXY": "http://127.0.0.1:9", "PYTHONSAFEPATH": "1"}
            | environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=heeds_ctrl_c,  # noqa: PLW1509  (no thread of ours has a lock here)
        )  # fmt: skip

    yield started
    server.stop(project / ".sandbox" / "run")


def said(process: subprocess.Popen[str], line: str) -> str:
    """What a process has said, up to a line with these words."""
    assert process.stdout
    told = ""
    for one in process.stdout:
        told += one
        if line in one:
            return told
    raise AssertionError(f"{line} was not said: {told}{process.communicate()}")


def test_a_demo_that_was_stopped_does_not_count_against_the_next(make: Start) -> None:
    """In a folder with a space, behind a proxy that leads nowhere."""
    with make("demo", "PATTERN=SqsLambdaDlq") as first:
        said(first, "fulfilled")
        with make("demo", "PATTERN=SqsLambdaDlq") as second:
            assert second.communicate()[1].splitlines()[0] == (
                "error: a demo of SqsLambdaDlq is running here; wait for its end, or end it with"
                " Ctrl-C"
            )
        os.killpg(first.pid, signal.SIGINT)
        told, _ = first.communicate()
    assert "The stack stays" not in told
    with make("demo", "PATTERN=SqsLambdaDlq") as third:
        told, problem = third.communicate()
    assert third.returncode == 0, told + problem
    assert "The last demo did not end well: its stack goes first" in told
    assert "balance: 220 sent = 150 fulfilled" in told
    with make("show", "PATTERN=SqsLambdaDlq") as shown:
        assert "aws sqs send-message --queue-url 'https://localhost" in shown.communicate()[0]


def test_a_demo_whose_sandbox_dies_ends_at_once_in_one_line(make: Start, project: Path) -> None:
    with make("demo", "PATTERN=SqsLambdaDlq") as demo:
        said(demo, "fulfilled")
        running = server.find(project / ".sandbox" / "run")
        assert running
        os.killpg(running.pid, signal.SIGKILL)
        began = time.monotonic()
        told, problem = demo.communicate()
        assert time.monotonic() - began < 15
    assert demo.returncode == 2
    *_, line, by_make = problem.splitlines()
    assert line.startswith("error: the sandbox has ended by itself, and all in it is gone: ")
    assert by_make.startswith("make: ***") and "Traceback" not in problem
    assert "The stack stays" not in told


def test_a_draft_is_deployed_with_warnings_to_the_sandbox_only(make: Start, project: Path) -> None:
    stack = project / "stacks" / "sqs_lambda_dlq.py"
    text = stack.read_text()
    stack.write_text(text.replace("Validations.of(fulfil_order_role).acknowledge", "str", 1))
    with make("deploy", "PATTERN=SqsLambdaDlq") as deployed:
        told, problem = deployed.communicate()
    assert deployed.returncode == 0, told + problem
    assert "WARNING The IAM entity contains wildcard permissions" in told
    assert "SqsLambdaDlq/FulfilOrderRole/DefaultPolicy" in told
    with make("synth", "PATTERN=SqsLambdaDlq") as refused:
        told, problem = refused.communicate()
    assert refused.returncode and "ERROR The IAM entity" in told + problem


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


def test_readme_lists_the_patterns_in_the_order_of_make_list() -> None:
    readme = (PROJECT / "README.md").read_text()
    assert re.findall(r"(?m)^\| `(\w+)` \|", readme) == list(gallery_module.patterns())


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


@pytest.mark.parametrize("interpreter", ["nowhere-python", "false", "no where/python"])
def test_make_without_a_fit_python_is_one_line(interpreter: str, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "package-lock.json"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    (tmp_path / "sandbox").mkdir()
    for name in ("requirements.lock", "layer.lock", "sam.lock"):
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
