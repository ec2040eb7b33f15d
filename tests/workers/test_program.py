"""What the programs outside Lambda share: they live and end whole, reports never raise."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import botocore.exceptions
import pytest
from botocore.exceptions import ClientError

COPIES = sorted(Path(__file__).parent.parent.parent.glob("workers/*/program.py"))


@pytest.fixture(scope="module", params=COPIES, ids=[copy.parent.name for copy in COPIES])
def program(request: pytest.FixtureRequest) -> ModuleType:
    """The module under test: each copy."""
    spec = importlib.util.spec_from_file_location("program", request.param)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refused(code: str, status: int = 400) -> ClientError:
    """What a client raises when a service answers with an error."""
    answer: Any = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "PutItem")


def test_every_folder_has_the_same_file() -> None:
    assert COPIES  # one in a project of one pattern
    assert len({copy.read_text() for copy in COPIES}) == 1


# ---- reports


def test_a_report_is_one_line_with_its_facts_and_the_time(program: ModuleType, capfd: Any) -> None:
    before = time.time()
    program.report(state="started", pid=7, text="\ud800\n")
    (line,) = capfd.readouterr().out.splitlines()
    said = json.loads(line)
    assert before - 1 <= said.pop("at") <= time.time() + 1
    assert said == {"state": "started", "pid": 7, "text": "\ud800\n"}


def test_a_long_text_is_cut(program: ModuleType, capfd: Any) -> None:
    program.report(id="x" * 1_000_000, other="x" * 300)
    said = json.loads(capfd.readouterr().out)
    assert said["id"] == said["other"] == "x" * 300


@pytest.mark.parametrize("output", ["full", "closed"])
def test_a_report_that_cannot_be_written_raises_nothing(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    if output == "full":
        number = os.open("/dev/full", os.O_WRONLY)
    else:
        number = os.dup(1)
        os.close(number)
    monkeypatch.setattr(program, "STANDARD_OUTPUT", number)
    program.report(state="started")
    with pytest.raises(OSError):
        os.write(number, b"x")
    if output == "full":
        os.close(number)


def test_what_json_cannot_hold_raises_nothing(program: ModuleType) -> None:
    program.report(state=object())


# ---- waiting


def test_waits_double_up_to_the_longest_and_are_random(program: ModuleType) -> None:
    for bounds in ([0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5],):
        for wait, bound in zip(program.waits(0.2, 5), bounds, strict=False):
            assert bound / 2 <= wait <= bound
    assert len({next(program.waits(0.2, 5)) for _ in range(20)}) > 10


def test_a_pause_ends_when_the_program_is_to_stop(program: ModuleType) -> None:
    life = program.Program()
    assert not life.pause(0.01)
    threading.Timer(0.1, life.stop, ["told"]).start()
    began = time.monotonic()
    assert life.pause(30)
    assert time.monotonic() - began < 10


# ---- living and ending


def test_a_thread_that_raises_ends_the_program(program: ModuleType, capfd: Any) -> None:
    life = program.Program()

    def dies() -> None:
        raise SystemExit("gone")

    life.start(dies)
    life.start(lambda: life.pause(30) and None)
    deadline = time.monotonic() + 10
    while life.working() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (life.working(), life.why, life.failed) == (False, "broken", True)
    assert json.loads(capfd.readouterr().out)["error"] == "SystemExit: gone"


def test_the_first_reason_counts(program: ModuleType) -> None:
    life = program.Program()
    life.stop("SIGTERM")
    life.stop("broken", failed=True)
    assert (life.why, life.failed) == ("SIGTERM", False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it(program: ModuleType, number: signal.Signals) -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    life = program.Program()
    try:
        life.stop_by_signal()
        signal.raise_signal(number)
        assert life.pause(10)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert (life.why, life.failed) == (number.name, False)


# ---- AWS


def test_a_client_gives_up(program: ModuleType) -> None:
    config = program.client("sqs", answer_within=3, attempts=1, connections=7).meta.config
    assert (config.connect_timeout, config.read_timeout) == (2, 3)
    assert config.retries["total_max_attempts"] == 1
    assert config.max_pool_connections == 7
    usual = program.client("sqs").meta.config
    assert (usual.read_timeout, usual.retries["total_max_attempts"]) == (5, 3)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (refused("ThrottlingException"), True),
        (refused("InternalServerError", 500), True),
        (refused("503", 503), True),
        (refused("TransactionCanceledException", 499), False),
        (refused("AccessDeniedException"), True),
        (refused("ResourceNotFoundException"), True),
        (refused("UnrecognizedClientException"), True),
        (refused("AWS.SimpleQueueService.NonExistentQueue"), True),
        (refused("ProvisionedThroughputExceededException"), True),
        (refused("ValidationException"), False),
        (refused("SerializationException"), False),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="x"), True),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="x"), True),
        (botocore.exceptions.NoCredentialsError(), True),
        (botocore.exceptions.ParamValidationError(report="x"), False),
        (OSError("x"), False),
        (KeyError("x"), False),
    ],
    ids=str,
)
def test_what_is_an_outage(program: ModuleType, error: Exception, expected: bool) -> None:
    assert program.outage(error) is expected


def failing(*errors: Exception) -> Callable[[], str]:
    """Raises one error after the other, then returns "done"."""
    left = list(errors)

    def work() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return work


@pytest.fixture
def life(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A program whose waits are short."""
    monkeypatch.setattr(program, "waits", lambda: iter([0.01] * 1000))
    return program.Program()


def test_work_is_done_again_until_the_outage_is_over(life: Any, capfd: Any) -> None:
    work = failing(*islice(iter(lambda: refused("ThrottlingException"), None), 3))
    assert life.through_outages(work, longest=10) == "done"
    assert len(capfd.readouterr().out.splitlines()) == 3


def test_an_outage_that_lasts_is_raised(life: Any) -> None:
    def work() -> None:
        raise refused("ThrottlingException")

    with pytest.raises(ClientError):
        life.through_outages(work, longest=0.1)


def test_what_is_no_outage_is_raised_at_once(life: Any) -> None:
    work = failing(KeyError("x"))
    with pytest.raises(KeyError):
        life.through_outages(work, longest=10)
    assert work() == "done"


def test_a_program_that_is_to_stop_waits_for_no_outage(life: Any) -> None:
    life.stop("SIGTERM")
    work = failing(refused("ThrottlingException"))
    with pytest.raises(ClientError):
        life.through_outages(work, longest=10)
    assert work() == "done"
