"""Tasks that somebody else completes: children that ended, events that came, calls that were answered."""

from __future__ import annotations

import msgspec

from perdure.engine.store import Applied, Refused, ResolveTask
from perdure.schema.runs import RunStatus

from . import rows, waiting
from .rows import Found, encode
from .statements import Statements
from .tasks import record_tasks


class _Open(msgspec.Struct, array_like=True):
    """A row of open_tasks."""

    run_id: str
    task_id: str
    status: RunStatus
    open_waits: int
    resume_at: int | None
    wake_at: int | None


_decode_open = msgspec.json.Decoder(list[_Open]).decode


async def resolve_tasks(db: Statements, changes: list[tuple[int, ResolveTask]]) -> Found:
    """See ResolveTask; of two for one task in a batch the first one counts. Their runs are locked, if there are any."""
    pairs = list({(c.run_id, c.task_id): None for _, c in changes if c.run_id in db.batch.runs})
    runs, tasks = rows.columns(pairs, 2)
    found = await db.fetch("open_tasks", runs=runs, tasks=tasks)
    opened = {(row.run_id, row.task_id): row for row in _decode_open(found)}
    resolved: dict[tuple[str, str], tuple[int, ResolveTask]] = {}
    for n, change in changes:
        pair = (change.run_id, change.task_id)
        if pair in opened:
            resolved.setdefault(pair, (n, change))
    applied: dict[int, Applied] = {n: Applied() for n, _ in resolved.values()}
    if resolved:
        made = [rows.resolution_row(change) for _, change in resolved.values()]
        await db.execute("resolve_tasks", tasks=encode(made))
        await record_tasks(
            db,
            [rows.task_row(change.run_id, task) for _, change in resolved.values() for task in change.tasks],
        )
        effects = await _wake(db, [(opened[pair], change) for pair, (_, change) in resolved.items()])
        for n, change in resolved.values():
            if effect := effects.pop(change.run_id, None):  # told once per run
                applied[n] = effect
    await waiting.delete_waiting(db, pairs=pairs)
    return [(n, applied.get(n) or Refused(run=None)) for n, _ in changes]


async def _wake(db: Statements, resolved: list[tuple[_Open, ResolveTask]]) -> dict[str, Applied]:
    """Count the resolutions, and let the runs go on that may; what became of those, by run."""
    counts: dict[str, int] = {}
    latest: dict[str, tuple[_Open, ResolveTask]] = {}
    for row, change in resolved:
        counts[row.run_id] = counts.get(row.run_id, 0) + 1
        latest[row.run_id] = (row, change)
    counted: list[dict[str, object]] = []
    woken: list[str] = []
    put_forward: dict[str, Applied] = {}
    queued: RunStatus | None = None
    for run_id, (row, change) in latest.items():
        left, wake_at = row.open_waits, row.wake_at
        if row.status is change.waiting and (row.open_waits or wake_at is None):
            left = max(0, left - counts[run_id])
            if left == 0 or (row.resume_at is not None and row.resume_at <= change.at):
                woken.append(run_id)
                queued = change.queued
            elif row.resume_at is not None and (wake_at is None or row.resume_at < wake_at):
                put_forward[run_id] = Applied(due_at=row.resume_at)
                wake_at = row.resume_at
        counted.append({"id": run_id, "resolutions": counts[run_id], "open_waits": left, "wake_at": wake_at})
        if held := db.batch.runs.get(run_id):
            held.wakes += counts[run_id]
    await db.execute("count_wakes", runs=encode(counted))
    if woken and queued is not None:
        await wake_runs(db, woken, queued)
    return {run_id: Applied(woken=True) for run_id in woken} | put_forward


async def wake_runs(db: Statements, ids: list[str], queued: RunStatus) -> None:
    """Runs whose waits are over, and which are locked, go into the queue."""
    lanes = rows.decode_pairs(await db.fetch("wake_runs", ids=ids, queued=queued.value))
    db.batch.lanes.update(lanes)
    for run_id in ids:
        if held := db.batch.runs.get(run_id):
            held.status = queued
