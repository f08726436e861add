"""What io calls do in an async run: tasks, waits, durable time-outs. Each replays if it can, else runs and records.

The steps that touch state (begin, settle, fail) are shared with sync runs, which call them through the loop.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import copy_context
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from perdure.durations import to_instant_ms, to_ms
from perdure.errors import (
    DuplicateKeyError,
    LimitExceededError,
    NonDeterminismError,
    PerdureError,
    SerializationError,
    TaskError,
    UsageError,
)
from perdure.schema.runs import TaskStatus

from .branches import outside_run
from .functions import FunctionFacts, facts_of, merge_options
from .keys import Key
from .operation import NO_OPTIONS, Operation, TaskOptions, describe_error
from .scope import Scope, current_scope
from .values import PLAIN, Codec, Encoded, codec_for

if TYPE_CHECKING:
    from .execution import Execution

_NEVER_RETRIED = (
    TaskError,
    SerializationError,
    LimitExceededError,
    DuplicateKeyError,
    UsageError,
    NonDeterminismError,
)
"""What would only fail again: a nested task that has failed for good, and mistakes in the code."""


async def run_task(execution: Execution, key: Key, fn: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """Run `fn(*args)` as the task `key`, or return what it returned before. See IO.run_task."""
    scope = execution.enter()
    facts = facts_of(fn)
    options = merge_options(facts.options, given)
    codec = facts.codec if options.output is None else codec_for(options.output)
    operation = execution.open(key, options.name, options, scope, execution.current_branch(scope))
    record = operation.record
    try:
        if execution.is_settled(record):
            return await replay(execution, operation, codec)
        due = first_due(operation, options)
        while True:
            if due is not None:
                await park(execution, operation, due)
            while execution.yielding:
                await park(execution, operation, None)
            try:
                value = await _attempt(execution, operation, fn, args, options, facts)
                execution.check()
                result = settle(execution, operation, value, codec)
            except (Exception, SystemExit) as raised:
                execution.check()
                due, error = await failed_attempt(execution, operation, raised, options)
                if due is not None:
                    continue
                fail(execution, operation, error)
                await _recorded(execution, operation)
                raise operation.error() from error
            await _recorded(execution, operation)
            return result
    except asyncio.CancelledError:
        execution.interrupted(operation)
        raise


# --- the steps of a task -----------------------------------------------------------------------------------------------


def first_due(operation: Operation, options: TaskOptions) -> int | None:
    """When a task that hasn't settled may (again) start; None for now."""
    record = operation.record
    if record.status is TaskStatus.WAITING and record.due_at is not None:
        return record.due_at
    if options.delay_until is not None and record.status is TaskStatus.PENDING:
        record.due_at = to_instant_ms(options.delay_until, f"{operation.where}: delay_until")
        record.status = TaskStatus.WAITING
        operation.scope.execution.note(record)
        return record.due_at
    return None


def begin(execution: Execution, operation: Operation, options: TaskOptions) -> None:
    """A body starts: a new attempt, or once more the one that a crash or a suspension cut off (same number)."""
    record = operation.record
    deadline = record.due_at if record.status is TaskStatus.RUNNING else None
    if record.status is not TaskStatus.RUNNING:
        record.status = TaskStatus.RUNNING
        record.attempts += 1
        if record.attempts > 1:
            execution.forget_interruptions_under(record)
    now = execution.clock.now()
    record.started_at = record.started_at or now
    record.due_at = None
    if options.timeout is not None:
        operation.deadline = deadline or now + to_ms(options.timeout, f"{operation.where}: timeout")
    execution.bodies.add(operation)
    execution.note(record)


def settle(execution: Execution, operation: Operation, value: Any, codec: Codec) -> Any:
    """Take a body's return value as the task's output; returns what a replay will return.

    Raises:
        SerializationError, LimitExceededError: it can't be stored, or doesn't fit its annotation.
    """
    encoded, result = to_output(execution, operation, value, codec)
    succeed(execution, operation, encoded)
    return result


def to_output(execution: Execution, operation: Operation, value: Any, codec: Codec) -> tuple[Encoded, Any]:
    """A body's return value as stored, and as a replay will return it. Errors as in `settle`."""
    limit = execution.settings.limits.output_bytes_max
    return codec.roundtrip(value, where=operation.where, limit=limit, setting="limits.output_bytes_max")


