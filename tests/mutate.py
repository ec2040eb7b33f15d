"""make mutate: change a pattern's code at random and see whether its tests notice.

Each change is one that a slip of the hand could make: `<` for `<=`, a number one too large, a
keyword or a raise left out. A change that no test notices is printed; look at each: either a
test is missing, or the change changes nothing. Snapshots do not count, for they notice any change
of a stack and claim nothing.
"""

from __future__ import annotations

import ast
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.progress import Progress

import gallery
from sandbox.cli import fail

PROJECT = Path(__file__).parent.parent
INSTALLED = (
    ".venv",
    "node_modules",
    ".sandbox/venv",
    ".sandbox/layer",
    ".sandbox/sam",
)  # linked, not copied
NOTICED = 0.9  # of the changes, at least
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip


class Change(NamedTuple):
    """One place of a file that is replaced; start and end count bytes."""

    file: Path
    line: int
    start: int
    end: int
    after: str
    says: str

    def applied(self) -> str:
        """The file's text with the change."""
        source = (PROJECT / self.file).read_bytes()
        return (source[: self.start] + self.after.encode() + source[self.end :]).decode()


class Slip(NamedTuple):
    """What is replaced, from its first node to its last, by which text; and how to say it."""

    first: ast.expr | ast.stmt
    last: ast.expr | ast.stmt
    after: str
    says: str = ""


def changes(file: Path) -> Iterator[Change]:
    """Each change of one file, a path in the project."""
    source = (PROJECT / file).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in _code(ast.parse(source)):
        for first, last, after, says in (*_swapped(node), *_left_out(node)):
            start = starts[first.lineno - 1] + first.col_offset
            end = starts[(last.end_lineno or 0) - 1] + (last.end_col_offset or 0)
            before = " ".join(source[start:end].decode().split())
            yield Change(file, first.lineno, start, end, after, says or f"{before}  ->  {after}")


def _swapped(node: ast.AST) -> Iterator[Slip]:
    """An operator, a condition or a constant that is another one."""
    match node:
        case ast.Compare(left, [operator], [right]) if type(operator) in SWAPS:
            other = ast.Compare(left, [SWAPS[type(operator)]()], [right])
        case ast.BoolOp(operator, values):
            other = ast.BoolOp(SWAPS[type(operator)](), values)
        case ast.BinOp(left, operator, right) if type(operator) in SWAPS:
            other = ast.BinOp(left, SWAPS[type(operator)](), right)
        case ast.UnaryOp(ast.Not(), operand):
            other = operand
        case ast.Constant(bool(value)):
            other = ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            other = ast.Constant(value + 1)
        case ast.Constant(str(value)) if value and not set(value) & set(" \n"):
            other = ast.Constant(value + "x")  # a name; the texts of messages have spaces
        case ast.If(test) | ast.While(test) | ast.IfExp(test):
            yield Slip(test, test, f"(not ({ast.unparse(test)}))")
            return
        case _:
            return
    text = ast.unparse(other)
    yield Slip(node, node, text if isinstance(other, ast.Constant) else f"({text})")


def _left_out(node: ast.AST) -> Iterator[Slip]:
    """A call, an argument, a raise, a value or the handling of an exception that is not there."""
    match node:
        case ast.Expr(ast.Call()) | ast.Raise():
            yield Slip(node, node, "pass")
        case ast.Return(ast.expr() as value) if ast.unparse(value) != "None":
            yield Slip(node, node, "return None")
        case ast.Continue():
            yield Slip(node, node, "break")
        case ast.ExceptHandler(body=body) if not isinstance(body[0], ast.Raise):
            yield Slip(body[0], body[-1], "raise")
        case ast.Call(function, words, keywords):
            for keyword in (one for one in keywords if one.arg):
                others = [one for one in keywords if one is not keyword]
                says = f"{ast.unparse(function)}(... without {ast.unparse(keyword)})"
                yield Slip(node, node, ast.unparse(ast.Call(function, words, others)), says)
        case _:
            pass


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """A tree's nodes, without those in which a change is none."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr | ast.Import):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue  # a docstring
            if isinstance(child, ast.If) and "__name__" in ast.unparse(child.test):
                continue
            if isinstance(node, ast.Call) and child is _id_of(node):
                continue  # those that count are locked in tests/stateful_ids.json
            yield from _code(child)


def _id_of(call: ast.Call) -> ast.AST | None:
    """The id that a call gives to a construct; an output's is its name, which people use."""
    match call:
        case ast.Call(ast.Name("CfnOutput")):
            return None
        case ast.Call(_, [ast.Name("self"), ast.Constant(str()) as found, *_]):
            return found
    return None


