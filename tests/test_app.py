"""app.py finds the patterns, builds what is asked for, and passes options on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from aws_cdk import App, Stack

import app
from tests.synthesis import PROJECT


def built(wanted: list[str], **context: Any) -> list[Stack]:
    """The stacks that app.py adds for a selection and options."""
    cdk_app = App(context=context)
    app.build(cdk_app, wanted)
    return [child for child in cdk_app.node.children if isinstance(child, Stack)]


def refusal(wanted: list[str], capsys: pytest.CaptureFixture[str], **context: Any) -> str:
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as ended:
        built(wanted, **context)
    line = str(ended.value)
    assert line.startswith("error: ") and "\n" not in line
    return line


def test_a_file_in_stacks_is_the_whole_registration() -> None:
    stems = {path.stem for path in (PROJECT / "stacks").glob("[!_]*.py")}
    assert set(app.patterns().values()) == {f"stacks.{stem}" for stem in stems}


def test_a_deploy_name_is_the_file_name_in_pascal_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("s3_event_fan_out.py", "sqs_lambda_dlq.py", "_helper.py"):
        (tmp_path / name).touch()
    monkeypatch.setattr(app, "STACKS", tmp_path)
    assert list(app.patterns()) == ["S3EventFanOut", "SqsLambdaDlq"]


@pytest.mark.parametrize("wanted", [[], ["**"], ["*"]])
def test_no_selection_means_all(wanted: list[str]) -> None:
    assert [stack.stack_name for stack in built(wanted)] == list(app.patterns())


def test_a_selection_builds_only_what_it_names() -> None:
    assert [stack.stack_name for stack in built(["SqsLambdaDlq"])] == ["SqsLambdaDlq"]


def test_an_unknown_pattern_is_one_line_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refusal(["Nope"], capsys) == (
        f"error: no pattern Nope; there are: {', '.join(app.patterns())}"
    )


def test_an_unknown_option_is_one_line_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = refusal(["SqsLambdaDlq"], capsys, max_recieve_count="3")
    assert line.startswith("error: no option max_recieve_count; SqsLambdaDlq: alert_email, ")


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("termination_protection", "yes", "termination_protection is bool, not 'yes'"),
        ("max_receive_count", "three", "max_receive_count is int, not 'three'"),
        ("max_receive_count", "2.5", "max_receive_count is int, not '2.5'"),
        ("max_receive_count", "0", "max_receive_count is 1 to 1000, not 0"),
        ("removal_policy", "keep", 'removal_policy is "destroy" or "retain", not "keep"'),
    ],
)
def test_a_wrong_value_is_one_line(
    option: str, value: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(["SqsLambdaDlq"], capsys, **{option: value})
    assert line == f"error: SqsLambdaDlq: {problem}"


def test_a_gallery_throws_away_what_it_deploys() -> None:
    """A project that is made from one pattern keeps it: its app.py says so."""
    assert app.DEFAULTS == {"removal_policy": "destroy", "termination_protection": False}


def test_an_option_reaches_the_stacks_that_have_it_and_no_other() -> None:
    names = ["SqsFifoLambdaDlq", "SqsLambdaDlq"]
    fifo, standard = built(names, stop_at_gaps="true", max_receive_count="7")
    assert "stop_at_gaps" in app.options(type(fifo))
    assert "stop_at_gaps" not in app.options(type(standard))
    assembly = cast(App, fifo.node.root).synth()
    said = [str(assembly.get_stack_by_name(name).template) for name in names]
    assert "'STOP_AT_GAPS': 'true'" in said[0] and "STOP_AT_GAPS" not in said[1]
    assert all("'maxReceiveCount': 7" in text for text in said)


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("false", False)])
def test_every_stack_can_be_protected(value: str, expected: bool) -> None:
    (stack,) = built(["SqsLambdaDlq"], termination_protection=value)
    assert stack.termination_protection is expected


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("3", int, 3),
        (3, int, 3),
        ("true", bool, True),
        (False, bool, False),
        ("3", str, "3"),
        ("none", str | None, None),
        ("none", str, "none"),
        ("7", int | None, 7),
    ],
)
def test_options_are_converted_by_their_annotation(value: Any, kind: Any, expected: Any) -> None:
    assert app.convert(value, kind) == expected


@pytest.mark.parametrize(("value", "kind"), [("x", int), ("yes", bool), ("", int)])
def test_what_cannot_be_converted_is_refused(value: str, kind: Any) -> None:
    with pytest.raises((KeyError, ValueError)):
        app.convert(value, kind)


def test_a_broken_neighbour_does_not_matter(tmp_path: Path) -> None:
    """With -e only the named stack is imported; without, the neighbour's error is not hidden."""
    for folder in ("stacks", "lambdas"):
        shutil.copytree(PROJECT / folder, tmp_path / folder)
    shutil.copy(PROJECT / "app.py", tmp_path)
    (tmp_path / "stacks" / "broken.py").write_text("raise ImportError('broken on purpose')\n")

    def synth(*wanted: str) -> subprocess.CompletedProcess[str]:
        context = json.dumps({"aws:cdk:bundling-stacks": wanted})
        environment = os.environ | {
            "CDK_CONTEXT_JSON": context,
            "CDK_OUTDIR": str(tmp_path / "cdk.out"),
            "CDK_VALIDATION": "false",
        }
        return subprocess.run(
            [sys.executable, "app.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    alone = synth("SqsLambdaDlq")
    assert alone.returncode == 0, alone.stderr
    assert (tmp_path / "cdk.out" / "SqsLambdaDlq.template.json").exists()
    assert "broken on purpose" in synth().stderr


def test_the_command_line_synthesizes_what_the_snapshot_holds(tmp_path: Path) -> None:
    """The real CLI with -e, options by -c, validation on: same template, no warning."""
    from sandbox import cdk

    done = subprocess.run(
        cdk.command(
            "synth", "-q", "-e", "SqsLambdaDlq", "-o", str(tmp_path), "-c", "max_receive_count=9"
        ),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    template = json.loads((tmp_path / "SqsLambdaDlq.template.json").read_text())
    receives = [
        resource["Properties"]["RedrivePolicy"]["maxReceiveCount"]
        for resource in template["Resources"].values()
        if "RedrivePolicy" in resource.get("Properties", {})
    ]
    assert receives == [9]


def test_every_recommended_feature_flag_is_set() -> None:
    """What `cdk flags` would still ask for; flags are the app's, so one without stacks will do."""
    from sandbox import cdk

    no_stacks = "import app, aws_cdk; aws_cdk.App().synth()"
    done = subprocess.run(
        cdk.command("flags", "--unstable=flags", "--app", f"\"{sys.executable}\" -c '{no_stacks}'"),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "@aws-cdk" not in done.stdout + done.stderr, done.stdout + done.stderr
