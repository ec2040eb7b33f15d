"""How long people wait: whole processes, medians of interleaved runs, ratios within one run.

Machines differ, so the ratios are what to compare between two versions of this repository.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sandbox import cdk, server

PROJECT = cdk.PROJECT
RESULTS = PROJECT / "bench" / "results.json"
PATTERN = "SqsLambdaDlq"
SUITE = "make test, warm"
RUNS = 5
EMPTY_APP = """
import aws_cdk
app = aws_cdk.App()
stack = aws_cdk.Stack(app, "Empty")
# The CDK's validation refuses a stack with no resource at all.
aws_cdk.CfnResource(stack, "Handle", type="AWS::CloudFormation::WaitConditionHandle")
app.synth()
"""


def seconds(*words: str, cwd: Path = PROJECT, env: dict[str, str] | None = None) -> float:
    """Wall-clock seconds of one whole process, which must succeed."""
    began = time.perf_counter()
    subprocess.run(words, cwd=cwd, env=env, check=True, capture_output=True)
    return time.perf_counter() - began


def interleaved(commands: dict[str, Callable[[], float]], runs: int = RUNS) -> dict[str, float]:
    """The median of each, run in turn A B A B after one warm-up, so that drift hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    console = Console(stderr=True)
    with Progress(transient=True, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(", ".join(commands), total=(runs + 1) * len(commands))
        for run in range(runs + 1):
            for name, command in commands.items():
                took = command()
                if run:
                    taken[name].append(took)
                progress.advance(task)
    return {name: statistics.median(values) for name, values in taken.items()}


def synthesis(folder: Path) -> dict[str, float]:
    """Synth of one pattern, of all, and of an empty app, through the CLI."""
    (folder / "app.py").write_text(EMPTY_APP)
    (folder / "cdk.json").write_bytes((PROJECT / "cdk.json").read_bytes())

    def synth(*words: str, validation: bool, empty: bool = False) -> Callable[[], float]:
        environment = os.environ | {"CDK_VALIDATION": str(validation).lower()}
        words = (*words, "--app", f"'{sys.executable}' app.py", "-o", str(folder / "cdk.out"))
        return lambda: seconds(
            *cdk.command("synth", "-q", *words),
            cwd=folder if empty else PROJECT,
            env=environment | node(),
        )

    return interleaved(
        {
            "synth of an empty app": synth(validation=False, empty=True),
            f"synth -e {PATTERN}": synth("-e", PATTERN, validation=False),
            "synth of all patterns": synth(validation=False),
        }
    ) | interleaved(
        {
            "synth of an empty app, validation on": synth(validation=True, empty=True),
            f"synth -e {PATTERN}, validation on": synth("-e", PATTERN, validation=True),
        }
    )


LINT, WITH_PACK = "cfn-lint of all templates", "cfn-lint of all templates, with rules/"


def linting(folder: Path) -> dict[str, float]:
    """cfn-lint's own rules over all templates, and these with the rule pack."""
    seconds(*cdk.command("synth", "-q", "-o", str(folder)), env=os.environ | node())
    lint = [str(Path(sys.executable).parent / "cfn-lint"), "--ignore-checks", "W3005"]
    templates = ["--", *map(str, sorted(folder.glob("*.template.json")))]
    pack = ["--append-rules", str(PROJECT / "rules")]
    return interleaved(
        {
            LINT: lambda: seconds(*lint, *templates),
            WITH_PACK: lambda: seconds(*lint, *pack, *templates),
        }
    )


def node() -> dict[str, str]:
    """The empty app gets the same Node.js as ours, or the ratio would flatter us."""
    return {"JSII_NODE": cdk.command()[0]}


def starts(folder: Path) -> dict[str, float]:
    """Start to ready, and what an idle server holds."""
    memory: list[int] = []

    def once() -> float:
        began = time.perf_counter()
        started = server.start(folder)
        took = time.perf_counter() - began
        memory.append(started.memory() or 0)
        server.stop(folder)
        return took

    return interleaved({"sandbox start to ready": once}) | {
        "sandbox memory idle, MB": statistics.median(memory) / 2**20
    }


def deployments(target: server.Server) -> dict[str, float]:
    """Deploy of a synthesized stack that is not there yet, on a bootstrapped sandbox."""
    environment = target.environment() | {"CDK_VALIDATION": "false"}
    assembly = str(Path(target.folder) / "bench.out")
    cdk.bootstrap(target)
    seconds(*cdk.command("synth", "-q", "-e", PATTERN, "-o", assembly), env=environment)

    def once() -> float:
        words = ("deploy", PATTERN, "--app", assembly, "--require-approval", "never")
        took = seconds(*cdk.command(*words), env=environment)
        seconds(*cdk.command("destroy", PATTERN, "--app", assembly, "--force"), env=environment)
        return took

    return interleaved({f"cdk deploy {PATTERN}, synthesized": once}, runs=3)


def messages(target: server.Server) -> dict[str, float]:
    """How fast orders get through the deployed pattern."""
    os.environ.update(target.environment())
    subprocess.run(
        cdk.command("deploy", "-e", PATTERN, "--require-approval", "never"),
        cwd=PROJECT,
        env=target.environment() | {"CDK_VALIDATION": "false"},
        check=True,
        capture_output=True,
    )
    stack = boto3.client("cloudformation").describe_stacks(StackName=PATTERN)["Stacks"][0]
    out = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}
    sqs, dynamodb = boto3.client("sqs"), boto3.client("dynamodb")

    def order(order_id: str) -> str:
        items = [{"sku": "tea", "quantity": 1}]
        return json.dumps({"order_id": order_id, "customer": "ada", "items": items})

    def latency() -> float:
        order_id, began = uuid.uuid4().hex, time.perf_counter()
        sqs.send_message(QueueUrl=out["OrdersUrl"], MessageBody=order(order_id))
        key = {"order_id": {"S": order_id}}
        while "Item" not in dynamodb.get_item(
            TableName=out["FulfilledOrdersName"], Key=key, ConsistentRead=True
        ):
            time.sleep(0.005)
        return time.perf_counter() - began

    def drain(number: int) -> float:
        run, began = uuid.uuid4().hex[:8], time.perf_counter()
        for first in range(0, number, 10):
            sqs.send_message_batch(
                QueueUrl=out["OrdersUrl"],
                Entries=[
                    {"Id": str(n), "MessageBody": order(f"{run}-{n}")}
                    for n in range(first, first + 10)
                ],
            )
        while (
            dynamodb.scan(
                TableName=out["FulfilledOrdersName"],
                Select="COUNT",
                ConsistentRead=True,
                FilterExpression="begins_with(order_id, :run)",
                ExpressionAttributeValues={":run": {"S": run}},
            )["Count"]
            < number
        ):
            time.sleep(0.1)
        return number / (time.perf_counter() - began)

    drain(200)  # warms the functions
    return interleaved({"order sent to row, warm": latency}, runs=15) | {
        "orders drained a second": statistics.median(drain(500) for _ in range(3))
    }


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "node": subprocess.run(
            [cdk.command()[0], "--version"], capture_output=True, text=True, check=True
        ).stdout.strip(),
    }