def tests_of(file: Path, stem: str) -> list[str]:
    """What pytest is told to run for a change of a file."""
    if file.parts[0] == "stacks":
        chosen = [f"tests/stacks/test_{stem}.py", "tests/test_patterns.py"]
        return [*chosen, "-k", f"{stem} and not snapshot"]
    chosen = [f"tests/{file.parts[0]}/test_{stem}.py"]
    if file.name == "program.py":  # that all copies are one is noticed too easily
        return [f"tests/{file.parts[0]}/test_{file.stem}.py", *chosen, "-k", "not same_file"]
    return chosen


class Copies:
    """Copies of the project, one for each process that tests."""

    def __init__(self, folder: Path, number: int) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=PROJECT, check=True, capture_output=True, text=True,
        ).stdout.split("\0")  # fmt: skip
        self.free = SimpleQueue[Path]()
        for copy in (folder / str(index) for index in range(number)):
            for name in filter(None, listed):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(PROJECT / name, copy / name)
            for name in INSTALLED:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).symlink_to((PROJECT / name).resolve())
            self.free.put(copy)

    def pass_(self, words: list[str], change: Change | None = None, limit: float = 600) -> bool:
        """Whether the tests pass with a change, within so many seconds."""
        copy = self.free.get()
        if change:
            (copy / change.file).write_text(change.applied())
        process = subprocess.Popen(
            [str(copy / ".venv/bin/python"), "-m", "pytest", "-n0", "-x", "-q", *words],
            cwd=copy, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            return process.wait(limit) == 0
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its embedded AWS is tied to it
            process.wait()
            return False
        finally:
            if change:
                shutil.copy2(PROJECT / change.file, copy / change.file)
            self.free.put(copy)


def survivors(
    what: str, copies: Copies, tried: list[Change], tests: Callable[[Change], list[str]], end: float
) -> tuple[list[Change], int]:
    """(changes with which the tests pass, how many were tried before the end came)."""
    limits = {}
    for words in {tuple(tests(change)) for change in tried}:
        began = time.monotonic()
        if not copies.pass_(list(words)):
            fail(f"without any change this fails: pytest {' '.join(words)}")
        limits[words] = 20 + 4 * (time.monotonic() - began)

    def lives(change: Change) -> bool | None:
        if time.monotonic() > end:
            return None
        words = tests(change)
        return copies.pass_(words, change, limits[tuple(words)])

    with ThreadPoolExecutor(copies.free.qsize()) as threads, Progress(transient=True) as progress:
        results = list(progress.track(threads.map(lives, tried), len(tried), description=what))
    left = [change for change, result in zip(tried, results, strict=True) if result]
    return left, len([result for result in results if result is not None])


def main(
    pattern: Annotated[str, typer.Argument(help="A pattern's deploy name.")],
    most: Annotated[int, typer.Option(help="So many changes, chosen at random.")] = 100,
    minutes: Annotated[
        float, typer.Option(help="Begin none after so long; twice that in all.")
    ] = 8,
    seed: Annotated[int, typer.Option(help="Another seed chooses others.")] = 0,
    only: Annotated[str, typer.Option(help="Only files whose path holds this.")] = "",
    scenario: Annotated[bool, typer.Option(help="Show survivors to the scenario, too.")] = True,
) -> None:
    """Change PATTERN's code at random; list what neither its tests nor its scenario notice."""
    stem, console = gallery.stem(pattern), Console(highlight=False, soft_wrap=True, markup=False)
    files = [Path("stacks") / f"{stem}.py"]
    for folder in ("lambdas", "workers"):
        files += sorted(f.relative_to(PROJECT) for f in (PROJECT / folder / stem).glob("*.py"))
    found = [change for file in files if only in str(file) for change in changes(file)]
    tried = random.Random(seed).sample(found, min(most, len(found)))
    with tempfile.TemporaryDirectory(prefix="gallery-mutate-") as folder:
        copies = Copies(Path(folder), os.cpu_count() or 1)
        left, count = survivors(
            "unit tests", copies, tried,
            lambda change: tests_of(change.file, stem), time.monotonic() + 60 * minutes,
        )  # fmt: skip
        console.print(
            f"{pattern}: {count} of {len(found)} changes tried; tests let {len(left)} pass"
        )
        if left and scenario:
            words = ["tests/scenarios/test_scenarios.py", "-k", stem]
            end = time.monotonic() + 60 * minutes
            still, seen = survivors("scenario", copies, left, lambda _: words, end)
            console.print(f"the scenario was shown {seen} of them and let {len(still)} pass")
            left = still + left[seen:]
    for change in sorted(left):
        console.print(f"  {change.file}:{change.line}  {change.says[:150]}")
    share = 1 - len(left) / count if count else 0
    console.print(f"{share:.0%} noticed")
    sys.exit(share < NOTICED)


if __name__ == "__main__":
    typer.run(main)