def succeed(execution: Execution, operation: Operation, encoded: Encoded) -> None:
    """The task has completed."""
    record = operation.record
    record.output, record.types = encoded.json, encoded.types
    record.status = TaskStatus.COMPLETED
    record.error = None
    _completed(execution, operation)


def fail(execution: Execution, operation: Operation, error: BaseException) -> None:
    """The task has failed for good."""
    record = operation.record
    record.error = describe_error(error, record.id)
    record.status = TaskStatus.ERRORED
    _completed(execution, operation)


def _completed(execution: Execution, operation: Operation) -> None:
    record = operation.record
    record.seq = execution.next_seq()
    record.completed_at = execution.clock.now()
    record.due_at = None


async def failed_attempt(
    execution: Execution, operation: Operation, error: BaseException, options: TaskOptions
) -> tuple[int | None, BaseException]:
    """When to try again after `error` (None: never), and the error that counts. The failed attempt is noted."""
    verdict: Any = None
    if options.on_error is not None and isinstance(error, Exception):
        try:
            verdict = await maybe_await(options.on_error(error, operation.as_task()))
        except Exception as raised:  # an error handler that raises replaces the error
            verdict = raised
        execution.check()
    return decide_retry(execution, operation, error, options, verdict)


def decide_retry(
    execution: Execution, operation: Operation, error: BaseException, options: TaskOptions, verdict: Any
) -> tuple[int | None, BaseException]:
    """As `failed_attempt`, once it is known what `on_error` answered."""
    if isinstance(verdict, Exception) and verdict is not error:
        verdict.__cause__ = error
        error = verdict
    due = _retry_at(execution, operation, error, options, verdict)
    if due is not None:
        record = operation.record
        record.status = TaskStatus.WAITING
        record.due_at = due
        record.error = describe_error(error, record.id)
        execution.note(record)
    return due, error


def _retry_at(
    execution: Execution, operation: Operation, error: BaseException, options: TaskOptions, verdict: Any
) -> int | None:
    now = execution.clock.now()
    if verdict is False:
        return None
    if isinstance(verdict, datetime):
        return to_instant_ms(verdict, f"{operation.where}: what on_error returned")
    if isinstance(verdict, timedelta):
        return now + to_ms(verdict, f"{operation.where}: what on_error returned")
    if options.retry is None or isinstance(error, _NEVER_RETRIED) or not options.retry.applies_to(error):
        return None
    delay = options.retry.next_delay_ms(operation.record.attempts, execution.random.random())
    return None if delay is None else now + delay


async def _attempt(
    execution: Execution,
    operation: Operation,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    options: TaskOptions,
    facts: FunctionFacts,
) -> Any:
    begin(execution, operation, options)
    if execution.claim.crashes:
        # An execution before this one died without a word: know the culprit should it happen again.
        execution.flush(operation.release)
        await _blocked(execution, operation)
    branch = operation.branch
    assert branch is not None
    scope = Scope(execution, operation)
    token = current_scope.set(scope)
    branch.bodies.append(scope)
    deadline = Deadline(execution, operation.deadline) if operation.deadline is not None else None
    try:
        if deadline is None:
            return await _call(execution, fn, args, facts)
        with deadline:
            return await _call(execution, fn, args, facts)
    except asyncio.CancelledError as cancelled:
        task = asyncio.current_task()
        if task is not None and task.cancelling() == 0 and execution.outcome is None:
            # Nobody cancelled this branch: the body itself let a CancelledError of something else escape.
            raise RuntimeError("the body of the task raised CancelledError by itself") from cancelled
        raise
    finally:
        branch.bodies.remove(scope)
        current_scope.reset(token)
        execution.bodies.discard(operation)
        await _close_scope(execution, scope)


async def _call(execution: Execution, fn: Callable[..., Any], args: tuple[Any, ...], facts: FunctionFacts) -> Any:
    if facts.is_async:
        return await fn(*args)
    value = await execution.loop.run_in_executor(execution.threads, copy_context().run, fn, *args)
    return await value if inspect.isawaitable(value) else value


