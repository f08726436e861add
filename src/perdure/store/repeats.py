"""Changes whose guard doesn't hold: whether that is because they were made before (see the Store port). Pure, for all adapters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from perdure.engine.store import Applied, MoveRun, RunRow
from perdure.schema.execution import TaskRecord


def overtaken(move: MoveRun) -> MoveRun:
    """A task of the run was resolved while its execution, which didn't know, suspended: it goes on at once."""
    assert move.otherwise is not None
    return replace(
        move, status=move.otherwise, wake_at=None, open_waits=0, resume_at=None, waits=(), reason=None
    )


def repeated_moves(moves: list[tuple[int, MoveRun]], runs: dict[str, RunRow]) -> dict[int, Applied]:
    """Moves that left a run exactly as it is now, and those which another of these then went on from."""
    repeats: dict[int, Applied] = {}
    reached: dict[str, MoveRun] = {}  # the earliest repeat known of a run
    for n, move in reversed(moves):
        run, later = runs.get(move.run_id), reached.get(move.run_id)
        for made in [move] if move.wakes_seen is None else [move, overtaken(move)]:
            if run is not None and (_is_result(run, made) or (later is not None and _is_before(made, later))):
                reached[move.run_id] = made
                repeats[n] = Applied(overtaken=made is not move)
                break
    return repeats


def _is_result(run: RunRow, move: MoveRun) -> bool:
    priority = run.priority if move.priority is None else move.priority
    failures = run.failures if move.failures is None else move.failures
    return run == replace(
        run,
        status=move.status,
        execution=move.execution,
        crashes=move.crashes,
        wake_at=move.wake_at,
        completed_at=move.completed_at,
        output=move.output,
        types=move.types,
        error=move.error,
        reason=move.reason,
        failed_tasks=move.failed_tasks,
        priority=priority,
        failures=failures,
        open_waits=move.open_waits,
        resume_at=move.resume_at,
    )


def _is_before(move: MoveRun, later: MoveRun) -> bool:
    return (move.status, move.execution) == (later.expected, later.execution)


def latest(tasks: Sequence[TaskRecord]) -> Iterable[TaskRecord]:
    """Of several records of a task the last."""
    return {task.id: task for task in tasks}.values()


def is_stored(task: TaskRecord, stored: TaskRecord | None) -> bool:
    """Whether the row of a task is as `task` would have written it."""
    if stored is None:
        return False
    if task.output is None:  # the stored one was kept
        stored = replace(stored, output=None, types=None)
        task = replace(task, types=None)
    return replace(stored, omitted=False) == replace(task, omitted=False)
