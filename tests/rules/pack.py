"""The rule pack as its tests run it: in this process, without cfn-lint's own rules."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from cfnlint.decode.cfn_yaml import loads
from cfnlint.rules import Rules
from cfnlint.template import Template

from tests.synthesis import PROJECT

RULES = PROJECT / "rules"
Found = set[tuple[str, str]]  # (rule's id, logical id)


@cache
def rules() -> dict[str, Any]:
    """Every rule of the pack by id, with its default options."""
    return {rule.id: rule for rule in Rules.create_from_directory(str(RULES)).data.values()}


def read(text: str) -> dict[str, Any]:
    """A template in YAML or JSON as cfn-lint reads it."""
    return loads(text)


def matches(template: dict[str, Any]) -> list[tuple[str, list[Any], str]]:
    """(rule's id, path, message) of everything that the pack finds."""
    whole = Template("template.json", read(json.dumps(template)))
    return [
        (rule_id, list(match.path), match.message)
        for rule_id, rule in rules().items()
        for match in rule.match(whole)
    ]


def findings(template: dict[str, Any]) -> Found:
    """What the pack finds, and on which resource."""
    return {(rule_id, path[1]) for rule_id, path, _ in matches(template)}
