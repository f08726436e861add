"""What a batch locks before it reads or writes anything: all that its changes name.

In the order of their keys, so that two batches never wait for each other: runs, then events that exist, then run counters.
Further on a transaction waits only for who inserts the same key (sorted, too), and at its end for the limits of queues.
What is left is rare, and PostgreSQL finds it: connection.py repeats the transaction then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from perdure.engine.store import (
    AwaitEvent,
    CancelEvent,
    Change,
    CheckWaiter,
    DeleteEvents,
    DeleteRuns,
    DeliverEvent,
    Effect,
    IngestEvent,
    MoveRun,
    NewRun,
    RecordTasks,
    ReleaseLease,
    RepeatOperation,
    ResolveTask,
    TickSchedule,
)
from perdure.schema.effects import AnnotateRun, DeleteValue, SetValue, StartOperation, UpdateStatus
from perdure.schema.runs import RunStatus

from .rows import decode_strings
from .statements import Held, Statements

_decode_locked = msgspec.json.Decoder(list[tuple[str, RunStatus, int, int]]).decode


class _Named:
    """What changes name."""

    def __init__(self) -> None:
        self.runs: set[str] = set()
        self.events: dict[str, bool] = {}  # whether to lock it only if it is to be delivered
        self.new_runs: dict[str, int] = {}  # by job

    def add(self, changes: Iterable[Change | Effect]) -> None:
        for change in changes:
            match change:
                case RecordTasks() | MoveRun():
                    self._write(change)
                case IngestEvent():
                    self._make(change.runs)
                    if change.edit_before is not None:
                        self.events.setdefault(change.event.id, True)
                case TickSchedule():
                    self._make(change.runs)
                case DeliverEvent():
                    self._make(change.runs)
                    self.events[change.event_id] = False
                case CancelEvent():
                    self.events[change.event_id] = False
                case DeleteEvents():
                    self.events |= dict.fromkeys(change.ids, False)
                case DeleteRuns():
                    self.runs.update(change.ids)
                case SetValue() | DeleteValue():
                    self.runs.add(
                        change.scope.removeprefix("run:")
                    )  # a scope that isn't a run's is no run's id
                case (
                    ResolveTask()
                    | UpdateStatus()
                    | AnnotateRun()
                    | RepeatOperation()
                    | CheckWaiter()
                    | StartOperation()
                    | AwaitEvent()
                    | ReleaseLease()
                ):
                    self.runs.add(change.run_id)
                case _:
                    pass

    def _write(self, change: RecordTasks | MoveRun) -> None:
        self.runs.add(change.run_id)
        if change.effects:
            self.add(change.effects)
        if type(change) is MoveRun and change.resolve is not None:
            self.runs.add(change.resolve.run_id)

    def _make(self, runs: Sequence[NewRun]) -> None:
        for run in runs:
            self.new_runs[run.job_id] = self.new_runs.get(run.job_id, 0) + 1
            if run.parent_run_id is not None:
                self.runs.add(run.parent_run_id)


async def lock_rows(db: Statements, changes: Sequence[Change]) -> None:
    named = _Named()
    named.add(changes)
    batch = db.batch
    if named.runs:
        for run_id, status, execution, wakes in _decode_locked(
            await db.fetch("lock_runs", ids=sorted(named.runs))
        ):
            batch.runs[run_id] = Held(status, execution, wakes)
    if named.events:
        ids = sorted(named.events)
        found = await db.fetch("lock_events", ids=ids, if_due=[named.events[event_id] for event_id in ids])
        batch.events = set(decode_strings(found))
    if named.new_runs:
        jobs = sorted(named.new_runs)
        amounts = [named.new_runs[job_id] for job_id in jobs]
        last = msgspec.json.decode(
            await db.fetch("reserve_numbers", jobs=jobs, amounts=amounts), type=dict[str, int]
        )
        batch.numbers = {
            job_id: (last[job_id] - amount + 1, amount) for job_id, amount in named.new_runs.items()
        }


async def return_numbers(db: Statements) -> None:
    """What was reserved for runs that weren't made. To be called after the last run was."""
    unused = {job_id: left for job_id, (_, left) in db.batch.numbers.items() if left}
    if unused:
        await db.execute("return_numbers", jobs=list(unused), amounts=list(unused.values()))
