"""The root of the `perdure` command."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure._version import __version__

from . import database, runs
from .help import FLAG, Group

app = typer.Typer(
    name="perdure",
    cls=Group,
    help="Durable background jobs for Python.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(runs.app)
app.add_typer(database.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"perdure {__version__}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar=FLAG,
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Durable background jobs for Python."""