def ratio(figures: dict[str, float], suffix: str = "") -> float:
    """How many times an empty app's synthesis one pattern's takes."""
    return figures[f"synth -e {PATTERN}{suffix}"] / figures[f"synth of an empty app{suffix}"]


def main() -> None:
    """Measure, show, and keep."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = synthesis(folder) | linting(folder / "all") | starts(folder / "starts")
        target = server.start(folder / "run")
        try:
            figures |= deployments(target) | messages(target)
        finally:
            server.stop(folder / "run")
    figures[SUITE] = seconds(sys.executable, "-m", "pytest")  # once: minutes
    ratios = {
        f"synth -e {PATTERN} / empty app": (ratio(figures), "at most 3"),
        f"synth -e {PATTERN} / empty app, validation on": (ratio(figures, ", validation on"), ""),
        "cfn-lint with rules/ / without": (figures[WITH_PACK] / figures[LINT], "under 1.5"),
        f"{SUITE} / synth of all patterns": (figures[SUITE] / figures["synth of all patterns"], ""),
    }
    goals = {
        SUITE: "under 330 s",
        "sandbox start to ready": "under 2 s",
        "sandbox memory idle, MB": "under 150",
    }
    table = Table("what", "median", "goal", title="bench: whole processes, interleaved", box=None)
    for what, value in figures.items():
        unit = "" if "MB" in what or "a second" in what else " s"
        table.add_row(what, f"{value:.2f}{unit}", goals.get(what, ""))
    for what, (value, goal) in ratios.items():
        table.add_row(what, f"{value:.2f} times", goal)
    Console().print(table)
    rounded = {what: round(value, 3) for what, value in figures.items()}
    kept = {
        "machine": machine(),
        "medians": rounded,
        "ratios": {what: round(value, 2) for what, (value, _) in ratios.items()},
    }
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
