"""For each rule, templates that break it and templates that look alike and don't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.rules.pack import findings, read, rules

EXAMPLES = Path(__file__).parent / "examples"


def examples() -> list[Any]:
    """(rule's id, what it must find, other rules that may find something, template)."""
    found = []
    for file in sorted(EXAMPLES.glob("*.yaml")):
        for text in file.read_text().split("\n---\n"):
            about = text.partition("\n")[0].removeprefix("# ")
            template = read(text)
            expected, others = set(template.pop("finds")), template.pop("but", [])
            found.append(
                pytest.param(file.stem, expected, others, template, id=f"{file.stem}: {about}")
            )
    return found


@pytest.mark.parametrize(("rule", "expected", "others", "template"), examples())
def test_example(rule: str, expected: set[str], others: list[str], template: dict) -> None:
    found = {(one, where) for one, where in findings(template) if one not in others}
    assert found == {(rule, where) for where in expected}


def test_every_rule_has_examples_of_both_kinds() -> None:
    kinds = {(param.values[0], bool(param.values[1])) for param in examples()}
    assert kinds == {(rule, breaks) for rule in rules() for breaks in (True, False)}
