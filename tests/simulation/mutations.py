"""Bugs put into the real engine and store, to see whether the simulation finds them: those that such systems have had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from perdure.engine.batch import Batch
from perdure.engine.journal import EngineSource
from perdure.engine.store import Applied, MoveRun, RecordTasks
from perdure.engine.writer import Writer
from perdure.schema.runs import RunStatus
from perdure.sdk.runner import Runner
from perdure.store.sqlite import batch, store
from perdure.testing.simulation.faults import FaultyStore

Mutation = Callable[[pytest.MonkeyPatch], None]


def fence_dropped(patch: pytest.MonkeyPatch) -> None:
    """Tasks are written whichever execution they are from."""

    def unguarded(db: Any, records: list[Any]) -> Any:
        batch._write(db, [change for _, change in records])
        return [(n, Applied()) for n, _ in records]

    handlers = [(kinds, unguarded if RecordTasks in kinds else handler) for kinds, handler in batch._HANDLERS]
    patch.setattr(batch, "_HANDLERS", tuple(handlers))
    patch.setattr(store, "record_alone", lambda db, changes: None)


def lost_wake_up(patch: pytest.MonkeyPatch) -> None:
    """A run is put down although what it waits for has come meanwhile: how many wake-ups its execution saw isn't compared."""

    def heedless(db: Any, moves: list[Any]) -> Any:
        for _, move in moves:
            move.wakes_seen = None
        return batch._move(db, moves)

    handlers = [(kinds, heedless if MoveRun in kinds else handler) for kinds, handler in batch._HANDLERS]
    patch.setattr(batch, "_HANDLERS", tuple(handlers))


def lost_announcement(patch: pytest.MonkeyPatch) -> None:
    """Runs that are announced while a claim is under way, which may not see them, are forgotten."""
    queued = EngineSource.runs_queued

    def forgetful(self: EngineSource) -> None:
        if self._under_way is None:
            queued(self)

    patch.setattr(EngineSource, "runs_queued", forgetful)


def double_claim(patch: pytest.MonkeyPatch) -> None:
    """Of several runs claimed together, the first one is handed out twice."""
    claim_runs = batch.claim_runs

    def careless(db: Any, change: Any) -> Any:
        claimed = claim_runs(db, change)
        if len(claimed.claims) > 2:
            claimed.claims[-1] = claimed.claims[0]
        return claimed

    patch.setattr(batch, "claim_runs", careless)


class _Ghost:
    """An execution that is over, to whom nothing that it is told matters."""

    bodies = ()

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def leaked_slot(patch: pytest.MonkeyPatch) -> None:
    """A queue, or a key, whose limit was reached isn't looked at again when an execution of it has ended."""

    def leaky(db: Any, ids: list[str]) -> None:
        if ids:
            db.execute("leave_leases", ids=batch.encode(ids))
            for run_id in ids:
                db.known.lease_left(run_id)

    patch.setattr(batch, "leave_leases", leaky)


def leaked_execution(patch: pytest.MonkeyPatch) -> None:
    """An execution whose run was cancelled is never struck off by its runner."""
    finished = Runner._finished

    def leaky(self: Runner, execution: Any) -> None:
        finished(self, execution)
        if execution.outcome == "cancelled":
            ghost: Any = _Ghost()
            self._executions[execution.claim.run_id, -1] = ghost

    patch.setattr(Runner, "_finished", leaky)


def leaked_lease(patch: pytest.MonkeyPatch) -> None:
    """Of several executions that end together, one keeps its lease."""
    leave_leases = batch.leave_leases

    def leaky(db: Any, ids: list[str]) -> None:
        leave_leases(db, ids[1:] if len(ids) > 1 else ids)

    patch.setattr(batch, "leave_leases", leaky)


def suspended_in_two_steps(patch: pytest.MonkeyPatch) -> None:
    """What a suspension records is written in a transaction of its own, after the one that ends the execution."""
    commit = FaultyStore._commit

    async def twice(self: FaultyStore, changes: Any) -> Any:
        late: list[RecordTasks] = []
        for change in changes:
            if type(change) is MoveRun and change.status is RunStatus.WAITING and change.tasks:
                late.append(RecordTasks(run_id=change.run_id, execution=change.execution, tasks=change.tasks))
                change.tasks = ()
        results = await commit(self, changes)
        await asyncio.sleep(0)
        inner: Any = self._inner
        await inner._database.write(lambda connection: batch._write(inner._statements(connection), late))
        return results

    patch.setattr(FaultyStore, "_commit", twice)


def overtaking_records(patch: pytest.MonkeyPatch) -> None:
    """What a run records is written beside what it recorded before, and may be durable first."""

    def careless(self: Writer) -> Batch | None:
        pending: Batch = self._pending
        if self._writing is None or not pending.changes or pending.only_records() is None:
            return None
        self._pending, self._beside = Batch([], []), set()
        return pending

    patch.setattr(Writer, "_take_beside", careless)


MUTATIONS: dict[str, Mutation] = {
    "fence dropped": fence_dropped,
    "lost wake-up": lost_wake_up,
    "lost announcement": lost_announcement,
    "double claim": double_claim,
    "leaked slot": leaked_slot,
    "leaked execution": leaked_execution,
    "leaked lease": leaked_lease,
    "non-atomic suspend": suspended_in_two_steps,
    "overtaking records": overtaking_records,
}
