"""Jobs: what an application defines, and what `client.job` returns."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from perdure.durations import to_ms
from perdure.errors import UsageError
from perdure.schema.runs import Run

from .concurrency import ConcurrencyKey, ConcurrencyLimit, slots
from .logger import LEVELS
from .operation import Duration
from .retry import Retry
from .run_options import check_priority
from .scope import current_scope
from .triggers.trigger import Trigger
from .values import codec_for, return_annotation

if TYPE_CHECKING:
    from .client import Client
    from .notifications import NotificationHandler

Payload = TypeVar("Payload")
Output = TypeVar("Output")

PayloadIn = TypeVar("PayloadIn")


class JobDecorator(Protocol[PayloadIn]):
    """What `client.job(...)` returns: makes a job of a run function, async or not, and keeps its output's type."""

    @overload
    def __call__(self, fn: Callable[..., Coroutine[Any, Any, Output]], /) -> Job[PayloadIn, Output]: ...
    @overload
    def __call__(self, fn: Callable[..., Output], /) -> Job[PayloadIn, Output]: ...


_VERSION = re.compile(r"\d+\.\d+\.\d+\Z")


class Job(Generic[Payload, Output]):
    """A job of a client. Make one with `client.job` or `client.define_job`.

    Attributes:
        fn: the run function as written: call it in unit tests with an `io` of your own.
        slots: where its runs wait, and how many may execute at once; `concurrency_key` is what divides them.
        is_async: whether it is `async def`; a plain `def` runs in a thread.
        max_duration_ms: time a run may execute in all, waits excluded; None for no limit.
        retry: when an uncaught error gives the run another execution, its completed tasks kept.
        on_success, on_failure: called with a RunNotification when one of its runs has completed, or ended otherwise.
        is_internal: it is perdure's own.
    """

    is_internal = False

    def __init__(
        self,
        client: Client,
        fn: Callable[..., Awaitable[Output]] | Callable[..., Output],
        *,
        id: str,
        name: str | None = None,
        version: str = "1.0.0",
        trigger: Trigger[Payload],
        enabled: bool = True,
        priority: int = 0,
        concurrency_limit: int | ConcurrencyLimit | None = None,
        concurrency_key: ConcurrencyKey | None = None,
        max_duration: Duration | None = None,
        retry: Retry | None = None,
        on_success: NotificationHandler | None = None,
        on_failure: NotificationHandler | None = None,
        log_level: str | None = None,
    ) -> None:
        where = f"job {id!r}"
        if not id:
            raise UsageError("a job needs an id")
        if not _VERSION.match(version):
            raise UsageError(f'{where}: version {version!r} must be three numbers, like "1.0.0"')
        level = log_level or client.log_level
        if level.upper() not in LEVELS:
            raise UsageError(f"{where}: log_level {level!r} is none of log, error, warn, info, debug")
        check_priority(priority, where)
        _check_signature(fn, where)
        self.client = client
        self.fn: Any = fn
        self.id = id
        self.name = name or getattr(fn, "__name__", id)
        self.version = version
        self.trigger = trigger
        self.enabled = enabled
        self.priority = priority
        self.slots = slots(where, concurrency_limit, concurrency_key)
        self.concurrency_key = concurrency_key
        self.max_duration_ms = None if max_duration is None else to_ms(max_duration, f"{where}: max_duration")
        self.retry = retry
        self.on_success = on_success
        self.on_failure = on_failure
        self.log_level = level
        self.is_async = inspect.iscoroutinefunction(fn)
        self.output_codec = codec_for(return_annotation(fn))

    async def invoke(self, payload: Payload, *, key: str | None = None, context: Any = None) -> Run:
        """Start a run of this job, whatever its trigger; returns it as it is then (queued).

        Args:
            payload: what the run function gets; checked against the schema here already.
            key: idempotency key: invoking again with it returns the first run.
            context: JSON that the run finds in `ctx.event.context`.

        Raises:
            InvalidPayloadError: the payload doesn't fit the schema.
            ConfigurationError: the client isn't connected to anything.
            UsageError: called inside a run, where it would be repeated by a replay.
        """
        if current_scope.get() is not None:
            raise UsageError(
                f"job {self.id!r}: invoke inside a run would start another run at every replay, and a durable form of it "
                "isn't there yet. Send an event that triggers the job: await io.send_event(key, name, payload)"
            )
        return await self.client.invoke(self, payload, key=key, context=context)

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.version}>"


def _check_signature(fn: Callable[..., Any], where: str) -> None:
    if not callable(fn):
        raise UsageError(f"{where}: the run function isn't callable")
    try:
        inspect.signature(fn).bind(None, None, None)
    except TypeError:
        raise UsageError(
            f"{where}: its run function must take three arguments: def {getattr(fn, '__name__', 'run')}(payload, io, ctx)"
        ) from None
    except ValueError:  # a builtin without a signature: called as it is
        return
