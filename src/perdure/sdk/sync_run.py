"""Runs whose function is a plain `def`: it runs in a thread of its own, with the same `io` but without `await`.

The thread runs the bodies of its tasks itself. What touches the state of the execution is done on the event loop, to
which the thread hands it over. A thread never lingers: at a durable wait the outcome is committed and the Signal raised
right there, since a sync run is one branch. Only `io.parallel` has several, a thread each; one that must wait leaves
its thread at once and is over for io from then on, and the run is put down when all the others have settled. So it is
with a body that has a time-out: a branch of its own, which is over when its time is.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import Context, ContextVar, copy_context
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.errors import UsageError
from perdure.schema.execution import TaskRecord
from perdure.schema.runs import TaskStatus

from .branches import outside_run
from .operation import Operation
from .scope import Scope, current_scope
from .signals import Signal
from .threads import DaemonThreads

if TYPE_CHECKING:
    from .execution import Execution

T = TypeVar("T")

PARALLEL_THREADS_MAX = 32


class SyncBranch:
    """One thread of a sync run, or the part of one that runs a body in another.

    Attributes:
        over: why io has no effect there any more; None while it has.
        parked: what it waits for, if that is why (instants; None for not in this execution).
    """

    __slots__ = ("over", "parent", "parked")

    def __init__(self, parent: SyncBranch | None) -> None:
        self.parent = parent
        self.over: str | None = None
        self.parked: list[int | None] = []

    @property
    def ending_reason(self) -> str | None:
        """Why it, or one that it was started by, is over."""
        branch: SyncBranch | None = self
        while branch is not None:
            if branch.over is not None:
                return branch.over
            branch = branch.parent
        return None


_current_branch: ContextVar[SyncBranch | None] = ContextVar("perdure_sync_branch", default=None)


class SyncRun:
    """The threads of a sync run, and how they talk to the loop.

    Args:
        threads: has one for whatever is to run, and lets nothing queue.
    """

    def __init__(self, execution: Execution, threads: DaemonThreads) -> None:
        self.execution = execution
        self._threads = threads
        self._loop = execution.loop
        self._loop_thread = get_ident()
        self._waiting: set[Future[Any]] = set()
        self._signal: Signal | None = None
        self._main_thread: asyncio.Future[None] | None = None
        self._timed: set[Future[Any]] = set()
        self._records = {record.id: record for record in execution.claim.tasks}

    def start(self, call: Callable[[], Any], context: Context) -> None:
        """Run `call()` in a thread; its `context` carries the run's root scope."""
        self.execution.start_sync(self)
        context.run(_current_branch.set, SyncBranch(None))
        self._main_thread = self._loop.run_in_executor(self._threads, lambda: context.run(self._main, call))

    def _main(self, call: Callable[[], Any]) -> None:
        value, failure = None, None
        try:
            value = call()
        except BaseException as error:  # noqa: BLE001 - whatever left the run function ends the run
            failure = error
        if self.execution.outcome is None:
            self._post(lambda: self.execution.sync_done(value, failure))

    async def unwind(self, signal: Signal, limit: float) -> bool:
        """Raise the Signal in every thread that waits, and in the others when they next call io. Whether all ended."""
        self._signal = signal
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(signal)
        threads = [asyncio.wrap_future(future, loop=self._loop) for future in tuple(self._timed)]
        if self._main_thread is not None:
            threads.append(self._main_thread)
        if not threads:
            return True
        ended, stuck = await asyncio.wait(threads, timeout=limit)
        for thread in ended:
            thread.exception()  # discarded: the outcome is decided
        for thread in stuck:
            thread.cancel()  # nobody asks for it any more; the loop may be closed when it ends
        return not stuck

    # --- from the threads --------------------------------------------------------------------------------------------

    @property
    def branch(self) -> SyncBranch:
        """The caller's, in a thread of the run."""
        branch = _current_branch.get()
        assert branch is not None
        return branch

    @property
    def is_unwinding(self) -> bool:
        branch = _current_branch.get()
        return self.execution.outcome is not None or (branch is not None and branch.ending_reason is not None)

    def enter(self) -> Scope:
        """The caller's scope; errors as Execution.enter."""
        branch = _current_branch.get()
        if get_ident() == self._loop_thread or branch is None:
            raise UsageError(
                "this io belongs to a sync run and works in the run's own thread: not on the event loop, nor in threads "
                "started by hand. Use io.parallel for work side by side"
            )
        scope = self.execution.enter()
        self.leave_if_over()
        return scope

    def leave_if_over(self) -> None:
        """Raise the Signal if the execution or the caller's branch is over; once more, if user code has swallowed it."""
        self.execution.check()
        if (reason := self.branch.ending_reason) is not None:
            raise Signal(reason)

    def opened(self, operation: Operation) -> None:
        """The run has come to a task."""
        self._records[operation.record.id] = operation.record

    def on_loop(self, call: Callable[[], T]) -> T:
        """`call()` on the event loop; its result or exception here."""
        return self.until(lambda future: resolve(future, call()))

    def until(self, start: Callable[[Future[T]], object]) -> T:
        """Call `start(future)` on the loop and block until that future is done, or the execution ends.

        Raises:
            Signal: then, or instead of the call if the caller's branch is over.
        """
        future: Future[T] = Future()
        branch = self.branch

        def begin() -> None:
            try:
                if self._signal is not None:
                    raise self._signal
                self.execution.check()
                if (reason := branch.ending_reason) is not None:
                    raise Signal(reason)
                self._waiting.add(future)
                future.add_done_callback(self._waiting.discard)
                start(future)
            except BaseException as error:  # noqa: BLE001 - carried to the thread that asked
                if not future.done():
                    future.set_exception(error)

        if not self._post(begin):
            raise Signal("its event loop is closed")
        return future.result()

    def _post(self, call: Callable[[], object]) -> bool:
        """Have `call()` made on the loop, soon. False: it is closed, and this thread was left behind."""
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return False
        return True

    def await_(self, awaitable: Any) -> Any:
        """The result of a coroutine that runs on the loop."""
        try:
            self.leave_if_over()
        except Signal:
            if inspect.iscoroutine(awaitable):
                awaitable.close()  # or it complains, at some other time, that nobody awaited it
            raise
        return asyncio.run_coroutine_threadsafe(_awaited(awaitable), self._loop).result()

    def write(self, operation: Operation, step: Callable[[], object]) -> None:
        """Take the last step of a task and block until it is durable."""

        def start(future: Future[None]) -> None:
            self.execution.bodies.pop(operation, None)
            step()
            self.execution.write(operation.record, lambda: resolve(future, None))

        self.until(start)

    def flush(self) -> None:
        """Write what was noted and block until it is durable."""
        self.until(lambda future: self.execution.flush(lambda: resolve(future, None)))

    # --- several branches --------------------------------------------------------------------------------------------

    def side_by_side(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """What the calls return, each made in a branch of its own; or the first one's exception, when all have ended."""
        branches = [SyncBranch(self.branch) for _ in calls]
        with DaemonThreads(PARALLEL_THREADS_MAX, "perdure-parallel") as threads:
            futures = [
                threads.submit(_context_of(branch).run, call)
                for branch, call in zip(branches, calls, strict=True)
            ]
        self._park_with(branches)
        return [future.result() for future in futures]

    def until_deadline(self, operation: Operation, call: Callable[[], Any]) -> Any:
        """What the body `call` of `operation` returns; it has a thread of its own, which is left behind at its deadline.

        Raises:
            TimeoutError: the deadline has come.
        """
        deadline = operation.deadline
        assert deadline is not None
        branch = SyncBranch(self.branch)
        context = _context_of(branch)

        def start(future: Future[Future[Any] | None]) -> None:
            left = deadline - self.execution.clock.now()
            if left <= 0:
                expire(future)
                return
            body = self._threads.submit(context.run, call)
            self._timed.add(body)
            timer = outside_run(self._loop, left / 1000, lambda: expire(future))
            future.add_done_callback(lambda _: timer.cancel())

            def ended() -> None:
                self._timed.discard(body)
                resolve(future, body)

            body.add_done_callback(lambda _: self._post(ended))

        def expire(future: Future[Future[Any] | None]) -> None:
            if not future.done() and self.execution.outcome is None:
                branch.over = "the time-out of the task it belongs to is over"
                self._interrupt_below(operation)
                future.set_result(None)

        body = self.until(start)
        if body is None:
            raise TimeoutError("it took longer than its time-out allows")
        self._park_with([branch])
        return body.result()

    def _interrupt_below(self, operation: Operation) -> None:
        """What is open under a body that was left behind will not go on; another attempt does it anew."""
        execution = self.execution
        for other in tuple(execution.bodies):
            if self._is_under(other.record, operation.record.id):
                execution.bodies.pop(other, None)
        for record in self._records.values():
            if not execution.is_settled(record) and self._is_under(record, operation.record.id):
                record.status = TaskStatus.CANCELED
                record.completed_at = execution.clock.now()
                record.interrupted = execution.records.next_seq()
                execution.note(record)

    def _is_under(self, record: TaskRecord, ancestor: str) -> bool:
        parent_id = record.parent_id
        while parent_id is not None and parent_id != ancestor:
            parent = self._records.get(parent_id)
            parent_id = parent.parent_id if parent is not None else None
        return parent_id is not None

    # --- waiting -----------------------------------------------------------------------------------------------------

    def park(self, *dues: int | None) -> None:
        """This branch can't go on before the first of `dues` (None: not in this execution). Always raises the Signal."""
        branch = self.branch
        until = [*dues, *_deadlines_around(current_scope.get())]
        if branch.parent is None:
            self.until(lambda _: self._put_down(until))
        self.leave_if_over()
        branch.parked.extend(until)
        branch.over = "it waits, and goes on in a later execution"
        raise Signal(branch.over)

    def _park_with(self, branches: Sequence[SyncBranch]) -> None:
        """Park if one of the branches has: they have ended, and this one needs their results."""
        dues = [due for branch in branches for due in branch.parked]
        if dues:
            self.park(*dues)

    def _put_down(self, dues: Sequence[int | None]) -> None:
        execution = self.execution
        known = [due for due in dues if due is not None]
        if execution.yielding or not (known or execution.others.waiting):
            execution.end_yielded()
        else:
            execution.end(execution.others.suspended(min(known, default=None)))


def _context_of(branch: SyncBranch) -> Context:
    """A copy of the caller's, for the thread of a branch that it starts."""
    context = copy_context()
    context.run(_current_branch.set, branch)
    return context


def _deadlines_around(scope: Scope | None) -> list[int]:
    """When the time of the bodies is over that this scope is inside of."""
    deadlines: list[int] = []
    while scope is not None and scope.operation is not None:
        if scope.operation.deadline is not None:
            deadlines.append(scope.operation.deadline)
        scope = scope.operation.scope
    return deadlines


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def resolve(future: Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)
