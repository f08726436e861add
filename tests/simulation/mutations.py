"""Bugs put into the real engine and store, to see whether the simulation finds them: those that such systems have had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from perdure.engine.journal import EngineSource
from perdure.engine.store import Applied, MoveRun, RecordTasks
from perdure.schema.runs import RunStatus
from perdure.sdk.runner import Runner
from perdure.store.sqlite import batch
from perdure.testing.simulation.faults import FaultyStore

Mutation = Callable[[pytest.MonkeyPatch], None]


def fence_dropped(patch: pytest.MonkeyPatch) -> None:
    """Tasks are written whichever execution they are from."""
    guarded = batch._record_and_move

    def unguarded(db: Any, records: list[Any], moves: list[Any]) -> Any:
        batch._write(db, (change for _, change in records))
        return [*((n, Applied()) for n, _ in records), *(guarded(db, [], moves) if moves else [])]

    patch.setattr(batch, "_record_and_move", unguarded)


def lost_wake_up(patch: pytest.MonkeyPatch) -> None:
    """Runs that are announced while a claim is under way, which may not see them, are forgotten."""
    queued = EngineSource.runs_queued

    def forgetful(self: EngineSource) -> None:
        if self._under_way is None:
            queued(self)

    patch.setattr(EngineSource, "runs_queued", forgetful)


def double_claim(patch: pytest.MonkeyPatch) -> None:
    """Of several runs claimed together, the last one stays in the queue."""
    claim = batch._claim

    def careless(db: Any, change: Any) -> Any:
        claimed = claim(db, change)
        if len(claimed.claims) > 2:
            db.execute_ids("enter_ready", [claimed.claims[-1].run_id])
        return claimed

    patch.setattr(batch, "_claim", careless)


class _Ghost:
    """An execution that is over, to whom nothing that it is told matters."""

    bodies = ()

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def leaked_slot(patch: pytest.MonkeyPatch) -> None:
    """An execution whose run was cancelled is never struck off by its runner."""
    finished = Runner._finished

    def leaky(self: Runner, execution: Any) -> None:
        finished(self, execution)
        if execution.outcome == "cancelled":
            ghost: Any = _Ghost()
            self._executions[execution.claim.run_id, -1] = ghost

    patch.setattr(Runner, "_finished", leaky)


def leaked_lease(patch: pytest.MonkeyPatch) -> None:
    """A run that is cancelled while it executes keeps its lease."""
    move = batch._move

    def leaky(db: Any, moves: list[MoveRun]) -> None:
        move(db, moves)
        cancelled = [
            change.run_id
            for change in moves
            if change.expected is RunStatus.EXECUTING and change.status is RunStatus.CANCELLED
        ]
        if cancelled:
            ids = batch.encode(cancelled)
            db.execute("insert_leases", ids=ids, owner="nobody", expires_at=1 << 60, at=0)

    patch.setattr(batch, "_move", leaky)


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
        store: Any = self._inner
        await store._database.write(lambda connection: batch._write(store._statements(connection), late))
        return results

    patch.setattr(FaultyStore, "_commit", twice)


MUTATIONS: dict[str, Mutation] = {
    "fence dropped": fence_dropped,
    "lost wake-up": lost_wake_up,
    "double claim": double_claim,
    "leaked slot": leaked_slot,
    "leaked lease": leaked_lease,
    "non-atomic suspend": suspended_in_two_steps,
}
