"""Delivers events that were sent for later."""

from __future__ import annotations

import logging
from asyncio import Future
from collections.abc import Callable, Iterator

from perdure.engine.core.jobs import Registry
from perdure.engine.store import Applied, Change, DeliverEvent, NewRun, Result, Store
from perdure.errors import UsageError
from perdure.schema.execution import EventRecord

from .runner import RETRY_MS, settled

logger = logging.getLogger("perdure.engine")

DELIVER_BATCH = 1_000
"""Events delivered in one step."""


class Deliverer:
    """Turns due events into the runs of the jobs that they trigger then, earliest first."""

    def __init__(
        self,
        store: Store,
        submit: Callable[[Change], Future[Result]],
        *,
        registry: Registry,
        run_ids: Iterator[str],
    ) -> None:
        self._store = store
        self._submit = submit
        self._registry = registry
        self._run_ids = run_ids

    async def step(self, now: int) -> int | None:
        """Deliver what is due at `now`; returns when the next event is."""
        due = await self._store.due_events(now, DELIVER_BATCH)
        results = await settled([self._submit(self._delivery(event, now)) for event in due])
        if due and not any(type(result) is Applied for result in results):
            return now + RETRY_MS  # put off meanwhile, or something is wrong with them: no busy loop
        if len(due) == DELIVER_BATCH:
            return now
        return await self._store.next_event_due()

    def _delivery(self, event: EventRecord, now: int) -> DeliverEvent:
        assert event.deliver_at is not None
        return DeliverEvent(event_id=event.id, due_at=event.deliver_at, at=now, runs=self._runs(event, now))

    def _runs(self, event: EventRecord, now: int) -> list[NewRun]:
        failed: list[UsageError] = []
        runs = self._registry.runs_of(event, now, self._run_ids, failed)
        for error in failed:
            logger.warning("event %s was delivered, but not to %s", event.id, error)
        return runs
