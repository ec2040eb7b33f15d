"""Every pattern, deployed by the real CDK CLI to the sandbox and driven by its scenario."""

from __future__ import annotations

import fcntl
import importlib
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from gallery import missing
from sandbox import cdk, server
from scenarios.stage import ScenarioCannotRun, ScenarioFailed, Stage
from tests.synthesis import PATTERNS


def play(stem: str, stack: str) -> str:
    """Play a pattern's scenario on a deployed stack; what it told."""
    told = io.StringIO()
    try:
        stage = Stage(stack, Console(file=told, width=200))
        importlib.import_module(f"scenarios.{stem}").play(stage)
    finally:
        print(told.getvalue())
    return told.getvalue()


@pytest.fixture(scope="session")
def assembly(sandbox: server.Server, chosen: Callable[[str], list[str]]) -> str | None:
    """Where all patterns of this session lie, synthesized by one command; None for a single one."""
    stems = chosen("test_scenario")
    if len(stems) == 1:
        return None
    folder = Path(sandbox.folder) / "scenarios.out"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes first does it for all processes
        if not folder.exists():
            cdk.synthesize(sandbox, [PATTERNS[stem] for stem in stems], str(folder))
    return str(folder)


def test_scenario(stem: str, sandbox: server.Server, assembly: str | None) -> None:
    """Deploy, play, destroy; then nothing of it is left."""
    pattern = PATTERNS[stem]
    if lacking := missing(pattern):
        pytest.skip(lacking)
    if assembly:
        cdk.deploy_assembly(sandbox, pattern, assembly)
    else:
        cdk.deploy(sandbox, pattern)
    try:
        told = play(stem, pattern)
    except ScenarioCannotRun as problem:
        pytest.skip(str(problem))
    finally:
        cdk.destroy(sandbox, pattern, assembly)
    assert "balance: " in told
    assert left_of(sandbox, pattern) == []


def left_of(target: server.Server, pattern: str) -> list[str]:
    """What of a stack is still there: queues, topics, tables, functions, buckets, streams."""
    import boto3

    found = [
        *boto3.client("sqs").list_queues(QueueNamePrefix=pattern).get("QueueUrls", []),
        *(one["TopicArn"] for one in boto3.client("sns").list_topics()["Topics"]),
        *boto3.client("dynamodb").list_tables()["TableNames"],
        *(one["FunctionName"] for one in boto3.client("lambda").list_functions()["Functions"]),
        *(one["Name"] for one in boto3.client("s3").list_buckets()["Buckets"]),
        *boto3.client("firehose").list_delivery_streams()["DeliveryStreamNames"],
    ]
    return [name for name in found if f"{pattern}-".lower() in name.lower()]


def played_without(target: server.Server, stem: str, folder: Path, line: str, instead: str) -> str:
    """Why a pattern's scenario fails when one line of its stack is another; it must fail.

    The changed pattern is made in `folder`, deployed, played and destroyed.
    """
    name = f"{PATTERNS[stem]}Changed"
    assembly = synthesize_changed(target, stem, folder, line, instead)
    cdk.deploy_assembly(target, name, assembly)
    with pytest.raises(ScenarioFailed) as failed:
        play(stem, name)
    cdk.destroy(target, name, assembly)
    return str(failed.value)


def synthesize_changed(
    target: server.Server, stem: str, folder: Path, line: str, instead: str
) -> str:
    """The assembly of a pattern copied to `folder`, with one line of its stack changed.

    The stack's name gets the ending Changed, so that it stands beside the unchanged one.
    """
    shutil.copy(cdk.PROJECT / "app.py", folder)
    shutil.copy(cdk.PROJECT / "cdk.json", folder)
    if (cdk.PROJECT / "lambdas" / stem).exists():
        shutil.copytree(cdk.PROJECT / "lambdas" / stem, folder / "lambdas" / stem)
    (folder / "stacks").mkdir()
    name = PATTERNS[stem]
    source = (cdk.PROJECT / "stacks" / f"{stem}.py").read_text()
    assert source.count(line) == 1
    changed = source.replace(line, instead).replace(f"class {name}(", f"class {name}Changed(")
    (folder / "stacks" / f"{stem}_changed.py").write_text(changed)
    subprocess.run(
        cdk.command(
            "synth", "-q", "--app", f"'{sys.executable}' app.py", *cdk.contexts(cdk.DISPOSABLE)
        ),
        cwd=folder,
        env=target.environment() | {"CDK_VALIDATION": "false"},
        check=True,
    )
    return str(folder / "cdk.out")
