"""Runs whose function is a plain `def`: it runs in a thread of its own, with the same `io` but without `await`.

The thread runs the bodies of its tasks itself. What touches the state of the execution is done on the event loop, to
which the thread hands it over. A thread never lingers: at a durable wait the outcome is committed and the Signal raised
right there, since a sync run is one branch. Only `io.parallel` has several, a thread each; one that must wait leaves
its thread at once and is dead to io from then on, and the run is put down when all the others have settled.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from datetime import datetime
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple
from uuid import UUID

from perdure.clock import to_datetime
from perdure.durations import to_instant_ms, to_ms
from perdure.errors import NotFoundError, PerdureError, UsageError
from perdure.schema.execution import Suspended
from perdure.schema.runs import Event, TaskStatus

from . import steps
from .call_sites import call_site
from .functions import facts_of, merge_options
from .io import make_random, make_uuid, with_task_ids
from .keys import Key
from .logger import Logger
from .operation import NO_OPTIONS, Duration, Operation, TaskOptions, open_operation, wait_options
from .scope import Scope, current_scope
from .signals import Signal
from .values import PLAIN, Codec, codec_for

if TYPE_CHECKING:
    from .client import Client, EventToSend
    from .execution import Execution

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Item = TypeVar("Item")

PARALLEL_THREADS_MAX = 32


class SyncBranch:
    """One thread of a sync run.

    Attributes:
        dead: it has met a wait and is being unwound; io has no effect there any more.
        parked_below: what the branches that it started wait for (instants; None for not in this execution).
    """

    __slots__ = ("dead", "parent", "parked_below")

    def __init__(self, parent: SyncBranch | None) -> None:
        self.parent = parent
        self.dead = False
        self.parked_below: list[int | None] = []


_current_branch: ContextVar[SyncBranch | None] = ContextVar("perdure_sync_branch", default=None)


class SyncRun:
    """The thread of a sync run, and how it talks to the loop."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self._loop = execution.loop
        self._loop_thread = get_ident()
        self._waiting: set[concurrent.futures.Future[Any]] = set()
        self._signal: Signal | None = None
        self._thread: asyncio.Future[None] | None = None

    def start(self, call: Callable[[], Any], context: Context, threads: ThreadPoolExecutor) -> None:
        """Run `call()` in a thread; its `context` carries the run's root scope."""
        self.execution.start_sync(self)
        context.run(_current_branch.set, SyncBranch(None))
        self._thread = self._loop.run_in_executor(threads, lambda: context.run(self._main, call))

    def _main(self, call: Callable[[], Any]) -> None:
        value, failure = None, None
        try:
            value = call()
        except Signal:
            return
        except BaseException as error:  # noqa: BLE001 - whatever left the run function ends the run
            failure = error
        self._loop.call_soon_threadsafe(self.execution.sync_done, value, failure)

    async def unwind(self, signal: Signal, limit: float) -> bool:
        """Raise the Signal in every thread that waits, and in the others when they next call io. Whether all ended."""
        self._signal = signal
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(signal)
        if self._thread is None:
            return True
        done, _ = await asyncio.wait([self._thread], timeout=limit)
        return bool(done)

    # --- from the threads --------------------------------------------------------------------------------------------

    def enter(self) -> Scope:
        """The caller's scope; errors as Execution.enter."""
        branch = _current_branch.get()
        if get_ident() == self._loop_thread or branch is None:
            raise UsageError(
                "this io belongs to a sync run and works in the run's own thread: not on the event loop, nor in threads "
                "started by hand. Use io.parallel for work side by side"
            )
        if branch.dead:
            raise Signal("this branch waits; it goes on in a later execution")
        return self.execution.enter()

    def on_loop(self, call: Callable[[], T]) -> T:
        """`call()` on the event loop; its result or exception here."""

        def start(future: concurrent.futures.Future[T]) -> None:
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - carried to the thread that asked
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        return self.until(start)

    def until(self, start: Callable[[concurrent.futures.Future[T]], None]) -> T:
        """Call `start(future)` on the loop and block until that future is done, or the execution ends."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def begin() -> None:
            if self._signal is not None:
                future.set_exception(self._signal)
                return
            self._waiting.add(future)
            future.add_done_callback(self._waiting.discard)
            start(future)

        self._loop.call_soon_threadsafe(begin)
        return future.result()

    def await_(self, awaitable: Any) -> Any:
        """The result of a coroutine that runs on the loop."""
        return asyncio.run_coroutine_threadsafe(_awaited(awaitable), self._loop).result()

    def written(self, operation: Operation) -> None:
        """Write the operation's record and block until it is durable."""
        self.until(lambda future: self.execution.write(operation.record, lambda: _resolve(future)))

    def park(self, *dues: int | None) -> None:
        """This branch can't go on before the first of `dues` (None: not in this execution). Always raises the Signal."""
        branch = _current_branch.get()
        assert branch is not None
        branch.dead = True
        if branch.parent is None:
            self.until(lambda _: self._put_down(dues))
        else:
            branch.parent.parked_below.extend(dues)
        raise Signal("this branch waits; it goes on in a later execution")

    def _put_down(self, dues: tuple[int | None, ...]) -> None:
        execution = self.execution
        known = [due for due in dues if due is not None]
        if execution.yielding or not known:
            execution.end_yielded()
        else:
            execution.end(Suspended(min(known)))

    def leave_if_dead(self) -> None:
        """Raise the Signal again if this branch has swallowed it."""
        branch = _current_branch.get()
        if branch is not None and branch.dead:
            raise Signal("this branch waits; it goes on in a later execution")


