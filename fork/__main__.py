"""The commands behind `make fork` and `make templates`."""

import shlex
from typing import Annotated

import typer

import fork
from gallery import known
from sandbox import cli
from sandbox.cli import fail

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
Pattern = Annotated[str, typer.Option(help="A pattern's deploy name.")]
Name = Annotated[
    str, typer.Option(help="What the project's class is called; as the pattern if none.")
]


@app.command()
def project(
    pattern: Pattern = "",
    to: Annotated[str, typer.Option(help="A folder that is new or empty.")] = "",
    name: Name = "",
) -> None:
    """Make a project of its own from one pattern."""
    made = fork.fork(known(pattern), to, name)
    typer.echo(
        f"{name or pattern} is a project of its own. Next: cd {shlex.quote(str(made))} && make test"
    )
    if where := fork.repository_of(made.parent):
        typer.echo(
            f"It lies in the repository {where}, so it has none of its own: commit it there."
        )


@app.command()
def templates(pattern: Pattern = "", name: Name = "") -> None:
    """Write templates for `cdk init --from-path`, of one pattern or of all."""
    if name and not pattern:
        fail("NAME is for one pattern: say which, such as PATTERN=SqsLambdaDlq")
    made = fork.templates(known(pattern) if pattern else "", name)
    which = name or pattern or known(next(iter(fork.patterns())))
    cdk = shlex.quote(f"{fork.PROJECT}/bin/cdk")
    typer.echo("Next, in an empty folder:")
    typer.echo(f"  {cdk} init --unstable=init --language python \\")
    typer.echo(f"    --from-path {shlex.quote(str(made))} --template-path {which}")


if __name__ == "__main__":
    cli.run(app, fork.Refusal, OSError)
