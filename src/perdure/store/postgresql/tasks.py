"""Rows of tasks: written, and read with as many of their outputs as fit."""

from __future__ import annotations

from perdure.schema.execution import TaskRecord
from perdure.schema.runs import TaskStatus

from . import rows
from .rows import TaskRow, encode
from .statements import Statements

BYTES_MAX = 2**62


async def record_tasks(db: Statements, tasks: list[TaskRow]) -> None:
    """In the order given: of several rows for one task each meets what the ones before left."""
    while tasks:
        first: dict[tuple[str, str], TaskRow] = {}
        later = [row for row in tasks if first.setdefault((row.run_id, row.id), row) is not row]
        await db.execute(
            "record_tasks", tasks=encode(list(first.values())), canceled=TaskStatus.CANCELED.value
        )
        tasks = later


async def read_tasks(
    db: Statements, ids: list[str], *, bytes_max: int, opened_min: int
) -> list[tuple[str, TaskRecord]]:
    """(run id, task) of the runs `ids`, by run and position.

    Outputs come along while their sum stays within `bytes_max` of a run; the others are marked omitted. Rows of the
    platform's own (opened < 0) come only with an `opened_min` below 0.
    """
    return rows.decode_tasks(
        await db.fetch("tasks_by_run", ids=ids, bytes_max=bytes_max, opened_min=opened_min)
    )
