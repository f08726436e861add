"""What a run waits for that somebody else does: children that end, events that come, calls that the platform makes.

Theory of operation (execution.md sections 1 and 5). Such an operation records its task as WAITING, together with whatever
asks the other side to act (an *effect*, in the same transaction), and parks. Whoever resolves it writes the output into
the task's row and counts that in the run's `wakes`; an execution under way is told, a run that was put down is woken. The
row gets its place in the run's history (`seq`) when the run's code learns of it, as with everything that is observed.

No wake-up can get lost, because a suspension says how many resolutions the execution has seen: if the store has counted
more, the run goes on at once. An execution therefore counts only what it has also taken in; what it isn't told of, or has
no use for, costs one execution more and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from perdure.errors import PerdureError
from perdure.schema.effects import EventWait, Resolution
from perdure.schema.execution import Suspended, TaskRecord, Yielded
from perdure.schema.runs import TaskStatus

from .branches import outside_run
from .operation import NO_OPTIONS, Operation, TaskOptions
from .steps import complete, fail
from .turns import in_turn, leave_if_yielding, park, recorded, replay

if TYPE_CHECKING:
    from .execution import Execution


class Waiting:
    """What one parked operation waits for.

    Attributes:
        records: of the tasks that others complete; the operation goes on when the last one is.
        left: how many of them are open.
        event: what it waits for, if that is an event.
        timer: has an event awaited by an execution that isn't put down.
    """

    __slots__ = ("event", "left", "records", "timer")

    def __init__(self, records: Sequence[TaskRecord], left: int, event: EventWait | None) -> None:
        self.records = records
        self.left = left
        self.event = event
        self.timer: asyncio.TimerHandle | None = None


class Others:
    """What one execution knows of the resolutions of its run's tasks.

    Attributes:
        wakes: how many it has seen.
        waiting: operations parked for others.
        event_seen: when the last event arrived that a wait of the run was given.
    """

    __slots__ = ("_execution", "_lingering_since", "_waiters", "event_seen", "waiting", "wakes")

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self.wakes = execution.claim.wakes
        self.waiting: dict[Operation, Waiting] = {}
        self.event_seen = 0
        self._waiters: dict[str, Operation] = {}
        self._lingering_since: float | None = None

    def resolved(self, resolution: Resolution) -> None:
        """Somebody else has completed a task of the run. Hot: once per child."""
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
        operation = self._waiters.pop(resolution.task_id, None)
        if operation is not None:
            waiting = self.waiting[operation]
            waiting.left -= 1
            if not waiting.left:
                operation.release()

    def begin(
        self, operation: Operation, records: Sequence[TaskRecord], event: EventWait | None = None
    ) -> bool:
        """The operation parks until the tasks of `records` are resolved. False: they are, or its time is over."""
        execution, due = self._execution, operation.record.due_at
        still_open = [record for record in records if is_open(record)]
        if not still_open or (due is not None and due <= execution.clock.now()):
            return False
        self.waiting[operation] = waiting = Waiting(records, len(still_open), event)
        for record in still_open:
            self._waiters[record.id] = operation
        if event is not None:
            # Bodies may keep the run in memory for long, and the event is to be noticed all the same.
            waiting.timer = outside_run(
                execution.loop, execution.settings.flush_delay, partial(self._await_event, operation)
            )
        return True

    def end(self, operation: Operation) -> None:
        """The operation parks no more."""
        waiting = self.waiting.pop(operation, None)
        if waiting is None:
            return
        if waiting.timer is not None:
            waiting.timer.cancel()
        if waiting.left:
            for record in waiting.records:
                self._waiters.pop(record.id, None)

    def _await_event(self, operation: Operation) -> None:
        waiting = self.waiting.get(operation)
        execution = self._execution
        if waiting is None or waiting.event is None or execution.outcome is not None or execution.yielding:
            return
        execution.ask(waiting.event)
        execution.note(operation.record)
        execution.flush()

    def part(self) -> None:
        """Let go of the execution, as Stage.part."""
        del self._execution

    def is_lingering(self) -> bool:
        """Whether the run stays in memory a while, in case that what it waits for comes at once."""
        now = self._execution.loop.time()
        if self._lingering_since is None:
            self._lingering_since = now
        return now - self._lingering_since < self._execution.settings.linger_for_others

    def suspended(self, wake_at: int | None) -> Suspended | Yielded:
        """The outcome of an execution in which nothing can move before `wake_at` or a resolution.

        In a sync run a branch may have given up its thread before what it waited for came: that run goes on at once.
        """
        open_waits = 0
        events: list[EventWait] = []
        branches = 0
        for operation, waiting in self.waiting.items():
            if operation.record.interrupted is not None:
                continue  # left behind in a body whose time is over
            left = sum(map(is_open, waiting.records))
            if not left:
                return Yielded("what it waits for has come")
            branches += 1
            open_waits += left
            if waiting.event is not None:
                events.append(waiting.event)
        execution = self._execution
        until = execution.loop.time() if execution.replayed is None else execution.replayed
        return Suspended(
            wake_at,
            wakes=self.wakes,
            open_waits=open_waits,
            waits=tuple(events),
            replay_ms=int((until - execution.began) * 1000) + 1,
            waits_for_all=branches == 1,
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


class Plan:
    """What one io call does that waits for others: the parts in which such calls differ, async and sync alike.

    It is its own codec: `decode` makes what the call returns of the task's output.

    Attributes:
        name, options: how the task is shown.
    """

    name: str
    options: TaskOptions = NO_OPTIONS

    def begin(self, execution: Execution, operation: Operation) -> Iterator[None]:
        """Record the task as waiting (`start_waiting`), unless it is already, and have `execution.ask`.

        What has been done until a `yield` is durable when that returns; without one it goes out with the next write. A
        PerdureError fails the task.
        """
        raise NotImplementedError

    def records(self, operation: Operation) -> Sequence[TaskRecord]:
        """Of the tasks that others complete."""
        return [operation.record]

    def event(self, operation: Operation) -> EventWait | None:
        """Which event the task waits for, if that is what it does."""
        return None

    def overdue(self, operation: Operation) -> Exception:
        """The error of a task that wasn't resolved in time."""
        raise NotImplementedError

    def give_up(self, execution: Execution, operation: Operation) -> None:
        """The task is recorded as failed or interrupted, whatever others still do for it."""

    def decode(self, json: str, types: str | None = None, *, where: object) -> Any:
        """What the call returns. A SerializationError fails the task, the run on replay."""
        raise NotImplementedError