class SyncIO:
    """The durable operations of a sync run: as `IO`, without `await`. `timeout` is for async runs only."""

    def __init__(self, run: SyncRun, client: Client) -> None:
        self._run = run
        self._execution = run.execution
        self._client = client
        self.logger = Logger(run.execution)

    @property
    def is_unwinding(self) -> bool:
        """As `IO.is_unwinding`."""
        branch = _current_branch.get()
        return self._execution.outcome is not None or (branch is not None and branch.dead)

    def run_task(self, key: Key, fn: Callable[[*Ts], T], *args: *Ts, **options: Any) -> T:
        """As `IO.run_task`. The body runs in this thread; with `timeout=`, in another, which is abandoned when it is over."""
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
            operation = open_operation(execution, key, options.name, options, scope, None, site)
            settled = execution.is_settled(operation.record)
            return operation, None if settled else steps.first_due(operation, options)

        operation, due = run.on_loop(opened)
        if execution.is_settled(operation.record):
            return self._replay(operation, codec)
        while True:
            self._wait_until(due)
            if execution.yielding:
                run.park(None)
            try:
                value = self._attempt(operation, fn, args, options)
                encoded, result = steps.to_output(execution, operation, value, codec)
            except (Exception, SystemExit) as raised:  # noqa: BLE001 - whatever user code raises fails its task
                due, error = self._failed(operation, raised, options)
                if due is not None:
                    continue
                run.on_loop(lambda error=error: steps.fail(execution, operation, error))
                run.written(operation)
                raise operation.error() from error
            run.on_loop(lambda encoded=encoded: steps.succeed(execution, operation, encoded))
            run.written(operation)
            return result

    def _replay(self, operation: Operation, codec: Codec) -> Any:
        run, record = self._run, operation.record
        if record.interrupted is not None:
            run.park(None)
        if record.status is TaskStatus.ERRORED:
            raise operation.error()
        if record.omitted:
            record.output, record.types = run.await_(self._execution.journal.fetch_output(record.id))
            record.omitted = False
        try:
            return codec.decode(record.output or "null", record.types, where=operation.where)
        except PerdureError as error:
            fault = error  # as in turns.replay: the run fails, not the task
            run.until(lambda _: self._execution.end_failed(fault))

    def _wait_until(self, due: int | None) -> None:
        if due is not None and due > self._execution.clock.now():
            self._run.park(due)

    def _attempt(
        self, operation: Operation, fn: Callable[..., Any], args: tuple[Any, ...], options: TaskOptions
    ) -> Any:
        run, execution = self._run, self._execution
        run.on_loop(lambda: steps.begin(execution, operation, options))
        if execution.claim.crashes:
            run.until(lambda future: execution.flush(lambda: _resolve(future)))
        scope = Scope(execution, operation)
        token = current_scope.set(scope)
        try:
            if operation.deadline is None:
                value = fn(*args)
            else:
                value = self._call_with_deadline(operation.deadline, fn, args)
        finally:
            scope.ended = True
            current_scope.reset(token)
            execution.bodies.discard(operation)
        run.leave_if_dead()
        if inspect.isawaitable(value):
            value = run.await_(value)
        return value

    def _call_with_deadline(self, deadline: int, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        left = max(deadline - self._execution.clock.now(), 0) / 1000
        future = self._execution.threads.submit(copy_context().run, fn, *args)
        try:
            return future.result(left)
        except concurrent.futures.TimeoutError as over:
            if future.done():
                raise  # the body's own
            raise TimeoutError("it took longer than its time-out allows") from over

    def _failed(
        self, operation: Operation, error: BaseException, options: TaskOptions
    ) -> tuple[int | None, BaseException]:
        run, execution = self._run, self._execution
        verdict: Any = None
        if options.on_error is not None and isinstance(error, Exception):
            try:
                verdict = options.on_error(error, operation.as_task())
                if inspect.isawaitable(verdict):
                    verdict = run.await_(verdict)
            except Exception as raised:  # noqa: BLE001 - an error handler that raises replaces the error
                verdict = raised
        return run.on_loop(lambda: steps.decide_retry(execution, operation, error, options, verdict))

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
            operation = open_operation(execution, key, name, options, scope, None, site)
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
            operation = open_operation(execution, key, name, NO_OPTIONS, scope, None, site)
            if not execution.is_settled(operation.record):
                steps.settle(execution, operation, make(), PLAIN)
                operation.record.started_at = operation.record.completed_at
                execution.note(operation.record)
            return operation

        return self._replay(run.on_loop(opened), PLAIN)

    def yield_(self, key: Key) -> None:
        """As `IO.yield_`."""
        run, execution = self._run, self._execution
        scope, site = run.enter(), call_site()

        def opened() -> bool:
            operation = open_operation(execution, key, "yield", NO_OPTIONS, scope, None, site)
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
        run = self._run
        work = list(items)
        branch = _current_branch.get()

        def one(index: int) -> Any:
            _current_branch.set(SyncBranch(branch))
            return self._run_task([index], fn, (work[index], index), {})

        def all_items() -> list[Any]:
            assert branch is not None
            with ThreadPoolExecutor(min(max(len(work), 1), PARALLEL_THREADS_MAX), "perdure-parallel") as pool:
                futures = [pool.submit(copy_context().run, one, index) for index in range(len(work))]
            if branch.parked_below:
                run.park(*branch.parked_below)
            return [future.result() for future in futures]

        return self._run_task(key, all_items, (), {"name": name or "parallel"})

    def try_(self, fn: Callable[[], Any], catch: Callable[[Exception], Any]) -> Any:
        """As `IO.try_`."""
        try:
            return fn()
        except Exception as error:  # noqa: BLE001 - handed to the user's own handler
            return catch(error)

    def send_event(self, key: Key, name: str, payload: Any = None, **options: Any) -> Event:
        """As `IO.send_event`."""
        return self._send(key, [self._client.event(name, payload, **options)], "Send Event")[0]

    def send_events(self, key: Key, events: Sequence[EventToSend]) -> list[Event]:
        """As `IO.send_events`."""
        return self._send(key, list(events), "Send Multiple Events")

    def _send(self, key: Key, events: list[EventToSend], name: str) -> list[Event]:
        def send() -> list[Event]:
            return self._run.await_(self._client.send_events(with_task_ids(events)))

        return self.run_task(
            key, send, name=name, icon="send", params={"events": [event.name for event in events]}
        )

    def get_event(self, key: Key, id: str) -> Event:
        """As `IO.get_event`."""

        def get() -> Event:
            event = self._run.await_(self._client.get_event(id))
            if event is None:
                raise NotFoundError(kind="event", id=id)
            return event

        return self.run_task(key, get, name="Get Event", params={"id": id})


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _resolve(future: concurrent.futures.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
