"""A batch of changes in set-based statements, kind by kind in the order of the Store port.

Other nodes do the same at the same time. So a batch first locks all that it names: the rows of its runs, events and run
counters, each in the order of their keys (locking.py); what it then reads of them stays true. Guards are compared with that
and followed in Python through the batch; a repeat (a change whose effects are found in place though its guard no longer
holds) counts as applied. What a batch finds by itself (what is ready, what is due) it locks only if nobody else has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias

from perdure.engine.store import (
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
    ReleaseLease,
    RenewLeases,
    RepeatOperation,
    ResolveTask,
    Result,
    TickSchedule,
    WakeRuns,
)
from perdure.schema.effects import AnnotateRun, DeleteValue, SetValue, StartOperation, UpdateStatus

from . import children, events, moves, resolving, retention, state, waiting
from .claims import claim_runs, enter_lanes, release_leases, renew_leases, wake_due_runs
from .ingest import ingest_events, insert_runs
from .locking import lock_rows, return_numbers
from .rows import Found
from .statements import Statements

Handler: TypeAlias = Callable[[Statements, list[tuple[int, Any]]], Awaitable[Sequence[tuple[int, Result]]]]


async def apply_changes(db: Statements, changes: Sequence[Change]) -> list[Result]:
    """Carry out the changes in the transaction that `db` is in; results in the same order."""
    await lock_rows(db, changes)
    by_kind: dict[type, list[tuple[int, Any]]] = {}
    for n, change in enumerate(changes):
        by_kind.setdefault(type(change), []).append((n, change))
    found: dict[int, Result] = {}
    for kinds, handler in _HANDLERS:
        concerned = [pair for kind in kinds if kind in by_kind for pair in by_kind[kind]]
        if concerned:
            found.update(await handler(db, concerned))
    await return_numbers(db)
    if db.batch.lanes:
        await enter_lanes(db)
    if claims := by_kind.get(ClaimRuns):
        for n, change in claims:
            found[n] = await claim_runs(db, change)
    return [found[n] for n in range(len(changes))]


async def apply_effects(db: Statements, effects: Iterable[Effect]) -> None:
    """Carry out what goes along with tasks and moves. Repeats find their own rows."""
    by_kind: dict[type, list[tuple[int, Any]]] = {}
    for n, effect in enumerate(effects):
        by_kind.setdefault(type(effect), []).append((n, effect))
    if operations := by_kind.get(StartOperation):
        await waiting.start_operations(db, [effect for _, effect in operations])
    if ingests := by_kind.get(IngestEvent):
        known = {n for n, result in await ingest_events(db, ingests) if result.duplicate}
        if again := [effect for n, effect in ingests if n in known and _is_for_task(effect)]:
            await children.take_up(db, again)
    if awaits := by_kind.get(AwaitEvent):
        await waiting.insert_waiters(db, [(effect.run_id, effect.wait) for _, effect in awaits])
    for kinds, handler in _EFFECTS:
        concerned = [pair for kind in kinds if kind in by_kind for pair in by_kind[kind]]
        if concerned:
            await handler(db, concerned)


def _is_for_task(effect: IngestEvent) -> bool:
    return bool(effect.runs) and effect.runs[0].parent_task_id is not None


# --- the order of kinds --------------------------------------------------------------------------------------------------


async def _deliver(db: Statements, changes: list[tuple[int, DeliverEvent]]) -> Found:
    return await events.deliver_events(db, changes, insert_runs)


async def _tick(db: Statements, changes: list[tuple[int, TickSchedule]]) -> Found:
    return await events.tick_schedules(db, changes, ingest_events)


async def _record(db: Statements, changes: list[tuple[int, RecordTasks]]) -> Found:
    return await moves.record(db, changes, apply_effects)


async def _move(db: Statements, changes: list[tuple[int, MoveRun]]) -> Found:
    return await moves.move(db, changes, apply_effects)


async def _wake(db: Statements, changes: list[tuple[int, WakeRuns]]) -> Found:
    return [(n, await wake_due_runs(db, change)) for n, change in changes]


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
)

_EFFECTS: tuple[tuple[tuple[type, ...], Handler], ...] = (
    ((SetValue, DeleteValue), state.write_values),
    ((UpdateStatus,), state.update_statuses),
    ((AnnotateRun,), state.annotate_runs),
)
