"""What a store is asked to do, and what it answers: the vocabulary of `Store.apply`. See engine/store.py for the rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from msgspec import Struct

from perdure.schema.effects import AnnotateRun, DeleteValue, EventWait, SetValue, StartOperation, UpdateStatus
from perdure.schema.execution import Claim, EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import ErrorInfo, RunStatus, TaskStatus

from .rows import RunRow, ScheduleRow


class NewRun(Struct, kw_only=True, gc=False):
    """A run to be created together with its event; see RunRow. PENDING, or QUEUED (then it is put into the ready queue).

    Its number is the next of its job. Queues are made as needed.
    """

    id: str
    job_id: str
    job_version: str
    status: RunStatus
    created_at: int
    priority: int = 0
    reason: str | None = None
    queue: str = ""
    queue_key: str = ""
    parent_run_id: str | None = None
    parent_task_id: str | None = None
    tags: tuple[str, ...] = ()
    metadata: str | None = None
    is_internal: bool = False


# --- events ------------------------------------------------------------------------------------------------------------


class IngestEvent(Struct, kw_only=True, gc=False):
    """Store an event and the runs it causes, unless an event with its id exists. Result: Ingested.

    An event whose `deliver_at` is later than `created_at` waits for `DeliverEvent`, without runs. One that is known,
    undelivered and due no sooner than `edit_before` gets this one's payload, context (unless they are null: Protocol,
    dedupe) and `deliver_at` (if it has none: `created_at`); any other known one is left as it is. The account it names is
    made as needed. An event whose name some task waits for is to be compared with those (see Match) and counts as
    delivered.
    """

    event: EventRecord
    runs: list[NewRun]
    created_at: int
    edit_before: int | None = None


class Ingested(Struct, kw_only=True, gc=False):
    """The event and its runs as stored: `duplicate` if they are those of an earlier event with this id.

    A duplicate is told as all edits of the batch left it.
    """

    event: EventRecord
    runs: list[RunRow]
    duplicate: bool


class DeliverEvent(Struct, kw_only=True, gc=False):
    """Create the runs that a delayed event causes. Result: Applied or Refused (without a run).

    Guard: the event is due at `due_at` (it was neither delivered, nor cancelled, nor put off meanwhile).
    """

    event_id: str
    due_at: int
    at: int
    runs: list[NewRun]


class CancelEvent(Struct, kw_only=True):
    """Keep an undelivered event from being delivered. Result: Applied, or Refused if there is none such."""

    event_id: str
    at: int


# --- runs --------------------------------------------------------------------------------------------------------------


class AwaitEvent(Struct, kw_only=True, gc=False):
    """A task of an executing run waits for an event, as those do that a suspension names."""

    run_id: str
    wait: EventWait


Effect: TypeAlias = (
    IngestEvent | StartOperation | AwaitEvent | UpdateStatus | SetValue | DeleteValue | AnnotateRun
)
"""What may be written together with a run's tasks; each is a change of its own, too (but StartOperation and AwaitEvent).

