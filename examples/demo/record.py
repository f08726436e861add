"""What has been recorded: the runs in the file (read as `perdure runs` does, beside its owner), and the notes of bodies."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from msgspec import Struct

from perdure import Run, SchemaOutdatedError, TaskStatus
from perdure.engine.store import RunFilter
from perdure.engine.views import to_run
from perdure.sdk.values import view
from perdure.store.sqlite.store import SqliteStore

SETTLED = (TaskStatus.COMPLETED, TaskStatus.ERRORED)


class Note(Struct, frozen=True):
    """A body of a task began: in which process, and as which attempt."""

    pid: int
    task: str
    key: str
    attempt: int


def read_runs(database: Path) -> dict[str, Run]:
    """All runs in the file, by the id of their event; none if there is no file yet."""
    return asyncio.run(_read_runs(database)) if database.exists() else {}


async def _read_runs(database: Path) -> dict[str, Run]:
    try:
        store = await SqliteStore.open(str(database), read_only=True)
    except SchemaOutdatedError:  # its owner is still making the tables
        return {}
    try:
        return {
            row.event_id: to_run(
                row,
                decode=view,
                event=await store.get_event(row.event_id),
                tasks=await store.get_tasks(row.id),
                logs=await store.get_logs(row.id),
            )
            for row in reversed(await store.list_runs(RunFilter()))
        }
    finally:
        await store.close()


def read_notes(notes: Path) -> list[Note]:
    """The notes, in the order in which bodies began."""
    return [Note(**json.loads(line)) for line in notes.read_text().splitlines()] if notes.exists() else []
