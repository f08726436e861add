"""Fires schedules."""

from __future__ import annotations

import logging
from asyncio import Future
from collections.abc import Callable, Iterator

from perdure.clock import Clock
from perdure.engine.core import scheduling as core
from perdure.engine.core.jobs import Registry
from perdure.engine.store import Applied, Change, PutSchedule, Result, ScheduleRow, Store, TickSchedule
from perdure.errors import UsageError

from .runner import RETRY_MS, settled

logger = logging.getLogger("perdure.engine")

TICK_BATCH = 1_000
"""Schedules that fire in one step."""


class Scheduler:
    """The schedules of one engine.

    Attributes:
        is_changed: jobs were defined whose schedules aren't written yet; `step` does that.
        on_change: called with the instant at which something may be due earlier than `step` said.
    """

    def __init__(
        self,
        store: Store,
        submit: Callable[[Change], Future[Result]],
        clock: Clock,
        *,
        registry: Registry,
        run_ids: Iterator[str],
    ) -> None:
        self.is_changed = False
        self.on_change: Callable[[int], None] = _nobody
        self._store = store
        self._submit = submit
        self._clock = clock
        self._registry = registry
        self._run_ids = run_ids

    async def set_up(self) -> None:
        """Write the schedules of the jobs, where they are others than the stored ones."""
        self.is_changed = False
        try:
            await self._write_own()
        except BaseException:
            self.is_changed = True
            raise
        self.on_change(self._clock.now())

    async def _write_own(self) -> None:
        stored = [row for row in await self._store.list_schedules() if row.dispatcher.startswith("job:")]
        plan = core.plan_own(stored, self._registry.jobs.values(), self._clock.now())
        await settled([self._submit(change) for change in plan])

    async def step(self, now: int) -> int | None:
        """Fire what is due at `now`; returns when the next tick is."""
        if self.is_changed:
            await self.set_up()
        due = await self._store.due_schedules(now, TICK_BATCH)
        results = await settled([self._submit(self._tick(row, now)) for row in due])
        if due and not any(type(result) is Applied for result in results):
            return now + RETRY_MS
        if len(due) == TICK_BATCH:
            return now
        return await self._store.next_tick()

    def _tick(self, row: ScheduleRow, now: int) -> TickSchedule:
        failed: list[UsageError] = []
        tick = core.tick(row, self._registry.of_dispatcher(row.dispatcher), now, self._run_ids, failed)
        for error in failed:
            logger.warning("schedule %s fired, but not for %s", row.id, error)
        return tick

    # --- registrations --------------------------------------------------------------------------------------------------

    async def register(
        self,
        id: str,
        key: str,
        schedule: str,
        *,
        metadata: str | None = None,
        account_id: str | None = None,
        catch_up: bool = False,
    ) -> ScheduleRow:
        """Have the jobs of the dynamic schedule `id` run by another schedule (JSON); one of this key is replaced.

        Raises:
            UnavailableError: nothing was written.
        """
        stored = await self._store.get_schedule(f"{core.dynamic_dispatcher(id)}:{key}")
        row = core.register(
            stored,
            id,
            key,
            schedule,
            self._clock.now(),
            metadata=metadata,
            account_id=account_id,
            catch_up=catch_up,
        )
        await self._submit(PutSchedule(schedule=row))
        self.on_change(self._clock.now())
        return row

    async def unregister(self, id: str, key: str) -> bool:
        """Whether there was such a registration; it fires no more."""
        stored = await self._store.get_schedule(f"{core.dynamic_dispatcher(id)}:{key}")
        if stored is None or not stored.is_active:
            return False
        await self._submit(PutSchedule(schedule=core.unregister(stored)))
        return True

    async def registrations(self, id: str) -> list[ScheduleRow]:
        """Those that fire, by key."""
        rows = await self._store.list_schedules(dispatcher=core.dynamic_dispatcher(id))
        return [row for row in rows if row.is_active]


def _nobody(at: int) -> None:
    pass
