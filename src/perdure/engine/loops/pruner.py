"""Deletes what has ended long ago."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct

from perdure.engine.store import Change, Deleted, DeleteEvents, DeleteRuns, Result, Store
from perdure.schema.retention import Pruned
from perdure.schema.runs import RunStatus

PRUNE_BATCH = 200
"""Runs, or events, deleted in one transaction: others' writes wait for it."""

PRUNE_MS = 60_000
"""How often the loop looks when there was nothing left to delete."""


class Ages(Struct, frozen=True, kw_only=True):
    """How long runs are kept after their end, milliseconds by status, and events without runs. What isn't there is kept."""

    runs: Mapping[RunStatus, int] = {}
    events: int | None = None

    def groups(self) -> Iterator[tuple[int, list[RunStatus]]]:
        """(age, the statuses that it is for)"""
        for age in sorted(set(self.runs.values())):
            yield age, [status for status, given in self.runs.items() if given == age]


KEEP_ALL = Ages()


class Pruner:
    """Deletes runs with all that is theirs, and events, in small batches. `ages`: what the loop goes by."""

    def __init__(self, store: Store, submit: Callable[[Change], Future[Result]], *, ages: Ages) -> None:
        self.ages = ages
        self._store = store
        self._submit = submit

    async def step(self, now: int) -> int | None:
        """Delete a batch of each; returns when to look again."""
        if self.ages == KEEP_ALL:
            return None
        deleted, more = await self._batch(self.ages, now)
        return now if more and deleted != Pruned() else now + PRUNE_MS

    async def prune(self, ages: Ages, now: int) -> Pruned:
        """Delete everything that is older than `ages` say.

        Raises:
            UnavailableError: part of it may have been deleted.
        """
        total = Pruned()
        while True:
            deleted, more = await self._batch(ages, now)
            total = Pruned(runs=total.runs + deleted.runs, events=total.events + deleted.events)
            if not more or deleted == Pruned():
                return total

    async def _batch(self, ages: Ages, now: int) -> tuple[Pruned, bool]:
        """What was deleted, and whether there may be more."""
        runs = events = 0
        more = False
        for age, statuses in ages.groups():
            ids = await self._store.ended_runs(before=now - age, statuses=statuses, limit=PRUNE_BATCH)
            if ids:
                runs += await self._delete(DeleteRuns(ids=ids))
            more = more or len(ids) == PRUNE_BATCH
        if ages.events is not None:
            ids = await self._store.childless_events(before=now - ages.events, limit=PRUNE_BATCH)
            if ids:
                events = await self._delete(DeleteEvents(ids=ids))
            more = more or len(ids) == PRUNE_BATCH
        return Pruned(runs=runs, events=events), more

    async def _delete(self, change: DeleteRuns | DeleteEvents) -> int:
        result = await self._submit(change)
        assert isinstance(result, Deleted)
        return result.count
