"""No test can reach AWS; tests that take `stem` run once for every pattern."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import boto3
import pytest
from xdist.scheduler import LoadScopeScheduling

import app  # noqa: F401  (first: it chooses the Node.js that the CDK library starts)
from sandbox import environment, server
from tests import law

# Before anything makes a client: this process forgets whose AWS account the machine knows.
# Port 9 is nobody's.
_nowhere = environment.for_clients(9, Path(os.devnull), environment.Keys("nobody", "nothing"))
os.environ.clear()
os.environ.update(_nowhere)
for of_make in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # a test that runs make is no part of another
    os.environ.pop(of_make, None)

PROJECT = Path(__file__).parent.parent
FOLDER = pytest.StashKey[Path]()
SYNTHESIS = ("tests/rules/", "tests/stacks/", "tests/test_patterns", "tests/test_laws_bite")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every pattern is tested because its file exists."""
    marked = any("stem" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "stem" in metafunc.fixturenames and not marked:
        from tests.synthesis import PATTERNS

        metafunc.parametrize("stem", sorted(PATTERNS))


def pytest_configure(config: pytest.Config) -> None:
    """One embedded AWS a session, started here and shared by the processes that run tests."""
    if hasattr(config, "workerinput"):
        config.stash[FOLDER] = Path(config.workerinput["sandbox"])
    elif not config.option.collectonly:
        config.stash[FOLDER] = Path(tempfile.mkdtemp(prefix="gallery-tests-")) / "run"
        server.start(config.stash[FOLDER], tied=True)


class Grouped(LoadScopeScheduling):
    """Tests one by one to whichever process is free; what shares costly work, to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if file.startswith(SYNTHESIS):
            return "synthesis"  # patterns once synthesized, and cfn-lint's schemas
        if file.endswith(("/test_rabbitmq.py", "/test_mq_broker.py")):
            return "rabbitmq"  # a broker's start
        if file.endswith("/test_fork.py"):
            return "fork"  # the imports of all files
        if test.startswith("test_gap_is_open_in_stock"):
            return "stock"  # a server without our gaps, which all checks wait for at once
        return nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Grouped:
    """Not xdist's own loadgroup, which this version of pytest does not let see its groups."""
    return Grouped(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that the processes end together.

    What needs no deployment goes before the scenarios: they wait for one synthesis of all.
    """
    first = (*SYNTHESIS, "tests/test_fork", "tests/scenarios/", "tests/workers/", "tests/sandbox/")
    items.sort(key=lambda item: [not item.nodeid.startswith(folder) for folder in first])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a test process of xdist where the sandbox is."""
    node.workerinput["sandbox"] = str(node.config.stash.get(FOLDER, ""))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """A law that is broken speaks: see tests/law.py."""
    outcome = yield
    report, failed = outcome.get_result(), call.excinfo
    own = item.name.startswith("test_snapshot")  # syrupy's words show what becomes of the template
    if report.failed and failed and item.path.name == "test_patterns.py" and not own:
        stem = getattr(item, "callspec", None)
        pattern = str(stem.params.get("stem", "")) if stem else ""
        said = law.sentence(item.function, failed.value, pattern)  # ty: ignore[missing-attribute]
        report.longrepr = said if item.config.option.verbose < 1 else f"{said}\n{report.longrepr}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    if not hasattr(config, "workerinput") and FOLDER in config.stash:
        server.stop(config.stash[FOLDER])
        config.stash[FOLDER].parent.rmdir()


@pytest.fixture(scope="session")
def chosen(request: pytest.FixtureRequest) -> Callable[[str], list[str]]:
    """Tells the parameters with which this session runs a test of that name."""
    names = [item.name for item in request.session.items]
    return lambda test: [
        name.removeprefix(f"{test}[").rstrip("]") for name in names if name.startswith(f"{test}[")
    ]


@pytest.fixture(scope="session")
def sandbox(pytestconfig: pytest.Config) -> Generator[server.Server]:
    """The session's embedded AWS, and this process aimed at it."""
    running = server.find(pytestconfig.stash[FOLDER])
    assert running, "the sandbox has died; see its server.log"
    before = dict(os.environ)
    os.environ.update(running.environment())
    boto3.DEFAULT_SESSION = None  # a client made before has read the keys of nobody
    yield running
    os.environ.clear()
    os.environ.update(before)
    boto3.DEFAULT_SESSION = None
