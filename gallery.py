"""The commands behind the Makefile: list, synth, deploy, demo, destroy, test, snapshots."""

import ast
import fcntl
import importlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sandbox import cdk, cli, server
from sandbox.cli import fail

PROJECT = Path(__file__).parent
EXAMPLE = "SqsLambdaDlq"  # needs nothing but what setup installs
app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


class Target(StrEnum):
    """Where a command acts."""

    SANDBOX = "sandbox"
    AWS = "aws"


Pattern = Annotated[
    str, typer.Argument(help="A pattern's deploy name; see list.", show_default=False)
]
Options = Annotated[
    str, typer.Option("--options", help="A stack's options, name=value, with spaces between.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="All that the CDK says.")]
Empty = Annotated[
    bool, typer.Option("--empty", help="On AWS: first delete all that the stack's buckets hold.")
]
On = Annotated[Target, typer.Option(help="The embedded AWS, or your AWS account.")]


def patterns() -> dict[str, Path]:
    """Deploy name to stack file. app.py says the same; importing it would cost a second."""
    files = sorted((PROJECT / "stacks").glob("[!_]*.py"))
    return {"".join(word.capitalize() for word in file.stem.split("_")): file for file in files}


def known(pattern: str) -> str:
    """The pattern's deploy name; a clear end if there is no such pattern.

    Where there is but one, it need not be named.
    """
    names = list(patterns())
    if not pattern and len(names) == 1:
        return names[0]
    there_are = f"there are: {', '.join(names)}"
    if not pattern:
        example = EXAMPLE if EXAMPLE in names else names[0]
        fail(f"say which pattern, such as PATTERN={example}; {there_are}")
    if pattern not in names:
        by_lower = {name.lower(): name for name in names}
        near = get_close_matches(pattern.lower().replace("_", ""), by_lower, n=1)
        fail(f"no pattern {pattern}; {f'did you mean {by_lower[near[0]]}?' if near else there_are}")
    return pattern


def stem(pattern: str) -> str:
    """What the files of a pattern are called."""
    return patterns()[known(pattern)].stem


def parsed(options: str) -> dict[str, str]:
    """name=value words as a mapping."""
    found: dict[str, str] = {}
    for word in options.split():
        name, equals, value = word.partition("=")
        if not (name and equals):
            fail(f"an option is name=value, not {word}")
        if name in found:
            fail(f"{name} is said twice: {found[name]} and {value}")
        found[name] = value
    return found


def checked(pattern: str, options: str) -> dict[str, str]:
    """The same, after the stack has taken them: before anything starts, not after half a minute."""
    if given := parsed(options):
        import app as stacks  # a second or two, only for whoever says options

        try:
            stacks.build(stacks.App(context=dict(given)), [pattern])
        except SystemExit as refusal:
            fail(str(refusal).removeprefix("error: "))
    return given


def run(*words: str, env: dict[str, str] | None = None) -> int:
    """Run a command in the project's folder; its exit code."""
    return subprocess.run(words, check=False, cwd=PROJECT, env=env).returncode


def sandbox() -> server.Server:
    """The running sandbox, started if need be."""
    if found := server.find():
        return found
    began = time.monotonic()
    with cli.waiting("starting the sandbox"):
        started = server.start()
    typer.echo(f"sandbox ready in {time.monotonic() - began:.1f} s on loopback port {started.port}")
    return started


def aws() -> dict[str, str]:
    """The caller's own AWS environment, after saying whose account and which Region it is."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    region = os.environ.get("AWS_REGION") or boto3.Session().region_name
    if not region:
        fail("no AWS Region is set; set AWS_REGION or choose a profile with AWS_PROFILE")
    try:
        who = boto3.client("sts", region_name=region).get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        fail(f"AWS does not know you: {error}")
    typer.echo(f"AWS account {who['Account']}, Region {region}, as {who['Arn']}")
    return {**os.environ, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}


def clear_buckets(stack: str, region: str, *, empty: bool) -> None:
    """Empty the buckets that are to be deleted with a stack, since what they hold would stop that.

    Unless `empty`, the command ends here with their names.
    """
    import boto3
    from botocore.exceptions import ClientError

    session = boto3.Session(region_name=region)
    cloudformation, s3 = session.client("cloudformation"), session.resource("s3")
    try:
        (deployed,) = cloudformation.describe_stacks(StackName=stack)["Stacks"]
    except ClientError:
        return  # not there: the CDK says so
    if deployed.get("EnableTerminationProtection"):
        return  # stays: the CDK says so
    resources = cloudformation.get_template(StackName=stack)["TemplateBody"]["Resources"]
    pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack)
    full = [
        bucket
        for page in pages
        for one in page["StackResourceSummaries"]
        if one["ResourceType"] == "AWS::S3::Bucket"
        and one["ResourceStatus"] not in ("CREATE_FAILED", "DELETE_COMPLETE")  # not there
        and resources[one["LogicalResourceId"]].get("DeletionPolicy", "Delete") == "Delete"
        for bucket in [s3.Bucket(one["PhysicalResourceId"])]
        if any(bucket.object_versions.limit(1))
    ]
    names = ", ".join(bucket.name for bucket in full)
    if full and not empty:
        fail(f"CloudFormation deletes no bucket that holds objects: {names}; add EMPTY=yes")
    for bucket in full:
        bucket.object_versions.delete()
    if full:
        typer.echo(f"emptied {names}")


@app.command("list")
def list_() -> None:
    """The patterns there are, each with its problem in one sentence."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("pattern", style="bold", no_wrap=True)
    table.add_column("what it is")
    for name, file in patterns().items():
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        table.add_row(name, text.partition("\n")[0])
    Console().print(table)


@app.command()
def synth(pattern: Pattern = "", options: Options = "") -> None:
    """Write the templates to cdk.out, with the CDK's validation and cdk-nag."""
    chosen = ["-e", known(pattern)] if pattern else []
    given = checked(pattern, options) if pattern else parsed(options)
    with cli.waiting(f"synthesizing {pattern or 'all patterns'}"):
        code = run(*cdk.command("synth", "-q", *chosen, *cdk.contexts(given)))
    if code == 0:
        typer.echo(f"{pattern or 'all patterns'}: templates in cdk.out, no finding")
    raise typer.Exit(code)


def missing(pattern: str) -> str:
    """What this machine lacks to run a pattern in the sandbox, by its scenario; mostly nothing."""
    module = importlib.import_module(f"scenarios.{stem(pattern)}")
    return getattr(module, "missing", str)()


@app.command()
def deploy(
    pattern: Pattern = "",
    target: On = Target.SANDBOX,
    options: Options = "",
    verbose: Verbose = False,
) -> None:
    """Deploy one pattern."""
    pattern = known(pattern)
    given = checked(pattern, options)
    if target is Target.AWS:
        deploy_to_aws(pattern, given, aws())
        return
    if lacking := missing(pattern):
        fail(lacking)
    cdk.deploy(sandbox(), pattern, given, verbose=verbose)


def deploy_to_aws(pattern: str, given: dict[str, str], environment: dict[str, str]) -> None:
    """Deploy as the CDK does, with its own words and questions."""
    if code := run(*cdk.command("deploy", "-e", pattern, *cdk.contexts(given)), env=environment):
        raise typer.Exit(code)


@app.command()
def demo(
    pattern: Pattern = "",
    target: On = Target.SANDBOX,
    options: Options = "",
    verbose: Verbose = False,
) -> None:
    """Deploy one pattern, drive it with real messages and account for every one of them."""
    pattern = known(pattern)
    given = checked(pattern, options)
    running, environment, place = None, dict[str, str](), PROJECT / ".sandbox"
    if target is Target.AWS:
        environment = aws()
    elif lacking := missing(pattern):
        fail(lacking)
    else:
        running = sandbox()
        environment, place = running.environment(), Path(running.folder)
    with alone(place / f"{pattern}.{target}.demo") as unfinished:
        if unfinished and running:
            typer.echo("The last demo did not end well: its stack goes first, with its messages.")
            cdk.destroy(running, pattern, verbose=verbose)
        elif unfinished:
            typer.echo("The last demo did not end well: if this one counts its messages, too,")
            typer.echo(f"make destroy PATTERN={pattern} TARGET=aws and say it again.")
        if running:
            cdk.deploy(running, pattern, given, verbose=verbose)
        else:
            deploy_to_aws(pattern, given, environment)
        typer.echo(f"\n{pattern}: the scenario")
        if code := play(pattern, options, environment, running):
            raise typer.Exit(code)
        where = "" if running else f" TARGET={target}"
        typer.echo(f"\nThe stack stays for you to look at: make show PATTERN={pattern}{where}")
        typer.echo(f"make destroy PATTERN={pattern}{where} takes it away again", nl=bool(where))
        if running:
            typer.echo(", and make stop ends the sandbox with all that is in it.")


@contextmanager
def alone(mark: Path) -> Generator[bool]:
    """Nobody else plays a pattern meanwhile. Whether the last one that did was stopped or failed.

    mark: a file that is there until a play ends well.
    """
    unfinished = mark.exists()
    with mark.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pattern = mark.name.partition(".")[0]
            fail(f"a demo of {pattern} is running here; wait for its end, or end it with Ctrl-C")
        yield unfinished
        mark.unlink(missing_ok=True)


def play(pattern: str, options: str, env: dict[str, str], running: server.Server | None) -> int:
    """Play the scenario; its exit code. If its sandbox ends meanwhile, so does it, at once."""
    words = [word for one in options.split() for word in ("--option", one)]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            [sys.executable, "-m", "scenarios", pattern, *words],
            cwd=PROJECT, env=env, stderr=said if running else None,
        ) as scenario,
    ):  # fmt: skip
        try:
            while scenario.poll() is None:
                if running and not running.lives():
                    last = running.last_words()
                    end(scenario)
                    server.find()  # takes away what it left
                    fail(f"the sandbox has ended by itself, and all in it is gone: {last}")
                time.sleep(0.2)
        except KeyboardInterrupt:
            end(scenario)
            raise
        said.seek(0)
        sys.stderr.write(said.read().decode(errors="replace"))
    return scenario.returncode


