"""Queues, schedules, accounts, events, and what runs and applications keep."""

from __future__ import annotations

import json
from collections.abc import Sequence

from msgspec.structs import replace

from perdure.engine.store import (
    AccountRow,
    Applied,
    CancelEvent,
    DefineQueue,
    Deleted,
    DeliverEvent,
    Ingested,
    IngestEvent,
    NewRun,
    PauseQueue,
    PutAccount,
    PutSchedule,
    Refused,
    Result,
    RunRow,
    StatusRow,
    TickSchedule,
)
from perdure.schema.effects import AnnotateRun, DeleteValue, SetValue, UpdateStatus
from perdure.schema.execution import EventRecord
from perdure.schema.runs import RunStatus

from .state import StoredEvent, StoredStatus, Tables


class EventWrites(Tables):
    """Changes that no execution needs to be under way for."""

    # --- queues, schedules, accounts -------------------------------------------------------------------------------------

    def define_queue(self, change: DefineQueue) -> Result:
        self.queues[change.id] = replace(
            self.ensure_queue(change.id),
            concurrency_limit=change.concurrency_limit,
            key_limit=change.key_limit,
            priority=change.priority,
        )
        return Applied()

    def pause_queue(self, change: PauseQueue) -> Result:
        self.queues[change.id] = replace(self.ensure_queue(change.id), paused_at=change.paused_at)
        return Applied()

    def put_schedule(self, change: PutSchedule) -> Result:
        self.schedules[change.schedule.id] = change.schedule
        return Applied()

    def put_account(self, change: PutAccount) -> Result:
        known = self.accounts.get(change.id)
        created_at = change.at if known is None else known.created_at
        self.accounts[change.id] = AccountRow(id=change.id, metadata=change.metadata, created_at=created_at)
        return Applied()

    # --- events ----------------------------------------------------------------------------------------------------------

    def ingest_event(self, change: IngestEvent) -> Ingested:
        stored = self.events.get(change.event.id)
        if stored is None:
            self._add_event(change.event, change.runs, change.created_at)
        elif stored.due and change.edit_before is not None:
            record = stored.record
            if record.deliver_at is not None and record.deliver_at >= change.edit_before:
                given = change.event
                due_at = change.created_at if given.deliver_at is None else given.deliver_at
                stored.record = replace(
                    record,
                    payload=record.payload if given.payload == "null" else given.payload,
                    context=record.context if given.context is None else given.context,
                    deliver_at=due_at,
                )
                stored.arrived = due_at
        return Ingested(
            event=self.events[change.event.id].record,
            runs=self.runs_of(change.event.id),
            duplicate=stored is not None,
        )

    def _add_event(self, event: EventRecord, runs: Sequence[NewRun], at: int) -> None:
        self.events[event.id] = stored = StoredEvent(record=event, arrived=max(at, event.deliver_at or 0))
        if event.account_id is not None:
            self.accounts.setdefault(event.account_id, AccountRow(id=event.account_id, created_at=at))
        if event.deliver_at is not None and event.deliver_at > at:
            stored.due = True
        else:
            self._spread(stored, runs, at)

    def _spread(self, stored: StoredEvent, runs: Sequence[NewRun], at: int) -> None:
        """An event causes its runs, and is to be compared with who waits for its name."""
        for new in runs:
            self._add_run(new, stored.record)
        if self.waiting_for(stored.record.name):
            stored.matching = True
            stored.record = replace(stored.record, delivered_at=stored.record.delivered_at or at)

    def _add_run(self, new: NewRun, event: EventRecord) -> None:
        self.numbers[new.job_id] = self.numbers.get(new.job_id, 0) + 1
        self.runs[new.id] = RunRow(
            id=new.id,
            job_id=new.job_id,
            job_version=new.job_version,
            event_id=event.id,
            status=new.status,
            created_at=new.created_at,
            priority=new.priority,
            reason=new.reason,
            is_test=event.is_test,
            number=self.numbers[new.job_id],
            queue=new.queue,
            queue_key=new.queue_key,
            account_id=event.account_id,
            parent_run_id=new.parent_run_id,
            parent_task_id=new.parent_task_id,
            tags=list(new.tags),
            metadata=new.metadata,
            is_internal=new.is_internal,
        )
        self.ensure_queue(new.queue)
        if new.status is RunStatus.QUEUED:
            self.ready[new.id] = new.created_at

    def deliver_event(self, change: DeliverEvent) -> Result:
        stored = self.events.get(change.event_id)
        if stored is None or not stored.due or stored.record.deliver_at != change.due_at:
            return Refused(run=None)
        stored.due = False
        stored.arrived = change.at
        if change.runs:
            stored.record = replace(stored.record, delivered_at=change.at)
        self._spread(stored, change.runs, change.at)
        return Applied()

    def cancel_event(self, change: CancelEvent) -> Result:
        stored = self.events.get(change.event_id)
        if stored is None or not stored.due:
            return Refused(run=None)
        stored.due = False
        stored.record = replace(stored.record, cancelled_at=change.at)
        return Applied()

    def tick_schedule(self, change: TickSchedule) -> Result:
        schedule = self.schedules.get(change.id)
        if schedule is None or not schedule.is_active or schedule.next_at != change.expected:
            return Refused(run=None)
        self.schedules[change.id] = replace(schedule, next_at=change.next_at, last_at=change.expected)
        if change.event.id not in self.events:
            self._add_event(change.event, change.runs, change.at)
        return Applied()

    def carry_out(self, change: IngestEvent | UpdateStatus | SetValue | DeleteValue | AnnotateRun) -> Result:
        """What may go along with tasks, too."""
        match change:
            case IngestEvent():
                return self.ingest_event(change)
            case UpdateStatus():
                return self.update_status(change)
            case SetValue():
                return self.set_value(change)
            case DeleteValue():
                return self.delete_value(change)
            case AnnotateRun():
                return self.annotate_run(change)

    # --- state of runs, values -------------------------------------------------------------------------------------------

    def set_value(self, change: SetValue) -> Result:
        kind, _, run_id = change.scope.partition(":")
        if kind == "run" and run_id not in self.runs:
            return Refused(run=None)
        self.values[change.scope, change.key] = (change.value, change.types)
        return Applied()

    def delete_value(self, change: DeleteValue) -> Result:
        return Deleted(0 if self.values.pop((change.scope, change.key), None) is None else 1)

    def update_status(self, change: UpdateStatus) -> Result:
        if change.run_id not in self.runs:
            return Refused(run=None)
        stored = self.statuses.get((change.run_id, change.key))
        if stored is None:
            row = StatusRow(
                key=change.key,
                label=change.label or change.key,
                state=change.state,
                data=change.data,
                created_at=change.at,
                updated_at=change.at,
            )
            self.statuses[change.run_id, change.key] = StoredStatus(row=row, updates=[change.id], versions=[])
        elif change.id not in stored.updates:
            stored.updates.append(change.id)
            stored.versions.append(stored.row)
            stored.row = replace(
                stored.row,
                label=stored.row.label if change.label is None else change.label,
                state=stored.row.state if change.state is None else change.state,
                data=stored.row.data if change.data is None else change.data,
                updated_at=change.at,
            )
        return Applied()

    def annotate_run(self, change: AnnotateRun) -> Result:
        run = self.runs.get(change.run_id)
        if run is None:
            return Refused(run=None)
        run.tags = list(dict.fromkeys([*run.tags, *change.tags]))
        if change.metadata is not None:
            run.metadata = json.dumps(
                {**json.loads(run.metadata or "{}"), **json.loads(change.metadata)}, separators=(",", ":")
            )
        return Applied()
