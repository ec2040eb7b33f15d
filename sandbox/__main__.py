"""The embedded AWS from the command line: python -m sandbox start | stop | status | env | run."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sandbox import server

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


def fail(problem: object) -> NoReturn:
    """One line on standard error, exit code 2."""
    typer.echo(f"error: {problem}", err=True)
    raise typer.Exit(2)


def running() -> server.Server:
    """The server, or a clear end."""
    return server.find() or fail("the sandbox is not running; start it: make sandbox")


@app.command()
def start(
    port: Annotated[int | None, typer.Option(help="Loopback port; a free one if none.")] = None,
    clock: Annotated[
        float, typer.Option(min=1, max=60, help="How much faster SQS time runs.")
    ] = server.CLOCK,
    foreground: Annotated[bool, typer.Option(help="Stay, and stop with Ctrl-C.")] = False,
) -> None:
    """Start the embedded AWS on loopback, with IAM enforced and TLS."""
    began = time.monotonic()
    try:
        started = server.start(port=port, clock=clock)
    except server.SandboxError as error:
        fail(error)
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
    """Print what a shell needs to target it: eval "$(python -m sandbox env)"."""
    target = running().environment()
    for name in sorted(target.keys() | os.environ.keys()):
        if name not in target:
            typer.echo(f"unset {name}")
        elif target[name] != os.environ.get(name):
            typer.echo(f"export {name}={shlex.quote(target[name])}")


@app.command(context_settings={"ignore_unknown_options": True})
def run(command: Annotated[list[str], typer.Argument(help="What to run, after --.")]) -> None:
    """Run a command that can reach the sandbox and no AWS account; its exit code is ours."""
    environment = running().environment()
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    try:
        raise typer.Exit(subprocess.run(command, check=False, env=environment).returncode)
    except FileNotFoundError:
        fail(f"there is no command {command[0]}")


if __name__ == "__main__":
    app()
