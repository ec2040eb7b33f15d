"""Every pattern, deployed by the real CDK CLI to the sandbox and driven by its scenario."""

from __future__ import annotations

import importlib
import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from sandbox import cdk, server
from scenarios.stage import ScenarioCannotRun, ScenarioFailed, Stage
from tests.synthesis import PATTERNS

pytestmark = pytest.mark.xdist_group("sandbox")


def play(stem: str, stack: str) -> str:
    """Play a pattern's scenario on a deployed stack; what it told."""
    told = io.StringIO()
    try:
        stage = Stage(stack, Console(file=told, width=200))
        importlib.import_module(f"scenarios.{stem}").play(stage)
    finally:
        print(told.getvalue())
    return told.getvalue()


def test_scenario(stem: str, sandbox: server.Server) -> None:
    """Deploy, play, destroy; then nothing of it is left."""
    pattern = PATTERNS[stem]
    cdk.deploy(sandbox, pattern)
    try:
        told = play(stem, pattern)
    except ScenarioCannotRun as missing:
        pytest.skip(str(missing))
    finally:
        cdk.destroy(sandbox, pattern)
    assert "balance: " in told
    assert left_of(sandbox, pattern) == []


def left_of(target: server.Server, pattern: str) -> list[str]:
    """The queues, topics, tables and functions of a stack that are still there."""
    import boto3

    found = [
        *boto3.client("sqs").list_queues(QueueNamePrefix=pattern).get("QueueUrls", []),
        *(one["TopicArn"] for one in boto3.client("sns").list_topics()["Topics"]),
        *boto3.client("dynamodb").list_tables()["TableNames"],
        *(one["FunctionName"] for one in boto3.client("lambda").list_functions()["Functions"]),
    ]
    return [name for name in found if f"{pattern}-" in name]


def test_a_function_without_its_grant_is_denied_and_the_scenario_says_so(
    sandbox: server.Server, tmp_path: Path
) -> None:
    """Take the grant on FulfilledOrders out of the stack: every order is parked."""
    assembly = synthesize_changed(
        sandbox,
        "sqs_lambda_dlq",
        tmp_path,
        'fulfilled_orders.grant(fulfil_order_role, "dynamodb:PutItem")',
        "",
    )
    cdk.deploy_assembly(sandbox, "SqsLambdaDlq", assembly)
    with pytest.raises(ScenarioFailed, match=r"more parked .*AccessDenied.*dynamodb:PutItem"):
        play("sqs_lambda_dlq", "SqsLambdaDlq")
    cdk.destroy(sandbox, "SqsLambdaDlq")


def synthesize_changed(
    target: server.Server, stem: str, folder: Path, line: str, instead: str
) -> str:
    """The assembly of a pattern, copied to `folder`, with one line of its stack changed."""
    shutil.copy(cdk.PROJECT / "app.py", folder)
    shutil.copy(cdk.PROJECT / "cdk.json", folder)
    shutil.copytree(cdk.PROJECT / "lambdas" / stem, folder / "lambdas" / stem)
    (folder / "stacks").mkdir()
    source = (cdk.PROJECT / "stacks" / f"{stem}.py").read_text()
    assert source.count(line) == 1
    (folder / "stacks" / f"{stem}.py").write_text(source.replace(line, instead))
    subprocess.run(
        cdk.command("synth", "-q", "--app", f"{sys.executable} app.py"),
        cwd=folder,
        env=target.environment() | {"CDK_VALIDATION": "false"},
        check=True,
    )
    return str(folder / "cdk.out")