def end(process: subprocess.Popen[bytes]) -> None:
    """End a scenario with the programs that it started: politely, and after 10 s for certain."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()


@app.command()
def show(pattern: Pattern = "", target: On = Target.SANDBOX) -> None:
    """What a pattern is: figure, decisions, options; and when it is deployed, lines to copy."""
    from rich.console import Console

    pattern, console = known(pattern), Console(highlight=False, soft_wrap=True)
    tree = ast.parse(patterns()[pattern].read_text())
    (stack,) = (one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == pattern)
    says = [ast.get_docstring(one) or "" for one in (tree, stack)]
    console.print(pattern, style="bold")
    console.print("\n\n".join(says), markup=False)
    running = server.find() if target is Target.SANDBOX else None
    environment = running.environment() if running else aws() if target is Target.AWS else None
    where = "" if running or not environment else f" TARGET={target}"
    if not (environment and tell_lines(pattern, environment, sandboxed=bool(running))):
        console.print(f"\nmake deploy PATTERN={pattern}{where} deploys it; then this says more.")


def tell_lines(pattern: str, environment: dict[str, str], *, sandboxed: bool) -> bool:
    """Print what one can do with a deployed stack; whether it is deployed."""
    from botocore.exceptions import ClientError

    from scenarios.lines import lines

    os.environ.clear()
    os.environ.update(environment)
    try:
        told = list(lines(stem(pattern), pattern))
    except ClientError:
        return False
    shell = shlex.quote(str(PROJECT / "bin" / "sandbox"))
    where = f" in a shell of the sandbox, {shell} shell" if sandboxed else ""
    typer.echo(f"\nIt is deployed. Lines to copy{where}:")
    for what, command in told:
        typer.echo(f"\n# {what}\n{command}")
    return True


@app.command()
def destroy(
    pattern: Pattern = "",
    target: On = Target.SANDBOX,
    empty: Empty = False,
    verbose: Verbose = False,
) -> None:
    """Take one pattern away."""
    pattern = known(pattern)
    if target is Target.AWS:
        environment = aws()
        clear_buckets(pattern, environment["AWS_REGION"], empty=empty)
        raise typer.Exit(run(*cdk.command("destroy", "-e", pattern), env=environment))
    if not (running := server.find()):
        fail("no sandbox is running, so nothing is deployed in it")
    cdk.destroy(running, pattern, verbose=verbose)


@app.command()
def test(pattern: Pattern = "") -> None:
    """All tests, or those that concern one pattern."""
    chosen = ["-k", stem(pattern)] if pattern else []
    raise typer.Exit(run(sys.executable, "-m", "pytest", *chosen))


@app.command()
def snapshots(pattern: Pattern = "") -> None:
    """Accept the templates as they are now."""
    chosen = ["-k", f"snapshot and {stem(pattern)}" if pattern else "snapshot"]
    raise typer.Exit(run(sys.executable, "-m", "pytest", "-n0", "--snapshot-update", *chosen))


if __name__ == "__main__":
    cli.run(app, server.SandboxError)
