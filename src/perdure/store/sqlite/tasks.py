"""The tasks of runs, read with as many of their outputs as fit."""

from __future__ import annotations

from perdure.schema.execution import TaskRecord

from . import rows
from .rows import Statements

TOTAL_BYTES_MAX = 64_000_000  # outputs of one answer: keeps its JSON within SQLite's limit for a value


def read_tasks(db: Statements, ids: str, *, bytes_max: int, opened_min: int) -> list[tuple[str, TaskRecord]]:
    """(run id, task) of the runs `ids` (JSON), by run and position.

    Outputs come along while their sum stays within `bytes_max` of a run and TOTAL_BYTES_MAX of all; the others are marked
    omitted. Rows of the platform's own (opened < 0) come only with an `opened_min` below 0.

    Hot. Nearly always everything fits, and which outputs do needn't be worked out one by one, at twice the price.
    """
    largest, total = db.fetch_row("size_tasks", ids=ids, opened_min=opened_min)
    if largest is None:
        return []
    if largest <= bytes_max and total <= TOTAL_BYTES_MAX:
        tasks = rows.decode_tasks(db.fetch("whole_tasks_by_run", ids=ids, opened_min=opened_min))
        tasks.sort(key=_place)
        return tasks
    return rows.decode_tasks(
        db.fetch(
            "tasks_by_run", ids=ids, bytes_max=bytes_max, total_max=TOTAL_BYTES_MAX, opened_min=opened_min
        )
    )


def _place(row: tuple[str, TaskRecord]) -> tuple[str, int, str]:
    run_id, task = row
    return run_id, task.position, task.id
