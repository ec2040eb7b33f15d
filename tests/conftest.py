"""No test can reach AWS; tests that take `stem` run once for every pattern."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

import app  # noqa: F401  (first: it chooses the Node.js that the CDK library starts)
from sandbox import environment, server

# Before anything makes a client: this process forgets whose AWS account the machine knows.
# Port 9 is nobody's.
_nowhere = environment.for_clients(9, Path(os.devnull))
os.environ.clear()
os.environ.update(_nowhere)

PROJECT = Path(__file__).parent.parent


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every pattern is tested because its file exists."""
    if "stem" in metafunc.fixturenames:
        from tests.synthesis import PATTERNS

        metafunc.parametrize("stem", sorted(PATTERNS))


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Generator[server.Server]:
    """One embedded AWS for the session, and this process aimed at it."""
    folder = tmp_path_factory.mktemp("sandbox") / "run"
    started = server.start(folder)
    before = dict(os.environ)
    os.environ.update(started.environment())
    yield started
    os.environ.clear()
    os.environ.update(before)
    server.stop(folder)
