"""The sandbox starts, says what is wrong, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from sandbox import environment, server
from sandbox.environment import Keys
from tests.sandbox.cloud import Clients, function, soon

PROJECT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    yield tmp_path / "run"
    server.stop(tmp_path / "run")


def processes_of(group: int) -> list[str]:
    """The live processes of a process group."""
    listed = subprocess.run(
        ["ps", "-e", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    return [
        line
        for line in listed.splitlines()
        if line.split()[0] == str(group) and not line.split()[1].startswith("Z")
    ]


def test_stop_leaves_no_process_and_no_folder(folder: Path) -> None:
    started = server.start(folder)
    assert processes_of(started.pid)
    assert server.stop(folder) == started
    assert not processes_of(started.pid)
    assert not folder.exists()
    assert server.stop(folder) is None


def test_a_second_start_in_the_same_folder_is_refused(folder: Path) -> None:
    started = server.start(folder)
    with pytest.raises(server.SandboxError, match=f"runs already on port {started.port}"):
        server.start(folder)
    assert server.find(folder) == started


def test_a_port_in_use_is_named(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(server.SandboxError, match=f"port {port} is in use"):
            server.start(folder, port=port)
    assert not folder.exists()


def test_a_server_that_died_is_cleared_away(folder: Path) -> None:
    started = server.start(folder)
    os.killpg(started.pid, signal.SIGKILL)
    os.waitpid(started.pid, 0)
    assert server.find(folder) is None
    assert not folder.exists()
    assert server.start(folder).pid != started.pid


STARTED = """
import sys, time
from pathlib import Path
from sandbox import server
print(server.start(Path(sys.argv[1]), tied=True).pid, flush=True)
time.sleep(60)
"""


def test_a_tied_server_ends_with_whoever_started_it_even_by_sigkill(folder: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTED, folder], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    with starter as process:
        assert process.stdout
        group = int(process.stdout.readline())
        assert processes_of(group)
        process.kill()
    assert soon(lambda: not processes_of(group))
    assert not folder.exists()


def test_a_server_that_hangs_is_ended(folder: Path) -> None:
    started = server.start(folder)
    os.killpg(started.pid, signal.SIGSTOP)
    began = time.monotonic()
    server.stop(folder)
    assert time.monotonic() - began < 8
    assert soon(lambda: not processes_of(started.pid), 2)  # killed, it still gives back its memory


def test_a_process_that_took_a_dead_servers_id_is_not_ours(folder: Path) -> None:
    """The lock, not the process id, says that the server runs."""
    started = server.start(folder)
    server.stop(folder)
    stranger = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        folder.mkdir(parents=True)
        (folder / "lock").touch()
        record = asdict(started) | {"pid": stranger.pid}
        (folder / "server.json").write_text(json.dumps(record))
        assert server.stop(folder) is None
        assert not folder.exists()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


# A function that waits for its next event ends with the server, whose pipe closes: this one stays.
STAYS = """
import subprocess
def handler(event, context):
    subprocess.Popen(["sleep", "60"])
"""


def test_functions_that_outlive_a_killed_server_are_ended(folder: Path) -> None:
    started = server.start(folder)
    client = Clients(started)
    arn = function(client, STAYS)
    client("lambda").invoke(FunctionName=arn)
    os.kill(started.pid, signal.SIGKILL)
    os.waitpid(started.pid, 0)
    assert processes_of(started.pid)
    assert server.find(folder) is None
    assert soon(lambda: not processes_of(started.pid))


def test_of_two_starts_at_once_one_is_told_that_the_other_runs(folder: Path) -> None:
    def start(_: int) -> server.Server | str:
        try:
            return server.start(folder)
        except server.SandboxError as problem:
            return str(problem)

    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(start, range(2)))
    (started,) = (one for one in results if isinstance(one, server.Server))
    (told,) = (one for one in results if isinstance(one, str))
    assert f"runs already on port {started.port}" in told
    assert server.find(folder) == started


# What another user of the machine tries: unsigned, as MiniStack's manual says, and by reading.
STRANGER = """
import encodings.idna, os, pathlib, pwd, ssl, sys, urllib.error, urllib.request
port, folder = sys.argv[1:]
if os.getuid() == 0:  # what it needs is imported: nobody may not be let into Python's own folder
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
told = ssl.create_default_context()
told.check_hostname, told.verify_mode = False, ssl.CERT_NONE
scope = "Credential=%s/20260101/us-east-1/lambda/aws4_request"
signed = "AWS4-HMAC-SHA256 " + scope + ", SignedHeaders=host, Signature=0"
tries = ("POST", "/2015-03-31/functions"), ("GET", "/"), ("POST", "/_ministack/reset")
for method, path in tries:
    for key in ("", "test", "000000000000"):
        headers = {"Authorization": signed % key, "X-Amz-Date": "20260101T000000Z"} if key else {}
        url = f"https://localhost:{port}{path}"
        data = b"{}" if method == "POST" else None
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            print(path, key, urllib.request.urlopen(request, timeout=10, context=told).status)
        except urllib.error.HTTPError as error:
            if error.code not in (400, 401, 403):
                print(path, key, error.code)
