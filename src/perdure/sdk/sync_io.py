"""`io` of a sync run: the operations of `perform.py` without `await`, each taking its steps from the run's thread."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack
from uuid import UUID

from perdure.clock import to_datetime
from perdure.durations import to_instant_ms, to_ms
from perdure.errors import NotFoundError, PerdureError, UsageError
from perdure.schema.runs import Event, TaskStatus

from . import steps
from .background import FetchOptions, FetchResponse, PollOptions, fetch_plan, poll_plan
from .call_sites import CallSite, call_site
from .failures import changed_kind, not_interrupted
from .functions import facts_of, merge_options
from .integrations.integration import IntegrationIO
from .io import make_random, make_uuid, with_task_ids
from .keys import Key
from .logger import Logger
from .operation import NO_OPTIONS, Duration, Operation, TaskOptions, open_operation, wait_options
from .retry import UNTIL_AVAILABLE
from .scope import Scope, current_scope
from .state_io import SyncStateIO
from .sync_io_waits import SyncIOWaits
from .sync_run import SyncRun
from .values import PLAIN, Decodes, codec_for

if TYPE_CHECKING:
    from perdure.schema.registrations import Registration

    from .client import Client, EventOptions, EventToSend
    from .triggers.dynamic_schedule import DynamicSchedule, RegistrationOptions

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Item = TypeVar("Item")


class SyncIO(SyncIOWaits, SyncStateIO, IntegrationIO):
    """The durable operations of a sync run: as `IO`, without `await`. `timeout` is for async runs only."""

    def __init__(self, run: SyncRun, client: Client) -> None:
        self._run = run
        self._execution = run.execution
        self._client = client
        self._integrations: dict[str, Any] | None = None
        self.logger = Logger(run.execution)

    @property
    def is_unwinding(self) -> bool:
        """As `IO.is_unwinding`."""
        return self._run.is_unwinding

    def run_task(self, key: Key, fn: Callable[[*Ts], T], *args: *Ts, **options: Any) -> T:
        """As `IO.run_task`. The body runs in this thread; with `timeout=`, in another, which is left behind when that is over."""
        given = {option: value for option, value in options.items() if value is not None}
        return self._run_task(key, fn, args, given)

    def _run_task(
        self, key: Key, fn: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]
    ) -> Any:
        run, execution = self._run, self._execution
        scope, site = run.enter(), call_site()
        facts = facts_of(fn)
        if facts.is_async:
            raise UsageError(
                f"task {key!r}: an async function can't be run by a sync job; make the job `async def`"
            )
        options = merge_options(facts.options, given)
        codec = facts.codec if options.output is None else codec_for(options.output)

        def opened() -> tuple[Operation, int | None]:
            operation = self._open(key, options.name, options, scope, site)
            settled = execution.is_settled(operation.record)
            return operation, None if settled else steps.first_due(operation, options)

        def failed(error: BaseException, verdict: Any) -> tuple[int | None, BaseException]:
            execution.bodies.pop(operation, None)
            return steps.decide_retry(execution, operation, error, options, verdict)

        operation, due = run.on_loop(opened)
        if execution.is_settled(operation.record):
            return self._replay(operation, codec, is_task=True)
        while True:
            self._wait_until(due)
            if execution.yielding:
                run.park(None)
            try:
                value = self._attempt(operation, fn, args, options)
                encoded, result = steps.to_output(execution, operation, value, codec)
            except (Exception, SystemExit) as raised:  # noqa: BLE001 - whatever user code raises fails its task
                run.leave_if_over()  # what unwinding code makes of the Signal doesn't count
                verdict = self._ask_handler(operation, raised, options)
                due, error = run.on_loop(lambda raised=raised, verdict=verdict: failed(raised, verdict))
                if due is not None:
                    continue
                run.write(operation, lambda error=error: steps.fail(execution, operation, error))
                raise operation.error() from error
            run.write(operation, lambda encoded=encoded: steps.succeed(execution, operation, encoded))
            return result

    def _open(
        self, key: Key, name: str | None, options: TaskOptions, scope: Scope, site: CallSite
    ) -> Operation:
        operation = open_operation(self._execution, key, name, options, scope, None, site)
        self._run.opened(operation)
        return operation

    def _replay(self, operation: Operation, codec: Decodes, *, is_task: bool = False) -> Any:
        """As `turns.replay`."""
        run, record = self._run, operation.record
        if record.interrupted is not None:
            self._end_failed(
                not_interrupted([record.key])
            )  # the job was async then: nothing interrupts a thread
        if record.status is not TaskStatus.CANCELED and is_task != (record.attempts > 0):
            self._end_failed(changed_kind(record.key, is_task))
        if record.status is TaskStatus.ERRORED:
            raise operation.error()
        if record.omitted:
            record.output, record.types = run.await_(self._execution.journal.fetch_output(record.id))
            record.omitted = False
        try:
            return codec.decode(record.output or "null", record.types, where=operation.where)
        except PerdureError as error:
            self._end_failed(error)  # the run fails, not the task

    def _end_failed(self, error: PerdureError) -> None:
        """The run fails; always raises the Signal."""
        self._run.until(lambda _: self._execution.end_failed(error))

    def _wait_until(self, due: int | None) -> None:
        if due is not None and due > self._execution.clock.now():
            self._run.park(due)

    def _attempt(
        self, operation: Operation, fn: Callable[..., Any], args: tuple[Any, ...], options: TaskOptions
    ) -> Any:
        run, execution = self._run, self._execution
        run.on_loop(lambda: steps.begin(execution, operation, options))
        if execution.writes_before_bodies:
            run.flush()
        scope = Scope(execution, operation)
        token = current_scope.set(scope)

        def call() -> Any:
            value = fn(*args)
            return run.await_(value) if inspect.isawaitable(value) else value

        try:
            value = call() if operation.deadline is None else run.until_deadline(operation, call)
        finally:
            scope.ended = True
            current_scope.reset(token)
        run.leave_if_over()
        return value

    def _ask_handler(self, operation: Operation, error: BaseException, options: TaskOptions) -> Any:
        if options.on_error is None or not isinstance(error, Exception):
            return None
        try:
            verdict = options.on_error(error, operation.as_task())
            return self._run.await_(verdict) if inspect.isawaitable(verdict) else verdict
        except Exception as raised:  # noqa: BLE001 - an error handler that raises replaces the error
            return raised

    def wait(self, key: Key, duration: Duration) -> None:
        """As `IO.wait`."""
        length = to_ms(duration, f"io.wait({key!r})")
        options = wait_options(seconds=length / 1000)
        self._wait(key, lambda now: now + length, "wait", options)

    def wait_until(self, key: Key, moment: datetime) -> None:
        """As `IO.wait_until`."""
        instant = to_instant_ms(moment, f"io.wait_until({key!r})")
        options = wait_options(until=to_datetime(instant))
        self._wait(key, lambda _: instant, "wait until", options)

    def _wait(self, key: Key, due: Callable[[int], int], name: str, options: TaskOptions) -> None:
        run, execution = self._run, self._execution
        scope, site = run.enter(), call_site()

        def opened() -> Operation:
            operation = self._open(key, name, options, scope, site)
            record = operation.record
            if not execution.is_settled(record) and record.due_at is None:
                record.due_at = due(execution.clock.now())
                record.started_at = execution.clock.now()
                record.status = TaskStatus.WAITING
                execution.note(record)
            return operation

        def over() -> None:
            steps.settle(execution, operation, None, PLAIN)
            execution.note(operation.record)

        operation = run.on_loop(opened)
        if execution.is_settled(operation.record):
            self._replay(operation, PLAIN)
            return
        self._wait_until(operation.record.due_at)
        run.on_loop(over)

    def timeout(self, key: Key, duration: Duration) -> Any:
        """Not in sync runs: nothing can interrupt a thread. Give tasks a `timeout=`, or make the job `async def`."""
        raise UsageError(
            "io.timeout needs an async job: a thread can't be interrupted. Use run_task(..., timeout=...)"
        )

    def now(self, key: Key) -> datetime:
        """As `IO.now`."""
        return self._observe(key, lambda: to_datetime(self._execution.clock.now()), "now")

    def uuid(self, key: Key) -> UUID:
        """As `IO.uuid`."""
        return self._observe(key, lambda: make_uuid(self._execution), "uuid")

    def random(self, key: Key, *, min: float = 0, max: float = 1, round: bool = False) -> float:
        """As `IO.random`."""
        return self._observe(key, lambda: make_random(self._execution, min, max, round), "random")

    def _observe(self, key: Key, make: Callable[[], T], name: str) -> T:
        run, execution = self._run, self._execution
        scope, site = run.enter(), call_site()

        def opened() -> Operation:
            operation = self._open(key, name, NO_OPTIONS, scope, site)
            if not execution.is_settled(operation.record):
                steps.settle(execution, operation, make(), PLAIN)
                operation.record.started_at = operation.record.completed_at
                execution.note(operation.record)
                execution.records.has_unwritten_values = True
            return operation

        return self._replay(run.on_loop(opened), PLAIN)

    def yield_(self, key: Key) -> None:
        """As `IO.yield_`."""
        run, execution = self._run, self._execution
        scope, site = run.enter(), call_site()

        def opened() -> bool:
            operation = self._open(key, "yield", NO_OPTIONS, scope, site)
            if execution.is_settled(operation.record):
                return True
            if not execution.yielding:
                steps.settle(execution, operation, None, PLAIN)
                execution.note(operation.record)
                execution.yield_soon(f"yielded at {operation.record.key!r}")
            return False

        if not run.on_loop(opened):
            run.park(None)

    def parallel(
        self, key: Key, items: Iterable[Item], fn: Callable[[Item, int], T], *, name: str | None = None
    ) -> list[T]:
        """As `IO.parallel`: a thread per item, at most 32 at a time."""
        calls = [partial(self._run_task, [index], fn, (item, index), {}) for index, item in enumerate(items)]

        def all_items() -> list[Any]:
            return self._run.side_by_side(calls)

        return self._run_task(key, all_items, (), {"name": name or "parallel"})

    def try_(self, fn: Callable[[], Any], catch: Callable[[Exception], Any]) -> Any:
        """As `IO.try_`."""
        try:
            return fn()
        except Exception as error:  # noqa: BLE001 - handed to the user's own handler
            return catch(error)

    def send_event(self, key: Key, name: str, payload: Any = None, **options: Unpack[EventOptions]) -> Event:
        """As `IO.send_event`."""
        return self._send(key, [self._client.event(name, payload, **options)], "Send Event")[0]

    def send_events(self, key: Key, events: Sequence[EventToSend]) -> list[Event]:
        """As `IO.send_events`."""
        from .client.events import checked_events

        return self._send(key, checked_events(events), "Send Multiple Events")

    def _send(self, key: Key, events: list[EventToSend], name: str) -> list[Event]:
        def send() -> list[Event]:
            return self._run.await_(self._client.send_events(with_task_ids(events)))

        params = {"events": [event.name for event in events]}
        return self.run_task(key, send, name=name, icon="send", params=params, retry=UNTIL_AVAILABLE)

    def get_event(self, key: Key, id: str) -> Event:
        """As `IO.get_event`."""

        def get() -> Event:
            event = self._run.await_(self._client.get_event(id))
            if event is None:
                raise NotFoundError(kind="event", id=id)
            return event

        return self.run_task(key, get, name="Get Event", params={"id": id}, retry=UNTIL_AVAILABLE)

    def cancel_event(self, key: Key, id: str) -> Event:
        """As `IO.cancel_event`."""

        def cancel() -> Event:
            return self._run.await_(self._client.cancel_event(id))

        return self.run_task(key, cancel, name="Cancel Event", params={"id": id}, retry=UNTIL_AVAILABLE)

    def background_fetch(self, key: Key, url: str, **options: Unpack[FetchOptions]) -> Any:
        """As `IO.background_fetch`."""
        return self._wait_for_others(key, fetch_plan(key, url, options, self._execution.settings.limits))

    def background_fetch_response(self, key: Key, url: str, **options: Unpack[FetchOptions]) -> FetchResponse:
        """As `IO.background_fetch_response`."""
        limits = self._execution.settings.limits
        return self._wait_for_others(key, fetch_plan(key, url, options, limits, whole_response=True))

    def background_poll(self, key: Key, url: str, **options: Unpack[PollOptions]) -> Any:
        """As `IO.background_poll`."""
        return self._wait_for_others(key, poll_plan(key, url, options, self._execution.settings.limits))

    def register_schedule(
        self, task_key: Key, schedule: DynamicSchedule, key: str, **options: Unpack[RegistrationOptions]
    ) -> Registration:
        """As `IO.register_schedule`."""
        request = schedule.registration(key, options)
        return self._run_task(task_key, lambda: self._run.await_(request.ask()), (), request.options)

    def unregister_schedule(self, task_key: Key, schedule: DynamicSchedule, key: str) -> bool:
        """As `IO.unregister_schedule`."""
        request = schedule.unregistration(key)
        return self._run_task(task_key, lambda: self._run.await_(request.ask()), (), request.options)
