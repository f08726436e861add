"""Runs and tasks as everybody sees them: statuses, and the values that `get_run` returns."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from msgspec import Struct


class RunStatus(Enum):
    """Status of a run. Values are the wire's (Protocol, shared types); names and labels are what people read.

    The wire's own names work too: `RunStatus.SUCCESS is RunStatus.COMPLETED`.
    """

    PENDING = "PENDING"
    QUEUED = "QUEUED"
    WAITING_ON_CONNECTIONS = "WAITING_ON_CONNECTIONS"
    EXECUTING = "EXECUTING"
    WAITING = "WAITING_TO_CONTINUE"
    COMPLETED = "SUCCESS"
    FAILED = "FAILURE"
    CANCELLED = "CANCELED"
    TIMED_OUT = "TIMED_OUT"
    INVALID_PAYLOAD = "INVALID_PAYLOAD"
    UNRESOLVED_AUTH = "UNRESOLVED_AUTH"

    SUCCESS = COMPLETED
    FAILURE = FAILED
    CANCELED = CANCELLED
    WAITING_TO_CONTINUE = WAITING

    @property
    def label(self) -> str:
        """As shown to people: "Timed out"."""
        return self.name.replace("_", " ").capitalize()

    @property
    def is_terminal(self) -> bool:
        """Whether a run in this status has ended (`continue_run` can still revive a failed one)."""
        return self in _TERMINAL


_TERMINAL = frozenset(
    {
        RunStatus.COMPLETED,
        RunStatus.FAILED,
        RunStatus.CANCELLED,
        RunStatus.TIMED_OUT,
        RunStatus.INVALID_PAYLOAD,
        RunStatus.UNRESOLVED_AUTH,
    }
)


class TaskStatus(Enum):
    """Status of a task (Protocol, shared types). CANCELED: interrupted by the run's own code, or open when the run ended."""

    PENDING = "PENDING"
    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    ERRORED = "ERRORED"
    CANCELED = "CANCELED"


class ErrorInfo(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An error as stored. `types`: qualified class names, most derived first; `task_id`: the task it came from."""

    name: str
    message: str
    stack: str | None = None
    types: list[str] = []
    task_id: str | None = None


class Task(Struct, frozen=True, kw_only=True):
    """A task of a run.

    Attributes:
        id: derived from `idempotency_key`; the same in every execution.
        idempotency_key: 64 hex characters, stable across retries: hand it to third parties for their deduplication.
        key: as written in the code; JSON for a list key.
        attempts: how many times its body has been started.
        delay_until: when it goes on, if it waits.
        output: decoded value, with redacted paths blanked.
    """

    id: str
    idempotency_key: str
    key: str
    name: str
    status: TaskStatus
    parent_id: str | None = None
    attempts: int = 0
    delay_until: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    output: Any = None
    error: ErrorInfo | None = None
    description: str | None = None
    icon: str | None = None
    params: Any = None
    properties: list[dict[str, Any]] = []
    style: dict[str, Any] | None = None


class Log(Struct, frozen=True, kw_only=True):
    """A line that `io.logger` recorded; `task_id` is the task it was written in."""

    level: str
    message: str
    at: datetime
    data: Any = None
    task_id: str | None = None


class Run(Struct, frozen=True, kw_only=True):
    """A run. `tasks` and `logs` are filled by `get_run`, in order of appearance; empty in lists of runs.

    Attributes:
        number: 1, 2, 3 ... among the runs of its job.
        executions: how many executions the run has had.
        attempts: 1, and one more for each time that the job's `retry` has tried it again.
        queue, concurrency_key: where it waits for a slot; the key is None for a job without one.
        account_id: of the user of the application that it is for.
        tags, metadata: what its sender gave along, and what it added itself; metadata is an object.
        parent_run_id, parent_task_id: the task of another run that waits, or waited, for its end.
        execution_duration: time spent executing, waits excluded.
        reason: why it is in this status, where the status alone doesn't say ("job 'x' isn't defined here").
        output: the decoded return value of a completed run.
    """

    id: str
    job_id: str
    job_version: str
    status: RunStatus
    event_id: str
    payload: Any = None
    output: Any = None
    error: ErrorInfo | None = None
    reason: str | None = None
    is_test: bool = False
    number: int = 0
    priority: int = 0
    queue: str = ""
    concurrency_key: str | None = None
    account_id: str | None = None
    tags: list[str] = []
    metadata: dict[str, Any] = {}
    parent_run_id: str | None = None
    parent_task_id: str | None = None
    executions: int = 0
    attempts: int = 1
    execution_duration: timedelta = timedelta()
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    wake_at: datetime | None = None
    tasks: list[Task] = []
    logs: list[Log] = []

    def __repr__(self) -> str:
        failure = f", error={self.error.name}: {self.error.message[:200]}" if self.error is not None else ""
        return f"<Run {self.id} of {self.job_id}: {self.status.label}, {len(self.tasks)} tasks{failure}>"


class EventRun(Struct, frozen=True, kw_only=True, gc=False):
    """A run that an event caused, in brief."""

    id: str
    job_id: str
    status: RunStatus


class Event(Struct, frozen=True, kw_only=True):
    """A named payload that was sent; `runs` are those it caused. Sending an id again returns the first event.

    Attributes:
        account_id: of the user of the application that it is for.
        deliver_at: when it is to be delivered, if it was sent for later.
        delivered_at: when it first caused a run, or woke one.
        cancelled_at: when it was cancelled, before its delivery.
    """

    id: str
    name: str
    payload: Any
    context: Any = None
    source: str = "trigger.dev"
    timestamp: datetime
    account_id: str | None = None
    deliver_at: datetime | None = None
    delivered_at: datetime | None = None
    cancelled_at: datetime | None = None
    is_test: bool = False
    runs: list[EventRun] = []


class Account(Struct, frozen=True, kw_only=True):
    """A user of the application. `metadata`: a JSON object."""

    id: str
    metadata: dict[str, Any] = {}
    created_at: datetime
