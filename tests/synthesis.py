"""Patterns as the tests see them: synthesized in this process, with what cdk-nag says."""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aws_cdk
from aws_cdk import App, Stack, Validations
from cdk_nag import AwsSolutionsChecks

import app

PROJECT = Path(__file__).parent.parent
PATTERNS = {module.partition(".")[2]: name for name, module in app.patterns().items()}
FLAGS = json.loads((PROJECT / "cdk.json").read_text())["context"]

Finding = tuple[str, str]  # (construct path, rule)


@dataclass
class Synthesized:
    """One pattern's template and cdk-nag's open findings, without those acknowledged."""

    stack: Stack
    template: dict[str, Any]
    findings: set[Finding]
    warnings: list[str]

    def resources(self, *types: str) -> dict[str, dict[str, Any]]:
        """Properties by logical id, of the resources of these types."""
        return {
            logical_id: resource.get("Properties", {})
            for logical_id, resource in self.template["Resources"].items()
            if resource["Type"] in types
        }


def synthesize(stack_class: type[Stack], name: str, **options: Any) -> Synthesized:
    """Build one stack as app.py does and read its assembly."""
    with tempfile.TemporaryDirectory() as folder:
        cdk_app = App(context=FLAGS, outdir=folder)
        stack = stack_class(cdk_app, name, **options)
        Validations.of(cdk_app).add_plugins(AwsSolutionsChecks())
        try:
            cdk_app.synth()
        except Exception as error:
            if "ValidationFailed" not in str(error):
                raise
        template = json.loads((Path(folder) / f"{name}.template.json").read_text())
        metadata_file = Path(folder) / f"{name}.metadata.json"
        metadata = json.loads(metadata_file.read_text()) if metadata_file.exists() else {}
        report = json.loads((Path(folder) / "validation-report.json").read_text())
    return Synthesized(
        stack,
        template,
        {
            (construct["constructPath"], violation["ruleName"])
            for plugin in report["pluginReports"]
            for violation in plugin["violations"]
            for construct in violation["violatingConstructs"]
        },
        [
            str(entry["data"])
            for entries in metadata.values()
            for entry in entries
            if entry["type"] in ("aws:cdk:warning", "aws:cdk:error")
        ],
    )


def only(pattern: Synthesized, kind: str, begins: str = "") -> dict[str, Any]:
    """The properties of the one resource of a type whose logical id begins so."""
    (properties,) = [
        properties
        for logical_id, properties in pattern.resources(kind).items()
        if logical_id.startswith(begins)
    ]
    return properties


@cache
def synthesized(stem: str) -> Synthesized:
    """A pattern with its default options."""
    return synthesize(app.stack_class(PATTERNS[stem]), PATTERNS[stem])


def masked(template: Any) -> Any:
    """A template without the hashes of its assets: those change with every line of a handler."""
    return json.loads(re.sub(r"\b[0-9a-f]{64}\b", "HASH", json.dumps(template)))


def acknowledgements(stem: str) -> tuple[set[Finding], set[Finding]]:
    """(what the pattern acknowledges, what cdk-nag finds when nothing is acknowledged)."""
    made: set[Finding] = set()
    of = aws_cdk.Validations.of

    class Noted:
        def __init__(self, scope: Any) -> None:
            self.scope = scope

        def acknowledge(self, *rules: Any) -> None:
            made.update((self.scope.node.path, rule.id) for rule in rules)

        def add_plugins(self, *plugins: Any) -> None:
            of(self.scope).add_plugins(*plugins)

    with patch.object(aws_cdk.Validations, "of", Noted):
        raw = synthesize(app.stack_class(PATTERNS[stem]), PATTERNS[stem])
    return made, raw.findings


def copied(stem: str, folder: Path) -> type[Stack]:
    """The class of a pattern whose stack file and handlers lie in `folder` and nowhere else."""
    spec = importlib.util.spec_from_file_location(
        f"copied_{stem}", folder / "stacks" / f"{stem}.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, PATTERNS[stem])
