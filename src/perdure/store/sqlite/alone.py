"""Batches that are one statement: the tasks of executions, when nothing else is to be looked at or written.

Hot: most batches of a busy engine. sqlite3 gives up the GIL for BEGIN, for the statement and for COMMIT, and a busy event
loop may take its time to give it back; it can work on beside the writer's thread only while that needs the GIL but once.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.engine.store import Applied, Change, RecordTasks, Result
from perdure.schema.runs import TaskStatus

from . import rows
from .connection import Alone
from .rows import Statements, encode

_APPLIED = Applied()


def record_alone(db: Statements, changes: Sequence[Change]) -> Alone[list[Result]] | None:
    """`changes` in one statement, which does what `batch.apply_changes` does; None if that takes more."""
    known = db.known
    if known.has_waits is not False:
        return None
    leases = known.leases
    tasks: list[rows.Row] = []
    for change in changes:
        if type(change) is not RecordTasks or change.logs or change.effects:
            return None
        run_id = change.run_id
        if leases.get(run_id) != change.execution:
            return None
        for task in change.tasks:
            tasks.append(rows.task_row(run_id, task))
            if task.completed_at is None:
                known.without_open.discard(run_id)  # at worst it is looked for in vain
    if not tasks:
        return None
    sql, parameters = db.prepared("record_tasks", tasks=encode(tasks), canceled=TaskStatus.CANCELED.value)
    return Alone(sql, parameters, [_APPLIED] * len(changes))
