"""Looks for what can't be in a database that nothing but perdure wrote to, on a disk that works. See check.sql."""

from __future__ import annotations

import sqlite3

from perdure.schema.runs import RunStatus

from .rows import Statements, decode_strings

_NAMED_MAX = 5  # ids that a sentence names

_RULES = {
    "runs_not_in_ready": "queued runs are not in the ready queue",
    "ready_without_run": "rows of the ready queue belong to no queued run",
    "ready_without_lane": "rows of the ready queue are in no lane, so no claim finds them",
    "runs_without_lease": "executing runs have no lease",
    "leases_without_run": "leases belong to no executing run",
    "runs_without_timer": "waiting runs have no timer",
    "timers_without_run": "timers belong to no waiting run",
    "runs_waiting_for_nothing": "waiting runs wait for nothing",
    "runs_without_event": "runs have no event",
    "tasks_without_run": "tasks belong to no run",
    "waits_without_run": "waits belong to no live run",
    "matches_without_event": "matches have no event",
}


def find_faults(connection: sqlite3.Connection, db: Statements) -> list[str]:
    """Faults of the file, then, if there are none, contradictions between its tables in one environment; in words."""
    damages = _damages(connection)
    if damages:
        return [f"the file is damaged: {text}" for text in damages]
    return [
        f"{sentence}: {_named(ids)}"
        for name, sentence in _RULES.items()
        if (ids := decode_strings(_fetch(db, name)))
    ]


def _damages(connection: sqlite3.Connection) -> list[str]:
    try:
        found = [text for (text,) in connection.execute("pragma integrity_check")]
    except sqlite3.DatabaseError as error:  # too damaged to look at
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise
        return [str(error)]
    return [] if found == ["ok"] else found


def _fetch(db: Statements, name: str) -> str:
    return db.fetch(
        name,
        queued=RunStatus.QUEUED.value,
        executing=RunStatus.EXECUTING.value,
        waiting=RunStatus.WAITING.value,
    )


def _named(ids: list[str]) -> str:
    more = len(ids) - _NAMED_MAX
    return ", ".join(ids[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
