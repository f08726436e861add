"""A batch of changes in set-based statements, kind by kind in the order of the Store port.

Guards are read for all changes at once and then followed in Python through the batch; a repeat (a change whose effects
are found in place though its guard no longer holds) counts as applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from perdure.engine.store import (
    Applied,
    AwaitEvent,
    CancelEvent,
    Change,
    CheckWaiter,
    ClaimRuns,
    DefineQueue,
    DeleteEvents,
    DeleteRuns,
    DeliverEvent,
    Effect,
    FinishMatch,
    IngestEvent,
    MoveRun,
    PauseQueue,
    PutAccount,
    PutSchedule,
    RecordTasks,
    Refused,
    ReleaseLease,
    RenewLeases,
    RepeatOperation,
    ResolveTask,
    Result,
    RunRow,
    TickSchedule,
    WakeRuns,
)
from perdure.errors import InternalError
from perdure.schema.effects import AnnotateRun, DeleteValue, EventWait, SetValue, StartOperation, UpdateStatus
from perdure.schema.execution import PLATFORM_ROW, TaskRecord
from perdure.schema.runs import RunStatus, TaskStatus
from perdure.store.repeats import is_stored, latest, overtaken, repeated_moves

from . import children, events, resolving, retention, rows, state, waiting
from .claims import (
    claim_runs,
    leave_leases,
    release_leases,
    renew_leases,
    revoke_leases,
    wake_runs,
)
from .ingest import enter_ready, ingest_events, insert_runs
from .rows import Found, Statements, encode
from .tasks import TOTAL_BYTES_MAX, read_tasks

Handler: TypeAlias = Callable[[Statements, list[tuple[int, Any]]], Sequence[tuple[int, Result]]]


def apply_changes(db: Statements, changes: Sequence[Change]) -> list[Result]:
    """Carry out the changes in the transaction that `db` is in; results in the same order."""
    by_kind: dict[type, list[tuple[int, Any]]] = {}
    for n, change in enumerate(changes):
        kind = type(change)
        same = by_kind.get(kind)
        if same is None:
            by_kind[kind] = [(n, change)]
        else:
            same.append((n, change))
    found: dict[int, Result] = {}
    for kinds, handler in _HANDLERS:
        concerned = [pair for kind in kinds if kind in by_kind for pair in by_kind[kind]]
        if concerned:
            found.update(handler(db, concerned))
    return [found[n] for n in range(len(changes))]


def _apply_effects(db: Statements, effects: Iterable[Effect]) -> None:
    """Carry out what goes along with tasks and moves. Repeats find their own rows."""
    by_kind: dict[type, list[tuple[int, Any]]] = {}
    for n, effect in enumerate(effects):
        by_kind.setdefault(type(effect), []).append((n, effect))
    if not by_kind:
        return
    if operations := by_kind.get(StartOperation):
        waiting.start_operations(db, [effect for _, effect in operations])
    if ingests := by_kind.get(IngestEvent):
        known = {n for n, result in ingest_events(db, ingests) if result.duplicate}
        if again := [effect for n, effect in ingests if n in known and _is_for_task(effect)]:
            children.take_up(db, again)
    if awaits := by_kind.get(AwaitEvent):
        waiting.insert_waiters(db, [(effect.run_id, effect.wait) for _, effect in awaits])
    for kinds, handler in _EFFECTS:
        concerned = [pair for kind in kinds if kind in by_kind for pair in by_kind[kind]]
        if concerned:
            handler(db, concerned)


def _is_for_task(effect: IngestEvent) -> bool:
    return bool(effect.runs) and effect.runs[0].parent_task_id is not None


# --- tasks and moves -----------------------------------------------------------------------------------------------------


def _record(db: Statements, records: list[tuple[int, RecordTasks]]) -> Found:
    leases = db.known.leases
    _read_guards(db, leased=[change.run_id for _, change in records if change.run_id not in leases])
    held: list[RecordTasks] = []
    found: Found = []
    strays: list[tuple[int, RecordTasks]] = []
    for n, change in records:
        if leases.get(change.run_id) == change.execution:
            held.append(change)
            found.append((n, Applied()))
        else:
            strays.append((n, change))
    _write(db, held)
    if strays:
        runs = _runs_of(db, strays)
        found += _refuse(strays, runs, _repeated_records(db, strays, runs))
    return found


def _move(db: Statements, moves: list[tuple[int, MoveRun]]) -> Found:
    leases = db.known.leases
    states = _read_guards(
        db,
        moved=[
            change.run_id
            for _, change in moves
            if change.wakes_seen is not None or change.run_id not in leases
        ],
    )
    applied: dict[int, Applied] = {}
    resolutions: list[tuple[int, ResolveTask]] = []
    waves: list[list[MoveRun]] = []
    depth: dict[str, int] = {}
    strays: list[tuple[int, MoveRun]] = []
    for n, change in moves:
        run_id = change.run_id
        state = states.get(run_id)
        if state is None:
            # A run that is leased executes; how often it was woken is of no concern.
            state = (RunStatus.EXECUTING, leases[run_id], 0) if run_id in leases else (None, 0, 0)
        status, execution, wakes = state
        if status is not change.expected or execution != change.execution:
            strays.append((n, change))
            continue
        move = change
        if move.wakes_seen is not None and move.wakes_seen != wakes:
            move = overtaken(move)
        states[run_id] = (move.status, execution, wakes)
        wave = depth[run_id] = depth.get(run_id, -1) + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(move)
        applied[n] = Applied() if move is change else Applied(overtaken=True)
        if move.resolve is not None:
            resolutions.append((n, move.resolve))
    for wave in waves:
        _move_wave(db, wave)
    if resolutions:
        told = resolving.resolve_tasks(db, resolutions)
        applied |= {n: result for n, result in told if type(result) is Applied}
    found: Found = [*applied.items()]
    if strays:
        runs = _runs_of(db, strays)
        found += _refuse(strays, runs, repeated_moves(strays, runs))
    return found


_State: TypeAlias = tuple[RunStatus | None, int, int]  # status, execution, wakes


def _read_guards(
    db: Statements, *, leased: Sequence[str] = (), moved: Sequence[str] = ()
) -> dict[str, _State]:
    """Get to know what guards compare: leases, whether there are waits, and the states of the runs `moved`."""
    known = db.known
    if not leased and not moved and known.has_waits is False:
        return {}
    fences, states, has_waits = db.fetch_row("guards", leased=encode(leased), moved=encode(moved))
    known.leases.update(rows.decode_fences(fences))
    known.has_waits = bool(has_waits)
    return {
        run_id: (status, execution, wakes) for run_id, status, execution, wakes in rows.decode_states(states)
    }


def _write(db: Statements, changes: Sequence[RecordTasks | MoveRun]) -> None:
    without_open = db.known.without_open
    tasks: list[rows.Row] = []
    logs: list[rows.Row] = []
    effects: list[Effect] = []
    for change in changes:
        for task in change.tasks:
            tasks.append(rows.task_row(change.run_id, task))
            if task.completed_at is None and task.seq is None and task.interrupted is None:
                without_open.discard(change.run_id)
        if change.logs:
            logs += [rows.log_row(change.run_id, log) for log in change.logs]
        if change.effects:
            effects += change.effects
    if tasks:
        record_tasks(db, tasks)
    if logs:
        db.execute("insert_logs", logs=encode(logs))
    if db.known.has_waits is not False:
        waiting.delete_waiting(
            db,
            pairs={
                (change.run_id, task.id)
                for change in changes
                for task in change.tasks
                if task.interrupted is not None
            },
        )
    if effects:
        _apply_effects(db, effects)


def record_tasks(db: Statements, tasks: list[rows.Row]) -> None:
    db.execute("record_tasks", tasks=encode(tasks), canceled=TaskStatus.CANCELED.value)


def _move_wave(db: Statements, moves: list[MoveRun]) -> None:
    """Moves of different runs, whose guards hold."""
    queued: list[str] = []
    executed: list[str] = []
    revoked: list[str] = []
    waited: list[str] = []
    enqueued: list[str] = []
    suspended: list[str] = []
    timed: list[str] = []
    ended: list[str] = []
    waits: list[tuple[str, EventWait]] = []
    for move in moves:
        run_id, before, after = move.run_id, move.expected, move.status
        if before is RunStatus.EXECUTING:
            (revoked if move.revoke else executed).append(run_id)
        elif before is RunStatus.QUEUED:
            queued.append(run_id)
            db.known.fresh.take(run_id)
        elif before is RunStatus.WAITING:
            waited.append(run_id)
        if move.completed_at is not None:
            ended.append(run_id)
        elif after is RunStatus.QUEUED:
            enqueued.append(run_id)
        elif after is RunStatus.WAITING:
            suspended.append(run_id)
            if move.wake_at is not None:
                timed.append(run_id)
        elif after is RunStatus.EXECUTING:
            raise InternalError("a run begins to execute by being claimed, not by a move")
        if move.waits:
            waits += [(run_id, wait) for wait in move.waits]
    _write(db, moves)
    _settle_tasks(db, moves)
    db.execute_ids("leave_ready", queued)
    leave_leases(db, executed)
    revoke_leases(db, revoked)
    db.execute_ids("leave_timers", waited)
    db.execute("move_runs", moves=encode([rows.move_row(move) for move in moves]))
    enter_ready(db, enqueued)
    db.execute_ids("enter_timers", timed)
    if suspended and db.known.has_waits is not False:
        waiting.delete_other_waiters(db, suspended, waits)
    waiting.insert_waiters(db, waits)
    if db.known.has_waits is not False:
        waiting.delete_waiting(db, runs=ended)


def _settle_tasks(db: Statements, moves: list[MoveRun]) -> None:
    canceled = TaskStatus.CANCELED.value
    without_open = db.known.without_open
    cancel: list[rows.Row] = []
    pairs: list[tuple[str, str]] = []
    reopened: list[str] = []
    for move in moves:
        if move.cancel_open and move.run_id not in without_open:
            cancel.append((move.run_id, move.at))
        if move.reset:
            pairs += [(move.run_id, task_id) for task_id in move.reset]
        if move.reset_open:
            reopened.append(move.run_id)
    if cancel:
        db.execute("cancel_open_tasks", runs=encode(cancel), canceled=canceled)
    if pairs:
        reset = encode(pairs)
        points = db.fetch("reset_points", tasks=reset)
        db.execute("delete_tasks", tasks=reset)
        db.execute("delete_platform_rows", tasks=reset)
        db.execute("delete_interrupted_tasks", points=points, canceled=canceled)
        db.execute("clear_interruptions", points=points)
    if reopened:
        db.execute("delete_canceled_tasks", ids=encode(reopened), canceled=canceled)


# --- guards that did not hold --------------------------------------------------------------------------------------------


def _runs_of(db: Statements, strays: Sequence[tuple[int, RecordTasks | MoveRun]]) -> dict[str, RunRow]:
    ids = encode([change.run_id for _, change in strays])
    return {run.id: run for run in rows.decode_runs(db.fetch("runs_by_id", ids=ids))}


def _refuse(
    strays: Sequence[tuple[int, RecordTasks | MoveRun]], runs: dict[str, RunRow], repeats: dict[int, Applied]
) -> Found:
    return [(n, repeats.get(n) or Refused(run=runs.get(change.run_id))) for n, change in strays]


def _repeated_records(
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
    ids = encode([change.run_id for _, change in candidates])
    tasks = {(run_id, task.id): task for run_id, task in fetch_tasks(db, ids)}
    logs = set(rows.decode_pairs(db.fetch("known_logs", ids=ids)))
    return {
        n: Applied()
        for n, change in candidates
        if all(is_stored(task, tasks.get((change.run_id, task.id))) for task in latest(change.tasks))
        and all((change.run_id, log.id) in logs for log in change.logs)
    }


def fetch_tasks(db: Statements, ids: str) -> list[tuple[str, TaskRecord]]:
    """(run id, task) of the runs `ids` (JSON) by position, with every output."""
    tasks = read_tasks(db, ids, bytes_max=TOTAL_BYTES_MAX, opened_min=PLATFORM_ROW)
    for run_id, task in tasks:
        if task.omitted:
            task.output, task.types = rows.decode_output(db.fetch("get_output", run_id=run_id, id=task.id))
            task.omitted = False
    return tasks


# --- the order of kinds --------------------------------------------------------------------------------------------------


def _claim(db: Statements, claims: list[tuple[int, ClaimRuns]]) -> Found:
    return [(n, claim_runs(db, change)) for n, change in claims]


def _wake(db: Statements, wakes: list[tuple[int, WakeRuns]]) -> Found:
    return [(n, wake_runs(db, change)) for n, change in wakes]


def _deliver(db: Statements, deliveries: list[tuple[int, DeliverEvent]]) -> Found:
    return events.deliver_events(db, deliveries, insert_runs)


def _tick(db: Statements, ticks: list[tuple[int, TickSchedule]]) -> Found:
    return events.tick_schedules(db, ticks, ingest_events)


_HANDLERS: tuple[tuple[tuple[type, ...], Handler], ...] = (
    ((DefineQueue,), state.define_queues),
    ((PauseQueue,), state.pause_queues),
    ((PutSchedule,), events.put_schedules),
    ((PutAccount,), state.put_accounts),
    ((IngestEvent,), ingest_events),
    ((DeliverEvent,), _deliver),
    ((CancelEvent,), events.cancel_events),
    ((TickSchedule,), _tick),
    ((RecordTasks,), _record),
    ((ResolveTask,), resolving.resolve_tasks),
    ((MoveRun,), _move),
    ((SetValue, DeleteValue), state.write_values),
    ((UpdateStatus,), state.update_statuses),
    ((AnnotateRun,), state.annotate_runs),
    ((RepeatOperation,), waiting.repeat_operations),
    ((CheckWaiter,), waiting.check_waiters),
    ((FinishMatch,), waiting.finish_matches),
    ((DeleteRuns,), retention.delete_runs),
    ((DeleteEvents,), retention.delete_events),
    ((RenewLeases,), renew_leases),
    ((ReleaseLease,), release_leases),
    ((WakeRuns,), _wake),
    ((ClaimRuns,), _claim),
)

_EFFECTS: tuple[tuple[tuple[type, ...], Handler], ...] = (
    ((SetValue, DeleteValue), state.write_values),
    ((UpdateStatus,), state.update_statuses),
    ((AnnotateRun,), state.annotate_runs),
)
