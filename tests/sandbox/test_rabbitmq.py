"""The sandbox's RabbitMQ starts, keeps what it confirmed, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pika
import pytest
from pika.exceptions import ProbableAuthenticationError

from sandbox import rabbitmq, server
from scenarios import mq_broker
from scenarios.stage import ScenarioCannotRun, Stage
from tests.sandbox.cloud import Clients, soon
from tests.sandbox.test_server import LISTENING

LOGIN = ("shop", "only-for-this-test")
PROJECT = Path(__file__).parent.parent.parent


def left_of(folder: Path) -> list[str]:
    """The processes whose environment or command names a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            ended = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if str(folder).encode() in words and not ended and int(process.name) != os.getpid():
            found.append(process.name)
    return found


@pytest.fixture(scope="module")
def broker() -> Generator[rabbitmq.Broker]:
    try:
        with rabbitmq.running(*LOGIN) as started:
            yield started
    except rabbitmq.BrokerMissing as missing:
        pytest.skip(str(missing))


def test_it_keeps_what_it_confirmed_when_it_is_restarted(broker: rabbitmq.Broker) -> None:
    with closing(broker.connect(*LOGIN)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("kept", durable=True, arguments={"x-queue-type": "quorum"})
        for number in range(100):
            channel.basic_publish("", "kept", str(number).encode(), mandatory=True)
    before = broker.pid
    broker.restart()
    assert broker.pid != before
    with closing(broker.connect(*LOGIN)) as connection:
        channel = connection.channel()
        bodies = [channel.basic_get("kept", auto_ack=True)[2] for _ in range(100)]
    assert bodies == [str(number).encode() for number in range(100)]


def test_it_listens_on_loopback_only(broker: rabbitmq.Broker) -> None:
    """Its four listeners: AMQPS, the console, the node's own, and the directory of nodes."""
    listening = []
    for process in left_of(broker.folder):
        listening += subprocess.run(
            [sys.executable, "-c", LISTENING, process], capture_output=True, text=True, check=True
        ).stdout.split()
    assert len({address.rpartition(":")[2] for address in listening}) == 4
    ipv6_loopback = "00000000000000000000000001000000"
    assert {address.rpartition(":")[0] for address in listening} <= {"127.0.0.1", ipv6_loopback}


def test_its_files_are_private(broker: rabbitmq.Broker) -> None:
    assert broker.folder.stat().st_mode & 0o077 == 0
    for secret in ("rabbitmq.conf", "server.key", ".erlang.cookie"):
        assert (broker.folder / secret).stat().st_mode & 0o077 == 0


def test_a_wrong_password_is_refused(broker: rabbitmq.Broker) -> None:
    with pytest.raises(ProbableAuthenticationError):
        broker.connect(LOGIN[0], "wrong")


def test_its_certificate_is_not_trusted_by_others(broker: rabbitmq.Broker) -> None:
    parameters = pika.URLParameters(f"{broker.url}/%2F")
    parameters.ssl_options = pika.SSLOptions(ssl.create_default_context(), "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        pika.BlockingConnection(parameters)


STARTED = """
import time
from sandbox import rabbitmq
broker = rabbitmq.Broker("shop", "only-for-this-test")
broker.start()
print(broker.folder, flush=True)
time.sleep(60)
"""


# Debian keeps the command where only root looks.
needs_rabbitmq = pytest.mark.skipif(
    not shutil.which(
        "rabbitmq-server", path=os.pathsep.join((*rabbitmq.SCRIPTS, os.environ["PATH"]))
    ),
    reason="rabbitmq-server is not installed",
)


@needs_rabbitmq
def test_it_ends_with_whoever_started_it_even_by_sigkill() -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTED], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout
    folder = Path(starter.stdout.readline().strip())
    try:
        assert left_of(folder)
        starter.send_signal(signal.SIGKILL)
        starter.wait()
        deadline = time.monotonic() + 10
        while left_of(folder):
            assert time.monotonic() < deadline, left_of(folder)
            time.sleep(0.1)
    finally:
        starter.kill()
        shutil.rmtree(folder, ignore_errors=True)


@needs_rabbitmq
def test_stop_leaves_no_process_and_no_folder() -> None:
    with rabbitmq.running(*LOGIN) as broker:
        folder = broker.folder
        assert left_of(folder)
    assert not left_of(folder)
    assert not folder.exists()


def test_a_machine_without_it_is_told_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rabbitmq, "SCRIPTS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(rabbitmq.BrokerMissing, match="apt-get install -y rabbitmq-server"):
        rabbitmq.Broker(*LOGIN)


def test_the_scenario_says_in_one_line_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rabbitmq, "SCRIPTS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert re.fullmatch(r"rabbitmq-server is not installed.*\)", mq_broker.missing())


def test_away_from_the_vpc_the_scenario_says_how_to_get_in() -> None:
    scenario = mq_broker.OrdersThroughABroker.__new__(mq_broker.OrdersThroughABroker)
    scenario.stage = Stage.__new__(Stage)
    scenario.stage.clock, scenario.stage.pause = 20, 0.01
    scenario.mq = SimpleNamespace(describe_broker=lambda **_: {"BrokerState": "RUNNING"})
    scenario.out = {"BrokerId": "b", "BrokerUrl": "amqps://localhost:9", "ApplicationId": "sg-1"}
    with pytest.raises(ScenarioCannotRun, match=r"needs a way into the VPC, .* sg-1$"):
        scenario.reach()


@needs_rabbitmq
def test_a_broker_of_the_embedded_aws_goes_with_it_even_by_sigkill(tmp_path: Path) -> None:
    """Its server is killed; no process of the broker is left."""
    running = server.start(tmp_path / "run")
    try:
        client = Clients(running)
        made = client("mq").create_broker(
            BrokerName="check",
            EngineType="RABBITMQ",
            EngineVersion="3.13",
            HostInstanceType="mq.m5.large",
            DeploymentMode="SINGLE_INSTANCE",
            PubliclyAccessible=False,
            AutoMinorVersionUpgrade=True,
            Users=[{"Username": LOGIN[0], "Password": LOGIN[1]}],
        )["BrokerId"]

        def state() -> str:
            return client("mq").describe_broker(BrokerId=made)["BrokerState"]

        assert soon(lambda: state() == "RUNNING", 60)
        assert any("beam" in command(process) for process in left_of(tmp_path))
        os.kill(running.pid, signal.SIGKILL)
        assert soon(lambda: not left_of(tmp_path), 10), left_of(tmp_path)
    finally:
        server.stop(tmp_path / "run")


def command(process: str) -> str:
    """What a process was started as."""
    return (Path("/proc") / process / "cmdline").read_text().replace("\0", " ")
