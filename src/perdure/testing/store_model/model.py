"""`Store.apply`, and the changes that delete and execute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, assert_never

from perdure.engine.store import (
    Applied,
    CancelEvent,
    Change,
    CheckWaiter,
    Claimed,
    ClaimRuns,
    DefineQueue,
    Deleted,
    DeleteEvents,
    DeleteRuns,
    DeliverEvent,
    FinishMatch,
    Ingested,
    IngestEvent,
    MoveRun,
    PauseQueue,
    PutAccount,
    PutSchedule,
    RecordTasks,
    ReleaseLease,
    Renewed,
    RenewLeases,
    RepeatOperation,
    ResolveTask,
    Result,
    RunRow,
    TickSchedule,
    WakeRuns,
    Woken,
)
from perdure.schema.effects import AnnotateRun, DeleteValue, SetValue, UpdateStatus
from perdure.schema.execution import PLATFORM_ROW, Claim

from .fairness import Turns
from .runs import Answers, Numbered, RunWrites
from .state import StoredEvent, StoredLease, copy_run

ORDER: tuple[tuple[type[Any], ...], ...] = (
    (DefineQueue, PauseQueue, PutSchedule, PutAccount),
    (IngestEvent,),
    (DeliverEvent,),
    (CancelEvent,),
    (TickSchedule,),
    (RecordTasks,),
    (ResolveTask,),
    (MoveRun,),
    (SetValue, DeleteValue, UpdateStatus, AnnotateRun),
    (RepeatOperation,),
    (CheckWaiter,),
    (FinishMatch,),
    (DeleteRuns, DeleteEvents),
    (RenewLeases,),
    (ReleaseLease,),
    (WakeRuns,),
    (ClaimRuns,),
)
"""The kinds of changes in the order in which those of a batch take effect."""


class Writes(RunWrites):
    """The changes of a store; one method per kind."""

    picks: Iterator[Sequence[str]] = iter(())

    def apply(self, changes: Sequence[Change], picked: Sequence[Sequence[str]] = ()) -> list[Result]:
        """Carry out a batch. `picked`: ids of the runs that each ClaimRuns of it claimed in the store that is compared.

        Raises:
            AssertionError: it may not have claimed these.
        """
        self.picks = iter(picked)
        results: Answers = {}
        for kinds in ORDER:
            same = [(n, change) for n, change in enumerate(changes) if isinstance(change, kinds)]
            results |= self._of_kind(same)
        return [results[n] for n in range(len(changes))]

    def _of_kind(self, changes: Numbered[Any]) -> Answers:
        """Changes of one kind, or of kinds whose order among themselves is the batch's."""
        first = changes[0][1] if changes else None
        if isinstance(first, RecordTasks):
            return self.record_all(changes)
        if isinstance(first, ResolveTask):
            return self.resolve_all(changes)
        if isinstance(first, MoveRun):
            return self.move_all(changes)
        answers = {n: self._one(change) for n, change in changes}
        for answer in answers.values():
            if isinstance(answer, Ingested) and answer.duplicate:
                answer.event = self.events[answer.event.id].record  # as the last edit of the batch left it
        return answers

    def _one(self, change: Change) -> Result:  # noqa: C901
        match change:
            case DefineQueue():
                return self.define_queue(change)
            case PauseQueue():
                return self.pause_queue(change)
            case PutSchedule():
                return self.put_schedule(change)
            case PutAccount():
                return self.put_account(change)
            case DeliverEvent():
                return self.deliver_event(change)
            case CancelEvent():
                return self.cancel_event(change)
            case TickSchedule():
                return self.tick_schedule(change)
            case RepeatOperation():
                return self.repeat_operation(change)
            case CheckWaiter():
                return self.check_waiter(change)
            case FinishMatch():
                return self.finish_match(change)
            case DeleteRuns():
                return self.delete_runs(change)
            case DeleteEvents():
                return self.delete_events(change)
            case RenewLeases():
                return self.renew_leases(change)
            case ReleaseLease():
                return self.release_lease(change)
            case WakeRuns():
                return self.wake_runs(change)
            case ClaimRuns():
                return self.claim_runs(change)
            case IngestEvent() | UpdateStatus() | SetValue() | DeleteValue() | AnnotateRun():
                return self.carry_out(change)
            case RecordTasks() | ResolveTask() | MoveRun():
                return next(iter(self._of_kind([(0, change)]).values()))
            case _ as never:
                assert_never(never)

    # --- deletions -------------------------------------------------------------------------------------------------------

    def is_deletable(self, run: RunRow) -> bool:
        return (
            run.completed_at is not None
            and not any(run_id == run.id for run_id, _ in self.leases)
            and (run.parent_run_id is None or self.has_ended(run.parent_run_id))
        )

    def delete_runs(self, change: DeleteRuns) -> Result:
        going = [self.runs[run_id] for run_id in dict.fromkeys(change.ids) if run_id in self.runs]
        going = [run for run in going if self.is_deletable(run)]
        for run in going:
            del self.runs[run.id]
            self.tasks.pop(run.id, None)
            self.logs.pop(run.id, None)
            self.forget_waits(run.id)
            self.statuses = {key: row for key, row in self.statuses.items() if key[0] != run.id}
            self.values = {key: row for key, row in self.values.items() if key[0] != f"run:{run.id}"}
        for event_id in {run.event_id for run in going}:
            if event_id in self.events and self.is_childless(self.events[event_id]):
                del self.events[event_id]
        return Deleted(len(going))

    def is_childless(self, stored: StoredEvent) -> bool:
        return not (stored.due or stored.matching or self.runs_of(stored.record.id))

    def delete_events(self, change: DeleteEvents) -> Result:
        going = [each for each in dict.fromkeys(change.ids) if each in self.events]
        going = [each for each in going if self.is_childless(self.events[each])]
        for event_id in going:
            del self.events[event_id]
        return Deleted(len(going))

    # --- executions ------------------------------------------------------------------------------------------------------

    def renew_leases(self, change: RenewLeases) -> Result:
        mine = [
            lease for lease in self.leases.values() if lease.owner == change.owner and not lease.is_revoked
        ]
        for lease in mine:
            lease.expires_at = change.expires_at
        return Renewed(len(mine))

    def release_lease(self, change: ReleaseLease) -> Result:
        lease = self.leases.get((change.run_id, change.execution))
        if lease is not None and lease.is_revoked:
            del self.leases[change.run_id, change.execution]
        return Applied()

    def wake_runs(self, change: WakeRuns) -> Result:
        due = [run for run in self.timed() if (run.wake_at or 0) <= change.at][: change.limit]
        for run in due:
            self.wake(run, change.status)
        return Woken([run.id for run in due])

    def claim_runs(self, change: ClaimRuns) -> Result:
        """Which runs a store claims is for it to say, within rules: see fairness.py."""
        ids = next(self.picks)
        before = Turns(self, change)
        for run_id in ids:
            before.check(run_id)
            self._lease(self.runs[run_id], change)
        before.check_end(ids)
        return Claimed([self._claim(self.runs[run_id]) for run_id in ids])

    def _lease(self, run: RunRow, change: ClaimRuns) -> None:
        del self.ready[run.id]
        run.status = change.status
        run.execution += 1
        run.started_at = change.at if run.started_at is None else run.started_at
        self.leases[run.id, run.execution] = StoredLease(
            run_id=run.id,
            execution=run.execution,
            owner=change.owner,
            expires_at=change.expires_at,
            claimed_at=change.at,
            seq=max((task.seq or 0 for task in self.tasks.get(run.id, {}).values()), default=0),
        )

    def _claim(self, run: RunRow) -> Claim:
        event = self.events[run.event_id].record
        account = None if event.account_id is None else self.accounts[event.account_id].metadata
        lease = self.leases[run.id, run.execution]
        known = copy_run(run)
        return Claim(
            run_id=run.id,
            execution=run.execution,
            job_id=run.job_id,
            job_version=run.job_version,
            event=event,
            started_at=run.started_at or 0,
            lease_expires_at=lease.expires_at,
            crashes=run.crashes,
            failures=run.failures,
            spent_ms=run.spent_ms,
            priority=run.priority,
            tasks=[task for task in self.tasks.get(run.id, {}).values() if task.opened != PLATFORM_ROW],
            number=run.number,
            tags=known.tags,
            metadata=run.metadata,
            account=account,
            wakes=run.wakes,
            created_at=run.created_at,
            parent_run_id=run.parent_run_id,
            parent_task_id=run.parent_task_id,
            is_internal=run.is_internal,
            queue=run.queue,
            queue_key=run.queue_key,
        )
