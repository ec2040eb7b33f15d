"""The changes that make mutate makes are changes, and Python."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest

from tests import mutate

SOURCE = '''"""Not """
LIMIT: "str" = 5
def charge(cents, retry=True):
    """Nor this."""
    if not cents or cents < 1 and "id" in cents:
        raise ValueError("no such amount")
    try:
        call(cents + 1, key="ø-1", strict=True)
    except KeyError:
        log("a message is free to change")
    for one in cents:
        continue
    if cents:
        return None
    Queue(self, "Orders", name="q")
    CfnOutput(self, "Url")
    return f"{cents + 1}"
'''


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file in a project."""
    monkeypatch.setattr(mutate, "PROJECT", tmp_path)
    (tmp_path / "charge.py").write_text(SOURCE)
    return Path("charge.py")


def test_each_kind_of_slip_is_made_and_each_is_another_program(source: Path) -> None:
    found = list(mutate.changes(source))
    texts = {change.applied() for change in found}
    assert len(texts) == len(found)
    original = ast.dump(ast.parse(SOURCE))
    assert all(ast.dump(ast.parse(text)) != original for text in texts)


@pytest.mark.parametrize(
    "expected",
    [
        "cents <= 1", "cents - 1", "'ø-1x'", "retry=False", "LIMIT: \"str\" = 6", "strict=False",
        "call(cents + 1, strict=True)", "not (not cents or", "        break\n",
        "\n    return None\n",
        "    except KeyError:\n        raise\n", "cents < 1 or 'id' in cents",
        "        pass\n    try", "'qx'", "'Urlx'",
    ],
)  # fmt: skip
def test_a_slip(source: Path, expected: str) -> None:
    texts = [change.applied() for change in mutate.changes(source)]
    assert sum(expected in text for text in texts) == 1


def test_messages_docstrings_and_types_are_left_alone(source: Path) -> None:
    for change in mutate.changes(source):
        text = change.applied()
        assert '"""Nor this."""' in text and '"str"' in text


def test_the_id_of_a_construct_and_a_return_of_none_are_left_alone(source: Path) -> None:
    for change in mutate.changes(source):
        assert "Ordersx" not in change.says
        assert change.says != "return None  ->  return None"


def test_every_file_of_ours_can_be_changed(stem: str) -> None:
    files = [
        file.relative_to(mutate.PROJECT)
        for folder in (f"lambdas/{stem}", f"workers/{stem}")
        for file in (mutate.PROJECT / folder).glob("*.py")
    ]
    for file in [Path("stacks", f"{stem}.py"), *files]:
        found = list(mutate.changes(file))
        for change in random.Random(0).sample(found, min(20, len(found))):
            compile(change.applied(), str(file), "exec")


def test_a_stack_is_shown_to_its_claims_and_laws_and_not_to_its_snapshot() -> None:
    words = mutate.tests_of(Path("stacks/sqs_lambda_dlq.py"), "sqs_lambda_dlq")
    assert words[:2] == ["tests/stacks/test_sqs_lambda_dlq.py", "tests/test_patterns.py"]
    assert words[-1] == "sqs_lambda_dlq and not snapshot"


def test_what_the_programs_share_is_shown_to_its_own_tests_too() -> None:
    words = mutate.tests_of(Path("workers/mq_broker/program.py"), "mq_broker")
    assert words[:2] == ["tests/workers/test_program.py", "tests/workers/test_mq_broker.py"]
    words = mutate.tests_of(Path("workers/mq_broker/worker.py"), "mq_broker")
    assert words == ["tests/workers/test_mq_broker.py"]