async def _close_scope(execution: Execution, scope: Scope) -> None:
    """A body has ended: branches that it left behind with tasks under way may not outlive it."""
    if len(execution.branches) > 1 and execution.outcome is None:
        left = [
            branch.task
            for branch in execution.branches.values()
            if branch.used_io and not branch.task.done() and branch.birth.is_within(scope)
        ]
        if left:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=execution.settings.unwind_limit)
    scope.ended = True


async def _recorded(execution: Execution, operation: Operation) -> None:
    """Write the settled task and wait until it is this branch's turn to learn of it."""
    seq = operation.record.seq
    assert seq is not None

    def committed() -> None:
        if execution.yielding:
            return  # a later execution tells the branch
        if execution.stage.passes_at_once(seq):
            operation.release()
        else:
            execution.stage.deliver(seq, operation.release)

    future = operation.new_future(execution)
    execution.write(operation.record, committed)
    execution.stage.branch_blocked(operation.branch_in_run)
    await future


async def _blocked(execution: Execution, operation: Operation) -> None:
    execution.stage.branch_blocked(operation.branch_in_run)
    await operation.new_future(execution)


async def _in_turn(execution: Execution, operation: Operation) -> None:
    """Wait until it is this branch's turn to learn of a completion."""
    seq = operation.record.seq
    assert seq is not None
    if not execution.stage.passes_at_once(seq):
        execution.stage.deliver(seq, operation.release)
        await _blocked(execution, operation)


async def replay(execution: Execution, operation: Operation, codec: Codec) -> Any:
    """Return or raise what is recorded, when its turn has come."""
    record = operation.record
    if record.interrupted is not None:
        await park(execution, operation, None)
    await _in_turn(execution, operation)
    if record.status is TaskStatus.ERRORED:
        raise operation.error()
    if record.omitted:
        record.output, record.types = await execution.journal.fetch_output(record.id)
        record.omitted = False
    try:
        return codec.decode(record.output or "null", record.types, where=operation.where)
    except PerdureError as error:
        # Not the task's failure, and nothing user code could handle: the run fails, and can be continued after a fix.
        execution.end_failed(error)
        await _blocked(execution, operation)


# --- waiting -----------------------------------------------------------------------------------------------------------


async def park(execution: Execution, operation: Operation, due: int | None) -> None:
    """Wait until `due`, in memory or as a run that has been put down; for ever if that is None."""
    future = operation.new_future(execution)
    stage = execution.stage
    stage.parked[operation] = due
    timer = None
    if due is not None and not execution.yielding:
        left = (due - execution.clock.now()) / 1000
        timer = outside_run(execution.loop, left, operation.release)
    stage.branch_blocked(operation.branch_in_run)
    try:
        await future
    finally:
        stage.parked.pop(operation, None)
        if timer is not None:
            timer.cancel()


async def wait(execution: Execution, key: Key, due: Callable[[int], int], name: str, options: TaskOptions) -> None:
    """Wait until the instant `due(now)`, worked out when the wait is first met. See IO.wait."""
    scope = execution.enter()
    operation = execution.open(key, name, options, scope, execution.current_branch(scope))
    record = operation.record
    try:
        if execution.is_settled(record):
            return await replay(execution, operation, PLAIN)
        if record.due_at is None:
            record.due_at = due(execution.clock.now())
            record.started_at = execution.clock.now()
            record.status = TaskStatus.WAITING
            execution.note(record)
        await park(execution, operation, record.due_at)
        record.output = "null"
        record.status = TaskStatus.COMPLETED
        _completed(execution, operation)
        execution.note(record)
        await _in_turn(execution, operation)
    except asyncio.CancelledError:
        execution.interrupted(operation)
        raise


async def observe(execution: Execution, key: Key, make: Callable[[], Any], name: str) -> Any:
    """A value that is made once and then remembered, at no write of its own (`io.now`, `io.uuid`, `io.random`)."""
    scope = execution.enter()
    operation = execution.open(key, name, NO_OPTIONS, scope, execution.current_branch(scope))
    record = operation.record
    try:
        if execution.is_settled(record):
            return await replay(execution, operation, PLAIN)
        while execution.yielding:
            await park(execution, operation, None)
        result = settle(execution, operation, make(), PLAIN)
        record.started_at = record.completed_at
        execution.note(record)
        await _in_turn(execution, operation)
        return result
    except asyncio.CancelledError:
        execution.interrupted(operation)
        raise


