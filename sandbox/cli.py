"""What all commands have in common: how they fail, and how they tell what goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


def fail(problem: object) -> NoReturn:
    """One line on standard error, exit code 2."""
    typer.echo(f"error: {problem}", err=True)
    raise typer.Exit(2)


def run(app: typer.Typer, *refusals: type[Exception]) -> NoReturn:
    """Run a program; a wrong word and these exceptions are one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        said = error.format_message()
        typer.echo(said if "\n" in said else f"error: {said}", err=True)  # or its help
        sys.exit(2)
    except refusals as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def animated(console: Console) -> bool:
    """Whether it is a terminal that can take back what it showed."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def waiting(what: str) -> Generator[Callable[[str], None]]:
    """Tell what goes on: on a terminal with a clock, and what more is said; elsewhere one line."""
    console = Console(stderr=True, highlight=False)
    if not animated(console):
        console.print(what, markup=False, soft_wrap=True)
        yield lambda _: None
        return
    columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what)
        yield lambda more: progress.update(task, description=f"{what}: {more}")
