"""Deletes what has ended, with all that is its own: retention.sql. In batches: a transaction holds up everybody else's."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.engine.store import Deleted, DeleteEvents, DeleteRuns, Result

from .rows import Statements, decode_pairs, decode_strings, encode
from .waiting import delete_waiting

Found = list[tuple[int, Result]]

_OF_RUNS = (
    "delete_tasks_of_runs",
    "delete_logs_of_runs",
    "delete_status_versions_of_runs",
    "delete_statuses_of_runs",
    "delete_values_of_runs",
    "delete_tags_of_runs",
    "delete_runs",
)


def delete_runs(db: Statements, changes: list[tuple[int, DeleteRuns]]) -> Found:
    """A run whose execution still holds a slot counts as live."""
    return [(n, Deleted(_delete_runs(db, change.ids))) for n, change in changes]


def _delete_runs(db: Statements, ids: list[str]) -> int:
    deletable = decode_pairs(db.fetch("deletable_runs", ids=encode(ids)))
    if not deletable:
        return 0
    gone = [run_id for run_id, _ in deletable]
    encoded = encode(gone)
    for name in _OF_RUNS:
        db.execute(name, ids=encoded)
    delete_waiting(db, runs=gone)  # an ended run has none, but a row without its run would stay for ever
    _delete_events(db, dict.fromkeys(event_id for _, event_id in deletable))
    return len(gone)


def delete_events(db: Statements, changes: list[tuple[int, DeleteEvents]]) -> Found:
    return [(n, Deleted(_delete_events(db, change.ids))) for n, change in changes]


def _delete_events(db: Statements, ids: Iterable[str]) -> int:
    deletable = db.fetch("deletable_events", ids=encode(list(ids)))
    gone = decode_strings(deletable)
    if gone:
        db.execute("delete_events", ids=deletable)
    return len(gone)
