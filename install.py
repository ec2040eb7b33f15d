"""make setup: install what is missing, from locked and hashed requirements, step by step.

Only the standard library: it runs before anything is installed. A step that is done is not done
again, so a second try goes on where the first one stopped. Proxies and mirrors are those that
pip, uv and npm know by their own settings.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
BIN = PROJECT / ".venv" / "bin"
SANDBOX = PROJECT / ".sandbox"
LOG = SANDBOX / "setup.log"
UV = (BIN / "uv", "--system-certs", "pip")
HASHED = ("-q", "--require-hashes")
COMPILED = (*HASHED, "--compile-bytecode")  # functions start with it, cold


class Failed(Exception):
    """One line: what is wrong and what to do."""


def main() -> None:
    """Do each step that is not done."""
    steps = (  # what it is, from which lock, and what is there afterwards
        ("virtual environment", make_environment, "requirements.lock", ".venv"),
        ("tools, CDK library and Node.js", sync_tools, "requirements.lock", ".venv"),
        ("CDK command-line interface", install_cdk, "package-lock.json", "node_modules"),
        ("embedded AWS", sync_sandbox, "sandbox/requirements.lock", ".sandbox/venv"),
        ("its Powertools layer", install_layer, "sandbox/layer.lock", ".sandbox/layer"),
        ("its translator of SAM", install_sam, "sandbox/sam.lock", ".sandbox/sam"),
    )
    number = 0
    try:
        SANDBOX.mkdir(exist_ok=True)
        LOG.write_text("")
        for number, (what, step, lock, made) in enumerate(steps, 1):
            done = PROJECT / ".venv" / f".step-{number}"
            wanted = hashlib.sha256((PROJECT / lock).read_bytes()).hexdigest()
            if (PROJECT / made).exists() and done.exists() and done.read_text() == wanted:
                continue
            print(f"setup {number}/{len(steps)}  {what}", flush=True)
            step()
            done.write_text(wanted)
        (PROJECT / ".venv" / ".ready").touch()
    except Failed as problem:
        sys.exit(told(f"setup {number}/{len(steps)} failed: {problem}"))
    except OSError as problem:
        sys.exit(told(f"setup cannot write here: {problem}"))


def told(problem: str) -> int:
    """Say it in one line; the exit code."""
    print(f"error: {problem}", file=sys.stderr)
    return 2


def make_environment() -> None:
    """A virtual environment, with uv in it: the rest is installed by uv."""
    for old in (".venv", ".sandbox/venv", ".sandbox/layer", ".sandbox/sam"):
        run("rm", "-rf", PROJECT / old)
    try:
        run(sys.executable, "-m", "venv", BIN.parent)
    except Failed as problem:
        if "ensurepip" in LOG.read_text():
            raise Failed(
                "Python's venv module is missing (Debian: apt install python3-venv)"
            ) from None
        raise problem from None
    entries = re.findall(r"(?ms)^uv==.*?(?=^\S)", (PROJECT / "requirements.lock").read_text())
    only_uv = SANDBOX / "uv.lock"
    only_uv.write_text(entries[0])
    run(
        BIN / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check",
        "--retries", "2", "--require-hashes", "-r", only_uv,
    )  # fmt: skip


def sync_tools() -> None:
    """What the commands, the stacks and the tests import; compiled by whoever does: 300 MB less."""
    run(*UV, "sync", *HASHED, "--python", BIN.parent, "requirements.lock")


def install_cdk() -> None:
    """The CDK's command-line interface, on the Node.js that is here now."""
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # Of npm's own 176 s of patience with a registry that does not answer, a part.
    impatient = ("--fetch-retries", "1", "--fetch-timeout", "60000", "--loglevel", "error")
    run(BIN / "npm", "ci", *impatient, PATH=path, NODE_USE_SYSTEM_CA="1")


def sync_sandbox() -> None:
    """The embedded AWS, in an environment that looks like a function's."""
    run(BIN / "uv", "venv", "-q", "--clear", "--python", BIN / "python", SANDBOX / "venv")
    run(*UV, "sync", *COMPILED, "--python", SANDBOX / "venv", "sandbox/requirements.lock")


def install_layer() -> None:
    """What AWS's public layer brings to functions."""
    beside("layer")


def install_sam() -> None:
    """What CloudFormation expands templates of SAM with."""
    beside("sam")


def beside(name: str) -> None:
    """Packages in a folder of their own, for the embedded AWS's Python."""
    run(
        *UV, "install", *COMPILED, "--python", SANDBOX / "venv", "--no-deps",
        "--target", SANDBOX / name, "-r", f"sandbox/{name}.lock",
    )  # fmt: skip


def run(*words: str | Path, **environment: str) -> None:
    """Run a command; on a terminal its seconds are shown. Failed with its own word for why."""
    began = time.monotonic()
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            [str(word) for word in words], cwd=PROJECT, env=os.environ | environment,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
                    print(f"  {time.monotonic() - began:4.0f} s\r", end="", flush=True)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            sys.exit(130)
    if process.returncode:
        raise Failed(f"{why(LOG.read_text(errors='replace'))}; all that was said: {LOG}")


def why(said: str) -> str:
    """The line of a tool's output that says most."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    if any("No space left on device" in line for line in lines):
        return "the disk, or the folder for temporary files, is full; make room and say it again"
    network = (
        "ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN|dns error|[Cc]onnection refused|timed out"
        "|NewConnectionError|ProxyError|tunnel"
    )
    for line in reversed(lines):
        if re.search(network, line):
            return (
                "a package registry does not answer: look at the network, the proxy (HTTPS_PROXY)"
                f" and the mirrors of pip, uv and npm, and say it again ({line[:160]})"
            )
    telling = [line for line in lines if re.search(r"(?i)error|denied|cannot|no such", line)]
    return (telling or lines or ["it said nothing"])[-1][:240]


if __name__ == "__main__":
    main()
