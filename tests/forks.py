"""Projects made from all patterns, and their own tests there: `make test-forks`, not `make test`.

In those of WHOLE (all, if it is not set) everything runs in environments of their own, made from
nothing: minutes, not seconds. In the others runs what is about their files, in the environments of
this repository.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import fork
from tests.synthesis import PATTERNS, PROJECT

NAME = "OrderFulfilment"
WHOLE = os.environ.get("WHOLE", "").split() or list(PATTERNS.values())
# The laws that depend on more than the template, which is the snapshot's.
LAWS = "snapshot or stateful or columns or powertools or defaults or options or stands_alone"


def test_a_project_passes_its_own_tests(stem: str) -> None:
    with tempfile.TemporaryDirectory(prefix="fork-") as folder:  # 1 GB, which tmp_path would keep
        made = fork.fork(PATTERNS[stem], str(Path(folder) / "orders"), NAME)
        whole = PATTERNS[stem] in WHOLE
        passes(made, ["make", "check", "test"] if whole else with_our_environments(made))
        assert fork.git(made, "status", "--porcelain").stdout == ""


def with_our_environments(made: Path) -> list[str]:
    """The command that tests a project's files with what is installed here."""
    (made / ".sandbox").mkdir()
    (made / "node_modules").mkdir()
    for environment in (".sandbox/venv", ".sandbox/layer", ".sandbox/sam", "node_modules/aws-cdk"):
        (made / environment).symlink_to(PROJECT / environment)
    folders = [f"tests/{one}" for one in ("stacks", "lambdas", "workers")]
    return [
        *(sys.executable, "-m", "pytest", "-n0", "-k", f"not test_patterns or {LAWS}"),
        *(folder for folder in folders if (made / folder).exists()),
        "tests/test_patterns.py",
    ]


def passes(made: Path, command: list[str]) -> None:
    """Run a command in a project, with nothing of this process; it has compared the snapshot."""
    done = subprocess.run(
        command,
        cwd=made,
        env={name: os.environ[name] for name in ("PATH", "HOME")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0
    assert "1 snapshot passed" in done.stdout


def test_the_whole_ones_are_patterns() -> None:
    assert set(WHOLE) <= set(PATTERNS.values())
