"""Deletes what has ended, with all that is its own: retention.sql. In batches: a transaction holds its locks to the end."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.engine.store import Deleted, DeleteEvents, DeleteRuns

from .rows import Found, decode_pairs, decode_strings
from .statements import Statements
from .waiting import delete_waiting


async def delete_runs(db: Statements, changes: list[tuple[int, DeleteRuns]]) -> Found:
    """A run whose execution still holds a slot counts as live."""
    return [(n, Deleted(await _delete_runs(db, change.ids))) for n, change in changes]


async def _delete_runs(db: Statements, ids: list[str]) -> int:
    locked = [run_id for run_id in ids if run_id in db.batch.runs]
    deletable = decode_pairs(await db.fetch("deletable_runs", ids=locked))
    if not deletable:
        return 0
    gone = [run_id for run_id, _ in deletable]
    await db.execute("delete_what_runs_have", ids=gone)
    await db.execute("delete_runs", ids=gone)
    await delete_waiting(
        db, runs=gone
    )  # an ended run has none, but a row without its run would stay for ever
    await _delete_events(db, dict.fromkeys(event_id for _, event_id in deletable))
    return len(gone)


async def delete_events(db: Statements, changes: list[tuple[int, DeleteEvents]]) -> Found:
    return [(n, Deleted(await _delete_events(db, change.ids))) for n, change in changes]


async def _delete_events(db: Statements, ids: Iterable[str]) -> int:
    gone = decode_strings(await db.fetch("deletable_events", ids=sorted(ids)))
    if gone:
        await db.execute("delete_events", ids=gone)
    return len(gone)
