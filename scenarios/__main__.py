"""Play the scenario of a deployed pattern: python -m scenarios SqsLambdaDlq."""

import importlib
import re
import signal
import sys
from typing import Annotated

import typer
from botocore.exceptions import BotoCoreError, ClientError

from scenarios.stage import ScenarioFailed, Stage


def main(
    pattern: Annotated[str, typer.Argument(help="The pattern's deploy name.")],
    stack: Annotated[str | None, typer.Option(help="Its stack, if named otherwise.")] = None,
    option: Annotated[list[str], typer.Option(help="What it was deployed with, name=value.")] = [],
) -> None:
    """Drive a deployed pattern with real messages and account for every one of them."""
    # Whoever ends it lets it end the programs that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", pattern).lower()
    try:
        play = importlib.import_module(f"scenarios.{module}").play
        play(Stage(stack or pattern, options=dict(word.split("=", 1) for word in option)))
    except ModuleNotFoundError:
        typer.echo(f"error: {pattern} has no scenario", err=True)
        sys.exit(2)
    except (ScenarioFailed, BotoCoreError, ClientError) as failure:
        typer.echo(f"failed: {failure}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
