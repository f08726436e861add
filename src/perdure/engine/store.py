"""The Store port: all that the engine knows of a database.

Theory of operation. The engine decides (engine/core) and describes what it wants as *changes* (changes.py); `apply`
carries out a batch of them in one transaction and returns one result per change. Guards are data: a change whose guard
doesn't hold does nothing and *returns* what is there instead, so that the engine can decide again; it never raises. A
store compares and writes, it never works out a status: those it may enter come with the change.

Every change can be repeated after an unknown outcome (a lost COMMIT): it then finds its own rows. IngestEvent returns
them as a duplicate. RecordTasks returns Applied while what it wrote (something) is in place as it wrote it and no later
execution has begun; MoveRun while the run is as the move left it, or moved on by repeats of the same batch only; else
Refused with what is there. ClaimRuns claims other runs: those of the lost claim come back when their lease has run out;
WakeRuns wakes others. Other changes that are repeated may be Refused, which their callers take as done.

Within a batch, changes take effect kind by kind in this order: those of queues, schedules and accounts; IngestEvent,
DeliverEvent, CancelEvent, TickSchedule; RecordTasks; ResolveTask; MoveRun; values, statuses and annotations;
RepeatOperation, CheckWaiter, FinishMatch; deletions; RenewLeases, ReleaseLease, WakeRuns, ClaimRuns; inside a kind in the
order given (several MoveRun of one run: the second sees what the first did; the first moves of all runs come before the second of
any). Tasks of RecordTasks are all written before effects are carried out. Callers whose changes are in one batch were
concurrent, so any order is a legal history; this one needs fewest statements.

A second `apply` may be called while one is under way if both only record tasks, of different runs and without effects: either
may be durable first.

A run is in exactly one place, by its status: QUEUED ↔ a row of the ready queue, EXECUTING ↔ a lease, WAITING ↔ a timer
or waits for others; PENDING and terminal runs are in none. Time is always an argument. Every call is scoped by the
environment the store was opened for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from perdure.schema.execution import EventRecord, LogRecord, TaskRecord
from perdure.schema.run_filter import RunFilter as RunFilter
from perdure.schema.runs import RunStatus

from .changes import (
    Applied as Applied,
    AwaitEvent as AwaitEvent,
    CancelEvent as CancelEvent,
    Change as Change,
    CheckWaiter as CheckWaiter,
    Claimed as Claimed,
    ClaimRuns as ClaimRuns,
    DefineQueue as DefineQueue,
    Deleted as Deleted,
    DeleteEvents as DeleteEvents,
    DeleteRuns as DeleteRuns,
    DeliverEvent as DeliverEvent,
    Effect as Effect,
    FinishMatch as FinishMatch,
    Ingested as Ingested,
    IngestEvent as IngestEvent,
    MoveRun as MoveRun,
    NewRun as NewRun,
    PauseQueue as PauseQueue,
    PutAccount as PutAccount,
    PutSchedule as PutSchedule,
    RecordTasks as RecordTasks,
    Refused as Refused,
    ReleaseLease as ReleaseLease,
    Renewed as Renewed,
    RenewLeases as RenewLeases,
    RepeatOperation as RepeatOperation,
    ResolveTask as ResolveTask,
    Result as Result,
    TickSchedule as TickSchedule,
    WakeRuns as WakeRuns,
    Woken as Woken,
)
from .rows import (
    AccountRow as AccountRow,
    LeaseRow as LeaseRow,
    Match as Match,
    OperationRow as OperationRow,
    QueuePlace as QueuePlace,
    QueueRow as QueueRow,
    RunRow as RunRow,
    ScheduleRow as ScheduleRow,
    StatusRow as StatusRow,
    WaiterRow as WaiterRow,
)


class Store(Protocol):
    """A database with perdure's tables in it, for one environment. Opened and migrated by its adapter's constructor.

    Text comes back as it was given, character for character. It is checked before it gets here: a lone surrogate, or a
    NUL in text that isn't JSON (where it is escaped), makes `apply` raise ValueError.

    Raises, from every method:
        UnavailableError: nothing was written (disk full, locked out, stopped); safe to repeat.
        StoreBrokenError: the outcome of a COMMIT is unknown and this store object is finished: reopen and recover.
        Any other exception: the batch as a whole was rejected, nothing was written; a batch of one names the culprit.
    """

    async def apply(self, changes: Sequence[Change]) -> list[Result]:
        """Carry out `changes` in one durable transaction; results in the same order."""
        ...

    async def get_run(self, run_id: str) -> RunRow | None: ...

    async def list_runs(self, filter: RunFilter) -> list[RunRow]: ...

    async def get_event(self, event_id: str) -> EventRecord | None: ...

    async def get_tasks(self, run_id: str) -> list[TaskRecord]:
        """Every task of a run by `position`, then id, outputs included."""
        ...

    async def get_logs(self, run_id: str) -> list[LogRecord]:
        """Every log line of a run in the order written."""
        ...

    async def get_output(self, run_id: str, task_id: str) -> tuple[str | None, str | None]:
        """A task's (output, types). Raises NotFoundError."""
        ...

    async def due_runs(self, now: int, limit: int) -> list[RunRow]:
        """WAITING runs whose timer is due at `now`, earliest first."""
        ...

    async def next_due(self) -> int | None:
        """When the earliest timer is due; None without timers."""
        ...

    async def leases(self, *, expired_at: int | None, limit: int) -> list[LeaseRow]:
        """Leases that had expired at that instant; all of them for None."""
        ...

    async def count_by_status(self, *, active_only: bool = False) -> dict[RunStatus, int]:
        """How many runs are in each status, 0 included; `active_only`: just QUEUED and EXECUTING, from the small tables."""
        ...

    # --- events and schedules -------------------------------------------------------------------------------------------

    async def due_events(self, now: int, limit: int) -> list[EventRecord]:
        """Undelivered events that are due at `now`, earliest first."""
        ...

    async def next_event_due(self) -> int | None: ...

    async def list_events(
        self, *, name: str | None = None, before: str | None = None, limit: int = 50
    ) -> list[EventRecord]:
        """Newest first (by arrival: of a delayed one, when it is due), those after the event `before` in that order."""
        ...

    async def due_schedules(self, now: int, limit: int) -> list[ScheduleRow]:
        """Active schedules whose next tick is due at `now`, earliest first."""
        ...

    async def next_tick(self) -> int | None: ...

    async def get_schedule(self, id: str) -> ScheduleRow | None: ...

    async def list_schedules(self, *, dispatcher: str | None = None) -> list[ScheduleRow]:
        """By dispatcher and key, inactive ones included."""
        ...

    async def get_account(self, id: str) -> AccountRow | None: ...

    # --- waits for others -----------------------------------------------------------------------------------------------

    async def waiter_names(self) -> list[str]:
        """Names of events that some task waits for."""
        ...

    async def unchecked_waiters(self, limit: int) -> list[WaiterRow]:
        """Waiters that weren't compared yet with what arrived before they were written, one row per name."""
        ...

    async def events_since(
        self, name: str, since: int, *, after: str | None, limit: int
    ) -> list[EventRecord]:
        """Delivered events of this name that arrived at or after `since`, earliest first, after the event `after`."""
        ...

    async def matches(self, limit: int) -> list[Match]:
        """Events to be compared with the waiters of their names, with those of them that were waiting when it arrived."""
        ...

    async def due_operations(self, now: int, limit: int) -> list[OperationRow]:
        """Calls that are to be made at `now`, earliest due first."""
        ...

    async def next_operation_due(self, after: int = -1) -> int | None:
        """When the earliest call is due that is due later than `after`; None without one."""
        ...

    async def waiters_of(self, run_id: str) -> list[WaiterRow]:
        """What tasks of a run wait for, one row per name of an event, by task and name."""
        ...

    async def operations_of(self, run_id: str) -> list[OperationRow]:
        """The calls that the platform has still to make for tasks of a run, by task."""
        ...

    # --- state ----------------------------------------------------------------------------------------------------------

    async def get_statuses(self, run_id: str) -> list[StatusRow]:
        """By creation, then key."""
        ...

    async def get_value(self, scope: str, key: str) -> tuple[str, str | None] | None:
        """(value, types), None if there is none."""
        ...

    async def list_queues(self) -> list[QueueRow]:
        """By id; those that were never defined or paused only while something is in them, or for a while longer."""
        ...

    async def place_in_queue(self, run_id: str) -> QueuePlace | None:
        """Where a QUEUED run stands; None if it isn't queued."""
        ...

    async def ended_runs(self, *, before: int, statuses: Sequence[RunStatus], limit: int) -> list[str]:
        """Ids of runs in one of `statuses` (all terminal ones, if none) that ended before an instant, and that no live run
        refers to: its parent, if it has one, has ended. Earliest first."""
        ...

    async def childless_events(self, *, before: int, limit: int) -> list[str]:
        """Ids of events without runs that arrived before an instant and aren't to be delivered any more."""
        ...

    # --- the database itself --------------------------------------------------------------------------------------------

    async def backup(self, path: str) -> None:
        """Write a copy of the database, as of one moment, to a new file; work goes on meanwhile.

        Raises:
            ConfigurationError: the file exists, or the database has no such copies.
        """
        ...

    async def check(self) -> list[str]:
        """What is wrong with the database, in words; empty if nothing is. Reads all of it."""
        ...

    async def close(self) -> None:
        """Finish what was submitted and let go of the database."""
        ...
