"""The pack as other projects run it: by cfn-lint's command, by the script, by pre-commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cfnlint.template import Template

from rules import _page
from tests.rules.pack import RULES, rules
from tests.rules.test_examples import EXAMPLES, examples
from tests.rules.test_mutations import mutated
from tests.synthesis import PROJECT, synthesized

BIN = Path(sys.executable).parent


def lint(*words: str | Path, cwd: Path = PROJECT) -> list[dict[str, Any]]:
    """What cfn-lint's command finds with the pack; the pack's findings only."""
    done = subprocess.run(
        [BIN / "cfn-lint", "--append-rules", RULES, "--format", "json", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 2, 4, 6), done.stderr
    found = json.loads(done.stdout)
    assert "E0002" not in [one["Rule"]["Id"] for one in found], found
    return [one for one in found if one["Rule"]["Id"] in rules()]


def test_each_finding_of_bad_templates_is_named(tmp_path: Path) -> None:
    """Every example in one run, in YAML with its short functions."""
    expected = set()
    for number, example in enumerate(examples()):
        rule, resources, _, _ = example.values
        name = f"{rule}-{number}.template.yaml"
        texts = (EXAMPLES / f"{rule}.yaml").read_text().split("\n---\n")
        text = next(text for text in texts if str(example.id).endswith(text.split("\n")[0][2:]))
        kept = [line for line in text.splitlines() if not line.startswith(("finds:", "but:"))]
        (tmp_path / name).write_text("\n".join(kept))
        expected |= {(name, rule, where) for where in resources}
    found = {
        (Path(one["Filename"]).name, one["Rule"]["Id"], one["Location"]["Path"][1])
        for one in lint("--", *sorted(tmp_path.glob("*")))
    }
    mine = {one for one in found if one[0].startswith(one[1])}
    assert mine == expected


def test_options_exceptions_and_lines_are_cfn_lints_own(tmp_path: Path) -> None:
    plain, excepted = tmp_path / "plain.template.json", tmp_path / "excepted.template.json"
    template = json.loads(json.dumps(mutated("E9101", "sqs_lambda_dlq")))
    plain.write_text(json.dumps(template, indent=1))
    orders = next(one for name, one in template["Resources"].items() if name.startswith("Orders"))
    orders.setdefault("Metadata", {})["cfn-lint"] = {"config": {"ignore_checks": ["E9101"]}}
    excepted.write_text(json.dumps(template))
    (found,) = lint("--", plain, excepted)
    assert (found["Rule"]["Id"], Path(found["Filename"])) == ("E9101", plain)
    line = plain.read_text().splitlines()[found["Location"]["Start"]["LineNumber"] - 1]
    assert '"VisibilityTimeout": 59' in line
    assert lint("--configure-rule", "E9101:factor=5", "--", plain) == []


def test_the_script_takes_options_and_names_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "x.template.json"
    file.write_text(json.dumps(mutated("W9801", "sqs_lambda_dlq")))
    words = ["--configure-rule=W9801:stack_name_is_enough=true", "--ignore-checks=W3005", str(file)]
    path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [RULES / "lint", *words],
        env=path,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4 and "W9801 Remove TopicName of " in done.stdout, done
    done = subprocess.run(
        ["/bin/sh", RULES / "lint", file],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: cfn-lint is missing; ")


def test_pre_commit_runs_it_in_another_project(tmp_path: Path) -> None:
    """As that project would: pre-commit clones this repository and takes the hook from it."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "good.template.json").write_text(json.dumps(synthesized("sqs_lambda_dlq").template))
    (project / "bad.template.json").write_text(json.dumps(mutated("E9102", "sqs_lambda_dlq")))
    (project / "other.json").write_text("{")
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    done = subprocess.run(
        [BIN / "pre-commit", "try-repo", PROJECT, "service-communication-rules", "--all-files"],
        env=os.environ
        | {"PATH": f"{BIN}:{os.environ['PATH']}", "PRE_COMMIT_HOME": str(tmp_path / "home")},
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith(("E", "W9"))]
    assert done.returncode == 1 and len(found) == 1, done.stdout + done.stderr
    assert found[0].startswith("E9102 Give Orders")


def test_every_rule_says_what_to_do_and_where_that_comes_from() -> None:
    for rule_id, rule in rules().items():
        assert rule.shortdesc.endswith(".") and rule.shortdesc[0].isupper(), rule_id
        assert ". " not in rule.shortdesc, f"{rule_id}: one sentence"
        assert rule.source_url.startswith("https://docs.aws.amazon.com/"), rule_id
        assert rule.description.endswith(".") and rule.tags, rule_id


def test_one_rule_a_file() -> None:
    files = [file for file in RULES.glob("*.py") if not file.name.startswith("_")]
    assert len(files) == len(rules())


def test_the_page_is_current() -> None:
    assert _page.PAGE.read_text() == _page.page(), "make docs writes it anew"


def test_a_template_without_resources_is_nothing_to_it() -> None:
    assert [rule.match(Template("x", {})) for rule in rules().values()] == [[]] * len(rules())