async def yield_(execution: Execution, key: Key) -> None:
    """Leave this execution, once per key. See IO.yield_."""
    scope = execution.enter()
    operation = execution.open(key, "yield", NO_OPTIONS, scope, execution.current_branch(scope))
    try:
        if execution.is_settled(operation.record):
            return await replay(execution, operation, PLAIN)
        if not execution.yielding:
            settle(execution, operation, None, PLAIN)
            execution.note(operation.record)
            execution.yield_soon(f"yielded at {operation.record.key!r}")
        await park(execution, operation, None)
    except asyncio.CancelledError:
        execution.interrupted(operation)
        raise


async def parallel(
    execution: Execution, key: Key, items: list[Any], fn: Callable[[Any, int], Any], name: str | None
) -> list[Any]:
    """Tasks side by side under one parent. See IO.parallel."""

    async def all_items() -> list[Any]:
        results = await asyncio.gather(
            *(run_task(execution, [index], fn, (item, index), {}) for index, item in enumerate(items)),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    return await run_task(execution, key, all_items, (), {"name": name or "parallel"})


async def maybe_await(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


# --- deadlines ---------------------------------------------------------------------------------------------------------


class Deadline:
    """Interrupts the code it is put around at an instant, then raises TimeoutError in its place.

    It fires in its turn, like a completion: after all that was recorded before it. Works like asyncio.timeout, except
    that its instant survives suspensions and that its timer isn't one of the run's.
    """

    def __init__(self, execution: Execution, due: int, fired: Callable[[int], None] | None = None) -> None:
        self._execution = execution
        self._due = due
        self._on_fire = fired
        self._armed = False
        self._fired = False

    def __enter__(self) -> Deadline:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._armed = True
        execution = self._execution
        execution.stage.deadlines[self] = self._due
        self._timer = outside_run(execution.loop, (self._due - execution.clock.now()) / 1000, self._due_now)
        return self

    def fire_at(self, seq: int) -> None:
        """It is recorded that it fired, at `seq`: do so again then."""
        self._timer.cancel()
        self._execution.stage.deliver(seq, lambda: self._fire(seq))

    def disarm(self) -> None:
        """It will not fire."""
        self._armed = False
        self._timer.cancel()
        self._execution.stage.deadlines.pop(self, None)

    def _due_now(self) -> None:
        if self._armed and self._execution.outcome is None:
            seq = self._execution.next_seq()
            self._execution.stage.deliver(seq, lambda: self._fire(seq))

    def _fire(self, seq: int) -> None:
        if self._armed:
            self._fired = True
            if self._on_fire is not None:
                self._on_fire(seq)
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self.disarm()
        if self._fired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError("the time allowed is over") from error


class DurableTimeout:
    """`async with io.timeout(key, duration)`. See IO.timeout."""

    def __init__(self, execution: Execution, key: Key, duration: timedelta | float) -> None:
        self._execution = execution
        self._key = key
        self._duration = duration

    async def __aenter__(self) -> DurableTimeout:
        execution = self._execution
        scope = execution.enter()
        options = TaskOptions(icon="clock", params={"seconds": to_ms(self._duration, "io.timeout") / 1000})
        self._operation = operation = execution.open(
            self._key, "timeout", options, scope, execution.current_branch(scope)
        )
        record = operation.record
        if record.due_at is None:
            now = execution.clock.now()
            record.due_at = now + to_ms(self._duration, f"{operation.where}: io.timeout")
            record.started_at = now
            record.status = TaskStatus.WAITING
            execution.note(record)
        self._deadline = Deadline(execution, record.due_at, self._fired)
        self._deadline.__enter__()
        if record.seq is not None:
            self._deadline.fire_at(record.seq)
        elif record.status is TaskStatus.COMPLETED:
            self._deadline.disarm()  # the block was left in time
        return self

    def _fired(self, seq: int) -> None:
        record = self._operation.record
        if record.seq is None:
            self._end("true")
            record.seq = seq
        self._execution.note(record)

    def _end(self, output: str) -> None:
        record = self._operation.record
        record.status = TaskStatus.COMPLETED
        record.completed_at = self._execution.clock.now()
        record.output = output

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: Any) -> None:
        record = self._operation.record
        if self._execution.outcome is None and record.status is TaskStatus.WAITING:
            self._end("false")
            self._execution.note(record)
        self._deadline.__exit__(kind, error, tb)


