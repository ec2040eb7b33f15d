"""The commands behind the Makefile: list, synth, deploy, demo, destroy, test, snapshots."""

import ast
import importlib
import os
import subprocess
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sandbox import cdk, server

PROJECT = Path(__file__).parent
app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


class Target(StrEnum):
    """Where a command acts."""

    SANDBOX = "sandbox"
    AWS = "aws"


Pattern = Annotated[
    str, typer.Argument(help="A pattern's deploy name; see list.", show_default=False)
]
Options = Annotated[list[str], typer.Option("--option", help="A stack's option, name=value.")]
Empty = Annotated[
    bool, typer.Option("--empty", help="On AWS: first delete all that the stack's buckets hold.")
]
On = Annotated[Target, typer.Option(help="The embedded AWS, or your AWS account.")]


def fail(problem: object) -> NoReturn:
    """One line on standard error, exit code 2."""
    typer.echo(f"error: {problem}", err=True)
    raise typer.Exit(2)


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
    if not pattern:
        fail(f"say which pattern, such as PATTERN={names[0]}; there are: {', '.join(names)}")
    if pattern not in names:
        fail(f"no pattern {pattern}; there are: {', '.join(names)}")
    return pattern


def stem(pattern: str) -> str:
    """What the files of a pattern are called."""
    return patterns()[known(pattern)].stem


def parsed(options: list[str]) -> dict[str, str]:
    """name=value words as a mapping."""
    if wrong := [word for word in options if "=" not in word]:
        fail(f"an option is name=value, not {wrong[0]}")
    return dict(word.split("=", 1) for word in options)


def run(*words: str, env: dict[str, str] | None = None) -> int:
    """Run a command in the project's folder; its exit code."""
    return subprocess.run(words, check=False, cwd=PROJECT, env=env).returncode


def sandbox() -> server.Server:
    """The running sandbox, started if need be."""
    if found := server.find():
        return found
    began = time.monotonic()
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
def synth(pattern: Pattern = "", option: Options = []) -> None:
    """Write the templates to cdk.out, with the CDK's validation and cdk-nag."""
    chosen = ["-e", pattern] if pattern and known(pattern) else []
    code = run(*cdk.command("synth", "-q", *chosen, *cdk.contexts(parsed(option))))
    if code == 0:
        typer.echo(f"{pattern or 'all patterns'}: templates in cdk.out, no finding")
    raise typer.Exit(code)


def missing(pattern: str) -> str:
    """What this machine lacks to run a pattern in the sandbox, by its scenario; mostly nothing."""
    module = importlib.import_module(f"scenarios.{stem(pattern)}")
    return getattr(module, "missing", str)()


@app.command()
def deploy(pattern: Pattern = "", target: On = Target.SANDBOX, option: Options = []) -> None:
    """Deploy one pattern."""
    pattern = known(pattern)
    options = parsed(option)
    if target is Target.SANDBOX:
        if lacking := missing(pattern):
            fail(lacking)
        cdk.deploy(sandbox(), pattern, options)
    elif code := run(*cdk.command("deploy", "-e", pattern, *cdk.contexts(options)), env=aws()):
        raise typer.Exit(code)


@app.command()
def demo(pattern: Pattern = "", target: On = Target.SANDBOX, option: Options = []) -> None:
    """Deploy one pattern, drive it with real messages and account for every one of them."""
    pattern = known(pattern)
    deploy(pattern, target, option)
    environment = sandbox().environment() if target is Target.SANDBOX else aws()
    typer.echo(f"\n{pattern}: the scenario")
    deployed_with = [word for one in option for word in ("--option", one)]
    code = run(sys.executable, "-m", "scenarios", pattern, *deployed_with, env=environment)
    where = "" if target is Target.SANDBOX else f" TARGET={target}"
    typer.echo(f"\nThe stack stays for you to look at. make destroy PATTERN={pattern}{where}")
    if not where:
        typer.echo("takes it away again, and make stop ends the sandbox with all that is in it.")
    raise typer.Exit(code)


@app.command()
def destroy(pattern: Pattern = "", target: On = Target.SANDBOX, empty: Empty = False) -> None:
    """Take one pattern away."""
    pattern = known(pattern)
    if target is Target.AWS:
        environment = aws()
        clear_buckets(pattern, environment["AWS_REGION"], empty=empty)
        raise typer.Exit(run(*cdk.command("destroy", "-e", pattern), env=environment))
    if not (running := server.find()):
        fail("no sandbox is running, so nothing is deployed in it")
    cdk.destroy(running, pattern)


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


def main() -> None:
    """Run; what is the user's to mend is one line and exit code 2."""
    try:
        app()
    except server.SandboxError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
