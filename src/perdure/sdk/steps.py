"""The steps in the life of a task: when it may start, begin, success, failure, another try. Shared by async and sync runs.

They change the task's record and note it; writing it is for whoever takes the step.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from perdure.durations import to_instant_ms, to_ms
from perdure.errors import (
    DuplicateKeyError,
    LimitExceededError,
    NonDeterminismError,
    SerializationError,
    TaskError,
    UsageError,
)
from perdure.schema.runs import TaskStatus

from .failures import describe_error
from .operation import Operation, TaskOptions
from .values import Codec, Encoded

if TYPE_CHECKING:
    from .execution import Execution

# Hot: a member of an enumeration is looked up slowly.
_RUNNING, _COMPLETED = TaskStatus.RUNNING, TaskStatus.COMPLETED

_NEVER_RETRIED = (
    TaskError,
    SerializationError,
    LimitExceededError,
    DuplicateKeyError,
    UsageError,
    NonDeterminismError,
)
"""What would only fail again: a nested task that has failed for good, and mistakes in the code."""


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
    deadline = record.due_at if record.status is _RUNNING else None
    if record.status is not _RUNNING:
        record.status = _RUNNING
        record.attempts += 1
        if record.attempts > 1:
            execution.stage.expect(execution.records.begin_anew(record))
    now = execution.clock.now()
    record.started_at = record.started_at or now
    record.due_at = None
    if options.timeout is not None:
        operation.deadline = deadline or now + to_ms(options.timeout, f"{operation.where}: timeout")
        record.due_at = operation.deadline
    if execution.replayed is None:
        execution.replayed = execution.loop.time()
    execution.bodies[operation] = None
    execution.note(record)


def settle(execution: Execution, operation: Operation, value: Any, codec: Codec) -> Any:
    """Take a body's return value as the task's output; returns what a replay will return.

    Raises:
        SerializationError, LimitExceededError: it can't be stored, or doesn't fit its annotation.
    """
    limit = execution.settings.limits.output_bytes_max
    encoded, result = codec.roundtrip(value, where=operation, limit=limit, setting="limits.output_bytes_max")
    succeed(execution, operation, encoded)
    return result


def to_output(execution: Execution, operation: Operation, value: Any, codec: Codec) -> tuple[Encoded, Any]:
    """A body's return value as stored, and as a replay will return it. Errors as in `settle`."""
    limit = execution.settings.limits.output_bytes_max
    return codec.roundtrip(value, where=operation, limit=limit, setting="limits.output_bytes_max")


def succeed(execution: Execution, operation: Operation, encoded: Encoded) -> None:
    """The task has completed."""
    record = operation.record
    limits, records = execution.settings.limits, execution.records
    before, records.output_bytes = records.output_bytes, records.output_bytes + len(encoded.json)
    if records.output_bytes > limits.history_bytes_max:
        raise LimitExceededError(
            what="the size in bytes of all outputs of this run",
            size=records.output_bytes,
            limit=limits.history_bytes_max,
            setting="limits.history_bytes_max",
        )
    if before <= limits.history_bytes_warn < records.output_bytes:
        execution.warn(
            f"the outputs of this run's tasks are {records.output_bytes:,} bytes together, and every resumption reads them "
            "all. Store large data elsewhere and return references"
        )
    if operation.effect is not None:
        execution.ask(operation.effect)  # whoever calls this writes the record in the same turn
    record.output, record.types = encoded.json, encoded.types
    record.status = _COMPLETED
    record.error = None
    complete(execution, operation)


def fail(execution: Execution, operation: Operation, error: BaseException) -> None:
    """The task has failed for good."""
    record = operation.record
    record.error = describe_error(error, execution.settings.limits, record.id)
    record.status = TaskStatus.ERRORED
    complete(execution, operation)


def complete(execution: Execution, operation: Operation) -> None:
    record = operation.record
    record.seq = execution.records.next_seq()
    record.completed_at = execution.clock.now()
    record.due_at = None


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
        record.error = describe_error(error, execution.settings.limits, record.id)
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
