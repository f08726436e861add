"""What tasks wait for: events of others, and calls that the platform makes for them. See waiting.sql."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from perdure.engine.store import Applied, CheckWaiter, FinishMatch, Refused, RepeatOperation
from perdure.schema.effects import EventWait, StartOperation

from .rows import Found, TaskRow, columns, decode_runs, encode, task_row
from .statements import Statements
from .tasks import record_tasks

_decode_attempts = msgspec.json.Decoder(list[tuple[str, str, int]]).decode


async def insert_waiters(db: Statements, waits: Sequence[tuple[str, EventWait]]) -> None:
    """Waits of runs (by id): a row per name, to be compared with what arrived before, unless it was there as it is."""
    if not waits:
        return
    waiters: dict[tuple[str, str, str], dict[str, object]] = {}
    for run_id, wait in waits:
        for name in wait.names:
            waiters[run_id, wait.task_id, name] = {
                "run_id": run_id,
                "task_id": wait.task_id,
                "name": name,
                "source": wait.source,
                "filter": wait.filter,
                "context_filter": wait.context_filter,
                "account_id": wait.account_id,
                "since": wait.since,
            }
    await db.execute("insert_waiters", waiters=encode(list(waiters.values())))


async def delete_other_waiters(
    db: Statements, runs: Sequence[str], waits: Sequence[tuple[str, EventWait]]
) -> None:
    """Nothing waits for an event in these runs but `waits`: what waited before was over when they suspended."""
    of_runs, tasks = columns([(run_id, wait.task_id) for run_id, wait in waits], 2)
    await db.execute("delete_other_waiters", ids=list(runs), runs=of_runs, tasks=tasks)


async def check_waiters(db: Statements, changes: list[tuple[int, CheckWaiter]]) -> Found:
    runs, tasks = columns({(c.run_id, c.task_id) for _, c in changes if c.run_id in db.batch.runs}, 2)
    await db.execute("check_waiters", runs=runs, tasks=tasks)
    return [(n, Applied()) for n, _ in changes]


async def finish_matches(db: Statements, changes: list[tuple[int, FinishMatch]]) -> Found:
    await db.execute("delete_matches", ids=[change.event_id for _, change in changes])
    return [(n, Applied()) for n, _ in changes]


async def start_operations(db: Statements, effects: Sequence[StartOperation]) -> None:
    """The first call of each is due at once; one that is known is left alone."""
    made = {
        (effect.run_id, effect.task_id): {
            "run_id": effect.run_id,
            "task_id": effect.task_id,
            "at": effect.at,
            "operation": effect.operation,
        }
        for effect in reversed(effects)  # the first of several counts
    }
    await db.execute("start_operations", operations=encode(list(made.values())))


async def repeat_operations(db: Statements, changes: list[tuple[int, RepeatOperation]]) -> Found:
    of_runs, tasks = columns({(c.run_id, c.task_id) for _, c in changes if c.run_id in db.batch.runs}, 2)
    attempts = {
        (run_id, task_id): attempt
        for run_id, task_id, attempt in _decode_attempts(
            await db.fetch("attempts_of_operations", runs=of_runs, tasks=tasks)
        )
    }
    repeats: dict[tuple[str, str], dict[str, object]] = {}
    records: list[TaskRow] = []
    found: Found = []
    refused: list[tuple[int, RepeatOperation]] = []
    for n, change in changes:
        key = (change.run_id, change.task_id)
        if attempts.get(key) != change.attempt:
            refused.append((n, change))
            continue
        attempts[key] = change.attempt + 1
        repeats[key] = {
            "run_id": change.run_id,
            "task_id": change.task_id,
            "attempt": change.attempt + 1,
            "due_at": change.due_at,
            "tries": change.tries,
        }
        records += [task_row(change.run_id, task) for task in change.tasks]
        found.append((n, Applied()))
    if repeats:
        await db.execute("repeat_operations", repeats=encode(list(repeats.values())))
    await record_tasks(db, records)
    if refused:
        ids = [change.run_id for _, change in refused]
        runs = {run.id: run for run in decode_runs(await db.fetch("runs_by_id", ids=ids))}
        found += [(n, Refused(run=runs.get(change.run_id))) for n, change in refused]
    return found


async def delete_waiting(
    db: Statements, *, pairs: Collection[tuple[str, str]] = (), runs: Collection[str] = ()
) -> None:
    """Nothing is to wait for these tasks, (run id, task id), any more, nor for any task of these runs."""
    if runs:
        await db.execute("delete_waiting_by_run", ids=list(runs))
    if pairs:
        of_runs, tasks = columns(pairs, 2)
        await db.execute("delete_waiting_by_task", runs=of_runs, tasks=tasks)
