"""Jobs: what an application defines, and what `client.job` returns."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, Unpack, overload

from perdure.durations import to_ms
from perdure.errors import UsageError
from perdure.schema.runs import Run

from .concurrency import ConcurrencyKey, ConcurrencyLimit, slots
from .integrations.integration import Integration, checked_integrations
from .keys import Key
from .logger import LEVELS
from .operation import Duration
from .results import RunResult
from .retry import Retry
from .run_options import check_priority
from .scope import Scope, current_scope
from .texts import check_text
from .triggers.trigger import Trigger
from .values import codec_for, return_annotation

if TYPE_CHECKING:
    from .children import InvokeOptions
    from .client import Client
    from .execution import Execution
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
        integrations: services that its runs use, by their names in `io`.
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
        integrations: Mapping[str, Integration] | None = None,
        on_success: NotificationHandler | None = None,
        on_failure: NotificationHandler | None = None,
        log_level: str | None = None,
    ) -> None:
        where = f"job {id!r}"
        if not id:
            raise UsageError("a job needs an id")
        for what, text in (("id", id), ("name", name)):
            check_text(text, f"{where}: {what}", client.limits.name_chars_max)
        _check_kinds(where, trigger=(trigger, Trigger), enabled=(enabled, bool))
        if not isinstance(version, str) or not _VERSION.match(version):  # pyright: ignore[reportUnnecessaryIsInstance] (users aren't checked)
            raise UsageError(f'{where}: version {version!r} must be three numbers, like "1.0.0"')
        level = log_level or client.log_level
        if level.upper() not in LEVELS:
            raise UsageError(f"{where}: log_level {level!r} is none of log, error, warn, info, debug")
        given: Any = retry
        if given is not None and not isinstance(given, Retry):
            raise UsageError(f"{where}: retry must be a Retry, like Retry(attempts=3), not {retry!r}")
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
        self.integrations = checked_integrations(integrations, where)
        self.on_success = on_success
        self.on_failure = on_failure
        self.log_level = level
        self.is_async = inspect.iscoroutinefunction(fn)
        self.output_codec = codec_for(return_annotation(fn))

    def invoke(
        self, payload: Payload, *, key: Key | None = None, **options: Unpack[InvokeOptions]
    ) -> Coroutine[Any, Any, Run]:
        """Start a run of this job, whatever its trigger; returns it as it is then (queued).

        Inside a run `key` is required and names a task, as which it is done once, however often that is replayed.
        Outside, it is an idempotency key: invoking again with it returns the first run.

        Args:
            payload: what the run function gets; checked against the schema here already.
            key: see above.
            options: see `InvokeOptions`.

        Raises:
            InvalidPayloadError: the payload doesn't fit the schema (inside a run: TaskError).
            ConfigurationError: the client isn't connected to anything.
            UsageError: called inside a run without a key; or in a plain `def` one: use `io.invoke`.
        """
        scope = current_scope.get()
        if scope is None:
            if key is not None and not isinstance(key, str):
                raise UsageError(f"job {self.id!r}: outside a run, key is a string, not {key!r}")
            return self.client.invoke(self, payload, key=key, **options)
        from .children import invoke

        if key is None:
            raise UsageError(
                f"job {self.id!r}: invoke inside a run needs a key, as a task does: without one every replay would start "
                "another run. Write await job.invoke(payload, key=...)"
            )
        execution = self._execution(scope, "invoke")
        return invoke(execution, execution.called(), key, self, payload, options)

    def invoke_and_wait(
        self,
        payload: Payload,
        *,
        key: Key,
        timeout: Duration | None = None,
        **options: Unpack[InvokeOptions],
    ) -> Coroutine[Any, Any, RunResult[Output]]:
        """Start a run of this job inside another, and wait for its end, however it ends.

        Both happen once, however often that is replayed. While it waits the run holds no memory, slot or worker.
        Cancelling the run that waits doesn't cancel the one that it waits for.

        Args:
            payload: what the run function gets; checked against the schema here already.
            key: names the task, as in `io.run_task`.
            timeout: timedelta or seconds. Over it the task fails; the run that it waited for goes on.
            options: see `InvokeOptions`.

        Raises:
            TaskError: it hasn't ended in time (`matches(TimeoutError)`), or the payload doesn't fit.
            UsageError: called outside a run: `await client.wait_for_run((await job.invoke(payload)).id)`; or in a plain
                `def` one: use `io.invoke_and_wait`.
        """
        from .children import ChildPlan
        from .perform import wait_for_others

        execution = self._execution(current_scope.get(), "invoke_and_wait")
        plan = ChildPlan(execution, key, self, payload, timeout, options)
        return wait_for_others(execution, execution.called(), key, plan)

    def batch_invoke_and_wait(
        self,
        payloads: Sequence[Payload],
        *,
        key: Key,
        timeout: Duration | None = None,
        **options: Unpack[InvokeOptions],
    ) -> Coroutine[Any, Any, list[RunResult[Output]]]:
        """Start a run of this job for each payload, and wait until all have ended; results in the order of `payloads`.

        For any number: 10,000 take seconds. `timeout` is for all together, `options` for each. Else as `invoke_and_wait`.
        """
        from .children import BatchPlan, checked_payloads
        from .perform import wait_for_others

        execution = self._execution(current_scope.get(), "batch_invoke_and_wait")
        plan = BatchPlan(execution, key, self, checked_payloads(payloads, key), timeout, options)
        return wait_for_others(execution, execution.called(), key, plan)

    def _execution(self, scope: Scope | None, method: str) -> Execution:
        """That of the run in which `method` is called.

        Raises:
            UsageError: there is none, or it is a sync one.
        """
        if scope is None:
            raise UsageError(
                f"job {self.id!r}: {method} is for run functions; outside a run write "
                "run = await job.invoke(payload), then await client.wait_for_run(run.id)"
            )
        if scope.execution.is_sync:
            raise UsageError(
                f"job {self.id!r}: in a plain def run function, which can't await, write io.{method}(key, job, payload)"
            )
        return scope.execution

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.version}>"


def _check_kinds(where: str, **options: tuple[Any, Any]) -> None:
    """Raises UsageError for an option that isn't what it has to be: `name=(what was given, its type)`."""
    for name, (given, kind) in options.items():
        if not isinstance(given, kind):
            raise UsageError(f"{where}: {name} can't be {given!r}")


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
