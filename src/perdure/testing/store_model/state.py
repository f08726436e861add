"""What the model holds: the tables of a store as plain dicts."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from perdure.engine.store import (
    AccountRow,
    LeaseRow,
    OperationRow,
    QueueRow,
    Refused,
    RunRow,
    ScheduleRow,
    StatusRow,
    WaiterRow,
)
from perdure.schema.execution import EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import RunStatus, TaskStatus


class StoredEvent(Struct):
    """An event; `arrived`: when it came, or was delivered. `due`: it waits for its delivery. `matching`: see Match."""

    record: EventRecord
    arrived: int
    due: bool = False
    matching: bool = False


class StoredLease(Struct):
    """An execution's slot. `seq`: of the run's latest completion when it was claimed."""

    run_id: str
    execution: int
    owner: str
    expires_at: int
    claimed_at: int
    seq: int
    is_revoked: bool = False


class StoredWaiter(Struct):
    row: WaiterRow
    is_checked: bool = False


class StoredStatus(Struct):
    row: StatusRow
    updates: list[str]
    versions: list[StatusRow]


class Tables:
    """Everything, by id. Rows are replaced or changed in place; who reads gets copies."""

    def __init__(self) -> None:
        self.events: dict[str, StoredEvent] = {}
        self.runs: dict[str, RunRow] = {}
        self.numbers: dict[str, int] = {}
        self.ready: dict[str, int] = {}
        self.leases: dict[tuple[str, int], StoredLease] = {}
        self.tasks: dict[str, dict[str, TaskRecord]] = {}
        self.logs: dict[str, dict[str, LogRecord]] = {}
        self.queues: dict[str, QueueRow] = {}
        self.schedules: dict[str, ScheduleRow] = {}
        self.accounts: dict[str, AccountRow] = {}
        self.waiters: dict[tuple[str, str, str], StoredWaiter] = {}
        self.operations: dict[tuple[str, str], OperationRow] = {}
        self.statuses: dict[tuple[str, str], StoredStatus] = {}
        self.values: dict[tuple[str, str], tuple[str, str | None]] = {}

    # --- questions -------------------------------------------------------------------------------------------------------

    def run(self, run_id: str) -> RunRow | None:
        found = self.runs.get(run_id)
        return None if found is None else copy_run(found)

    def refuse(self, run_id: str) -> Refused:
        return Refused(run=self.run(run_id))

    def has_ended(self, run_id: str) -> bool:
        """Whether a run is over, or isn't there any more."""
        run = self.runs.get(run_id)
        return run is None or run.completed_at is not None

    def runs_of(self, event_id: str) -> list[RunRow]:
        return [copy_run(run) for run in self.runs.values() if run.event_id == event_id]

    def lease_of(self, run_id: str, execution: int) -> StoredLease | None:
        """The lease that lets an execution write."""
        lease = self.leases.get((run_id, execution))
        return None if lease is None or lease.is_revoked else lease

    def holders(self) -> Iterator[RunRow]:
        """The run of each slot that is held."""
        for run_id, _ in self.leases:
            yield self.runs[run_id]

    def lane(self, queue: str, key: str) -> list[str]:
        """Ids of ready runs, those first that are claimed first."""
        runs = [self.runs[run_id] for run_id in self.ready]
        runs = [run for run in runs if (run.queue, run.queue_key) == (queue, key)]
        runs.sort(key=lambda run: (-run.priority, self.ready[run.id], run.id))
        return [run.id for run in runs]

    def queue_row(self, id: str) -> QueueRow:
        row = self.queues[id]
        return msgspec.structs.replace(
            row,
            queued=sum(self.runs[each].queue == id for each in self.ready),
            executing=sum(run.queue == id for run in self.holders()),
        )

    def lease_row(self, lease: StoredLease) -> LeaseRow:
        run = self.runs[lease.run_id]
        running = [
            task for task in self.tasks.get(lease.run_id, {}).values() if task.status is TaskStatus.RUNNING
        ]
        running.sort(key=lambda task: (task.started_at or 0, task.position), reverse=True)
        return LeaseRow(
            run_id=lease.run_id,
            execution=lease.execution,
            owner=lease.owner,
            expires_at=lease.expires_at,
            claimed_at=lease.claimed_at,
            crashes=run.crashes,
            spent_ms=run.spent_ms,
            priority=run.priority,
            progressed=any((task.seq or 0) > lease.seq for task in self.tasks.get(lease.run_id, {}).values()),
            running=[task.key for task in running],
            is_revoked=lease.is_revoked,
            job_id=run.job_id,
            event_id=run.event_id,
            account_id=run.account_id,
            parent_run_id=run.parent_run_id,
            parent_task_id=run.parent_task_id,
            is_internal=run.is_internal,
            created_at=run.created_at,
        )

    def ensure_queue(self, id: str) -> QueueRow:
        return self.queues.setdefault(id, QueueRow(id=id))

    def waiting_for(self, name: str) -> list[WaiterRow]:
        return [waiter.row for waiter in self.waiters.values() if waiter.row.name == name]

    def forget_waits(self, run_id: str, task_id: str | None = None) -> None:
        """Nothing is waited for any more for a task, or for a whole run."""
        for key in [each for each in self.waiters if each[0] == run_id and task_id in (None, each[1])]:
            del self.waiters[key]
        for key in [each for each in self.operations if each[0] == run_id and task_id in (None, each[1])]:
            del self.operations[key]

    def timed(self) -> list[RunRow]:
        timed = [
            run for run in self.runs.values() if run.status is RunStatus.WAITING and run.wake_at is not None
        ]
        return sorted(timed, key=lambda run: (run.wake_at or 0, run.id))

    def wake(self, run: RunRow, status: RunStatus) -> None:
        """A run's wait is over."""
        run.status, run.reason, run.error = status, None, None
        run.wake_at = run.resume_at = None
        run.open_waits = 0
        self.ready[run.id] = run.created_at

    def take_from_place(self, run: RunRow) -> None:
        """A run leaves its status: it is in no place."""
        self.ready.pop(run.id, None)
        if run.status is RunStatus.EXECUTING:
            self.leases.pop((run.id, run.execution), None)


def copy_run(run: RunRow) -> RunRow:
    return msgspec.structs.replace(run, tags=list(run.tags), failed_tasks=list(run.failed_tasks))
