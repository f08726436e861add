"""What io calls do in an async run: tasks, waits, remembered values. Each replays if it can, else runs and records."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from contextvars import copy_context
from threading import get_ident
from typing import TYPE_CHECKING, Any

from perdure.errors import UsageError
from perdure.schema.runs import TaskStatus

from .branches import Branch
from .call_sites import CallSite
from .deadlines import Deadline
from .functions import facts_of, merge_options
from .keys import Key
from .operation import NO_OPTIONS, Operation, TaskOptions, open_operation
from .others import Plan, settle_other
from .scope import Scope, current_scope
from .steps import begin, complete, decide_retry, fail, first_due, settle
from .turns import blocked, in_turn, leave_if_yielding, park, recorded, replay
from .values import PLAIN, codec_for

if TYPE_CHECKING:
    from .execution import Execution


REFUSALS_MAX = 1_000
"""Io calls of one branch after the end of the execution that are answered with the Signal; then it is stopped for good."""


_PENDING = TaskStatus.PENDING

_stopped: list[asyncio.Future[None]] = []


def enter(execution: Execution, site: CallSite) -> Scope:
    """The caller's scope; errors as Execution.enter. The call made at `site` has been awaited."""
    execution.unawaited.pop(id(site), None)
    if get_ident() != execution.thread:
        raise UsageError(
            "io is used in a thread: it works on the event loop only. Return from the thread what it has worked out, and "
            "call io outside; or make the job a plain def, whose io works in its own thread"
        )
    return execution.enter()


async def refuse(execution: Execution) -> None:
    """To be awaited before `enter` once the execution has ended: stops a branch that doesn't take a Signal for an answer."""
    if not execution.is_foreign_thread and execution.branches.refuse() > REFUSALS_MAX:
        # A loop that swallows every Signal would hold the event loop for ever. The future keeps the branch it stops: a
        # coroutine that is thrown away would be woken up once more by the garbage collector, and swallow that too.
        forever: asyncio.Future[None] = execution.loop.create_future()
        _stopped.append(forever)
        await forever


async def run_task(
    execution: Execution,
    site: CallSite,
    key: Key,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    given: dict[str, Any],
) -> Any:
    """Run `fn(*args)` as the task `key`, or return what it returned before. See IO.run_task."""
    if execution.outcome is not None:
        await refuse(execution)
    scope = enter(execution, site)
    facts = facts_of(fn)
    options = merge_options(facts.options, given) if given else facts.options
    codec = facts.codec if options.output is None else codec_for(options.output)
    branch = execution.branches.current(scope)
    operation = open_operation(execution, key, options.name, options, scope, branch, site)
    record = operation.record
    try:
        if record.seq is not None or record.interrupted is not None:
            return await replay(execution, operation, codec, is_task=True)
        if execution.yielding:
            await leave_if_yielding(execution, operation)
        due = None if options is NO_OPTIONS and record.status is _PENDING else first_due(operation, options)
        while True:
            if due is not None:
                await park(execution, operation, due)
            if execution.yielding:
                await leave_if_yielding(execution, operation)
            try:
                begin(execution, operation, options)
                if execution.writes_before_bodies:
                    execution.flush(operation.release)
                    await blocked(execution, operation)
                # The body, in its scope. Not in a coroutine of its own, which would cost as much as all of this.
                body = Scope(execution, operation)
                token = current_scope.set(body)
                branch.enter(body)
                cancelling = branch.task.cancelling()
                try:
                    if operation.deadline is None:
                        value = await (fn(*args) if facts.is_async else _in_thread(execution, fn, args))
                    else:
                        with Deadline(execution, operation.deadline):
                            value = await (fn(*args) if facts.is_async else _in_thread(execution, fn, args))
                except asyncio.CancelledError as cancelled:
                    _refuse_of_nobody(execution, branch, cancelled)
                    raise
                finally:
                    branch.leave(body)
                    current_scope.reset(token)
                    execution.bodies.pop(operation, None)
                    record.absorbed = branch.task.cancelling() > cancelling
                    if body.branches and execution.outcome is None:
                        await _cancel_left_behind(execution, body.branches)
                    body.ended = True
                if execution.outcome is not None:
                    execution.check()
                result = settle(execution, operation, value, codec)
            except (Exception, SystemExit) as raised:  # noqa: BLE001 - whatever user code raises fails its task
                execution.check()
                due, error = await failed_attempt(execution, operation, raised, options)
                if due is not None:
                    continue
                fail(execution, operation, error)
                await recorded(execution, operation)
                raise operation.error() from error
            await recorded(execution, operation)
            return result
    except asyncio.CancelledError:
        execution.interrupted(operation)
        raise


