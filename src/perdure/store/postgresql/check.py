"""Looks for contradictions between the tables of one environment. See check.sql."""

from __future__ import annotations

from perdure.schema.runs import RunStatus

from .rows import decode_strings
from .statements import Statements, queries

_NAMED_MAX = 5  # ids that a sentence names

_RULES = {
    "runs_not_in_ready": "queued runs are not in the ready queue",
    "ready_without_run": "rows of the ready queue belong to no queued run",
    "ready_without_lane": "rows of the ready queue are in no lane, so no claim finds them",
    "runs_without_lease": "executing runs have no lease",
    "leases_without_run": "leases belong to no executing run",
    "runs_not_idle": "waiting or pending runs aren't kept as such, or without their timer",
    "idle_without_run": "rows of waiting or pending runs belong to none",
    "runs_not_in_ended": "ended runs aren't kept as such",
    "ended_without_run": "rows of ended runs belong to none",
    "runs_waiting_for_nothing": "waiting runs wait for nothing",
    "runs_without_event": "runs have no event",
    "tasks_without_run": "tasks belong to no run",
    "waits_without_run": "waits belong to no live run",
    "matches_without_event": "matches have no event",
}

_STATUSES = {
    "queued": RunStatus.QUEUED.value,
    "executing": RunStatus.EXECUTING.value,
    "waiting": RunStatus.WAITING.value,
}


async def find_faults(db: Statements) -> list[str]:
    """Contradictions, in words. To be called in one snapshot. (PostgreSQL's own files: see pg_amcheck.)"""
    found: list[str] = []
    for name, sentence in _RULES.items():
        wanted = {key: value for key, value in _STATUSES.items() if key in queries()[name].names}
        if ids := decode_strings(await db.fetch(name, **wanted)):
            found.append(f"{sentence}: {_named(ids)}")
    return found


def _named(ids: list[str]) -> str:
    more = len(ids) - _NAMED_MAX
    return ", ".join(ids[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
