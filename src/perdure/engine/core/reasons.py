"""Why a run isn't executing, from what is stored of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from perdure.clock import to_datetime
from perdure.engine.store import OperationRow, QueuePlace, RunRow, WaiterRow
from perdure.schema.execution import TaskRecord
from perdure.schema.reasons import (
    Behind,
    Ended,
    Executing,
    Limited,
    Paused,
    Reason,
    Unknown,
    WaitsForCall,
    WaitsForEvent,
    WaitsForRun,
    WaitsUntil,
)
from perdure.schema.runs import RunStatus, TaskStatus


class Waiting(Struct, kw_only=True):
    """What a waiting run may wait for: its tasks, the live runs that some of them wait for, events, calls."""

    tasks: Sequence[TaskRecord] = ()
    children: Sequence[RunRow] = ()
    waiters: Sequence[WaiterRow] = ()
    operations: Sequence[OperationRow] = ()


def reasons(
    run: RunRow, *, place: QueuePlace | None, waiting: Waiting, environment_limit: int | None
) -> list[Reason]:
    """Why `run` isn't executing. Empty if nothing that is stored keeps it from being started.

    Args:
        run: as it is now.
        place: of a queued run.
        waiting: of a waiting one.
        environment_limit: executions there may be in the environment; None if that isn't limited, or isn't known.
    """
    if run.status.is_terminal:
        return [Ended(status=run.status)]
    if run.status is RunStatus.EXECUTING:
        return [Executing(execution=run.execution)]
    if run.status is RunStatus.PENDING:
        return [Unknown(job_id=run.job_id)]
    if run.status is RunStatus.WAITING:
        return _of_waiting(run, waiting)
    return [] if place is None else _of_queued(run, place, environment_limit)


def _of_queued(run: RunRow, place: QueuePlace, environment_limit: int | None) -> list[Reason]:
    queue = place.queue
    found: list[Reason] = []
    if queue.paused_at is not None:
        found.append(Paused(queue=queue.id, since=to_datetime(queue.paused_at)))
    if environment_limit is not None and place.executing_all >= environment_limit:
        found.append(Limited(scope="environment", limit=environment_limit, executing=place.executing_all))
    if queue.concurrency_limit is not None and queue.executing >= queue.concurrency_limit:
        found.append(
            Limited(scope="queue", id=queue.id, limit=queue.concurrency_limit, executing=queue.executing)
        )
    if queue.key_limit is not None and place.executing_key >= queue.key_limit:
        found.append(
            Limited(scope="key", id=run.queue_key, limit=queue.key_limit, executing=place.executing_key)
        )
    if place.ahead:
        found.append(Behind(queue=queue.id, key=run.queue_key or None, ahead=place.ahead))
    return found


def _of_waiting(run: RunRow, waiting: Waiting) -> list[Reason]:
    tasks = {task.id: task for task in waiting.tasks}
    found: list[Reason] = []
    found += (
        WaitsForRun(
            task=_key(tasks, child.parent_task_id), run_id=child.id, job_id=child.job_id, status=child.status
        )
        for child in waiting.children
        if not child.status.is_terminal
    )
    names: dict[str, list[str]] = {}
    for waiter in waiting.waiters:
        names.setdefault(waiter.task_id, []).append(waiter.name)
    for task_id, events in names.items():
        due = tasks[task_id].due_at if task_id in tasks else None
        until = None if due is None else to_datetime(due)
        found.append(WaitsForEvent(task=_key(tasks, task_id), names=tuple(events), until=until))
    found += (
        WaitsForCall(
            task=_key(tasks, operation.task_id),
            attempt=operation.attempt,
            at=to_datetime(operation.due_at),
        )
        for operation in waiting.operations
    )
    if run.wake_at is not None:
        due = [
            task
            for task in waiting.tasks
            if task.due_at == run.wake_at and task.status in (TaskStatus.WAITING, TaskStatus.RUNNING)
        ]
        if not any(task.id in names for task in due):
            found.append(WaitsUntil(at=to_datetime(run.wake_at), task=due[0].key if due else None))
    return found


def _key(tasks: Mapping[str, TaskRecord], task_id: str | None) -> str:
    task = tasks.get(task_id or "")
    return task_id or "" if task is None else task.key