def _refuse_of_nobody(execution: Execution, branch: Branch, cancelled: asyncio.CancelledError) -> None:
    """Raise RuntimeError if nobody cancelled this branch: its body let a CancelledError of something else escape."""
    if branch.task.cancelling() == 0 and execution.outcome is None:
        raise RuntimeError("the body of the task raised CancelledError by itself") from cancelled


async def failed_attempt(
    execution: Execution, operation: Operation, error: BaseException, options: TaskOptions
) -> tuple[int | None, BaseException]:
    """When to try again after `error` (None: never), and the error that counts. The failed attempt is noted."""
    verdict: Any = None
    if options.on_error is not None and isinstance(error, Exception):
        try:
            verdict = await maybe_await(options.on_error(error, operation.as_task()))
        except Exception as raised:  # noqa: BLE001 - an error handler that raises replaces the error
            verdict = raised
        execution.check()
    return decide_retry(execution, operation, error, options, verdict)


async def _in_thread(execution: Execution, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    context = copy_context()
    value = await execution.loop.run_in_executor(
        execution.threads, lambda: context.run(_call_plain, fn, args)
    )
    return await value if inspect.isawaitable(value) else value


def _call_plain(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return fn(*args)
    except (
        StopIteration
    ) as stop:  # a future can't carry it (PEP 479 does the same for generators and coroutines)
        raise RuntimeError("the function raised StopIteration") from stop


async def _cancel_left_behind(execution: Execution, branches: Iterable[Branch]) -> None:
    """A body has ended: branches that it left behind with tasks under way may not outlive it."""
    left = [branch for branch in branches if branch.used_io and not branch.task.done()]
    if left:
        for branch in left:
            branch.dismiss()
        await asyncio.wait([branch.task for branch in left], timeout=execution.settings.unwind_limit)


async def wait(
    execution: Execution, site: CallSite, key: Key, due: Callable[[int], int], name: str, options: TaskOptions
) -> None:
    """Wait until the instant `due(now)`, worked out when the wait is first met. See IO.wait."""
    if execution.outcome is not None:
        await refuse(execution)
    scope = enter(execution, site)
    operation = open_operation(execution, key, name, options, scope, execution.branches.current(scope), site)
    record = operation.record
    try:
        if execution.is_settled(record):
            return await replay(execution, operation, PLAIN)
        await leave_if_yielding(execution, operation)
        if record.due_at is None:
            record.due_at = due(execution.clock.now())
            record.started_at = execution.clock.now()
            record.status = TaskStatus.WAITING
            execution.note(record)
        await park(execution, operation, record.due_at)
        record.output = "null"
        record.status = TaskStatus.COMPLETED
        complete(execution, operation)
        execution.note(record)
        await in_turn(execution, operation)
    except asyncio.CancelledError:
        execution.interrupted(operation)
        raise


async def observe(execution: Execution, site: CallSite, key: Key, make: Callable[[], Any], name: str) -> Any:
    """A value that is made once and then remembered, at no write of its own (`io.now`, `io.uuid`, `io.random`)."""
    if execution.outcome is not None:
        await refuse(execution)
    scope = enter(execution, site)
    operation = open_operation(
        execution, key, name, NO_OPTIONS, scope, execution.branches.current(scope), site
    )
    record = operation.record
    try:
        if execution.is_settled(record):
            return await replay(execution, operation, PLAIN)
        await leave_if_yielding(execution, operation)
        result = settle(execution, operation, make(), PLAIN)
        record.started_at = record.completed_at
        execution.note(record)
        execution.records.has_unwritten_values = True
        await in_turn(execution, operation)
        return result
    except asyncio.CancelledError:
        execution.interrupted(operation)
        raise


async def wait_for_others(execution: Execution, site: CallSite, key: Key, plan: Plan) -> Any:
    """Have somebody else do what `plan` says, and wait for it."""
    if execution.outcome is not None:
        await refuse(execution)
    scope = enter(execution, site)
    operation = open_operation(
        execution, key, plan.name, plan.options, scope, execution.branches.current(scope), site
    )
    return await settle_other(execution, operation, plan)


async def yield_(execution: Execution, site: CallSite, key: Key) -> None:
    """Leave this execution, once per key. See IO.yield_."""
    if execution.outcome is not None:
        await refuse(execution)
    scope = enter(execution, site)
    operation = open_operation(
        execution, key, "yield", NO_OPTIONS, scope, execution.branches.current(scope), site
    )
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
    execution: Execution,
    site: CallSite,
    key: Key,
    items: list[Any],
    fn: Callable[[Any, int], Any],
    name: str | None,
) -> list[Any]:
    """Tasks side by side under one parent. See IO.parallel."""

    async def all_items() -> list[Any]:
        results = await asyncio.gather(
            *(run_task(execution, site, [index], fn, (item, index), {}) for index, item in enumerate(items)),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    return await run_task(execution, site, key, all_items, (), {"name": name or "parallel"})


async def maybe_await(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
