"""Start MiniStack with the gaps closed that our patterns need.

Runs in the sandbox's own environment (.sandbox/venv) and imports nothing of the project but
gaps/ and what they ask, here and of definitions in rules/: functions inherit this interpreter,
which must look like the Lambda runtime.
"""

import importlib
import os
import pkgutil
import shutil
import signal
import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import gaps

MINISTACK = "1.5.33"


def fail(problem: str) -> NoReturn:
    """One line; the parent process shows it."""
    print(f"{problem}; install what is pinned: make setup", file=sys.stderr, flush=True)
    raise SystemExit(2)


def load(gap: str) -> ModuleType:
    """A gap's module, with every private name that it patches found in MiniStack."""
    module = importlib.import_module(f"gaps.{gap}")
    for name in module.PATCHES:
        owner, _, attribute = name.rpartition(".")
        if not hasattr(importlib.import_module(f"ministack.{owner}"), attribute):
            fail(f"MiniStack {MINISTACK} has no {name}, which the gap {gap} patches")
    return module


def end_with_parent() -> None:
    """Wait until whoever started this process is gone; then end it and all that it started."""
    sys.stdin.buffer.read()
    shutil.rmtree(Path(os.environ["TMPDIR"]).parent, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Check the version, close the gaps, serve."""
    if len(sys.argv) > 1:
        os.set_inheritable(int(sys.argv[1]), False)  # the lock says that *this* process lives
    if "tied" in sys.argv:
        threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        installed = version("ministack")
    except PackageNotFoundError:
        fail("MiniStack is not installed")
    if installed != MINISTACK:
        fail(f"MiniStack {installed} is installed, the gaps are closed for {MINISTACK}")
    if os.environ.get("SANDBOX_GAPS") != "stock":
        sys.path.append(str(Path(__file__).parent.parent / "rules"))
        for gap in sorted(module.name for module in pkgutil.iter_modules(gaps.__path__)):
            load(gap).close()
    from ministack import app

    app._port_is_bindable = lambda *_: False  # no second listener on port 443
    sys.argv = ["ministack"]
    app.main()


if __name__ == "__main__":
    main()
