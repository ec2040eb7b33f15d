"""The embedded AWS from the command line: python -m sandbox start, run -- COMMAND, shell."""

import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from sandbox import cdk, cli, server
from sandbox.cli import fail

GUARDED = str(server.PROJECT / "sandbox" / "guarded")  # holds `aws`
app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


def environment() -> dict[str, str]:
    """What a command needs to act on the running sandbox, bootstrapped for the CDK.

    First on PATH is what AWS's own command-line interface must not do without, and in this
    project its own tools; elsewhere these come last, after the other project's.
    """
    found = server.find() or fail("the sandbox is not running; start it: make sandbox")
    cdk.bootstrap(found)
    target = cdk.environment(found)
    own = [str(server.PROJECT / "bin"), str(Path(sys.executable).parent)]
    path = target.get("PATH", os.defpath).split(os.pathsep)
    path = [folder for folder in path if folder not in (GUARDED, *own)]
    here = Path.cwd().resolve().is_relative_to(server.PROJECT)
    target["PATH"] = os.pathsep.join([GUARDED, *own, *path] if here else [GUARDED, *path, *own])
    return target


@app.command()
def start(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Loopback port; a free one if none.")
    ] = None,
    clock: Annotated[
        float, typer.Option(min=1, max=60, help="How much faster SQS time runs.")
    ] = server.CLOCK,
    foreground: Annotated[bool, typer.Option(help="Stay, and stop with Ctrl-C.")] = False,
) -> None:
    """Start the embedded AWS on loopback, with IAM enforced and TLS."""
    began = time.monotonic()
    started = server.start(port=port, clock=clock)
    typer.echo(
        f"sandbox ready in {time.monotonic() - began:.1f} s at https://localhost:{started.port}"
        f" (IAM and TLS on, SQS time {clock:g} times faster); log: {server.FOLDER / 'server.log'}"
    )
    if foreground:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            while server.find():
                time.sleep(0.5)
            fail("the sandbox has ended by itself")
        except KeyboardInterrupt:
            server.stop()
            typer.echo("sandbox stopped")


@app.command()
def stop() -> None:
    """Stop the embedded AWS with its functions and remove what it left."""
    typer.echo("sandbox stopped" if server.stop() else "no sandbox was running")


@app.command()
def status() -> None:
    """Say whether it runs, where, and what it holds; exit code 1 if it does not run."""
    found = server.find()
    if not found:
        typer.echo("no sandbox is running")
        raise typer.Exit(1)
    memory = found.memory()
    typer.echo(
        f"sandbox at https://localhost:{found.port}, process {found.pid}, SQS time {found.clock:g}"
        " times faster" + (f", {memory / 2**20:.0f} MB" if memory else "")
    )


@app.command()
def env() -> None:
    """Print what a shell needs to target it: eval "$(bin/sandbox env)"."""
    target = environment()
    for name in sorted(target.keys() | os.environ.keys()):
        if name not in target:
            typer.echo(f"unset {name}")
        elif target[name] != os.environ.get(name):
            typer.echo(f"export {name}={shlex.quote(target[name])}")


@app.command(context_settings={"ignore_unknown_options": True})
def run(command: Annotated[list[str], typer.Argument(help="What to run, after --.")]) -> None:
    """Run a command that can reach the sandbox and no AWS account; its exit code is ours."""
    target = environment()
    program = shutil.which(command[0], path=target["PATH"])
    if not program:
        fail(f"there is no command {command[0]}")
    os.execve(program, command, target)  # noqa: S606  (signals are the command's own)


@app.command()
def shell() -> None:
    """A shell whose commands reach the sandbox and no AWS account."""
    program = os.environ.get("SHELL") or "/bin/sh"
    target = environment()
    print(f"{Path(program).name} in the sandbox; exit ends it, and the sandbox runs on", flush=True)
    os.execve(program, [program], target)  # noqa: S606


if __name__ == "__main__":
    cli.run(app, server.SandboxError)
