"""Looks up why a run isn't executing. Needs a store only, so that the command can ask a file that somebody else owns."""

from __future__ import annotations

from perdure.errors import NotFoundError
from perdure.schema.reasons import Reason
from perdure.schema.runs import RunStatus

from .core.reasons import Waiting, reasons
from .store import RunFilter, Store

_CHILDREN_MAX = 100
"""Runs named among the reasons; there may be thousands."""


async def why_not_running(store: Store, run_id: str, *, environment_limit: int | None = None) -> list[Reason]:
    """See core.reasons.

    Raises:
        NotFoundError: no such run.
    """
    run = await store.get_run(run_id)
    if run is None:
        raise NotFoundError(kind="run", id=run_id)
    place = await store.place_in_queue(run_id) if run.status is RunStatus.QUEUED else None
    waiting = Waiting()
    if run.status is RunStatus.WAITING:
        live = tuple(status for status in RunStatus if not status.is_terminal)
        waiting = Waiting(
            tasks=await store.get_tasks(run_id),
            children=await store.list_runs(
                RunFilter(parent_run_id=run_id, statuses=live, limit=_CHILDREN_MAX)
            ),
            waiters=await store.waiters_of(run_id),
            operations=await store.operations_of(run_id),
        )
    return reasons(run, place=place, waiting=waiting, environment_limit=environment_limit)
