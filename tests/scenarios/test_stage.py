"""What a scenario's stage tells, and when it gives up."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scenarios.stage import ScenarioFailed, Stage
from tests.synthesis import PATTERNS, PROJECT, synthesized


@pytest.fixture
def told() -> io.StringIO:
    return io.StringIO()


def stage(told: io.StringIO, monkeypatch: pytest.MonkeyPatch, **console: Any) -> Stage:
    monkeypatch.setattr(Stage, "_outputs", lambda _: {})
    monkeypatch.setenv("SANDBOX_CLOCK", "20")
    return Stage("Nothing", Console(file=told, **console))


def test_off_a_terminal_only_changes_are_told(
    told: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    counts = iter([0, 0, 0, 1, 1, 2])

    def count() -> dict[str, int]:
        now[0] += 3
        return {"done": next(counts)}

    stage(told, monkeypatch, width=80).watch({"done": 2}, count, 600)
    assert re.findall(r"./2 done", told.getvalue()) == ["0/2 done", "1/2 done", "2/2 done"]


def test_on_forty_columns_the_numbers_stay(
    told: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([150, 151])
    name = "duplicates that were dropped by the condition on the row"
    small = stage(told, monkeypatch, width=40, force_terminal=True)
    small.watch({name: 151}, lambda: {name: next(counts)}, 60)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told.getvalue())
    assert "  0/151 duplicates" in shown or "150/151 duplicates" in shown


def test_a_dumb_terminal_gets_lines(told: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    dumb = stage(told, monkeypatch, width=80, force_terminal=True)
    dumb.watch({"done": 1}, lambda: {"done": 1}, 60)
    assert told.getvalue().splitlines() == [told.getvalue().rstrip()]
    assert "\x1b" not in re.sub(r"\x1b\[\d*m", "", told.getvalue())


def test_when_a_program_has_ended_nobody_waits(
    told: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = stage(told, monkeypatch, width=80)
    ended = [""]
    waiting.guards.append(lambda: ended[0])
    assert waiting.until("something", lambda: True, 600)
    ended[0] = "worker.py has ended with -9."
    assert waiting.until("what is there all the same", lambda: True, 600)
    began = time.monotonic()
    with pytest.raises(ScenarioFailed, match=r"worker\.py has ended"):
        waiting.until("a row", lambda: False, 600)
    assert time.monotonic() - began < 5


def test_lines_to_copy_name_outputs_that_there_are(stem: str) -> None:
    text = Path(PROJECT, "scenarios", f"{stem}.py").read_text()
    sends = re.search(r"(?s)\nSEND = \{\n.*?\n\}\n", text)
    named = set(re.findall(r"\$(\w+)", sends[0])) if sends else set()
    assert named <= synthesized(stem).template["Outputs"].keys(), PATTERNS[stem]
