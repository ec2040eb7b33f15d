"""Start, find and stop one embedded AWS. Its whole state is one folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import trustme

from sandbox import environment
from sandbox.environment import Keys

PROJECT = Path(__file__).parent.parent
LAUNCHER = PROJECT / "sandbox" / "launcher.py"
TOOL_PYTHON = PROJECT / ".sandbox" / "venv" / "bin" / "python"
FOLDER = PROJECT / ".sandbox" / "run"

# SQS time runs this much faster than the wall clock: a visibility timeout of 60 s takes 3 s, still
# well above a cold call (about 1 s).
CLOCK = 20.0


class SandboxError(Exception):
    """One line: what is wrong and what to do."""


@dataclass(frozen=True)
class Server:
    """A running embedded AWS."""

    pid: int
    port: int
    clock: float
    folder: str
    key_id: str = field(repr=False)
    secret: str = field(repr=False)

    def environment(self) -> dict[str, str]:
        """What a command needs to reach this server and nothing else."""
        authority, keys = Path(self.folder) / "tls" / "ca.pem", Keys(self.key_id, self.secret)
        return environment.for_clients(self.port, authority, keys) | {
            "SANDBOX_CLOCK": str(self.clock)
        }

    def lives(self) -> bool:
        """Whether it still runs: it holds its lock for as long as it lives."""
        try:
            lock = os.open(Path(self.folder) / "lock", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def last_words(self) -> str:
        """The last line of its log."""
        log = Path(self.folder) / "server.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return next((line for line in reversed(lines) if line.strip()), f"no word in {log}")

    def memory(self) -> int | None:
        """Resident bytes of the server without its functions; None where /proc is missing."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except OSError:
            return None
        return pages * os.sysconf("SC_PAGE_SIZE")


def start(
    folder: Path = FOLDER,
    port: int | None = None,
    clock: float = CLOCK,
    gaps: bool = True,
    tied: bool = False,
) -> Server:
    """Start a server whose state is `folder` and wait until it answers (at most 20 s).

    `tied`: it ends with this process, however that ends, and leaves nothing behind.
    SandboxError if one runs already, if `port` (default: a free one) is in use, if setup is
    missing, or if the server ends before it answers.
    """
    if not TOOL_PYTHON.exists():
        raise SandboxError("the sandbox's environment is missing; install it: make setup")
    with _one_at_a_time(folder):
        if running := find(folder):
            raise SandboxError(
                f"the sandbox runs already on port {running.port}; stop it first: make stop"
            )
        port = port or free_ports(1)[0]
        if _in_use(port):
            raise SandboxError(f"port {port} is in use; name another, or none to get a free one")
        server, process = _launch(folder, port, clock, gaps, tied)
        deadline = time.monotonic() + 20
        while not _answers(server):
            if process.poll() is not None or time.monotonic() > deadline:
                last = server.last_words()
                _stop(folder)
                raise SandboxError(f"the sandbox did not start: {last}")
            time.sleep(0.02)
    return server


def _launch(
    folder: Path, port: int, clock: float, gaps: bool, tied: bool
) -> tuple[Server, subprocess.Popen[bytes]]:
    """Start the process of a server; only its owner can read what is in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for private in (folder, folder / "tls", folder / "tmp"):
        private.mkdir(parents=True, mode=0o700)
    make_certificate(folder / "tls")
    keys = Keys.new()
    # The server holds this lock for as long as it lives: that, and not a process id that may
    # belong to somebody else by now, says whether it runs.
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # The other end of the pipe is never written to: it closes when this process ends.
    stdin = os.pipe()[0] if tied else os.open(os.devnull, os.O_RDONLY)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [TOOL_PYTHON, LAUNCHER, str(lock), "tied" if tied else "free"],
            env=environment.for_server(port, folder, keys, clock, gaps),
            cwd=folder / "tmp",
            stdin=stdin,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
            start_new_session=True,
        )
    os.close(lock)
    os.close(stdin)
    server = Server(process.pid, port, clock, str(folder), *keys)
    (folder / "server.json").write_text(json.dumps(asdict(server)))
    return server, process


@contextmanager
def _one_at_a_time(folder: Path) -> Generator[None]:
    """Nobody else starts or stops a server of this folder meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = os.open(folder.parent, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def find(folder: Path = FOLDER) -> Server | None:
    """The server that runs in `folder`, or None; what a dead one left is removed."""
    try:
        server = Server(**json.loads((folder / "server.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    if server.lives():
        return server
    _end_orphans(server)
    shutil.rmtree(folder, ignore_errors=True)
    return None


def stop(folder: Path = FOLDER) -> Server | None:
    """Stop the server of `folder` with all its functions and remove the folder.

    SIGTERM first, SIGKILL after 3 s: a stuck custom resource can make it hang. Returns what was
    stopped, or None if nothing ran.
    """
    if not folder.parent.exists():
        return None
    with _one_at_a_time(folder):
        return _stop(folder)


def _stop(folder: Path) -> Server | None:
    server = find(folder)
    if server:
        _end_group(server.pid, patience=3)
    shutil.rmtree(folder, ignore_errors=True)
    return server


def _end_orphans(server: Server) -> None:
    """End the functions that outlived a server that was killed.

    The id of its process group may be a stranger's by now: whoever does not work in the server's
    own temporary folder is left alone, and so is everybody where /proc does not tell.
    """
    own = f"TMPDIR={Path(server.folder) / 'tmp'}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            group = int((process / "stat").read_text().rpartition(")")[2].split()[2])
            if group == server.pid and own in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def _end_group(group: int, patience: float = 0) -> None:
    """End a process group that start() made: politely, and after `patience` seconds for certain."""
    deadline = time.monotonic() + patience
    try:
        if patience:
            os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            _reap(group)
            os.killpg(group, 0)
            time.sleep(0.02)
        os.killpg(group, signal.SIGKILL)
        _reap(group)
    except (ProcessLookupError, PermissionError):
        pass


def _reap(pid: int) -> None:
    """Take the exit status if the server is this process's own child, so that its group can end."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on, each another one."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def make_certificate(folder: Path) -> None:
    """A certificate authority of this sandbox's own, for loopback names only."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1", "*.localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    for part in certificate.cert_chain_pems:
        part.write_to_path(folder / "server.pem", append=True)
    (folder / "server.key").chmod(0o600)


def _answers(server: Server) -> bool:
    context = ssl.create_default_context(cafile=Path(server.folder) / "tls" / "ca.pem")
    loopback = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),  # whatever the machine's proxy is
        urllib.request.HTTPSHandler(context=context),
    )
    try:
        url = f"https://localhost:{server.port}/_ministack/health"
        with loopback.open(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
