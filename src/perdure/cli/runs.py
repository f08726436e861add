"""`perdure runs`: look into a SQLite file, also while an engine works on it. Reads only."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from perdure.engine.reasons import why_not_running
from perdure.engine.store import RunFilter, RunRow, Store
from perdure.engine.views import to_run, to_status
from perdure.errors import UsageError
from perdure.schema.reasons import Reason
from perdure.schema.runs import Run, RunStatus
from perdure.schema.statuses import StatusRecord
from perdure.sdk.values import view

from .files import open_file
from .help import FLAG, Command, Group
from .problems import NoSuchRunError, run as run_command
from .render import RunTable, RunTree

app = typer.Typer(name="runs", cls=Group, help="Look into runs.", no_args_is_help=True)

STATUSES = tuple(dict.fromkeys(RunStatus))
_CANDIDATES_SHOWN = 5

Database = Annotated[
    str,
    typer.Option(
        "--db",
        envvar="PERDURE_DATABASE_URL",
        metavar="FILE",
        help="The SQLite file, or its URL: jobs.db, sqlite:///jobs.db.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", metavar=FLAG, help="Print JSON instead of a picture.")]


def parse_status(text: str) -> RunStatus:
    """A status by what people see ("timed out"), its name or its value on the wire; case doesn't matter."""
    if isinstance(text, RunStatus):  # click converts defaults a second time
        return text
    name = text.strip().upper().replace(" ", "_").replace("-", "_")
    status = RunStatus.__members__.get(name)
    if status is None:
        known = ", ".join(status.label.lower() for status in STATUSES)
        raise typer.BadParameter(f"{text!r} is no status; there are: {known}")
    return status


@app.command("list", cls=Command)
def list_runs(
    db: Database,
    status: Annotated[
        list[RunStatus] | None,
        typer.Option("--status", parser=parse_status, metavar="STATUS", help="Only these; can be repeated."),
    ] = None,
    job: Annotated[str | None, typer.Option("--job", metavar="ID", help="Only runs of this job.")] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="TAG", help="Only runs that have this; repeated: all of these."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="NUMBER", help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    wanted = RunFilter(job_id=job, statuses=tuple(status or ()), tags=tuple(tag or ()), limit=limit)
    rows = run_command(_load_rows(db, wanted))
    runs = [to_run(row, decode=view) for row in rows]
    if as_json:
        _print_json([_in_brief(run) for run in runs])
    else:
        _console().print(RunTable(runs))


@app.command("show", cls=Command)
def show_run(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="The run: its id, as `perdure runs list` shows it, or how it begins."
        ),
    ],
    db: Database,
    stacks: Annotated[
        bool, typer.Option("--stacks", metavar=FLAG, help="Show where errors were raised.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run as the tree of its tasks."""
    run, reasons, statuses = run_command(_load_run(db, run_id))
    if as_json:
        _print_json({**msgspec.structs.asdict(run), "reasons": reasons, "statuses": statuses})
    else:
        _console().print(RunTree(run, stacks=stacks, reasons=reasons, statuses=statuses))


async def _load_rows(db: str, filter: RunFilter) -> list[RunRow]:
    async with open_file(db) as store:
        return await store.list_runs(filter)


async def _load_run(db: str, run_id: str) -> tuple[Run, list[Reason], list[StatusRecord]]:
    """The run, why it isn't executing, as far as the file tells (whether a process is busy, it doesn't), and its statuses."""
    async with open_file(db) as store:
        row = await store.get_run(run_id) or await _find_run(store, run_id, db)
        run = to_run(
            row,
            decode=view,
            event=await store.get_event(row.event_id),
            tasks=await store.get_tasks(row.id),
            logs=await store.get_logs(row.id),
        )
        statuses = [to_status(status, decode=view) for status in await store.get_statuses(row.id)]
        return run, await why_not_running(store, row.id), statuses


async def _find_run(store: Store, prefix: str, db: str) -> RunRow:
    """The one run whose id begins with `prefix`."""
    newest = await store.list_runs(RunFilter(before=f"{prefix}\U0010ffff", limit=_CANDIDATES_SHOWN + 1))
    found = [row for row in newest if prefix and row.id.startswith(prefix)]
    if not found:
        raise NoSuchRunError(run_id=prefix, file=db, look=f"perdure runs list --db {shlex.quote(db)}")
    if len(found) > 1:
        ids = [row.id for row in found[:_CANDIDATES_SHOWN]]
        more = ["..."] if len(found) > _CANDIDATES_SHOWN else []
        raise UsageError("\n  ".join([f"several runs have an id that begins with {prefix!r}:", *ids, *more]))
    return found[0]


def _in_brief(run: Run) -> dict[str, Any]:
    brief = msgspec.structs.asdict(run)
    return {name: value for name, value in brief.items() if name not in {"payload", "tasks", "logs"}}


def _print_json(value: Any) -> None:
    encoded = msgspec.json.format(msgspec.json.encode(value, enc_hook=repr), indent=2)
    sys.stdout.write(encoded.decode() + "\n")


def _console() -> Console:
    """Standard output. A pipe or a file has no width: lines are then cut late, so that nothing of use is lost."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # what users wrote may not fit the terminal's encoding
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 200
    return console
