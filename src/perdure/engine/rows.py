"""What a store holds, as its answers have it. Instants are milliseconds; `output`, `types` and the like are JSON text.

What exists once per run or task has `gc=False`: it can't be part of a cycle, and collections (a fifth of the time of
short runs) needn't look at it.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.schema.execution import EventRecord
from perdure.schema.runs import ErrorInfo, RunStatus


class RunRow(Struct, kw_only=True, gc=False):
    """A run's record without its tasks; see schema.runs.Run.

    Attributes:
        execution: number of the latest execution, 0 before the first.
        crashes, failures: see Claim.
        spent_ms: time executed so far, waits excluded.
        failed_tasks: of a FAILED run, the tasks it failed on.
        number: 1, 2, 3 ... among the runs of its job.
        queue, queue_key: where it waits for a slot; the key is "" unless its job has a concurrency key.
        parent_run_id, parent_task_id: who waits for its end.
        is_internal: made by perdure for itself (the delivery of a notification).
        wakes: how many of its tasks were resolved by others so far.
        open_waits: while WAITING, how many tasks others still have to resolve.
        resume_at: while WAITING, from when on a resolution that isn't the last may wake it.
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
    number: int = 0
    queue: str = ""
    queue_key: str = ""
    account_id: str | None = None
    parent_run_id: str | None = None
    parent_task_id: str | None = None
    tags: list[str] = []
    metadata: str | None = None
    is_internal: bool = False
    wakes: int = 0
    open_waits: int = 0
    resume_at: int | None = None


class LeaseRow(Struct, kw_only=True):
    """An execution that holds a slot.

    Attributes:
        progressed: whether a task completion (a later `seq`) was recorded since it was claimed.
        running: keys of tasks recorded as RUNNING, latest started first (whom to name when a run is poisonous).
        is_revoked: its run was ended by somebody else, and it hasn't acknowledged that yet.
        run: of its run what `rescue` needs; `failures` and so on as stored.
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
    is_revoked: bool = False
    job_id: str = ""
    event_id: str = ""
    account_id: str | None = None
    parent_run_id: str | None = None
    parent_task_id: str | None = None
    is_internal: bool = False
    created_at: int = 0


class ScheduleRow(Struct, kw_only=True):
    """What fires at points in time.

    Attributes:
        id: unique; ticks are events `{id}:{ts}`.
        dispatcher: "job:<job id>", or "dynamic:<id>" of a dynamic schedule whose every attached job runs.
        key: of a registration; the job's id for a job's own schedule.
        schedule: JSON of a perdure.schedules.Cron or Interval.
        catch_up: whether ticks missed while nothing ran are made up for, one by one.
        metadata: JSON; jobs find it in `ctx.source`.
        next_at: when it fires next; None while it is not active.
        last_at: the tick before.
    """

    id: str
    dispatcher: str
    key: str
    schedule: str
    created_at: int
    catch_up: bool = False
    metadata: str | None = None
    account_id: str | None = None
    is_active: bool = True
    next_at: int | None = None
    last_at: int | None = None


class StatusRow(Struct, kw_only=True):
    """A named progress record of a run. `data`: JSON; `history`: JSON list of {label, state, data, at}, oldest first."""

    key: str
    label: str
    created_at: int
    updated_at: int
    state: str | None = None
    data: str | None = None
    history: str = "[]"


class WaiterRow(Struct, kw_only=True):
    """A task that waits for an event named `name`; filters are JSON."""

    run_id: str
    task_id: str
    name: str
    since: int
    source: str | None = None
    filter: str | None = None
    context_filter: str | None = None
    account_id: str | None = None


class Match(Struct, kw_only=True):
    """An event that has to be compared with the waiters of its name."""

    event: EventRecord
    waiters: list[WaiterRow]


class OperationRow(Struct, kw_only=True):
    """A call that the platform makes for a task.

    Attributes:
        attempt: of the call that is due, from 1.
        tries: of the same: 1, and one more for each call in a row that failed before it.
        started_at: when the first call was due.
        operation: JSON.
    """

    run_id: str
    task_id: str
    due_at: int
    attempt: int
    tries: int
    started_at: int
    operation: str


class AccountRow(Struct, kw_only=True):
    """A user of the application. `metadata`: JSON."""

    id: str
    metadata: str | None = None
    created_at: int = 0


class QueueRow(Struct, kw_only=True):
    """A queue as it is now.

    Attributes:
        concurrency_limit: executions at once, in all; None for any number.
        key_limit: the same per concurrency key.
        paused_at: since when nothing is claimed from it; None if it isn't paused.
        priority: queues of higher priority are served first.
        queued, executing: how many runs are in it, and how many of its executions hold a slot.
    """

    id: str
    concurrency_limit: int | None = None
    key_limit: int | None = None
    paused_at: int | None = None
    priority: int = 0
    queued: int = 0
    executing: int = 0


class QueuePlace(Struct, kw_only=True):
    """Where a queued run stands.

    Attributes:
        queue: its queue.
        ahead: runs of its lane that are claimed before it.
        executing_key: executions of its queue under its concurrency key.
        executing_all: executions of the environment.
    """

    queue: QueueRow
    ahead: int
    executing_key: int
    executing_all: int
