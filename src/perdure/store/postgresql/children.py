"""Runs that are asked for by a task which has asked before: its run failed or was cancelled, and goes on.

See RecordTasks.effects: one that is alive is waited for again, one that has completed has; in place of one that ended
otherwise there is another.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from perdure.engine.core.endings import end_of_child
from perdure.engine.store import IngestEvent, ResolveTask
from perdure.schema.runs import RunStatus

from . import resolving, rows
from .ingest import ingest_events
from .statements import Statements


async def take_up(db: Statements, asked: Sequence[IngestEvent]) -> None:
    """For tasks whose rows are written; the events are known."""
    pairs = [(change.runs[0].parent_run_id, change.runs[0].parent_task_id) for change in asked]
    parents, tasks = rows.columns(pairs, 2)
    latest = {
        (run.parent_run_id, run.parent_task_id): run
        for run in rows.decode_runs(await db.fetch("runs_by_parent", parents=parents, tasks=tasks))
    }
    anew: list[tuple[int, IngestEvent]] = []
    resolved: list[tuple[int, ResolveTask]] = []
    for change, task in zip(asked, pairs, strict=True):
        run = latest.get(task)
        if run is None or (run.status.is_terminal and run.status is not RunStatus.COMPLETED):
            event = replace(change.event, id=f"{change.event.id}:{change.runs[0].id}")
            anew.append((len(anew), replace(change, event=event)))
        elif run.status is RunStatus.COMPLETED:
            resolved.append((len(resolved), end_of_child(run, change.created_at)))
    if anew:
        await ingest_events(db, anew)
    if resolved:
        await resolving.resolve_tasks(db, resolved)
