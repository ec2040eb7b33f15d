"""A real RabbitMQ on loopback in the place of Amazon MQ's.

The broker is the machine's own rabbitmq-server, started as a plain process with its state in a
private folder. It speaks AMQPS and, for its console and HTTP API, HTTPS.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pika

from sandbox import server

# Debian's command in PATH wants to be root or rabbitmq; the script behind it runs as anybody.
SCRIPTS = ("/usr/lib/rabbitmq/bin", "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
HOST = "localhost"
logging.getLogger("pika").setLevel(logging.CRITICAL)  # a broker that goes away is expected


class BrokerMissing(server.SandboxError):
    """There is no rabbitmq-server on this machine; the text says how to get one."""


def commands() -> tuple[str, str]:
    """Where rabbitmq-server and epmd are; BrokerMissing if one is not."""
    path = os.pathsep.join((*SCRIPTS, os.environ.get("PATH", os.defpath)))
    command, mapper = shutil.which("rabbitmq-server", path=path), shutil.which("epmd")
    if not (command and mapper):
        raise BrokerMissing(
            "rabbitmq-server is not installed; install it:"
            " apt-get install -y rabbitmq-server (or your system's package of RabbitMQ)"
        )
    return command, mapper


class Broker:
    """One broker; `url`, `console` and `authority` lead to it, its first user is `username`.

    tls: the folder of its certificate, by default one of its own. ports: of AMQPS and of the
    console, by default free ones.
    """

    def __init__(
        self,
        username: str,
        password: str,
        tls: Path | None = None,
        ports: tuple[int, int] | None = None,
    ) -> None:
        self._command, mapper = commands()
        self.folder = Path(tempfile.mkdtemp(prefix="sandbox-rabbitmq-"))
        free = server.free_ports(4)
        self._port, self._console_port = ports or (free[0], free[1])
        self._mapper_port, self._node_port = free[2:]
        self.url = f"amqps://{HOST}:{self._port}"
        self.console = f"https://{HOST}:{self._console_port}"
        if not tls:
            server.make_certificate(self.folder)
        self._tls = tls or self.folder
        self.authority = self._tls / "ca.pem"
        self._process: subprocess.Popen[bytes] | None = None
        self._configure(username, password)
        # Erlang would start this one, its directory of nodes, as a daemon that outlives the node.
        self._mapper = self._run([mapper, "-port", str(self._mapper_port), "-address", "127.0.0.1"])

    def _configure(self, username: str, password: str) -> None:
        cookie = self.folder / ".erlang.cookie"
        cookie.touch(mode=0o600)
        cookie.write_text(secrets.token_hex(32))
        cookie.chmod(0o400)
        (self.folder / "plugins").write_text("[rabbitmq_management].\n")
        settings = self.folder / "rabbitmq.conf"
        settings.touch(mode=0o600)
        settings.write_text(
            f"""
listeners.tcp = none
listeners.ssl.1 = 127.0.0.1:{self._port}
ssl_options.cacertfile = {self.authority}
ssl_options.certfile = {self._tls / "server.pem"}
ssl_options.keyfile = {self._tls / "server.key"}
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
ssl_options.versions.1 = tlsv1.3
ssl_options.versions.2 = tlsv1.2
management.ssl.ip = 127.0.0.1
management.ssl.port = {self._console_port}
management.ssl.cacertfile = {self.authority}
management.ssl.certfile = {self._tls / "server.pem"}
management.ssl.keyfile = {self._tls / "server.key"}
default_user = {username}
default_pass = {password}
disk_free_limit.absolute = 50MB
"""
        )

    def _environment(self) -> dict[str, str]:
        """Made from nothing but PATH: the machine's settings for a broker are not for this one."""
        folder = self.folder
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_NODENAME": f"sandbox-{self._node_port}@{HOST}",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none "
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
            ),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a command in a group of its own, which ends when this process does, however."""
        watched = 'exec 3<&0; (cat <&3 >/dev/null; kill -KILL 0) & exec "$@" 3<&- </dev/null'
        with (self.folder / "output.log").open("ab") as log:
            return subprocess.Popen(
                ["/bin/sh", "-c", watched, "sh", *command],
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, patience: float = 60) -> None:
        """Start the broker on its own state and wait until both its ports speak TLS."""
        self._process = self._run([self._command])
        context = ssl.create_default_context(cafile=self.authority)
        deadline = time.monotonic() + patience
        while True:
            try:
                for port in (self._port, self._console_port):
                    with socket.create_connection((HOST, port), timeout=2) as plain:
                        context.wrap_socket(plain, server_hostname=HOST).close()
                return
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    last = (self.folder / "output.log").read_text(errors="replace")[-500:]
                    self.stop()
                    raise server.SandboxError(
                        f"rabbitmq-server did not start ({error}): {' '.join(last.split())}"
                    ) from None
            time.sleep(0.1)

    @property
    def pid(self) -> int | None:
        """The process that runs the broker; None before it is started."""
        return self._process.pid if self._process else None

    def restart(self) -> None:
        """End the broker's process by SIGTERM, and start it again on the same state and port."""
        self._end(self._process)
        self.start()

    def stop(self, patience: float = 15) -> None:
        """End the broker and its directory of nodes, and remove the folder."""
        self._end(self._process, patience)
        self._end(self._mapper, patience)
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _end(process: subprocess.Popen[bytes] | None, patience: float = 15) -> None:
        """End a group that _run() made: SIGTERM to its leader, after `patience` SIGKILL to all."""
        if process is None:
            return
        if patience:
            with suppress(subprocess.TimeoutExpired):
                process.terminate()
                process.wait(timeout=patience)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin:
            process.stdin.close()

    def connect(self, username: str, password: str) -> pika.BlockingConnection:
        """A connection that has verified the broker's certificate."""
        parameters = pika.URLParameters(f"{self.url}/%2F")
        parameters.credentials = pika.PlainCredentials(username, password)
        parameters.ssl_options = pika.SSLOptions(
            ssl.create_default_context(cafile=self.authority), HOST
        )
        return pika.BlockingConnection(parameters)


@contextmanager
def running(username: str, password: str) -> Generator[Broker]:
    """A broker for as long as the block runs; BrokerMissing without rabbitmq-server."""
    broker = Broker(username, password)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()
