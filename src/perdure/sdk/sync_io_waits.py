"""The operations of a sync run's `io` that wait for others: as `io_waits.py`, without `await`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Unpack

from perdure.errors import PerdureError
from perdure.schema.runs import Event, Run, TaskStatus

from . import steps
from .call_sites import CallSite, call_site
from .io_waits import EVENT_TIMEOUT
from .keys import Key
from .operation import Duration, Operation, TaskOptions
from .others import Plan, fetch_omitted, is_open, observed
from .scope import Scope, current_task
from .sync_run import SyncRun, resolve
from .values import Decodes

if TYPE_CHECKING:
    from perdure.filters import Filter

    from .children import InvokeOptions
    from .client import Client
    from .execution import Execution
    from .jobs import Job
    from .results import RunResult

P = TypeVar("P")
T = TypeVar("T")


class SyncIOWaits:
    """A part of `SyncIO`."""

    _run: SyncRun
    _execution: Execution
    _client: Client

    def invoke(self, key: Key, job: Job[P, Any], payload: P, **options: Unpack[InvokeOptions]) -> Run:
        """As `IO.invoke`."""
        from .children import invoke_options

        def start() -> Run:
            key = current_task().idempotency_key
            return self._run.await_(self._client.invoke(job, payload, key=key, **options))

        return self.run_task(key, start, **invoke_options(job))

    def invoke_and_wait(
        self,
        key: Key,
        job: Job[P, T],
        payload: P,
        *,
        timeout: Duration | None = None,
        **options: Unpack[InvokeOptions],
    ) -> RunResult[T]:
        """As `IO.invoke_and_wait`."""
        from .children import ChildPlan

        return self._wait_for_others(key, ChildPlan(self._execution, key, job, payload, timeout, options))

    def batch_invoke_and_wait(
        self,
        key: Key,
        job: Job[P, T],
        payloads: Sequence[P],
        *,
        timeout: Duration | None = None,
        **options: Unpack[InvokeOptions],
    ) -> list[RunResult[T]]:
        """As `IO.batch_invoke_and_wait`."""
        from .children import BatchPlan, checked_payloads

        return self._wait_for_others(
            key, BatchPlan(self._execution, key, job, checked_payloads(payloads, key), timeout, options)
        )

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
    ) -> Event:
        """As `IO.wait_for_event`."""
        from .event_waits import EventPlan

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
            limits=self._execution.settings.limits,
        )
        return self._wait_for_others(key, plan)

    def _wait_for_others(self, key: Key, plan: Plan) -> Any:
        """As `perform.wait_for_others`: have somebody else do what `plan` says, and wait for it."""
        run, execution = self._run, self._execution
        scope, site = run.enter(), call_site()
        operation = run.on_loop(lambda: self._open(key, plan.name, plan.options, scope, site))
        record = operation.record
        if execution.is_settled(record):
            if record.seq is not None:
                run.await_(fetch_omitted(execution, plan.records(operation)))
            return self._replay(operation, plan)
        if execution.yielding:
            run.park(None)
        try:
            begin = plan.begin(execution, operation)
            while run.until(partial(self._take_step, operation, begin)):
                if execution.yielding:
                    run.park(None)
        except PerdureError as error:
            self._fail(operation, plan, error)
        records = plan.records(operation)
        if run.on_loop(lambda: execution.others.begin(operation, records, plan.event(operation))):
            run.park(record.due_at)
        if any(map(is_open, records)):
            self._fail(operation, plan, plan.overdue(operation))
        run.await_(fetch_omitted(execution, records))
        value: Any = None
        if record.status is not TaskStatus.ERRORED:
            try:
                value = plan.decode(record.output or "null", record.types, where=operation.where)
            except PerdureError as error:
                self._fail(operation, plan, error)
        run.on_loop(lambda: observed(execution, operation))
        if record.status is TaskStatus.ERRORED:
            raise operation.error()
        return value

    def _take_step(self, operation: Operation, begin: Iterator[None], future: Future[bool]) -> None:
        """Go on with what a plan begins with; True once that is durable, False if it was the end."""
        for _ in begin:
            self._execution.write(operation.record, lambda: resolve(future, True))
            return
        future.set_result(False)

    def _fail(self, operation: Operation, plan: Plan, error: Exception) -> NoReturn:
        execution = self._execution

        def fail() -> None:
            steps.fail(execution, operation, error)
            plan.give_up(execution, operation)

        self._run.write(operation, fail)
        raise operation.error() from error

    def run_task(self, key: Key, fn: Any, *args: Any, **options: Any) -> Any:
        raise NotImplementedError

    def _open(
        self, key: Key, name: str | None, options: TaskOptions, scope: Scope, site: CallSite
    ) -> Operation:
        raise NotImplementedError

    def _replay(self, operation: Operation, codec: Decodes, *, is_task: bool = False) -> Any:
        raise NotImplementedError
