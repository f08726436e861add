"""A batch of changes in set-based statements, kind by kind in the order of the Store port.

Guards are read for all changes at once and then followed in Python through the batch; a repeat (a change whose effects
are found in place though its guard no longer holds) counts as applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from perdure.engine.store import (
    Applied,
    Change,
    Claimed,
    ClaimRuns,
    Ingested,
    IngestEvent,
    MoveRun,
    NewRun,
    RecordTasks,
    Refused,
    Renewed,
    RenewLeases,
    Result,
    RunRow,
)
from perdure.errors import InternalError
from perdure.schema.execution import EventRecord, TaskRecord
from perdure.schema.runs import RunStatus, TaskStatus

from . import rows
from .rows import Statements, encode

Found = list[tuple[int, Result]]

CLAIM_TOTAL_BYTES_MAX = 64_000_000  # outputs of one answer; what doesn't fit is fetched one by one


def apply_changes(db: Statements, changes: Sequence[Change]) -> list[Result]:
    """Carry out the changes in the transaction that `db` is in; results in the same order."""
    ingests: list[tuple[int, IngestEvent]] = []
    records: list[tuple[int, RecordTasks]] = []
    moves: list[tuple[int, MoveRun]] = []
    renewals: list[tuple[int, RenewLeases]] = []
    claims: list[tuple[int, ClaimRuns]] = []
    for n, change in enumerate(changes):
        match change:
            case RecordTasks():
                records.append((n, change))
            case MoveRun():
                moves.append((n, change))
            case IngestEvent():
                ingests.append((n, change))
            case RenewLeases():
                renewals.append((n, change))
            case ClaimRuns():
                claims.append((n, change))
    found = dict(_ingest(db, ingests))
    if records or moves:
        found.update(_record_and_move(db, records, moves))
    found.update(_renew(db, renewals))
    found.update((n, _claim(db, change)) for n, change in claims)
    return [found[n] for n in range(len(changes))]


# --- events --------------------------------------------------------------------------------------------------------------


def _ingest(db: Statements, ingests: list[tuple[int, IngestEvent]]) -> Found:
    if not ingests:
        return []
    fresh: dict[str, tuple[int, IngestEvent]] = {}
    for n, change in ingests:
        fresh.setdefault(change.event.id, (n, change))  # of two in a batch the first counts
    for known in rows.decode_strings(db.fetch("find_events", ids=encode(list(fresh)))):
        del fresh[known]
    if fresh:
        _insert_events(db, [change for _, change in fresh.values()])
    first = {n for n, _ in fresh.values()}
    repeats = _stored_events(db, [change.event.id for n, change in ingests if n not in first])
    return [(n, _ingested(change) if n in first else repeats[change.event.id]) for n, change in ingests]


def _insert_events(db: Statements, changes: list[IngestEvent]) -> None:
    db.execute("insert_events", events=encode([rows.event_row(c.event, c.created_at) for c in changes]))
    runs: list[tuple[NewRun, EventRecord]] = [(run, c.event) for c in changes for run in c.runs]
    if not runs:
        return
    if any(run.status not in (RunStatus.PENDING, RunStatus.QUEUED) for run, _ in runs):
        raise InternalError("a new run is either pending or queued")
    db.execute("insert_runs", runs=encode([rows.new_run_row(run, event) for run, event in runs]))
    db.execute_ids("enter_ready", (run.id for run, _ in runs if run.status is RunStatus.QUEUED))


def _ingested(change: IngestEvent) -> Ingested:
    return Ingested(
        event=change.event, runs=[rows.new_run(run, change.event) for run in change.runs], duplicate=False
    )


def _stored_events(db: Statements, ids: list[str]) -> dict[str, Ingested]:
    if not ids:
        return {}
    ids = list(dict.fromkeys(ids))
    events = rows.decode_events(db.fetch("events_by_id", ids=encode(ids)))
    found = {event.id: Ingested(event=event, runs=[], duplicate=True) for event in events}
    for run in rows.decode_runs(db.fetch("runs_by_event", ids=encode(ids))):
        found[run.event_id].runs.append(run)
    return found


# --- tasks and moves -----------------------------------------------------------------------------------------------------


def _record_and_move(
    db: Statements, records: list[tuple[int, RecordTasks]], moves: list[tuple[int, MoveRun]]
) -> Found:
    leased, moved = db.fetch_row(
        "guards",
        leased=encode([change.run_id for _, change in records]),
        moved=encode([change.run_id for _, change in moves]),
    )
    fences = dict(rows.decode_fences(leased))
    states = {run_id: (status, execution) for run_id, status, execution in rows.decode_states(moved)}

    found: Found = []
    held = [(n, change) for n, change in records if fences.get(change.run_id) == change.execution]
    _write(db, (change for _, change in held))
    found += [(n, Applied()) for n, _ in held]

    waves: list[list[MoveRun]] = []
    depth: dict[str, int] = {}
    stray_moves: list[tuple[int, MoveRun]] = []
    for n, move in moves:
        if states.get(move.run_id) != (move.expected, move.execution):
            stray_moves.append((n, move))
            continue
        states[move.run_id] = (move.status, move.execution)
        wave = depth[move.run_id] = depth.get(move.run_id, -1) + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(move)
        found.append((n, Applied()))
    for wave in waves:
        _move(db, wave)

    stray_records = (
        [(n, change) for n, change in records if fences.get(change.run_id) != change.execution]
        if len(held) < len(records)
        else []
    )
    if stray_records or stray_moves:
        found += _refuse(db, stray_records, stray_moves)
    return found


def _write(db: Statements, changes: Iterable[RecordTasks | MoveRun]) -> None:
    tasks: list[rows.Row] = []
    logs: list[rows.Row] = []
    for change in changes:
        tasks += [rows.task_row(change.run_id, task) for task in change.tasks]
        logs += [rows.log_row(change.run_id, log) for log in change.logs]
    if tasks:
        db.execute("record_tasks", tasks=encode(tasks))
    if logs:
        db.execute("insert_logs", logs=encode(logs))


def _move(db: Statements, moves: list[MoveRun]) -> None:
    """Moves of different runs, whose guards hold."""
    if any(move.status is RunStatus.EXECUTING for move in moves):
        raise InternalError("a run begins to execute by being claimed, not by a move")
    _write(db, moves)
    _settle_tasks(db, moves)
    db.execute_ids("leave_ready", (move.run_id for move in moves if move.expected is RunStatus.QUEUED))
    db.execute_ids("leave_leases", (move.run_id for move in moves if move.expected is RunStatus.EXECUTING))
    db.execute_ids("leave_timers", (move.run_id for move in moves if move.expected is RunStatus.WAITING))
    db.execute("move_runs", moves=encode([rows.move_row(move) for move in moves]))
    db.execute_ids("enter_ready", (move.run_id for move in moves if move.status is RunStatus.QUEUED))
    db.execute_ids("enter_timers", (move.run_id for move in moves if move.status is RunStatus.WAITING))


def _settle_tasks(db: Statements, moves: list[MoveRun]) -> None:
    canceled = TaskStatus.CANCELED.value
    if cancel := [(move.run_id, move.at) for move in moves if move.cancel_open]:
        db.execute("cancel_open_tasks", runs=encode(cancel), canceled=canceled)
    if pairs := [(move.run_id, task_id) for move in moves for task_id in move.reset]:
        reset = encode(pairs)
        points = db.fetch("reset_points", tasks=reset)
        db.execute("delete_tasks", tasks=reset)
        db.execute("delete_interrupted_tasks", points=points, canceled=canceled)
        db.execute("clear_interruptions", points=points)
    if reopened := [move.run_id for move in moves if move.reset_open]:
        db.execute("delete_canceled_tasks", ids=encode(reopened), canceled=canceled)


# --- guards that did not hold --------------------------------------------------------------------------------------------


def _refuse(
    db: Statements, records: list[tuple[int, RecordTasks]], moves: list[tuple[int, MoveRun]]
) -> Found:
    ids = [change.run_id for _, change in records] + [change.run_id for _, change in moves]
    runs = {run.id: run for run in rows.decode_runs(db.fetch("runs_by_id", ids=encode(ids)))}
    repeats = _repeated_moves(moves, runs) | _repeated_records(db, records, runs)
    strays: list[tuple[int, RecordTasks | MoveRun]] = [*records, *moves]
    return [(n, Applied() if n in repeats else Refused(run=runs.get(change.run_id))) for n, change in strays]


def _repeated_moves(moves: list[tuple[int, MoveRun]], runs: dict[str, RunRow]) -> set[int]:
    """Moves that left a run exactly as it is now, and those which another of these then went on from."""
    repeats: set[int] = set()
    reached: dict[str, MoveRun] = {}  # the earliest repeat known of a run
    for n, move in reversed(moves):
        run, later = runs.get(move.run_id), reached.get(move.run_id)
        if run is None or not (_is_result(run, move) if later is None else _is_before(move, later)):
            continue
        reached[move.run_id] = move
        repeats.add(n)
    return repeats


def _is_result(run: RunRow, move: MoveRun) -> bool:
    priority = run.priority if move.priority is None else move.priority
    failures = run.failures if move.failures is None else move.failures
    return run == replace(
        run,
        status=move.status,
        execution=move.execution,
        crashes=move.crashes,
        wake_at=move.wake_at,
        completed_at=move.completed_at,
        output=move.output,
        types=move.types,
        error=move.error,
        reason=move.reason,
        failed_tasks=move.failed_tasks,
        priority=priority,
        failures=failures,
    )


def _is_before(move: MoveRun, later: MoveRun) -> bool:
    return (move.status, move.execution) == (later.expected, later.execution)


def _repeated_records(
    db: Statements, records: list[tuple[int, RecordTasks]], runs: dict[str, RunRow]
) -> set[int]:
    """Records whose tasks and logs are all stored as given, by the latest execution of their run."""
    candidates = [
        (n, change)
        for n, change in records
        if change.run_id in runs
        and runs[change.run_id].execution == change.execution
        and (change.tasks or change.logs)
    ]
    if not candidates:
        return set()
    ids = encode([change.run_id for _, change in candidates])
    tasks = {(run_id, task.id): task for run_id, task in fetch_tasks(db, ids)}
    logs = set(rows.decode_pairs(db.fetch("known_logs", ids=ids)))
    return {
        n
        for n, change in candidates
        if all(_is_stored(task, tasks.get((change.run_id, task.id))) for task in _latest(change.tasks))
        and all((change.run_id, log.id) in logs for log in change.logs)
    }


def _latest(tasks: Sequence[TaskRecord]) -> Iterable[TaskRecord]:
    return {task.id: task for task in tasks}.values()


def _is_stored(task: TaskRecord, stored: TaskRecord | None) -> bool:
    if stored is None:
        return False
    if task.output is None:  # the stored one was kept
        stored = replace(stored, output=None, types=None)
        task = replace(task, types=None)
    return replace(stored, omitted=False) == replace(task, omitted=False)


def fetch_tasks(db: Statements, ids: str) -> list[tuple[str, TaskRecord]]:
    """(run id, task) of the runs `ids` (JSON) by position, with every output."""
    total = CLAIM_TOTAL_BYTES_MAX
    tasks = rows.decode_tasks(db.fetch("tasks_by_run", ids=ids, bytes_max=total, total_max=total))
    for run_id, task in tasks:
        if task.omitted:
            task.output, task.types = rows.decode_output(db.fetch("get_output", run_id=run_id, id=task.id))
            task.omitted = False
    return tasks


# --- leases --------------------------------------------------------------------------------------------------------------


def _renew(db: Statements, renewals: list[tuple[int, RenewLeases]]) -> Found:
    if not renewals:
        return []
    db.execute("renew_leases", renewals=encode({change.owner: change.expires_at for _, change in renewals}))
    counts = rows.decode_counts(db.fetch("count_leases"))
    return [(n, Renewed(count=counts.get(change.owner, 0))) for n, change in renewals]


def _claim(db: Statements, change: ClaimRuns) -> Claimed:
    picked = db.fetch(
        "pick_runs",
        expected=change.expected.value,
        at=change.at,
        expires_at=change.expires_at,
        limit=change.limit,
    )
    claims = rows.decode_claims(picked)
    if not claims:
        return Claimed(claims=[])
    ids = encode([claim.run_id for claim in claims])
    db.execute("leave_ready", ids=ids)
    db.execute("claim_runs", ids=ids, status=change.status.value, at=change.at)
    db.execute("insert_leases", ids=ids, owner=change.owner, expires_at=change.expires_at, at=change.at)
    resumed = {claim.run_id: claim for claim in claims if claim.execution > 1}
    if resumed:
        found = db.fetch(
            "tasks_by_run",
            ids=encode(list(resumed)),
            bytes_max=change.output_bytes_max,
            total_max=CLAIM_TOTAL_BYTES_MAX,
        )
        for run_id, task in rows.decode_tasks(found):
            resumed[run_id].tasks.append(task)
    return Claimed(claims=claims)
