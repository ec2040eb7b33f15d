"""bin/sandbox: any project's commands, from any folder, in a sandbox of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from sandbox import server
from tests.mutate import INSTALLED

PROJECT = Path(__file__).parent.parent.parent
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """The gallery in a folder with a space, with a fresh sandbox."""
    copy = tmp_path_factory.mktemp("copy") / "the gallery"
    for name in INSTALLED:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).symlink_to((PROJECT / name).resolve())
    for name in ("app.py", "cdk.json"):
        shutil.copy2(PROJECT / name, copy / name)
    for name in ("bin", "sandbox", "rules", "lambdas", "workers", "stacks"):
        shutil.copytree(PROJECT / name, copy / name)
    yield copy
    server.stop(copy / ".sandbox" / "run")


@pytest.fixture(scope="module")
def run(project: Path) -> Run:
    """Runs bin/sandbox in a folder."""

    def done(*words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [project / "bin" / "sandbox", *words], cwd=cwd, env=os.environ | more,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    started = done("start", cwd=project)
    assert started.returncode == 0, started.stderr
    return done


def test_the_cdk_deploys_to_a_fresh_sandbox(run: Run, project: Path) -> None:
    """With the pinned CLI, whatever comes first on PATH, and no line about bootstrapping."""
    (project / "wrong").mkdir()
    wrong = project / "wrong" / "cdk"
    wrong.write_text("#!/bin/sh\nexit 9\n")
    wrong.chmod(0o755)
    path = f"{wrong.parent}{os.pathsep}{os.environ['PATH']}"
    words = ("run", "--", "cdk", "deploy", "SqsLambdaDlq", "-e", "--require-approval", "never")
    done = run(*words, cwd=project, PATH=path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "SqsLambdaDlq.OrdersUrl" in done.stderr + done.stdout


def test_elsewhere_the_projects_own_tools_come_first(run: Run, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for tool in ("cdk", "python"):
        (own / tool).write_text(f"#!/bin/sh\necho the projects own {tool}\n")
        (own / tool).chmod(0o755)
    path = f"{own}{os.pathsep}{os.environ['PATH']}"
    for tool in ("cdk", "python"):
        done = run("run", "--", tool, cwd=tmp_path, PATH=path)
        assert done.stdout == f"the projects own {tool}\n"
    without = run("run", "--", "cdk", "--version", cwd=tmp_path, PATH="/usr/bin:/bin")
    assert without.returncode == 0, without.stderr


def test_aws_has_the_endpoint_whatever_its_version_reads(run: Run, tmp_path: Path) -> None:
    own = tmp_path / "aws"
    own.write_text('#!/bin/sh\necho "$@"\n')
    own.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}/usr/bin:/bin"
    done = run("run", "--", "aws", "sqs", "list-queues", cwd=tmp_path, PATH=path)
    endpoint, rest = done.stdout.split(" ", 2)[1:]
    assert endpoint.startswith("https://localhost:") and rest == "sqs list-queues\n"


def test_a_shell_and_what_it_needs(run: Run, project: Path, tmp_path: Path) -> None:
    program = tmp_path / "shell"
    program.write_text("#!/bin/sh\necho at $AWS_ENDPOINT_URL\nexit 3\n")
    program.chmod(0o755)
    done = run("shell", cwd=tmp_path, SHELL=str(program))
    assert done.returncode == 3 and "at https://localhost:" in done.stdout
    printed = run("env", cwd=tmp_path, AWS_PROFILE="production").stdout
    evaluated = subprocess.run(
        ["sh", "-c", f"{printed}\necho $AWS_ENDPOINT_URL $AWS_PROFILE."],
        env=os.environ | {"AWS_PROFILE": "production"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert evaluated.startswith("https://localhost:") and evaluated.endswith(" .\n")


def test_a_command_ends_by_the_signal_that_it_gets(run: Run, project: Path, tmp_path: Path) -> None:
    assert run("run", "--", "sh", "-c", "kill -TERM $$", cwd=tmp_path).returncode == -15
    assert run("run", "--", "nope", cwd=tmp_path).stderr == "error: there is no command nope\n"


@pytest.mark.parametrize("port", ["99999", "0", "many"])
def test_a_port_that_is_none_is_one_line(port: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "start", "--port", port],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: Invalid value for '--port'")
    assert len(done.stderr.splitlines()) == 1