async def settle_other(execution: Execution, operation: Operation, plan: Plan) -> Any:
    """What the tasks of the operation, just opened, come to: waits for that, or replays it.

    Raises:
        TaskError: the other side failed, the time is over, or what came doesn't fit.
    """
    record = operation.record
    try:
        if execution.is_settled(record):
            if record.seq is not None:
                await fetch_omitted(execution, plan.records(operation))
            return await replay(execution, operation, plan)
        await leave_if_yielding(execution, operation)
        try:
            for _ in plan.begin(execution, operation):
                await noted(execution, operation)
                await leave_if_yielding(execution, operation)
        except PerdureError as error:
            await _failed(execution, operation, plan, error)
        await wait_for_others(execution, operation, plan.records(operation), plan.event(operation))
        return await _told(execution, operation, plan)
    except asyncio.CancelledError:
        execution.interrupted(operation)
        if execution.outcome is None:
            plan.give_up(execution, operation)
        raise


async def wait_for_others(
    execution: Execution,
    operation: Operation,
    records: Sequence[TaskRecord],
    event: EventWait | None = None,
) -> None:
    """Until the tasks of `records` are resolved, or the `due_at` of the operation's task has come.

    They are recorded as waiting; `event` is what the operation waits for, if it is one.
    """
    others = execution.others
    while others.begin(operation, records, event):
        try:
            await park(execution, operation, operation.record.due_at)
        finally:
            others.end(operation)


async def _told(execution: Execution, operation: Operation, plan: Plan) -> Any:
    """What became of a task that waited: its output, once it is this branch's turn to learn of it."""
    record, records = operation.record, plan.records(operation)
    if any(map(is_open, records)):
        await _failed(execution, operation, plan, plan.overdue(operation))
    await fetch_omitted(execution, records)
    if record.status is TaskStatus.ERRORED:
        observed(execution, operation)
        await in_turn(execution, operation)
        raise operation.error()
    try:
        value = plan.decode(record.output or "null", record.types, where=operation.where)
    except PerdureError as error:
        await _failed(execution, operation, plan, error)
    observed(execution, operation)
    await in_turn(execution, operation)
    return value


async def _failed(execution: Execution, operation: Operation, plan: Plan, error: Exception) -> NoReturn:
    """The task has failed: record that, and raise it when it is this branch's turn."""
    fail(execution, operation, error)
    plan.give_up(execution, operation)
    await recorded(execution, operation)
    raise operation.error() from error


async def fetch_omitted(execution: Execution, records: Iterable[TaskRecord]) -> None:
    """Get the outputs that the claim left out."""
    for record in records:
        if record.omitted:
            record.output, record.types = await execution.journal.fetch_output(record.id)
            record.omitted = False


def observed(execution: Execution, operation: Operation) -> None:
    """The run's code learns of what somebody else completed."""
    record = operation.record
    came_at = record.completed_at
    if record.status is not TaskStatus.ERRORED:
        record.status = TaskStatus.COMPLETED
        record.output = record.output or "null"
    complete(execution, operation)
    record.completed_at = came_at or record.completed_at
    execution.note(record)


async def noted(execution: Execution, operation: Operation) -> None:
    """Write the task and what goes along with it, and wait until that is durable."""
    future = operation.new_future()
    execution.write(operation.record, operation.release)
    execution.stage.branch_blocked(operation.branch_in_run)
    await future
