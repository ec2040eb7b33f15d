"""Each gap: stock MiniStack fails its check and ours passes. One that passes on stock is closed."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Generator

import pytest

from sandbox import gaps, server
from tests.sandbox.checks import base, firehose, messaging, mq, sqs, stepfunctions
from tests.sandbox.cloud import Clients, clients

GAPS = {module.name for module in pkgutil.iter_modules(gaps.__path__)}
CHECKS: dict[str, Callable[[Clients], bool]] = {
    name: check
    for module in (base, firehose, messaging, mq, sqs, stepfunctions)
    for name, check in vars(module).items()
    if name in GAPS
}


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Generator[server.Server]:
    """MiniStack as it is, but with IAM and TLS on."""
    folder = tmp_path_factory.mktemp("stock") / "run"
    yield server.start(folder, gaps=False)
    server.stop(folder)


def test_every_gap_has_a_check() -> None:
    assert set(CHECKS) == GAPS


@pytest.mark.parametrize("gap", sorted(GAPS))
def test_gap_is_closed_in_ours(gap: str, sandbox: server.Server) -> None:
    assert CHECKS[gap](clients(sandbox))


@pytest.mark.parametrize("gap", sorted(GAPS))
def test_gap_is_open_in_stock(gap: str, stock: server.Server) -> None:
    assert not CHECKS[gap](clients(stock)), f"upstream closed it: delete sandbox/gaps/{gap}.py"
