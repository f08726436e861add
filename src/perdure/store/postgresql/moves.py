"""What executions record, and how runs move from one status to another: RecordTasks and MoveRun."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import msgspec

from perdure.engine.store import Applied, Effect, MoveRun, RecordTasks, Refused, ResolveTask, RunRow
from perdure.errors import InternalError
from perdure.schema.effects import EventWait
from perdure.schema.execution import PLATFORM_ROW
from perdure.schema.runs import RunStatus, TaskStatus
from perdure.store.repeats import is_stored, latest, overtaken, repeated_moves

from . import resolving, rows, waiting
from .rows import Found, columns, encode
from .statements import Statements
from .tasks import BYTES_MAX, read_tasks, record_tasks

ApplyEffects: TypeAlias = Callable[[Statements, list[Effect]], Awaitable[None]]

_decode_points = msgspec.json.Decoder(list[tuple[str, int]]).decode


async def record(
    db: Statements, records: list[tuple[int, RecordTasks]], apply_effects: ApplyEffects
) -> Found:
    """See RecordTasks. The runs are locked: one that executes is leased to its latest execution."""
    runs = db.batch.runs
    held: list[RecordTasks] = []
    found: Found = []
    strays: list[tuple[int, RecordTasks]] = []
    for n, change in records:
        run = runs.get(change.run_id)
        if run is not None and run.status is RunStatus.EXECUTING and run.execution == change.execution:
            held.append(change)
            found.append((n, Applied()))
        else:
            strays.append((n, change))
    if held:
        await _write(db, held, apply_effects)
    if strays:
        stored = await _runs_of(db, strays)
        found += _refuse(strays, stored, await _repeated_records(db, strays, stored))
    return found


async def move(db: Statements, moves: list[tuple[int, MoveRun]], apply_effects: ApplyEffects) -> Found:
    """See MoveRun. The runs are locked."""
    runs = db.batch.runs
    applied: dict[int, Applied] = {}
    resolutions: list[tuple[int, ResolveTask]] = []
    waves: list[list[MoveRun]] = []
    depth: dict[str, int] = {}
    strays: list[tuple[int, MoveRun]] = []
    for n, change in moves:
        run_id = change.run_id
        run = runs.get(run_id)
        if run is None or run.status is not change.expected or run.execution != change.execution:
            strays.append((n, change))
            continue
        made = change
        if made.wakes_seen is not None and made.wakes_seen != run.wakes:
            made = overtaken(made)
        run.status = made.status
        wave = depth[run_id] = depth.get(run_id, -1) + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(made)
        applied[n] = Applied() if made is change else Applied(overtaken=True)
        if made.resolve is not None:
            resolutions.append((n, made.resolve))
    for wave in waves:
        await _move_wave(db, wave, apply_effects)
    if resolutions:
        told = await resolving.resolve_tasks(db, resolutions)
        applied |= {n: result for n, result in told if type(result) is Applied}
    found: Found = [*applied.items()]
    if strays:
        stored = await _runs_of(db, strays)
        found += _refuse(strays, stored, repeated_moves(strays, stored))
    return found


async def _write(
    db: Statements, changes: Sequence[RecordTasks | MoveRun], apply_effects: ApplyEffects
) -> None:
    tasks: list[rows.TaskRow] = []
    logs: list[dict[str, object]] = []
    effects: list[Effect] = []
    interrupted: set[tuple[str, str]] = set()
    for change in changes:
        for task in change.tasks:
            tasks.append(rows.task_row(change.run_id, task))
            if task.interrupted is not None:
                interrupted.add((change.run_id, task.id))
        if change.logs:
            logs += [rows.log_row(change.run_id, log) for log in change.logs]
        if change.effects:
            effects += change.effects
    await record_tasks(db, tasks)
    if logs:
        await db.execute("insert_logs", logs=encode(logs))
    if interrupted:
        await waiting.delete_waiting(db, pairs=interrupted)
    if effects:
        await apply_effects(db, effects)


async def _move_wave(db: Statements, moves: list[MoveRun], apply_effects: ApplyEffects) -> None:
    """Moves of different runs, whose guards hold."""
    queued: list[str] = []
    executed: list[str] = []
    revoked: list[str] = []
    idle: list[str] = []
    ended: list[str] = []
    suspended: list[str] = []
    finished: list[str] = []
    waits: list[tuple[str, EventWait]] = []
    for each in moves:
        run_id, before, after = each.run_id, each.expected, each.status
        if before is RunStatus.EXECUTING:
            (revoked if each.revoke else executed).append(run_id)
        elif before is RunStatus.QUEUED:
            queued.append(run_id)
        elif before.is_terminal:
            ended.append(run_id)
        else:
            idle.append(run_id)
        if each.completed_at is not None:
            finished.append(run_id)
        elif after is RunStatus.WAITING:
            suspended.append(run_id)
        elif after is RunStatus.EXECUTING:
            raise InternalError("a run begins to execute by being claimed, not by a move")
        if each.waits:
            waits += [(run_id, wait) for wait in each.waits]
    await _write(db, moves, apply_effects)
    await _settle_tasks(db, moves)
    if queued or idle or ended:
        await db.execute("leave_places", queued=queued, idle=idle, ended=ended)
    lanes = await db.fetch(
        "move_runs",
        moves=encode([rows.move_row(each) for each in moves]),
        executed=executed,
        revoked=revoked,
        finished=finished,
        queued=RunStatus.QUEUED.value,
    )
    db.batch.lanes.update(rows.decode_pairs(lanes))
    if suspended:
        await waiting.delete_other_waiters(db, suspended, waits)
    await waiting.insert_waiters(db, waits)


async def _settle_tasks(db: Statements, moves: list[MoveRun]) -> None:
    canceled = TaskStatus.CANCELED.value
    if cancel := [(each.run_id, each.at) for each in moves if each.cancel_open]:
        runs, ats = columns(cancel, 2)
        await db.execute("cancel_open_tasks", runs=runs, ats=ats, canceled=canceled)
    if pairs := [(each.run_id, task_id) for each in moves for task_id in each.reset]:
        runs, tasks = columns(pairs, 2)
        points = _decode_points(await db.fetch("reset_points", runs=runs, tasks=tasks))
        await db.execute("delete_tasks", runs=runs, tasks=tasks)
        await db.execute("delete_platform_rows", runs=runs, tasks=tasks)
        if points:
            runs, after = columns(points, 2)
            await db.execute("delete_interrupted_tasks", runs=runs, points=after, canceled=canceled)
            await db.execute("clear_interruptions", runs=runs, points=after)
    if reopened := [each.run_id for each in moves if each.reset_open]:
        await db.execute("delete_canceled_tasks", ids=reopened, canceled=canceled)


# --- guards that did not hold --------------------------------------------------------------------------------------------


async def _runs_of(db: Statements, strays: Sequence[tuple[int, RecordTasks | MoveRun]]) -> dict[str, RunRow]:
    ids = [change.run_id for _, change in strays]
    return {run.id: run for run in rows.decode_runs(await db.fetch("runs_by_id", ids=ids))}


def _refuse(
    strays: Sequence[tuple[int, RecordTasks | MoveRun]], runs: dict[str, RunRow], repeats: dict[int, Applied]
) -> Found:
    return [(n, repeats.get(n) or Refused(run=runs.get(change.run_id))) for n, change in strays]


async def _repeated_records(
    db: Statements, records: list[tuple[int, RecordTasks]], runs: dict[str, RunRow]
) -> dict[int, Applied]:
    """Records whose tasks and logs are all stored as given, by the latest execution of their run."""
    candidates = [
        (n, change)
        for n, change in records
        if change.run_id in runs
        and runs[change.run_id].execution == change.execution
        and (change.tasks or change.logs)
    ]
    if not candidates:
        return {}
    ids = [change.run_id for _, change in candidates]
    found = await read_tasks(db, ids, bytes_max=BYTES_MAX, opened_min=PLATFORM_ROW)
    tasks = {(run_id, task.id): task for run_id, task in found}
    logs = set(rows.decode_pairs(await db.fetch("known_logs", ids=ids)))
    return {
        n: Applied()
        for n, change in candidates
        if all(is_stored(task, tasks.get((change.run_id, task.id))) for task in latest(change.tasks))
        and all((change.run_id, log.id) in logs for log in change.logs)
    }
