"""The reads of a store, as engine/store.py words them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from msgspec.structs import replace

from perdure.engine.store import (
    AccountRow,
    LeaseRow,
    Match,
    OperationRow,
    QueuePlace,
    QueueRow,
    RunFilter,
    RunRow,
    ScheduleRow,
    StatusRow,
    WaiterRow,
)
from perdure.schema.execution import EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import RunStatus

from .model import Writes
from .state import StoredEvent, copy_run


class StoreModel(Writes):
    """A store in memory, obviously right and slow, that answers at once: what adapters are compared with.

    Not for use in place of a store: it knows neither transactions nor environments.
    """

    def get_run(self, run_id: str) -> RunRow | None:
        return self.run(run_id)

    def list_runs(self, filter: RunFilter) -> list[RunRow]:
        found = [run for run in self.runs.values() if _shows(filter, run)]
        found.sort(key=lambda run: run.id, reverse=True)
        return [copy_run(run) for run in found[: filter.limit]]

    def get_event(self, event_id: str) -> EventRecord | None:
        stored = self.events.get(event_id)
        return None if stored is None else stored.record

    def get_tasks(self, run_id: str) -> list[TaskRecord]:
        return sorted(self.tasks.get(run_id, {}).values(), key=lambda task: (task.position, task.id))

    def get_logs(self, run_id: str) -> list[LogRecord]:
        return list(self.logs.get(run_id, {}).values())

    def due_runs(self, now: int, limit: int) -> list[RunRow]:
        due = [run for run in self.timed() if run.wake_at is not None and run.wake_at <= now]
        return [copy_run(run) for run in due[:limit]]

    def next_due(self) -> int | None:
        return next((run.wake_at for run in self.timed()), None)

    def leases_at(self, expired_at: int | None) -> list[LeaseRow]:
        return [
            self.lease_row(lease)
            for lease in self.leases.values()
            if expired_at is None or lease.expires_at <= expired_at
        ]

    def count_by_status(self) -> dict[RunStatus, int]:
        return {status: sum(run.status is status for run in self.runs.values()) for status in RunStatus}

    # --- events and schedules --------------------------------------------------------------------------------------------

    def due_events(self, now: int, limit: int) -> list[EventRecord]:
        due = [record for record in self._delayed() if (record.deliver_at or 0) <= now]
        return due[:limit]

    def _delayed(self) -> list[EventRecord]:
        delayed = [stored.record for stored in self.events.values() if stored.due]
        return sorted(delayed, key=lambda record: (record.deliver_at or 0, record.id))

    def next_event_due(self) -> int | None:
        return next((record.deliver_at for record in self._delayed()), None)

    def list_events(
        self, *, name: str | None = None, before: str | None = None, limit: int = 50
    ) -> list[EventRecord]:
        found = self._by_arrival(name)[::-1]
        if before is not None:
            mark = self.events.get(before)
            found = [] if mark is None else [each for each in found if _arrival(each) < _arrival(mark)]
        return [stored.record for stored in found[:limit]]

    def _by_arrival(self, name: str | None) -> list[StoredEvent]:
        found = [stored for stored in self.events.values() if name in (None, stored.record.name)]
        return sorted(found, key=_arrival)

    def events_since(self, name: str, since: int, *, after: str | None, limit: int) -> list[EventRecord]:
        found = [
            stored
            for stored in self._by_arrival(name)
            if stored.arrived >= since and not stored.due and stored.record.cancelled_at is None
        ]
        if after is not None:
            mark = self.events.get(after)
            found = [] if mark is None else [each for each in found if _arrival(each) > _arrival(mark)]
        return [stored.record for stored in found[:limit]]

    def due_schedules(self, now: int, limit: int) -> list[ScheduleRow]:
        due = [row for row in self._ticking() if row.next_at is not None and row.next_at <= now]
        return due[:limit]

    def _ticking(self) -> list[ScheduleRow]:
        ticking = [row for row in self.schedules.values() if row.is_active and row.next_at is not None]
        return sorted(ticking, key=lambda row: (row.next_at or 0, row.id))

    def next_tick(self) -> int | None:
        return next((row.next_at for row in self._ticking()), None)

    def get_schedule(self, id: str) -> ScheduleRow | None:
        return self.schedules.get(id)

    def list_schedules(self, *, dispatcher: str | None = None) -> list[ScheduleRow]:
        found = [row for row in self.schedules.values() if dispatcher in (None, row.dispatcher)]
        return sorted(found, key=lambda row: (row.dispatcher, row.key, row.id))

    def get_account(self, id: str) -> AccountRow | None:
        return self.accounts.get(id)

    # --- waits for others ------------------------------------------------------------------------------------------------

    def waiter_names(self) -> list[str]:
        return sorted({waiter.row.name for waiter in self.waiters.values()})

    def unchecked_waiters(self, limit: int) -> list[WaiterRow]:
        rows = [self.waiters[key].row for key in sorted(self.waiters) if not self.waiters[key].is_checked]
        return rows[:limit]

    def matches(self, limit: int) -> list[Match]:
        pending = [stored for stored in self._by_arrival(None) if stored.matching]
        return [
            Match(
                event=stored.record,
                waiters=[row for row in self.waiting_for(stored.record.name) if row.since <= stored.arrived],
            )
            for stored in pending[:limit]
        ]

    def due_operations(self, now: int, limit: int) -> list[OperationRow]:
        rows = sorted(self.operations.values(), key=lambda row: (row.due_at, row.run_id, row.task_id))
        return [replace(row) for row in rows if row.due_at <= now][:limit]

    def next_operation_due(self, after: int = -1) -> int | None:
        return min((row.due_at for row in self.operations.values() if row.due_at > after), default=None)

    def waiters_of(self, run_id: str) -> list[WaiterRow]:
        return [self.waiters[key].row for key in sorted(self.waiters) if key[0] == run_id]

    def operations_of(self, run_id: str) -> list[OperationRow]:
        return [replace(self.operations[key]) for key in sorted(self.operations) if key[0] == run_id]

    # --- state -----------------------------------------------------------------------------------------------------------

    def get_statuses(self, run_id: str) -> list[StatusRow]:
        """Their history has the versions as JSON, without what adapters add to them."""
        return [
            replace(stored.row, history=json.dumps([_version(row) for row in stored.versions]))
            for key, stored in sorted(
                self.statuses.items(), key=lambda each: (each[1].row.created_at, each[0])
            )
            if key[0] == run_id
        ]

    def get_value(self, scope: str, key: str) -> tuple[str, str | None] | None:
        return self.values.get((scope, key))

    def list_queues(self) -> list[QueueRow]:
        return [self.queue_row(each) for each in sorted(self.queues)]

    def place_in_queue(self, run_id: str) -> QueuePlace | None:
        if run_id not in self.ready:
            return None
        run = self.runs[run_id]
        return QueuePlace(
            queue=self.queue_row(run.queue),
            ahead=self.lane(run.queue, run.queue_key).index(run_id),
            executing_key=sum(
                (each.queue, each.queue_key) == (run.queue, run.queue_key) for each in self.holders()
            ),
            executing_all=len(self.leases),
        )

    def ended_runs(self, *, before: int, statuses: Sequence[RunStatus], limit: int) -> list[str]:
        ended = [
            run
            for run in self.runs.values()
            if run.completed_at is not None
            and run.completed_at < before
            and (not statuses or run.status in statuses)
            and self.is_deletable(run)
        ]
        ended.sort(key=lambda run: (run.completed_at or 0, run.id))
        return [run.id for run in ended[:limit]]

    def childless_events(self, *, before: int, limit: int) -> list[str]:
        found = [
            stored
            for stored in self._by_arrival(None)
            if stored.arrived < before and self.is_childless(stored)
        ]
        return [stored.record.id for stored in found[:limit]]


def _arrival(stored: StoredEvent) -> tuple[int, str]:
    return stored.arrived, stored.record.id


def _version(row: StatusRow) -> dict[str, object]:
    data = None if row.data is None else json.loads(row.data)
    return {"label": row.label, "state": row.state, "data": data, "at": row.updated_at}


def _shows(filter: RunFilter, run: RunRow) -> bool:
    wanted = {
        "job_id": filter.job_id,
        "event_id": filter.event_id,
        "job_version": filter.job_version,
        "account_id": filter.account_id,
        "parent_run_id": filter.parent_run_id,
        "queue": filter.queue,
        "is_test": filter.is_test,
    }
    return (
        all(value is None or getattr(run, name) == value for name, value in wanted.items())
        and (not filter.statuses or run.status in filter.statuses)
        and set(filter.tags) <= set(run.tags)
        and (filter.created_from is None or run.created_at >= filter.created_from)
        and (filter.created_until is None or run.created_at < filter.created_until)
        and (filter.internal or not run.is_internal)
        and (filter.before is None or run.id < filter.before)
    )
