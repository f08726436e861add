"""Wakes runs whose timers are due."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable

from perdure.engine.core.runs import wake
from perdure.engine.store import Applied, Change, Result, Store

from .runner import RETRY_MS, settled

WAKE_BATCH = 1_000
"""Runs woken in one step."""


class Waker:
    """Moves due runs from their timers to the queue, earliest first."""

    def __init__(self, store: Store, submit: Callable[[Change], Future[Result]]) -> None:
        self._store = store
        self._submit = submit

    async def step(self, now: int) -> int | None:
        """Wake what is due at `now`; returns when the next timer is."""
        due = await self._store.due_runs(now, WAKE_BATCH)
        results = await settled([self._submit(wake(run, now)) for run in due])
        if due and not any(type(result) is Applied for result in results):
            return now + RETRY_MS  # timers that nobody can fire must not turn this into a busy loop
        if len(due) == WAKE_BATCH:
            return now
        return await self._store.next_due()
