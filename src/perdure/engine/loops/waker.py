"""Wakes runs whose timers are due."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable

from perdure.engine.core.runs import wake
from perdure.engine.store import Change, Result, Store, Woken

from .runner import RETRY_MS

WAKE_BATCH = 1_000
"""Runs woken in one transaction: what else there is to be written doesn't wait for more."""


class Waker:
    """Moves due runs from their timers to the queue, earliest first."""

    def __init__(self, store: Store, submit: Callable[[Change], Future[Result]]) -> None:
        self._store = store
        self._submit = submit

    async def step(self, now: int) -> int | None:
        """Wake what is due at `now`; returns when the next timer is."""
        due = await self._store.next_due()
        if due is None or due > now:
            return due
        woken = await self._submit(wake(WAKE_BATCH, now))
        assert isinstance(woken, Woken)
        if len(woken.runs) == WAKE_BATCH:
            return now
        due = await self._store.next_due()
        if not woken.runs and due is not None:
            return max(due, now + RETRY_MS)  # timers that nobody can fire must not turn this into a busy loop
        return due
