"""The Store port: all that the engine knows of a database.

Theory of operation. The engine decides (engine/core) and describes what it wants as *changes*; `apply` carries out a
batch of them in one transaction and returns one result per change. Guards are data: a change whose guard doesn't hold
does nothing and *returns* what is there instead, so that the engine can decide again; it never raises. A store compares
and writes, it never works out a status.

Every change can be repeated after an unknown outcome (a lost COMMIT): it then finds its own rows. IngestEvent returns
them as a duplicate. RecordTasks and MoveRun return Applied while what they wrote is in place as they wrote it, the run
not having moved on since (or only by moves of the same batch); else Refused with what is there. ClaimRuns claims other
runs: those of the lost claim come back when their lease has run out.

Within a batch, changes take effect kind by kind in this order: IngestEvent, RecordTasks, MoveRun, RenewLeases,
ClaimRuns; inside a kind in the order given (several MoveRun of one run: the second sees what the first did). Callers
whose changes are in one batch were concurrent, so any order is a legal history; this one needs fewest statements.

A run is in exactly one place, by its status: QUEUED ↔ a row of the ready queue, EXECUTING ↔ a lease, WAITING ↔ a timer;
PENDING and terminal runs are in none. Time is always an argument. Every call is scoped by the environment the store
was opened for.

What exists once per run or task has `gc=False`: it can't be part of a cycle, and collections (a fifth of the time of
short runs) needn't look at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from perdure.schema.execution import Claim, EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import ErrorInfo, RunStatus


class NewRun(Struct, kw_only=True, gc=False):
    """A run to be created together with its event. `status` is PENDING or QUEUED (then it is put into the ready queue)."""

    id: str
    job_id: str
    job_version: str
    status: RunStatus
    created_at: int
    priority: int = 0
    reason: str | None = None


class RunRow(Struct, kw_only=True, gc=False):
    """A run's record without its tasks. Instants in ms; `output` and `types` JSON text; see schema.runs.Run.

    Attributes:
        execution: number of the latest execution, 0 before the first.
        crashes, failures: see Claim.
        spent_ms: time executed so far, waits excluded.
        failed_tasks: of a FAILED run, the tasks it failed on.
    """

    id: str
    job_id: str
    job_version: str
    event_id: str
    status: RunStatus
    created_at: int
    priority: int = 0
    execution: int = 0
    crashes: int = 0
    failures: int = 0
    spent_ms: int = 0
    started_at: int | None = None
    completed_at: int | None = None
    wake_at: int | None = None
    output: str | None = None
    types: str | None = None
    error: ErrorInfo | None = None
    reason: str | None = None
    failed_tasks: list[str] = []
    is_test: bool = False


class LeaseRow(Struct, kw_only=True):
    """An execution under way. `progressed`: whether a task completion was recorded since it was claimed.

    `running`: keys of tasks recorded as RUNNING, latest started first (whom to name when a run is poisonous).
    """

    run_id: str
    execution: int
    owner: str
    expires_at: int
    claimed_at: int
    crashes: int
    spent_ms: int
    priority: int
    progressed: bool
    running: list[str] = []


# --- changes and their results -----------------------------------------------------------------------------------------


class IngestEvent(Struct, kw_only=True, gc=False):
    """Store an event and the runs it causes, unless an event with its id exists. Result: Ingested."""

    event: EventRecord
    runs: list[NewRun]
    created_at: int


class Ingested(Struct, kw_only=True, gc=False):
    """The event and its runs as stored: `duplicate` if they are those of an earlier event with this id."""

    event: EventRecord
    runs: list[RunRow]
    duplicate: bool


class RecordTasks(Struct, kw_only=True, gc=False):
    """Write tasks and logs of an execution. Guard: the run is leased to this execution. Result: Applied or Refused.

    A task row is replaced as a whole, except that an absent output keeps the stored one and its types; `omitted` is not
    stored; a log id that is known is left alone. The same task twice in a batch: the last one counts.
    """

    run_id: str
    execution: int
    tasks: Sequence[TaskRecord] = ()
    logs: Sequence[LogRecord] = ()


class MoveRun(Struct, kw_only=True, gc=False):
    """Take a run from one status to another, with all that belongs to the move. Result: Applied or Refused.

    Guard: the run's status is `expected` and its latest execution is `execution`. Leaving a status removes the run from
    where that status put it (ready queue, lease, timer); entering one puts it there: QUEUED with `priority` (kept if
    None) at `at`, WAITING with a timer at `wake_at`. EXECUTING can't be entered: ClaimRuns does that.

    Attributes:
        at: now, for completed and queue order.
        add_spent_ms: added to the time executed.
        crashes: new value of the counter.
        failures: likewise; None keeps it.
        output, types, error, reason, failed_tasks: replace the stored ones (absent = cleared).
        completed_at: set for terminal statuses, else None (so is `wake_at`, but for WAITING).
        tasks, logs: as in RecordTasks, written in the same transaction.
        cancel_open: tasks without completion or interruption become CANCELED, completed at `at`.
        reset: ids of tasks whose rows are deleted, so that they start afresh; every interruption from the earliest of
            their completions (its `seq`) on is undone too: CANCELED rows deleted, `interrupted` cleared on others.
            With an empty list nothing is reset.
        reset_open: also delete rows CANCELED without an interruption (those `cancel_open` made).

    Tasks and logs are written first, then `cancel_open`, `reset`, `reset_open` look at the result.
    """

    run_id: str
    expected: RunStatus
    execution: int
    status: RunStatus
    at: int
    wake_at: int | None = None
    priority: int | None = None
    add_spent_ms: int = 0
    crashes: int = 0
    failures: int | None = None
    output: str | None = None
    types: str | None = None
    error: ErrorInfo | None = None
    reason: str | None = None
    failed_tasks: list[str] = []
    completed_at: int | None = None
    tasks: Sequence[TaskRecord] = ()
    logs: Sequence[LogRecord] = ()
    cancel_open: bool = False
    reset: list[str] = []
    reset_open: bool = False


class RenewLeases(Struct, kw_only=True):
    """Extend every lease that `owner` holds to `expires_at`. Result: Renewed."""

    owner: str
    expires_at: int


class ClaimRuns(Struct, kw_only=True):
    """Hand at most `limit` queued runs to `owner`: highest priority first, then the longest queued. Result: Claimed.

    Each moves from `expected` to `status` (QUEUED, EXECUTING), its execution number is raised by one and it gets a
    lease until `expires_at`; `started_at` is set the first time. Claims of concurrent callers are disjoint. Cost
    doesn't depend on how many finished runs there are. Outputs come along up to `output_bytes_max` per claim (a run);
    the rest is marked `omitted`.
    """

    owner: str
    limit: int
    at: int
    expires_at: int
    expected: RunStatus
    status: RunStatus
    output_bytes_max: int = 3_500_000


class Applied(Struct, gc=False):
    """The change took effect (or had already: a repeat)."""


class Refused(Struct, kw_only=True):
    """The guard did not hold; `run` is the run as it is now, None if there is none."""

    run: RunRow | None


class Renewed(Struct):
    """How many leases were extended."""

    count: int


class Claimed(Struct, gc=False):
    """The claims, in the order of the queue."""

    claims: list[Claim]


Change: TypeAlias = IngestEvent | RecordTasks | MoveRun | RenewLeases | ClaimRuns
Result: TypeAlias = Ingested | Applied | Refused | Renewed | Claimed


class RunFilter(Struct, kw_only=True, frozen=True):
    """Which runs a list shows: newest first, ids below `before` (keyset paging)."""

    job_id: str | None = None
    event_id: str | None = None
    statuses: tuple[RunStatus, ...] = ()
    before: str | None = None
    limit: int = 50


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
        """Every task of a run by `position`, outputs included."""
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

    async def close(self) -> None:
        """Finish what was submitted and let go of the database."""
        ...
