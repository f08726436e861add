"""`perdure db`: copies and checks a SQLite file, also while an engine works on it."""

from __future__ import annotations

from typing import Annotated

import typer

from .files import open_file
from .help import Command, Group
from .problems import run as run_command

app = typer.Typer(name="db", cls=Group, help="Copy and check a database.", no_args_is_help=True)

File = Annotated[
    str, typer.Argument(metavar="FILE", help="The SQLite file, or its URL: jobs.db, sqlite:///jobs.db.")
]


@app.command("backup", cls=Command)
def backup(
    file: File,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The file to make; it must not exist.")],
) -> None:
    """Copy FILE, as of one moment, to TARGET. An engine that works on FILE goes on."""
    run_command(_backup(file, target))
    typer.echo(f"copied {file} to {target}")


@app.command("check", cls=Command)
def check(file: File) -> None:
    """Look for faults in FILE, all of which is read. Ends with 1 if there are any."""
    faults = run_command(_check(file))
    for fault in faults:
        typer.echo(fault)
    if faults:
        raise typer.Exit(1)
    typer.echo(f"{file} is in order")


async def _backup(file: str, target: str) -> None:
    async with open_file(file) as store:
        await store.backup(target)


async def _check(file: str) -> list[str]:
    async with open_file(file) as store:
        return await store.check()