for name in ("server.json", "server.log", "tls/server.key", "tmp"):
    try:
        file = pathlib.Path(folder, name)
        list(file.iterdir()) if name == "tmp" else file.read_bytes()
        print("read", name)
    except PermissionError:
        pass
print("tried")
"""


def test_another_user_of_the_machine_can_do_nothing(folder: Path) -> None:
    """As nobody where the tests run as root; else as one who has not read the folder."""
    started, root = server.start(folder), os.getuid() == 0
    for parent in (folder.parent, folder.parent.parent, folder.parent.parent.parent):
        parent.chmod(0o755)  # pytest's own are closed, and what they hold is to be seen
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(started.port), str(folder)],
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [line for line in done.stdout.splitlines() if root or not line.startswith("read")]
    assert found == ["tried"]


def test_it_listens_on_loopback_only(folder: Path) -> None:
    started = server.start(folder)
    listening = subprocess.run(
        [server.TOOL_PYTHON, "-c", LISTENING, str(started.pid)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert listening == [f"127.0.0.1:{started.port}"]


LISTENING = """
import os, pathlib, socket, struct, sys
links = pathlib.Path(f"/proc/{sys.argv[1]}/fd").iterdir()
inodes = {os.readlink(link)[8:-1] for link in links if "socket:" in os.readlink(link)}
for table in ("tcp", "tcp6"):
    for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        local, state, inode = line.split()[1], line.split()[3], line.split()[9]
        if state == "0A" and inode in inodes:
            address, port = local.split(":")
            if table == "tcp":
                address = socket.inet_ntoa(struct.pack("<I", int(address, 16)))
            print(f"{address}:{int(port, 16)}")
"""


def launch(code: str, folder: Path) -> str:
    """What the launcher says on standard error, in its own environment, after `code`."""
    (folder / "tmp").mkdir(parents=True)
    done = subprocess.run(
        [server.TOOL_PYTHON, "-c", f"import launcher\n{code}\nlauncher.main()"],
        env=environment.for_server(1, folder, Keys.new(), 1, gaps=True)
        | {"PYTHONPATH": str(PROJECT / "sandbox")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "cryptography package" not in line]
    return line


def test_another_version_of_ministack_is_one_line(folder: Path) -> None:
    line = launch("launcher.MINISTACK = '9.9.9'", folder)
    assert line.startswith("MiniStack 1.5.33 is installed, the gaps are closed for 9.9.9;")


def test_a_private_name_that_is_gone_is_one_line(folder: Path) -> None:
    line = launch("import ministack.services.sqs as sqs; del sqs._queues_lock", folder)
    assert "has no services.sqs._queues_lock, which the gap cloudwatch_sqs_metrics patches" in line


def test_a_launcher_that_fails_is_one_line_to_the_caller(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "for_server", lambda *_: {"PATH": "", "SANDBOX_CLOCK": "x"})
    with pytest.raises(server.SandboxError, match=r"^the sandbox did not start: "):
        server.start(folder)
    assert not folder.exists()


def test_a_missing_setup_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TOOL_PYTHON", Path("/nowhere/python"))
    with pytest.raises(server.SandboxError, match="install it: make setup"):
        server.start(folder)


# ---- IAM and TLS are real


def test_a_user_without_a_policy_is_denied(sandbox: server.Server) -> None:
    iam = boto3.client("iam")
    iam.create_user(UserName="stranger")
    key = iam.create_access_key(UserName="stranger")["AccessKey"]
    stranger = boto3.client(
        "sqs",
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
    )
    with pytest.raises(ClientError, match="AccessDenied"):
        stranger.list_queues()


def test_plain_text_is_not_spoken(sandbox: server.Server) -> None:
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://localhost:{sandbox.port}/_ministack/health", timeout=5)


def test_its_certificate_is_not_trusted_by_others(sandbox: server.Server) -> None:
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(
            f"https://localhost:{sandbox.port}/_ministack/health",
            timeout=5,
            context=ssl.create_default_context(),
        )
