"""Queues the runs that wait for a job which is known now."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Container

from perdure.engine.core.runs import adopt
from perdure.engine.store import Change, Result, RunFilter, RunRow, Store
from perdure.schema.runs import RunStatus

from .runner import settled

_PAGE = 1_000


class Adopter:
    """Looks for pending runs of `jobs`.

    Attributes:
        is_needed: whether `step` is to look: jobs were added, and their runs aren't known to be queued.
    """

    def __init__(
        self, store: Store, submit: Callable[[Change], Future[Result]], *, jobs: Container[str]
    ) -> None:
        self.is_needed = False
        self._store = store
        self._submit = submit
        self._jobs = jobs

    async def step(self, now: int) -> None:
        """Adopt if needed; again if that fails."""
        if self.is_needed:
            self.is_needed = False
            try:
                await self.adopt(now)
            except BaseException:
                self.is_needed = True
                raise

    async def adopt(self, now: int) -> None:
        """Queue the runs that wait for a known job, oldest first."""
        found: list[RunRow] = []
        before: str | None = None
        while True:
            page = await self._store.list_runs(
                RunFilter(statuses=(RunStatus.PENDING,), before=before, limit=_PAGE)
            )
            found += (run for run in page if run.job_id in self._jobs)
            if len(page) < _PAGE:
                break
            before = page[-1].id
        await settled([self._submit(adopt(run, now)) for run in reversed(found)])
