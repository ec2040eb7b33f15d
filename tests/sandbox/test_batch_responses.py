"""Which messages of a batch come back."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.batch_responses import failed

SENT = ["a", "b", "c"]


def failures(*names: Any) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": name} for name in names]}


@pytest.mark.parametrize(
    "answer",
    [None, "", {}, {"batchItemFailures": None}, {"batchItemFailures": []}, {"done": True}],
)
def test_an_empty_answer_is_a_success(answer: Any) -> None:
    assert failed(answer, SENT) == set()


def test_what_is_named_comes_back() -> None:
    assert failed(failures("b"), SENT) == {"b"}
    assert failed('{"batchItemFailures": [{"itemIdentifier": "c"}]}', SENT) == {"c"}


@pytest.mark.parametrize(
    "answer",
    [
        failures("b", ""),
        failures("b", None),
        failures("b", "unknown"),
        failures(1),
        failures(["b"]),
        {"batchItemFailures": [{"id": "b"}]},
        {"batchItemFailures": ["b"]},
        {"batchItemFailures": {"itemIdentifier": "b"}},
        {"batchItemFailures": "b"},
        "done",
        ["b"],
        7,
    ],
)
def test_an_answer_that_cannot_be_read_brings_all_back(answer: Any) -> None:
    assert failed(answer, SENT) == set(SENT)
