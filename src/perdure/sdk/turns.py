"""How a branch waits inside an io call: for its turn to learn of a completion, for an instant, for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.errors import PerdureError
from perdure.schema.runs import TaskStatus

from .branches import OperationFuture, outside_run
from .failures import changed_kind
from .operation import Operation
from .values import Decodes

if TYPE_CHECKING:
    from .execution import Execution


def recorded(execution: Execution, operation: Operation) -> OperationFuture:
    """Write the settled task; the future is done when it is this branch's turn to learn of it."""
    future = operation.new_future()
    execution.write(operation.record, operation.tell)
    execution.stage.branch_blocked(future.branch)
    return future


async def in_turn(execution: Execution, operation: Operation, *, is_certain: bool = False) -> None:
    """Wait until it is this branch's turn to learn of a completion; `is_certain`: whatever cancels it (OperationFuture)."""
    seq = operation.record.seq
    assert seq is not None
    if not execution.stage.passes_at_once(seq):
        execution.stage.deliver(seq, operation.release)
        execution.stage.branch_blocked(operation.branch_in_run)
        await operation.new_future(is_certain=is_certain)


async def replay(execution: Execution, operation: Operation, codec: Decodes, *, is_task: bool = False) -> Any:
    """Return or raise what is recorded, when its turn has come. `is_task`: the code has run_task there."""
    record = operation.record
    if record.status is not TaskStatus.CANCELED and is_task != (record.attempts > 0):
        execution.end_failed(changed_kind(record.key, is_task))
        await blocked(execution, operation)
    if record.interrupted is not None:
        await park(execution, operation, None)
    if record.omitted:
        # Before its turn, which the others wait for.
        record.output, record.types = await execution.journal.fetch_output(record.id)
        record.omitted = False
    await in_turn(execution, operation, is_certain=record.absorbed)
    if record.status is TaskStatus.ERRORED:
        raise operation.error()
    try:
        return codec.decode(record.output or "null", record.types, where=operation.where)
    except PerdureError as error:
        # Not the task's failure, and nothing user code could handle: the run fails, and can be continued after a fix.
        execution.end_failed(error)
        await blocked(execution, operation)


async def park(execution: Execution, operation: Operation, due: int | None) -> None:
    """Wait until `due`, in memory or as a run that has been put down; for ever if that is None.

    An instant that has passed is no wait for a branch that is alone: nobody could come before it. (So it is for a run
    that was woken because it was due.)
    """
    if (
        due is not None
        and due <= execution.clock.now()
        and len(execution.branches.by_task) < 2
        and execution.outcome is None
        and not execution.yielding
    ):
        return
    future = operation.new_future()
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
    if execution.outcome is not None:
        execution.check()  # its time came while the end of the execution was being written: nothing begins any more


async def leave_if_yielding(execution: Execution, operation: Operation) -> None:
    """Go no further in an execution that yields: nothing new is begun, nor even noted, in it."""
    while execution.yielding:
        await park(execution, operation, None)


async def blocked(execution: Execution, operation: Operation) -> None:
    execution.stage.branch_blocked(operation.branch_in_run)
    await operation.new_future()
