"""Keeps the leases of executions under way."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable

from perdure.engine.store import Change, RenewLeases, Result


class Renewer:
    """Renews all leases of `owner`, three times as often as they'd expire, as long as `is_needed()`."""

    def __init__(
        self,
        submit: Callable[[Change], Future[Result]],
        *,
        owner: str,
        lease_ms: int,
        is_needed: Callable[[], bool],
    ) -> None:
        self._submit = submit
        self._owner = owner
        self._lease_ms = lease_ms
        self._is_needed = is_needed

    def due_after(self, claimed_at: int) -> int:
        """When a lease got at `claimed_at` should be renewed."""
        return claimed_at + self._lease_ms // 3

    async def step(self, now: int) -> int | None:
        """Renew; returns when to do it again, None if nothing is executing."""
        if not self._is_needed():
            return None
        await self._submit(RenewLeases(owner=self._owner, expires_at=now + self._lease_ms))
        return self.due_after(now)