Then their results are Applied, or Refused (without a run) if the run isn't there; DeleteValue's is Deleted. An operation
is started for a task that is stored without completion or interruption, else for none.
"""


class RecordTasks(Struct, kw_only=True, gc=False):
    """Write tasks and logs of an execution. Guard: the run is leased to this execution. Result: Applied or Refused.

    A task row is replaced as a whole, except that an absent output keeps the stored one and its types, and that a
    stored resolution (see ResolveTask) is replaced only by a row that has a `seq` or was interrupted. `omitted` is not
    stored; a log id that is known is left alone. The same task twice in a batch: the last one counts. What waited for an
    interrupted task (waiters of events, operations) is deleted. `effects` are carried out in the same
    transaction, after the tasks are written.

    Of an effect that is an IngestEvent for a task of the run (the run it makes has a parent) the event may be known: the
    task was forgotten when its run was continued, and asks again. If the run that it last asked for has ended as COMPLETED,
    the task is resolved as at that end; if it has ended otherwise, or is gone, the event is stored once more under another
    id, with its new run; one that hasn't ended will resolve the task as if nothing had happened.
    """

    run_id: str
    execution: int
    tasks: Sequence[TaskRecord] = ()
    logs: Sequence[LogRecord] = ()
    effects: Sequence[Effect] = ()


class ResolveTask(Struct, kw_only=True, gc=False):
    """Complete a task that waits for somebody else, and wake its run. Result: Applied; Refused (without a run) if it isn't open.

    Guard: the task is stored, without completion, `seq` or interruption, and its run hasn't ended. The row gets status,
    output, types, error and `completed_at` = `at`; it stays without `seq` until the run's code has seen it. The run's
    `wakes` is raised by one. If the run is in status `waiting`, `open_waits` falls by one; at 0, or if `resume_at` has
    come, it moves to `queued`: its place in the queue is that of `created_at`, `reason` and `error` are cleared. Else its
    timer is set to `resume_at` unless it is earlier. A run that waits for its timer only (without `open_waits`: a back-off)
    goes on waiting. Of several for one run in a batch, the first one's result tells what became of the run by all of them.
    What waited for this task (waiters of events, operations) is deleted, whether or not the guard holds. `tasks` are
    written below the task if it does (rows whose id exists are replaced).
    """

    run_id: str
    task_id: str
    status: TaskStatus
    at: int
    waiting: RunStatus
    queued: RunStatus
    output: str | None = None
    types: str | None = None
    error: ErrorInfo | None = None
    tasks: Sequence[TaskRecord] = ()


class MoveRun(Struct, kw_only=True, gc=False):
    """Take a run from one status to another, with all that belongs to the move. Result: Applied or Refused.

    Guard: the run's status is `expected` and its latest execution is `execution`. Leaving a status removes the run from
    where that status put it (ready queue, lease, timer); entering one puts it there: QUEUED with `priority` (kept if
    None) at `at`, or at `ready_at`; WAITING with a timer at `wake_at`, if it has one. EXECUTING can't be entered:
    ClaimRuns does that.

    Attributes:
        at: now, for completed and queue order.
        ready_at: its place in the queue, if that isn't `at`.
        add_spent_ms: added to the time executed.
        crashes: new value of the counter.
        failures: likewise; None keeps it.
        output, types, error, reason, failed_tasks: replace the stored ones (absent = cleared).
        completed_at: set for terminal statuses, else None (so is `wake_at`, but for WAITING).
        tasks, logs, effects: as in RecordTasks, written in the same transaction.
        cancel_open: tasks without completion or interruption become CANCELED, completed at `at`.
        reset: ids of tasks whose rows are deleted, so that they start afresh, with rows below that the platform made; every interruption from the earliest of
            their completions (its `seq`) on is undone too: CANCELED rows deleted, `interrupted` cleared on others.
            With an empty list nothing is reset.
        reset_open: also delete rows CANCELED without an interruption (those `cancel_open` made).
        wakes_seen: if the run's `wakes` is another, somebody resolved a task that the execution hasn't seen: `otherwise`
            is entered instead of `status`, without timer, waits and reason. None: not compared.
        otherwise: see `wakes_seen`.
        open_waits, resume_at: see RunRow; 0 and None unless WAITING.
        waits: events that tasks of the run wait for from now on, of a move to WAITING: no other task of it does any more.
        resolve: the task of another run that waited for this one's end: after all moves of the batch.
        revoke: of a run that was EXECUTING, keep the lease as revoked, until ReleaseLease: its slot isn't free yet.

    Tasks, logs and effects are written first, then `cancel_open`, `reset`, `reset_open` look at the result. A run that
    ends (`completed_at`) is waited for no more: its waiters of events and its operations are deleted.
    """

    run_id: str
    expected: RunStatus
    execution: int
    status: RunStatus
    at: int
    ready_at: int | None = None
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
    effects: Sequence[Effect] = ()
    cancel_open: bool = False
    reset: list[str] = []
    reset_open: bool = False
    wakes_seen: int | None = None
    otherwise: RunStatus | None = None
    open_waits: int = 0
    resume_at: int | None = None
    waits: Sequence[EventWait] = ()
    resolve: ResolveTask | None = None
    revoke: bool = False


class DeleteRuns(Struct, kw_only=True):
    """Delete ended runs with all that is theirs, and of their events those that DeleteEvents would. Result: Deleted.

    Guard, for each: its status is terminal (`completed_at` is set), no execution of it holds a slot any more, and its
    parent's status is terminal, if it has one.
    """

    ids: list[str]


class DeleteEvents(Struct, kw_only=True):
    """Delete events that caused no runs, or none that are left, and aren't to be delivered or compared. Result: Deleted."""

    ids: list[str]


class Deleted(Struct):
    """How many runs, or events, were deleted."""

    count: int


# --- executions --------------------------------------------------------------------------------------------------------


class RenewLeases(Struct, kw_only=True):
    """Extend every lease that `owner` holds to `expires_at`, but for revoked ones: their end comes. Result: Renewed."""

    owner: str
    expires_at: int


class ReleaseLease(Struct, kw_only=True):
    """An execution acknowledges that its run was taken away: a revoked lease is deleted. Result: Applied."""

    run_id: str
    execution: int


