"""What an executor and the platform tell each other about one execution of one run.

JSON travels as text that was encoded once, at the edge: `output` is the JSON of a value, `types` the map that restores
what JSON can't say (`sdk/values.py`). Instants are milliseconds since the epoch.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from .effects import EventWait
from .runs import ErrorInfo, TaskStatus

PLATFORM_ROW = -1
"""`TaskRecord.opened` of a row that isn't a task of the run's code."""


class TaskRecord(Struct, kw_only=True, gc=False):
    """The whole state of a task. Recording one replaces what was known of that task (a missing output is kept).

    Attributes:
        key: as written; JSON for a list key.
        position: order of appearance in the run, for display.
        opened: position in the run's history when it first appeared: a replay lets nothing after that happen before.
            PLATFORM_ROW: the platform made it for people to see, and no execution gets it.
        absorbed: its body was asked to cancel, and completed or failed all the same: so it does on replay.
        seq: position in the run's history at which its completion (COMPLETED, ERRORED) was observed; from 1.
        interrupted: position in the history at which user code cancelled it. A replay parks it until that happens again.
        attempts: bodies started so far.
        due_at: while WAITING, when it goes on; while RUNNING, the deadline of the body if it has been put down inside.
        omitted: the output was left out of a claim for its size: `Journal.fetch_output` has it.
        details: JSON {"description", "icon", "params", "properties", "style", "redact"}, only those that were given.
    """

    id: str
    idempotency_key: str
    key: str
    name: str
    status: TaskStatus
    position: int
    opened: int = 0
    absorbed: bool = False
    parent_id: str | None = None
    seq: int | None = None
    interrupted: int | None = None
    attempts: int = 0
    due_at: int | None = None
    started_at: int | None = None
    completed_at: int | None = None
    output: str | None = None
    types: str | None = None
    error: ErrorInfo | None = None
    details: str | None = None
    omitted: bool = False


class LogRecord(Struct, kw_only=True, gc=False):
    """A log line. `id` is derived from where it was written, so a replay writes the same line to no effect."""

    id: str
    level: str
    message: str
    at: int
    data: str | None = None
    task_id: str | None = None


class EventRecord(Struct, kw_only=True, gc=False):
    """An event as stored; `payload`, `context` and `source_context` are JSON text.

    Attributes:
        account_id: of the user of the application that it is for.
        source_context: {"id", "metadata"} of the registration that it comes from.
        deliver_at: when it is to be delivered, if not at once.
        delivered_at: when it first caused or woke something.
        cancelled_at: when it was cancelled.
        run_options: JSON of what its sender wants of the runs it causes (tags, metadata, concurrency key, priority).
    """

    id: str
    name: str
    payload: str
    timestamp: int
    context: str | None = None
    source: str = "trigger.dev"
    is_test: bool = False
    account_id: str | None = None
    source_context: str | None = None
    deliver_at: int | None = None
    delivered_at: int | None = None
    cancelled_at: int | None = None
    run_options: str | None = None


class Claim(Struct, kw_only=True, gc=False):
    """A run handed to an executor, with all it needs to replay.

    Attributes:
        execution: 1, 2, 3 ...: the fence. Writes that carry an older one are refused.
        crashes: executions before this one, in a row, that ended without a word and recorded nothing new.
        failures: executions that an uncaught error ended and the job's `retry` had tried again.
        spent_ms: time spent executing so far.
        tasks: every task known, finished or not, in no particular order.
        lease_expires_at: when others may take the run unless the lease is renewed.
        number: of the run, 1, 2, 3 ... of its job.
        tags, metadata: of the run; JSON.
        account: metadata of the event's account; JSON.
        wakes: how many of the run's tasks were resolved by others; see Suspended.
        created_at: when the run was made.
        parent_run_id, parent_task_id: the task of another run that waits for this one's end.
        is_internal: the run is one that perdure made for itself.
        queue, queue_key: where it was queued.
    """

    run_id: str
    execution: int
    job_id: str
    job_version: str
    event: EventRecord
    started_at: int
    lease_expires_at: int
    crashes: int = 0
    failures: int = 0
    spent_ms: int = 0
    priority: int = 0
    tasks: list[TaskRecord] = []
    number: int = 0
    tags: list[str] = []
    metadata: str | None = None
    account: str | None = None
    wakes: int = 0
    created_at: int = 0
    parent_run_id: str | None = None
    parent_task_id: str | None = None
    is_internal: bool = False
    queue: str = ""
    queue_key: str = ""


class Completed(Struct, frozen=True, gc=False):
    """The run function returned; `output` is JSON."""

    output: str
    types: str | None = None


class Failed(Struct, frozen=True, gc=False):
    """An error left the run function. `failed_tasks`: ids of the tasks it came from (what `continue_run` resets).

    retry_at: the job's own `retry` policy gives it another execution then; the failed tasks are reset.
    """

    error: ErrorInfo
    failed_tasks: list[str] = []
    retry_at: int | None = None


class Suspended(Struct, frozen=True, gc=False):
    """Nothing in the run can move before `wake_at`, or before somebody else resolves one of its tasks.

    Attributes:
        wake_at: the earliest instant at which something in the run can move by itself; None if nothing can.
        wakes: resolutions that the execution knows of: those of its claim and those it was told of. If there are more,
            the run goes on at once.
        open_waits: tasks that others have to resolve.
        waits: which of them wait for events.
        waits_for_all: nothing in the run moves before the last of them is resolved.
        replay_ms: how long this execution took to get to where it suspends: what the next one costs at least.
    """

    wake_at: int | None
    wakes: int = 0
    open_waits: int = 0
    waits: tuple[EventWait, ...] = ()
    replay_ms: int = 0
    waits_for_all: bool = False


class Yielded(Struct, frozen=True, gc=False):
    """The execution ended early on purpose (yield, shutdown, forced replay); go on as soon as possible."""

    reason: str


class TimedOut(Struct, frozen=True, gc=False):
    """The run used up its `max_duration`."""

    limit_ms: int


class InvalidPayload(Struct, frozen=True, gc=False):
    """The payload doesn't fit the job's schema. `issues`: [{"path": [...], "message": ...}] as an ErrorInfo's message."""

    error: ErrorInfo


class UnresolvedAuth(Struct, frozen=True, gc=False):
    """The credentials that the job's integrations need could not be had. `error`: which, and why."""

    error: ErrorInfo


class JobMissing(Struct, frozen=True, gc=False):
    """This process doesn't define the job."""


Outcome: TypeAlias = (
    Completed | Failed | Suspended | Yielded | TimedOut | InvalidPayload | UnresolvedAuth | JobMissing
)
