"""Takes runs back from executions that lost their lease, or whose end couldn't be written."""

from __future__ import annotations

import logging
from asyncio import Future
from collections.abc import Callable, Mapping

from perdure.engine.core.endings import NO_ENDINGS, Endings
from perdure.engine.core.runs import rescue
from perdure.engine.store import Applied, Change, LeaseRow, ReleaseLease, Result, Store

from .runner import settled

logger = logging.getLogger("perdure.engine")

RESCUE_BATCH = 1_000
"""Leases taken back in one transaction."""

NAMED_MAX = 10
"""Lost executions of one batch that are named in the log; the runs themselves all say so."""

LEASES_MAX = 100_000
"""Leases looked through for orphans, which are rare."""


class Rescuer:
    """Looks for leases that expired.

    Args:
        store: where they are.
        submit: how moves are written.
        is_alive: whether a lease belongs to an execution that this engine knows to be under way: one that couldn't be
            renewed in time because the store was unavailable is renewed, not rescued.
        orphans: executions of this engine that are over, by run: their leases needn't expire.
        lease_ms: how long a lease lasts.
        endings: what there is to be done when a run ends.
    """

    def __init__(
        self,
        store: Store,
        submit: Callable[[Change], Future[Result]],
        *,
        is_alive: Callable[[LeaseRow], bool],
        orphans: Mapping[str, int],
        lease_ms: int,
        endings: Endings = NO_ENDINGS,
    ) -> None:
        self._store = store
        self._submit = submit
        self._is_alive = is_alive
        self._orphans = orphans
        self._lease_ms = lease_ms
        self._endings = endings

    async def step(self, now: int) -> int | None:
        """Rescue what has expired at `now`; returns when to look again."""
        if self._orphans:
            await self._rescue(await self._orphaned(), now)
        rescued = await self._rescue(await self._store.leases(expired_at=now, limit=RESCUE_BATCH), now)
        return now if rescued == RESCUE_BATCH else now + self._lease_ms

    async def recover(self, now: int) -> int:
        """Rescue every run that is leased, expired or not: for the start of an engine that owns its store alone.

        Returns how many there were.
        """
        total = 0
        while rescued := await self._rescue(
            await self._store.leases(expired_at=None, limit=RESCUE_BATCH), now
        ):
            total += rescued
        return total

    async def _orphaned(self) -> list[LeaseRow]:
        leases = await self._store.leases(expired_at=None, limit=LEASES_MAX)
        return [lease for lease in leases if self._orphans.get(lease.run_id) == lease.execution]

    async def _rescue(self, leases: list[LeaseRow], now: int) -> int:
        # A revoked lease is a slot that nobody has given back: its process has died.
        released = [
            self._submit(ReleaseLease(run_id=lease.run_id, execution=lease.execution))
            for lease in leases
            if lease.is_revoked
        ]
        lost = [lease for lease in leases if not lease.is_revoked and not self._is_alive(lease)]
        moves = [rescue(lease, now, lease_ms=self._lease_ms, endings=self._endings) for lease in lost]
        results = await settled([self._submit(move) for move in moves])
        await settled(released)
        rescued = [lease for lease, result in zip(lost, results, strict=True) if type(result) is Applied]
        for lease in rescued[:NAMED_MAX]:
            logger.warning(
                "execution %d of run %s was lost (owner %s)", lease.execution, lease.run_id, lease.owner
            )
        if len(rescued) > NAMED_MAX:
            logger.warning("so were %d more", len(rescued) - NAMED_MAX)
        return len(released) + len(rescued)
