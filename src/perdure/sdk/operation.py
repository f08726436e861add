"""One io call: the task it stands for, how far it has come, and what it may be told (`TaskOptions`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from perdure.clock import to_datetime
from perdure.durations import to_ms
from perdure.errors import DuplicateKeyError, TaskError, UsageError
from perdure.limits import DEFAULT_LIMITS, Limits
from perdure.schema.execution import TaskRecord
from perdure.schema.runs import Task, TaskStatus

from .branches import Branch, OperationFuture, operation_future
from .call_sites import CallSite, at
from .keys import Key, display_key, task_ids
from .retry import Retry
from .scope import Scope
from .texts import check_text
from .values import to_json

if TYPE_CHECKING:
    from perdure.schema.effects import RunEffect

    from .execution import Execution

Duration: TypeAlias = timedelta | float
"""A timedelta, or seconds."""

ErrorHandler: TypeAlias = Callable[[Exception, Task], Any] | Callable[[Exception, Task], Awaitable[Any]]
"""`on_error(error, task)`, sync or async, called after a failed attempt. What it returns decides:

None: go on as `retry` says. False: don't retry. A timedelta or an aware datetime: try again after or at it.
An exception: fail or retry as if the task had raised that instead; so does an exception that it raises.
"""


_OPTION_TYPES: tuple[tuple[str, Any, str], ...] = (
    ("name", str, "a string"),
    ("description", str, "a string"),
    ("icon", str, "a string"),
    ("properties", list, 'a list of dicts like {"label": "Status", "text": "200"}'),
    ("style", dict, 'a dict like {"style": "minimal"}'),
    ("redact", list, 'a list of dotted paths like ["card.number"]'),
    ("retry", Retry, "a Retry"),
    ("delay_until", datetime, "an aware datetime"),
)


class TaskOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a task is run, and how it is shown. None: not given."""

    name: str | None = None
    description: str | None = None
    icon: str | None = None
    params: Any = None
    properties: list[dict[str, Any]] | None = None
    style: dict[str, Any] | None = None
    redact: list[str] | None = None
    retry: Retry | None = None
    timeout: Duration | None = None
    delay_until: datetime | None = None
    on_error: Any = None
    output: Any = None

    def __post_init__(self) -> None:
        for option, kinds, what in _OPTION_TYPES:
            value: Any = getattr(self, option)
            if value is not None and not isinstance(value, kinds):
                raise UsageError(f"task option {option} must be {what}, not {value!r}")
        for option, inner, what in (("redact", str, "paths"), ("properties", dict, "dicts")):
            if any(not isinstance(item, inner) for item in getattr(self, option) or ()):
                raise UsageError(
                    f"task option {option} must be a list of {what}, not {getattr(self, option)!r}"
                )
        if self.on_error is not None and not callable(self.on_error):
            raise UsageError(f"task option on_error must be a function (error, task), not {self.on_error!r}")
        if self.name is not None:
            check_text(self.name, "task option name", DEFAULT_LIMITS.name_chars_max)
        if self.timeout is not None:
            to_ms(self.timeout, "task option timeout")

    def details(self, where: str, limits: Limits) -> str | None:
        """JSON of what is only shown; None if nothing of it was given."""
        shown = {
            name: value
            for name in ("description", "icon", "params", "properties", "style", "redact")
            if (value := getattr(self, name)) is not None
        }
        if not shown:
            return None
        where = f"what is shown of {where} (params, properties ...)"
        return to_json(shown, where=where, limit=limits.params_bytes_max, setting="limits.params_bytes_max")


NO_OPTIONS = TaskOptions()

_PENDING = TaskStatus.PENDING


def wait_options(**params: Any) -> TaskOptions:
    """How a wait is shown; `params` say for how long."""
    return TaskOptions(icon="clock", style={"style": "minimal"}, params=params)


