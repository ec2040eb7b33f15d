"""Each gap: stock MiniStack fails its checks and ours passes. One that passes on stock is closed.

A check is named after its gap; a gap of several parts has one for each: `gap__part`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from sandbox import gaps, server
from tests.sandbox import checks
from tests.sandbox.cloud import Clients

GAPS = {module.name for module in pkgutil.iter_modules(gaps.__path__)}
CHECKS: dict[str, Callable[[Clients], bool]] = {
    name: check
    for module in pkgutil.iter_modules(checks.__path__)
    for name, check in vars(importlib.import_module(f"{checks.__name__}.{module.name}")).items()
    if name.partition("__")[0] in GAPS
}


@pytest.fixture(scope="session")
def ours(sandbox: server.Server) -> Clients:
    """Clients of the session's own server."""
    return Clients(sandbox)


@pytest.fixture(scope="session")
def on_stock(
    chosen: Callable[[str], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Generator[dict[str, Future[bool]]]:
    """What checks come to on MiniStack as it is, but with IAM and TLS on.

    All at once: most wait in vain for what does not come there.
    """
    names = chosen("test_gap_is_open_in_stock")
    folder = tmp_path_factory.mktemp("stock") / "run"
    client = Clients(server.start(folder, gaps=False, tied=True))
    with ThreadPoolExecutor(len(names)) as threads:
        yield {name: threads.submit(CHECKS[name], client) for name in names}
    server.stop(folder)


def test_every_gap_has_a_check() -> None:
    assert {name.partition("__")[0] for name in CHECKS} == GAPS


@pytest.mark.parametrize("check", sorted(CHECKS))
def test_gap_is_closed_in_ours(check: str, ours: Clients) -> None:
    assert CHECKS[check](ours)


@pytest.mark.parametrize("check", sorted(CHECKS))
def test_gap_is_open_in_stock(check: str, on_stock: dict[str, Future[bool]]) -> None:
    gap = check.partition("__")[0]
    assert not on_stock[check].result(), f"upstream closed it: mend sandbox/gaps/{gap}.py"
