"""What a run waits for that somebody else does: children that end, events that come, calls that the platform makes.

Theory of operation (execution.md sections 1 and 5). Such an operation records its task as WAITING, together with whatever
asks the other side to act (an *effect*, in the same transaction), and parks. Whoever resolves it writes the output into
the task's row and counts that in the run's `wakes`; an execution under way is told, a run that was put down is woken. The
row gets its place in the run's history (`seq`) when the run's code learns of it, as with everything that is observed.
A suspension says how many resolutions the execution has seen: if there are more, the run goes on at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from perdure.errors import PerdureError
from perdure.schema.effects import EventWait, Resolution, RunEffect
from perdure.schema.execution import Suspended, TaskRecord
from perdure.schema.runs import TaskStatus

from .operation import Operation
from .steps import complete, fail
from .turns import in_turn, leave_if_yielding, park, recorded, replay
from .values import Codec

if TYPE_CHECKING:
    from .execution import Execution


class Others:
    """What one execution knows of the resolutions of its run's tasks.

    Attributes:
        wakes: how many it has seen.
        waiting: operations parked for others → how many tasks each waits for.
        events: those of them that wait for an event → for which.
        effects: what the platform is to do in the transaction of the next write, which has to follow in the same turn.
        replayed: when the first body of this execution began (loop time): until then it has replayed.
    """

    # fmt: off
    __slots__ = (
        "_execution", "_lingering_since", "_started", "effects", "events", "replayed", "waiting", "wakes",
    )
    # fmt: on

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self.wakes = execution.claim.wakes
        self.waiting: dict[Operation, int] = {}
        self.events: dict[Operation, EventWait] = {}
        self.effects: list[RunEffect] = []
        self._lingering_since: float | None = None
        self._started = execution.loop.time()
        self.replayed: float | None = None

    def resolved(self, resolution: Resolution) -> None:
        """Somebody else has completed a task of the run."""
        execution = self._execution
        record = execution.records.find(resolution.task_id)
        if execution.outcome is not None or record is None or not is_open(record):
            return
        self.wakes += 1
        self._lingering_since = None
        record.status = resolution.status
        record.output, record.types = resolution.output, resolution.types
        record.error = resolution.error
        record.completed_at = execution.clock.now()
        for operation in tuple(self.waiting):
            operation.release()  # it looks for itself whether it has what it waits for

    def is_lingering(self) -> bool:
        """Whether the run stays in memory a while, in case that what it waits for comes at once."""
        now = self._execution.loop.time()
        if self._lingering_since is None:
            self._lingering_since = now
        return now - self._lingering_since < self._execution.settings.linger_for_others

    def part(self) -> None:
        """Let go of the execution, as Stage.part."""
        del self._execution

    def suspended(self, wake_at: int | None) -> Suspended:
        """The outcome of an execution in which nothing can move before `wake_at` or a resolution."""
        until = self._execution.loop.time() if self.replayed is None else self.replayed
        return Suspended(
            wake_at,
            wakes=self.wakes,
            open_waits=sum(self.waiting.values()),
            waits=tuple(self.events.values()),
            replay_ms=int((until - self._started) * 1000) + 1,
        )


def is_open(record: TaskRecord) -> bool:
    """Whether a task that waits for somebody else still does."""
    return record.seq is None and record.interrupted is None and record.completed_at is None


def start_waiting(operation: Operation, now: int, due: int | None) -> None:
    """The task waits from `now` on, at most until `due`."""
    record = operation.record
    record.status = TaskStatus.WAITING
    record.started_at = now
    record.due_at = due


async def wait_for_others(
    execution: Execution, operations: Sequence[Operation], waits: Sequence[EventWait] = ()
) -> None:
    """Until the tasks of all `operations` are resolved, or the first one's `due_at` has come. They are recorded as waiting.

    The first of them stands for all; `waits` is what it waits for, if that is an event.
    """
    first = operations[0]
    others = execution.others
    while True:
        count = sum(is_open(operation.record) for operation in operations)
        due = first.record.due_at
        if not count or (due is not None and due <= execution.clock.now()):
            return
        others.waiting[first] = count
        if waits:
            others.events[first] = waits[0]
        try:
            await park(execution, first, due)
        finally:
            others.waiting.pop(first, None)
            others.events.pop(first, None)


async def told(
    execution: Execution, operation: Operation, codec: Codec, overdue: Callable[[], Exception]
) -> Any:
    """What became of a task that waited: its output, once it is this branch's turn to learn of it.

    `overdue` makes the error for one that wasn't resolved in time.

    Raises:
        TaskError: the other side failed, the time is over, or what came doesn't fit.
    """
    record = operation.record
    if is_open(record):
        error: Exception = overdue()
        fail(execution, operation, error)
        await recorded(execution, operation)
        raise operation.error() from error
    if record.omitted:
        record.output, record.types = await execution.journal.fetch_output(record.id)
        record.omitted = False
    if record.status is TaskStatus.ERRORED:
        complete(execution, operation)
        execution.note(record)
        await in_turn(execution, operation)
        raise operation.error()
    try:
        value = codec.decode(record.output or "null", record.types, where=operation.where)
    except PerdureError as error:
        fail(execution, operation, error)
        await recorded(execution, operation)
        raise operation.error() from error
    came_at = record.completed_at
    complete(execution, operation)
    record.completed_at = came_at
    execution.note(record)
    await in_turn(execution, operation)
    return value


async def settle_other(
    execution: Execution,
    operation: Operation,
    codec: Codec,
    *,
    begin: Callable[[], bool],
    overdue: Callable[[], Exception],
    wait: EventWait | None = None,
) -> Any:
    """Wait for the one task of `operation`, or replay what became of it.

    Args:
        execution: of the run.
        operation: just opened.
        codec: decodes the output.
        begin: records the task as waiting, the first time; True if that has to be durable before it can be resolved.
        overdue: see `told`.
        wait: the event it waits for, if it is one.
    """
    record = operation.record
    try:
        if execution.is_settled(record):
            return await replay(execution, operation, codec)
        await leave_if_yielding(execution, operation)
        if record.status is TaskStatus.PENDING:
            if begin():
                await noted(execution, operation)
            else:
                execution.note(record)
        await wait_for_others(execution, [operation], () if wait is None else (wait,))
        return await told(execution, operation, codec, overdue)
    except asyncio.CancelledError:
        execution.interrupted(operation)
        raise


async def noted(execution: Execution, operation: Operation) -> None:
    """Write the task and what goes along with it, and wait until that is durable."""
    future = operation.new_future()
    execution.write(operation.record, operation.release)
    execution.stage.branch_blocked(operation.branch_in_run)
    await future
