"""What is written once the platform has made a call for a task: (the call, what came of it, now) → changes. Pure.

Secrets of the request (redacted strings) stay out of everything that people see, also where a response repeats them. A
task that succeeds gets what was answered as it is: that is its value.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from perdure.engine.store import OperationRow, RepeatOperation, ResolveTask
from perdure.schema.execution import PLATFORM_ROW, TaskRecord
from perdure.schema.operations import SHOWN_CHARS_MAX, FetchOperation, PollParams
from perdure.schema.runs import ErrorInfo, RunStatus, TaskStatus

from .fetching import Again, Attempt, Body, Finished, HttpResponse, request_of


def attempt_of(row: OperationRow) -> Attempt:
    """Where the operation stands with the call that is due."""
    return Attempt(number=row.tries, began_at=row.started_at)


def after_call(
    row: OperationRow,
    operation: FetchOperation,
    step: Finished | Again,
    response: HttpResponse | None,
    now: int,
    *,
    position: int,
    duration_ms: int,
    output_bytes_max: int,
) -> ResolveTask | RepeatOperation:
    """What follows from a call.

    Args:
        row: the call that was made.
        operation: what it was made for.
        step: what follows (core.fetching).
        response: what came, if anything did. Each one of a poll is shown below its task, and so is each failure that is
            followed by another attempt.
        now: when that was.
        position: of the task.
        duration_ms: how long the call took.
        output_bytes_max: a longer output makes the task fail.
    """
    tasks: list[TaskRecord] = []
    if response is not None and isinstance(operation.params, PollParams):
        tasks.append(_poll_row(row, operation, response, now, position, duration_ms))
    if isinstance(step, Again):
        if not tasks:
            tasks.append(_failed_row(row, operation, step.reason, now, position, duration_ms))
        return RepeatOperation(
            run_id=row.run_id,
            task_id=row.task_id,
            attempt=row.attempt,
            due_at=step.at_ms,
            tries=step.attempt.number,
            tasks=tasks,
        )
    resolution = _resolution(row, now, tasks)
    size = len(step.output.encode())
    if step.error is not None:
        _fail(resolution, operation, step.error, step.output if size <= output_bytes_max else None)
    elif size > output_bytes_max:
        message = (
            f"the size in bytes of what was answered is {size:,}, over the limit of {output_bytes_max:,} "
            "(limits.output_bytes_max): ask for less of it, or fetch it in a task and store it elsewhere"
        )
        _fail(resolution, operation, ErrorInfo(name="LimitExceededError", message=message))
    else:
        resolution.output = step.output
    return resolution


def refused(row: OperationRow, error: ErrorInfo, now: int) -> ResolveTask:
    """The task fails without a call."""
    resolution = _resolution(row, now, [])
    resolution.status, resolution.error = TaskStatus.ERRORED, error
    return resolution


def poll_attempt(
    operation: FetchOperation, response: HttpResponse, *, bytes_max: int = SHOWN_CHARS_MAX
) -> str:
    """Details (JSON, as of any task) of the row "poll attempt" that shows one response of a poll below its task.

    {"description": "GET https://... 200", "icon": "activity", "params": {"status", "headers", "body"}, "style": {...}};
    a body of more than `bytes_max` bytes is left out.
    """
    request = request_of(operation)
    params: dict[str, Any] = {"status": response.status, "headers": operation.hide(response.headers)}
    if len(response.body) <= bytes_max:
        params["body"] = Raw(_without_secrets(operation, Body(response.body).json))
    else:
        params["omitted"] = f"the body, for its {len(response.body):,} bytes"
    details = {
        "description": operation.hide(f"{request.method} {request.url} {response.status}"),
        "icon": "activity",
        "params": params,
        "style": {"style": "minimal", "variant": "info"},
    }
    return msgspec.json.encode(details).decode()


# --- parts --------------------------------------------------------------------------------------------------------------


def _resolution(row: OperationRow, now: int, tasks: list[TaskRecord]) -> ResolveTask:
    return ResolveTask(
        run_id=row.run_id,
        task_id=row.task_id,
        status=TaskStatus.COMPLETED,
        at=now,
        waiting=RunStatus.WAITING,
        queued=RunStatus.QUEUED,
        tasks=tasks,
    )


def _fail(
    resolution: ResolveTask, operation: FetchOperation, error: ErrorInfo, output: str | None = None
) -> None:
    resolution.status = TaskStatus.ERRORED
    resolution.error = msgspec.structs.replace(error, message=operation.hide(error.message))
    if output is not None:
        resolution.output = _without_secrets(operation, output)


def _without_secrets(operation: FetchOperation, json: str) -> str:
    if not operation.secrets():
        return json
    return msgspec.json.encode(operation.hide(msgspec.json.decode(json))).decode()


def _poll_row(
    row: OperationRow,
    operation: FetchOperation,
    response: HttpResponse,
    now: int,
    position: int,
    duration_ms: int,
) -> TaskRecord:
    shown = _row(row, "poll attempt", TaskStatus.COMPLETED, now, position, duration_ms)
    shown.details = poll_attempt(operation, response)
    return shown


def _failed_row(
    row: OperationRow, operation: FetchOperation, reason: str, now: int, position: int, duration_ms: int
) -> TaskRecord:
    """An attempt that is followed by another; the last one's error is the task's."""
    shown = _row(row, "attempt", TaskStatus.ERRORED, now, position, duration_ms)
    shown.error = ErrorInfo(name="FetchAttemptError", message=operation.hide(reason))
    return shown


def _row(
    row: OperationRow, name: str, status: TaskStatus, now: int, position: int, duration_ms: int
) -> TaskRecord:
    # The instant tells the attempts of one operation from those of its predecessors, if its task began anew.
    attempt_id = f"{row.task_id}:{row.due_at}"
    return TaskRecord(
        id=attempt_id,
        idempotency_key=attempt_id,
        key=f"{name} {row.attempt}",
        name=name,
        status=status,
        position=position,
        opened=PLATFORM_ROW,
        parent_id=row.task_id,
        started_at=now - duration_ms,
        completed_at=now,
    )
