"""The operations of `io` that wait for others: runs that the run starts, events that come."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from perdure.schema.runs import Event, Run

from . import perform
from .keys import Key
from .operation import Duration

if TYPE_CHECKING:
    from perdure.filters import Filter

    from .children import InvokeOptions
    from .execution import Execution
    from .jobs import Job
    from .results import RunResult

P = TypeVar("P")
T = TypeVar("T")

EVENT_TIMEOUT = timedelta(hours=1)
"""How long a wait for an event lasts, unless it says otherwise (Protocol, waitForEvent)."""


class IOWaits:
    """A part of `IO`."""

    __slots__ = ()

    _execution: Execution

    def invoke(
        self, key: Key, job: Job[P, Any], payload: P, **options: Unpack[InvokeOptions]
    ) -> Coroutine[Any, Any, Run]:
        """Start a run of a job as a task: once, however often this is replayed. As `job.invoke(payload, key=key)`."""
        from .children import invoke

        return invoke(self._execution, self._execution.called(), key, job, payload, options)

    def invoke_and_wait(
        self,
        key: Key,
        job: Job[P, T],
        payload: P,
        *,
        timeout: Duration | None = None,
        **options: Unpack[InvokeOptions],
    ) -> Coroutine[Any, Any, RunResult[T]]:
        """Start a run of a job and wait for its end: see `Job.invoke_and_wait`."""
        from .children import ChildPlan

        plan = ChildPlan(self._execution, key, job, payload, timeout, options)
        return perform.wait_for_others(self._execution, self._execution.called(), key, plan)

    def batch_invoke_and_wait(
        self,
        key: Key,
        job: Job[P, T],
        payloads: Sequence[P],
        *,
        timeout: Duration | None = None,
        **options: Unpack[InvokeOptions],
    ) -> Coroutine[Any, Any, list[RunResult[T]]]:
        """Start a run of a job for each payload and wait for all their ends: see `Job.batch_invoke_and_wait`."""
        from .children import BatchPlan, checked_payloads

        plan = BatchPlan(self._execution, key, job, checked_payloads(payloads, key), timeout, options)
        return perform.wait_for_others(self._execution, self._execution.called(), key, plan)

    def wait_for_event(
        self,
        key: Key,
        name: str | Sequence[str],
        *,
        schema: Any = None,
        filter: Filter | None = None,
        source: str | None = None,
        context_filter: Filter | None = None,
        account_id: str | None = None,
        since: datetime | timedelta | None = None,
        timeout: Duration | None = EVENT_TIMEOUT,
    ) -> Coroutine[Any, Any, Event]:
        """Wait for an event, and return it. While it waits the run holds no memory, slot or worker.

        Args:
            key: names the task.
            name: of the event, or names of which one is enough.
            schema: type of the payload, as in `event_trigger`; without one the event's payload is the JSON as sent.
            filter: what the payload is to be like: {"user": {"id": [42]}}; see `perdure.filters`.
            source: only events sent with this one.
            context_filter: what the context is to be like.
            account_id: only events for this user.
            since: look back, too: at events that arrived after this aware datetime, or so long before the call (timedelta).
                Without it the event has to arrive after the call (to the millisecond, and that of the first execution).
            timeout: timedelta or seconds, an hour if not given; None waits for ever.

        Raises:
            TaskError: none came in time (`matches(TimeoutError)`), or the one that came doesn't fit the schema.
        """
        from .event_waits import EventPlan

        execution = self._execution
        plan = EventPlan(
            key,
            name,
            schema=schema,
            filter=filter,
            source=source,
            context_filter=context_filter,
            account_id=account_id,
            since=since,
            timeout=timeout,
            limits=execution.settings.limits,
        )
        return perform.wait_for_others(execution, execution.called(), key, plan)