class ClaimRuns(Struct, kw_only=True):
    """Hand at most `limit` queued runs to `owner`, fairly, within the limits. Result: Claimed.

    Queues of higher priority come first. Those of the same take turns, and within a queue its concurrency keys do: those
    served longest ago first, each in turn one more run while there are any; within a key the highest priority first, then
    the longest queued, then by id. Nothing is claimed from a paused queue, nor beyond the limits: at most
    `environment_limit` executions hold a slot in the environment, `concurrency_limit` in a queue, `key_limit` under a key of
    it. (Slots are leases; they are counted, not stored.) Less than `limit` is claimed only if nothing more may be. A queue
    or key under which nothing waits may be forgotten; a key then comes after those of its queue that haven't had their turn.

    Each run moves from `expected` to `status` (QUEUED, EXECUTING), its execution number is raised by one and it gets a
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
    environment_limit: int | None = None


class WakeRuns(Struct, kw_only=True):
    """Queue at most `limit` runs whose timers are due at `at`, earliest first. Result: Woken.

    Each moves from `expected` to `status` (WAITING, QUEUED) and leaves nothing of its wait behind; its count of crashes
    stays: a back-off is such a wait. It is queued by when it was created: what began earlier goes on earlier.
    """

    limit: int
    at: int
    expected: RunStatus
    status: RunStatus


class Applied(Struct, gc=False):
    """The change took effect (or had already: a repeat).

    Attributes:
        overtaken: a MoveRun entered `otherwise` instead of `status`.
        woken: a resolution put its run into the queue.
        due_at: a resolution set its run's timer to this earlier instant.
    """

    overtaken: bool = False
    woken: bool = False
    due_at: int | None = None


class Refused(Struct, kw_only=True):
    """The guard did not hold; `run` is the run as it is now, None if there is none."""

    run: RunRow | None


class Renewed(Struct):
    """How many leases were extended."""

    count: int


class Woken(Struct, gc=False):
    """Ids of the runs that were queued."""

    runs: list[str]


class Claimed(Struct, gc=False):
    """The claims, in the order of the queue."""

    claims: list[Claim]


# --- queues ------------------------------------------------------------------------------------------------------------


class DefineQueue(Struct, kw_only=True):
    """Make a queue, or change its limits and priority; a pause stays. Result: Applied."""

    id: str
    concurrency_limit: int | None = None
    key_limit: int | None = None
    priority: int = 0


class PauseQueue(Struct, kw_only=True):
    """Let nothing be claimed from a queue (`paused_at`), or everything again (None). Result: Applied.

    A queue that doesn't exist yet is made.
    """

    id: str
    paused_at: int | None


# --- schedules ---------------------------------------------------------------------------------------------------------


class PutSchedule(Struct, kw_only=True):
    """Write a schedule, whatever was there before. Result: Applied."""

    schedule: ScheduleRow


class TickSchedule(Struct, kw_only=True):
    """A schedule fires: its event, the runs it causes and its next tick. Result: Applied or Refused (without a run).

    Guard: it is active and its `next_at` is `expected`. `last_at` becomes `expected`. An event that is known already
    (a repeat) is left as it is.
    """

    id: str
    expected: int
    next_at: int
    at: int
    event: EventRecord
    runs: list[NewRun]


# --- waits for events --------------------------------------------------------------------------------------------------


class FinishMatch(Struct, kw_only=True):
    """An event has been compared with all waiters. Result: Applied."""

    event_id: str


class CheckWaiter(Struct, kw_only=True):
    """A waiter has been compared with the events that arrived before it was written. Result: Applied."""

    run_id: str
    task_id: str


class RepeatOperation(Struct, kw_only=True):
    """An operation's call is to be made again at `due_at`. Result: Applied, or Refused if it isn't at `attempt`.

    `attempt` is the one that was made; the next has the following number. `tries` is how many calls in a row will have
    been made then without success, that one included. `tasks` are written below the task, as what is known of the attempt
    (rows whose id exists are replaced).
    """

    run_id: str
    task_id: str
    attempt: int
    due_at: int
    tries: int
    tasks: Sequence[TaskRecord] = ()


class PutAccount(Struct, kw_only=True):
    """Write an account's metadata (JSON). Result: Applied."""

    id: str
    metadata: str | None
    at: int


Change: TypeAlias = (
    IngestEvent
    | DeliverEvent
    | CancelEvent
    | RecordTasks
    | ResolveTask
    | MoveRun
    | DeleteRuns
    | DeleteEvents
    | RenewLeases
    | ReleaseLease
    | WakeRuns
    | ClaimRuns
    | DefineQueue
    | PauseQueue
    | PutSchedule
    | TickSchedule
    | FinishMatch
    | CheckWaiter
    | RepeatOperation
    | PutAccount
    | UpdateStatus
    | SetValue
    | DeleteValue
    | AnnotateRun
)
Result: TypeAlias = Ingested | Applied | Refused | Renewed | Woken | Claimed | Deleted
