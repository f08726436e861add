"""What tasks wait for: events of others, and calls that the platform makes for them. See waiting.sql."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from perdure.engine.store import Applied, CheckWaiter, FinishMatch, Refused, RepeatOperation, Result
from perdure.schema.effects import EventWait, StartOperation
from perdure.schema.runs import TaskStatus

from .rows import Row, Statements, decode_runs, encode, task_row

Found = list[tuple[int, Result]]

_decode_attempts = msgspec.json.Decoder(list[tuple[str, str, int]]).decode


def insert_waiters(db: Statements, waits: Sequence[tuple[str, EventWait]]) -> None:
    """Waits of runs (by id): a row per name, to be compared with what arrived before, unless it was there as it is."""
    if not waits:
        return
    waiters: dict[Row, Row] = {}
    for run_id, wait in waits:
        for name in wait.names:
            key = (run_id, wait.task_id, name)
            waiters[key] = (*key, wait.source, wait.filter, wait.context_filter, wait.account_id, wait.since)
    db.known.has_waits = True
    db.execute("insert_waiters", waiters=encode(list(waiters.values())))


def delete_other_waiters(db: Statements, runs: Sequence[str], waits: Sequence[tuple[str, EventWait]]) -> None:
    """Nothing waits for an event in these runs but `waits`: what waited before was over when they suspended."""
    tasks = [(run_id, wait.task_id) for run_id, wait in waits]
    db.execute("delete_other_waiters", ids=encode(list(runs)), tasks=encode(tasks))


def check_waiters(db: Statements, changes: list[tuple[int, CheckWaiter]]) -> Found:
    if changes:
        db.execute("check_waiters", tasks=encode([(change.run_id, change.task_id) for _, change in changes]))
    return [(n, Applied()) for n, _ in changes]


def finish_matches(db: Statements, changes: list[tuple[int, FinishMatch]]) -> Found:
    if changes:
        db.execute("delete_matches", ids=encode([change.event_id for _, change in changes]))
    return [(n, Applied()) for n, _ in changes]


def start_operations(db: Statements, effects: Sequence[StartOperation]) -> None:
    """The first call of each is due at once; one that is known is left alone."""
    if effects:
        rows = [(effect.run_id, effect.task_id, effect.at, effect.operation) for effect in effects]
        db.known.has_waits = True
        db.execute("start_operations", operations=encode(rows))


def repeat_operations(db: Statements, changes: list[tuple[int, RepeatOperation]]) -> Found:
    if not changes:
        return []
    tasks = [(change.run_id, change.task_id) for _, change in changes]
    attempts = {
        (run_id, task_id): attempt
        for run_id, task_id, attempt in _decode_attempts(
            db.fetch("attempts_of_operations", tasks=encode(tasks))
        )
    }
    repeats: dict[tuple[str, str], Row] = {}
    records: list[Row] = []
    found: Found = []
    refused: list[tuple[int, RepeatOperation]] = []
    for n, change in changes:
        key = (change.run_id, change.task_id)
        if attempts.get(key) != change.attempt:
            refused.append((n, change))
            continue
        attempts[key] = change.attempt + 1
        repeats[key] = (*key, change.attempt + 1, change.due_at, change.tries)
        records += [task_row(change.run_id, task) for task in change.tasks]
        found.append((n, Applied()))
    if repeats:
        db.execute("repeat_operations", repeats=encode(list(repeats.values())))
    if records:
        db.execute("record_tasks", tasks=encode(records), canceled=TaskStatus.CANCELED.value)
    if refused:
        ids = encode([change.run_id for _, change in refused])
        runs = {run.id: run for run in decode_runs(db.fetch("runs_by_id", ids=ids))}
        found += [(n, Refused(run=runs.get(change.run_id))) for n, change in refused]
    return found


def delete_waiting(
    db: Statements, *, pairs: Collection[tuple[str, str]] = (), runs: Collection[str] = ()
) -> None:
    """Nothing is to wait for these tasks, (run id, task id), any more, nor for any task of these runs.

    One statement where nothing does, which is usual.
    """
    if not pairs and not runs:
        return
    ids, tasks = encode(list(runs)), encode(list(pairs))
    if not db.fetch("waiting", ids=ids, tasks=tasks):
        return
    if runs:
        db.execute("delete_waiters_by_run", ids=ids)
        db.execute("delete_operations_by_run", ids=ids)
    if pairs:
        db.execute("delete_waiters_by_task", tasks=tasks)
        db.execute("delete_operations_by_task", tasks=tasks)
