"""Durable time-outs: around the body of a task (`timeout=`) and around a block (`io.timeout`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from perdure.durations import to_ms
from perdure.schema.runs import TaskStatus

from .branches import OperationFuture, outside_run
from .call_sites import CallSite
from .failures import FAILED_TASK
from .keys import Key
from .operation import TaskOptions, open_operation
from .turns import leave_if_yielding

if TYPE_CHECKING:
    from .execution import Execution


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

    def __enter__(self) -> Self:
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
        self._execution.stage.interrupt(seq, lambda: self._fire(seq))

    def disarm(self) -> None:
        """It will not fire."""
        self._armed = False
        self._timer.cancel()
        self._execution.stage.deadlines.pop(self, None)

    def _due_now(self) -> None:
        if self._armed and self._execution.outcome is None:
            seq = self._execution.records.next_seq()
            self._execution.stage.interrupt(seq, lambda: self._fire(seq))

    def _fire(self, seq: int) -> None:
        if self._execution.yielding and isinstance(getattr(self._task, "_fut_waiter", None), OperationFuture):
            return  # no body is kept from ending by this; what the branch waits to be told comes first, in the next execution
        if self._armed:
            self._fired = True
            self._execution.stage.deadlines.pop(self, None)  # what goes on in `finally` may be put down
            if self._on_fire is not None:
                self._on_fire(seq)
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self.disarm()
        if self._fired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError("it took longer than its time-out allows") from error


class DurableTimeout:
    """`async with io.timeout(key, duration)`. See IO.timeout."""

    def __init__(self, execution: Execution, site: CallSite, key: Key, duration: timedelta | float) -> None:
        self._execution = execution
        self._site = site
        self._key = key
        self._duration = duration

    async def __aenter__(self) -> Self:
        execution = self._execution
        scope = execution.enter()
        execution.unawaited.pop(id(self._site), None)
        options = TaskOptions(icon="clock", params={"seconds": to_ms(self._duration, "io.timeout") / 1000})
        self._operation = operation = open_operation(
            execution, self._key, "timeout", options, scope, execution.branches.current(scope), self._site
        )
        record = operation.record
        await leave_if_yielding(execution, operation)
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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: object
    ) -> None:
        record = self._operation.record
        if self._execution.outcome is None and record.status is TaskStatus.WAITING:
            self._end("false")
            self._execution.note(record)
        try:
            self._deadline.__exit__(kind, error, tb)
        except TimeoutError as over:
            setattr(over, FAILED_TASK, record.id)
            raise
