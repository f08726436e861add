"""What an execution asks the platform for together with a task's record: in one transaction, so neither is without the other.

JSON travels as text that was encoded once, at the edge. Instants are milliseconds since the epoch.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Raw, Struct

from .runs import ErrorInfo, TaskStatus


class CallJob(Struct, frozen=True, kw_only=True, gc=False):
    """Start a run of a job whose end completes the task `task_id`, with the JSON of a ChildResult as output.

    Attributes:
        key: idempotency key of the run: that of the task.
        payload, context, metadata: JSON.
        concurrency_key: under which it is queued; None for what its job says.
    """

    task_id: str
    job_id: str
    key: str
    payload: str
    context: str | None = None
    account_id: str | None = None
    tags: tuple[str, ...] = ()
    metadata: str | None = None
    concurrency_key: str | None = None
    priority: int | None = None


class StartOperation(Struct, frozen=True, kw_only=True, gc=False):
    """Have the platform make an HTTP call for a task, which completes it. `operation`: JSON of a FetchOperation."""

    run_id: str
    task_id: str
    at: int
    operation: str


class UpdateStatus(Struct, frozen=True, kw_only=True, gc=False):
    """Create a status of a run, or change it: what is given replaces, the version before goes to the history.

    Attributes:
        id: of this update: one that is known already changes nothing.
        label: required to create one.
        data: JSON object.
    """

    run_id: str
    key: str
    id: str
    at: int
    label: str | None = None
    state: str | None = None
    data: str | None = None


class SetValue(Struct, frozen=True, kw_only=True, gc=False):
    """Keep a value. `scope`: "env", "job:<id>" or "run:<id>"; `value`: JSON, `types` as in TaskRecord."""

    scope: str
    key: str
    value: str
    at: int
    types: str | None = None


class DeleteValue(Struct, frozen=True, kw_only=True, gc=False):
    """Forget a value, if there is one."""

    scope: str
    key: str


class AnnotateRun(Struct, frozen=True, kw_only=True, gc=False):
    """Add tags to a run, or members to its metadata (a JSON object; members replace those of the same name)."""

    run_id: str
    tags: tuple[str, ...] = ()
    metadata: str | None = None


class EventWait(Struct, frozen=True, kw_only=True, gc=False):
    """A task waits for an event of one of `names` that arrived at or after `since`; filters are JSON."""

    task_id: str
    names: tuple[str, ...]
    since: int
    source: str | None = None
    filter: str | None = None
    context_filter: str | None = None
    account_id: str | None = None


RunEffect: TypeAlias = (
    CallJob | StartOperation | UpdateStatus | SetValue | DeleteValue | AnnotateRun | EventWait
)
"""What may go along with a task's record. An EventWait: the task waits for that from now on (a suspension says it, too)."""


class ChildResult(Struct, frozen=True, kw_only=True):
    """How a run ended, for the task of another run that waited for it. `status` as on the wire; `types` as in TaskRecord."""

    run_id: str
    status: str
    output: Raw = Raw(b"null")
    types: str | None = None
    error: ErrorInfo | None = None


class Resolution(Struct, frozen=True, kw_only=True, gc=False):
    """How somebody else completed a task: COMPLETED with an output, or ERRORED. JSON as in TaskRecord."""

    task_id: str
    status: TaskStatus
    output: str | None = None
    types: str | None = None
    error: ErrorInfo | None = None
