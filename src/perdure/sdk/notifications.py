"""Telling an application how its runs ended: `on_success`, `on_failure`, `client.on`.

Each handler is an internal job. The end of a run that it is for makes a run of it, in one transaction (engine/core/
endings.py; decision 0010), so that an end is told however it came about, and whatever crashes. The handler is called as a
task of that run, with retries. What it does to the run that ended: nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from perdure.errors import UsageError
from perdure.schema.runs import ErrorInfo, RunStatus, Task
from perdure.schema.statuses import StatusRecord

from .context import AccountContext, Context, EnvironmentContext, JobContext
from .functions import facts_of
from .jobs import Job
from .retry import UNTIL_AVAILABLE, Retry
from .triggers.invoke import invoke_trigger

if TYPE_CHECKING:
    from .client import Client
    from .io import IO

RunEnd: TypeAlias = Literal["run_succeeded", "run_failed"]
"""What handlers can be for: a run has completed; it has ended in any other way."""

NotificationHandler: TypeAlias = "Callable[[RunNotification], Any]"
"""`handler(notification)`, sync or async. What it returns is ignored; if it raises it is called again later."""

INTERNAL = "perdure:"
"""Ids of internal jobs begin so."""

DELIVERY = Retry(attempts=13, factor=2.7, min_delay=2, max_delay=timedelta(hours=6))
"""How often a handler is called that raises: 13 times in all (Protocol, background queues), over half a day to a day."""


_log = logging.getLogger("perdure.executor")


class Invocation(Struct, frozen=True, kw_only=True):
    """What started the run: the id of its event, and what came with it."""

    id: str
    payload: Any
    context: Any = None
    timestamp: datetime


class RunNotification(Struct, frozen=True, kw_only=True):
    """How a run ended: what handlers of `on_success`, `on_failure` and `client.on` get.

    Attributes:
        ok: whether it has completed.
        status, error, completed_at: as the run ended, even if it has been continued since. The rest is as of now.
        statuses: what the run showed by `io.create_status`.
        output: what a completed run returned.
        task: the task that the error came from, if it was one.
        updated_at: when the run ended, or one of its statuses was changed after that.
        executions, execution_duration: how many it had, and how long they took together, waits excluded.
    """

    id: str
    ok: bool
    status: RunStatus
    statuses: list[StatusRecord] = []
    output: Any = None
    error: ErrorInfo | None = None
    task: Task | None = None
    started_at: datetime | None
    updated_at: datetime
    completed_at: datetime
    is_test: bool
    executions: int
    execution_duration: timedelta
    invocation: Invocation
    job: JobContext
    account: AccountContext | None = None
    environment: EnvironmentContext

    def __repr__(self) -> str:
        return f"<RunNotification {self.id} of {self.job.id}: {self.status.label}>"


class RunEnded(Struct, frozen=True, rename="camel"):
    """The payload of a notification's event."""

    run_id: str
    status: str
    error: ErrorInfo | None = None


def notifying_job(client: Client, id: str, handler: NotificationHandler, where: str) -> Job[Any, None]:
    """The internal job that calls `handler`. Raises UsageError: the handler can't be called with a notification."""
    _check_handler(handler, where)
    call = _calling(handler)

    async def deliver(payload: Any, io: IO, ctx: Context) -> None:
        notification = await _load(client, msgspec.convert(payload, RunEnded), ctx)
        if notification is not None:
            await io.run_task("handler", call, notification, name=where, retry=DELIVERY, on_error=report)

    def report(error: Exception, task: Task) -> None:
        _log.warning(
            "%s failed at its try %d of %d: %s: %s",
            where,
            task.attempts,
            DELIVERY.attempts,
            type(error).__name__,
            error,
        )

    job = Job[Any, None](client, deliver, id=id, name=where, trigger=invoke_trigger(), retry=UNTIL_AVAILABLE)
    job.is_internal = True
    return job


def name_of(handler: Any) -> str:
    """What tells a handler from others, also in the next process."""
    return (
        f"{getattr(handler, '__module__', '')}.{getattr(handler, '__qualname__', type(handler).__qualname__)}"
    )


def _check_handler(handler: Any, where: str) -> None:
    if not callable(handler):
        raise UsageError(f"{where}: the handler isn't callable, it is {handler!r}")
    try:
        inspect.signature(handler).bind(None)
    except TypeError:
        raise UsageError(f"{where}: its handler must take one argument, the RunNotification") from None
    except ValueError:  # a builtin without a signature
        return


def _calling(handler: NotificationHandler) -> Callable[[RunNotification], Any]:
    """The body of the task that calls the handler: nothing has to be stored of what it returns."""
    if facts_of(handler).is_async:

        async def call_async(notification: RunNotification) -> None:
            await handler(notification)

        return call_async

    def call(notification: RunNotification) -> Awaitable[None] | None:
        value = handler(notification)
        return _dropped(value) if inspect.isawaitable(value) else None

    return call


async def _dropped(value: Awaitable[Any]) -> None:
    await value


async def _load(client: Client, ended: RunEnded, ctx: Context) -> RunNotification | None:
    """The notification, made of what is known of the run now; None if the run has been deleted."""
    run = await client.get_run(ended.run_id)
    if run is None:
        return None
    event = await client.get_event(run.event_id)
    statuses = await client.get_run_statuses(run.id)
    status = RunStatus(ended.status)
    failed = ended.error.task_id if ended.error is not None else None
    return RunNotification(
        id=run.id,
        ok=status is RunStatus.COMPLETED,
        status=status,
        statuses=statuses,
        output=run.output if status is RunStatus.COMPLETED else None,
        error=ended.error,
        task=next((task for task in run.tasks if task.id == failed), None),
        started_at=run.started_at,
        updated_at=max([ctx.event.timestamp, *(each.updated_at for each in statuses)]),
        completed_at=ctx.event.timestamp,
        is_test=run.is_test,
        executions=run.executions,
        execution_duration=run.execution_duration,
        invocation=Invocation(
            id=run.event_id,
            payload=run.payload,
            context=event.context if event is not None else None,
            timestamp=event.timestamp if event is not None else run.created_at,
        ),
        job=JobContext(id=run.job_id, version=run.job_version),
        account=ctx.account,
        environment=ctx.environment,
    )