def open_operation(
    execution: Execution,
    key: Key,
    name: str | None,
    options: TaskOptions,
    scope: Scope,
    branch: Branch | None,
    site: CallSite,
) -> Operation:
    """Find or make the record of the task `key` of `scope`, asked for at `site`.

    Raises:
        DuplicateKeyError: the key was used before in this scope.
        LimitExceededError: the key is too long, or the run has too many tasks.
    """
    records, limits = execution.records, execution.settings.limits
    parent_id = scope.parent_id
    idempotency, task = task_ids(execution.claim.run_id, parent_id, key, limits.key_chars_max)
    if (first := scope.note_call(idempotency, site)) is not site:
        raise DuplicateKeyError(key=display_key(key), first=at(first), second=at(site))
    record = records.open(task)
    if record is None:
        shown = display_key(key)
        count = len(records)
        record = records.add(
            TaskRecord(
                id=task,
                idempotency_key=idempotency,
                key=shown,
                name=name or shown,
                status=_PENDING,
                position=count,
                opened=execution.stage.reached,
                parent_id=parent_id,
                details=None if options is NO_OPTIONS else options.details(f"task {shown!r}", limits),
            )
        )
        if count + 1 == limits.tasks_per_run_warn:
            execution.warn(
                f"the run has {len(records):,} tasks: every resumption goes through all of them. Divide the work among "
                f"several runs (past {limits.tasks_per_run_max:,} it fails)"
            )
    return Operation(record, scope, branch)


class Operation:
    """A task being run or replayed by a branch.

    Attributes:
        record: what is stored of it; shared with the execution's table of records.
        scope: where the call was made.
        branch: the branch that made it; None in a sync run.
        deadline: instant at which its running body is interrupted; None without `timeout`.
        effect: what its body asks the platform to do in the transaction that records its completion.
    """

    __slots__ = ("branch", "deadline", "effect", "future", "record", "scope")

    def __init__(self, record: TaskRecord, scope: Scope, branch: Branch | None) -> None:
        self.record = record
        self.scope = scope
        self.branch = branch
        self.deadline: int | None = None
        self.effect: RunEffect | None = None
        self.future: asyncio.Future[Any] | None = None

    @property
    def where(self) -> str:
        return f"task {self.record.key!r}"

    def __str__(self) -> str:
        return self.where

    @property
    def branch_in_run(self) -> Branch:
        """The branch, for code that only async runs reach."""
        assert self.branch is not None
        return self.branch

    def new_future(self, *, is_certain: bool = False) -> OperationFuture:
        """What the branch awaits next; resolved by `release`. `is_certain`: see OperationFuture."""
        assert self.branch is not None
        self.future = future = operation_future(self.branch, is_certain=is_certain)
        return future

    def tell(self) -> None:
        """Its end is durable: the branch learns of it when it is its turn."""
        execution, seq = self.scope.execution, self.record.seq
        assert seq is not None
        if execution.yielding:
            return  # a later execution tells the branch
        if execution.stage.passes_at_once(seq):
            self.release()
        else:
            execution.stage.deliver(seq, self.release)

    def release(self) -> None:
        """Let the branch go on."""
        future = self.future
        if future is not None and not future.done():
            future.set_result(None)
            self.scope.execution.stage.branch_freed(self.branch_in_run)

    def as_task(self) -> Task:
        """As user code sees it."""
        return task_of(self.record)

    def error(self) -> TaskError:
        """The error of a task that failed for good, built from its record."""
        info = self.record.error
        assert info is not None
        return TaskError(
            key=self.record.key,
            error_name=info.name,
            error_message=info.message,
            error_types=info.types,
            stack=info.stack,
            task_id=info.task_id or self.record.id,
        )


def task_of(record: TaskRecord) -> Task:
    """The public view of a record, without its output."""
    return Task(
        id=record.id,
        idempotency_key=record.idempotency_key,
        key=record.key,
        name=record.name,
        status=record.status,
        parent_id=record.parent_id,
        attempts=record.attempts,
        delay_until=to_datetime(record.due_at)
        if record.due_at and record.status is TaskStatus.WAITING
        else None,
        started_at=to_datetime(record.started_at) if record.started_at else None,
        error=record.error,
    )
