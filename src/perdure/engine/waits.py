"""Who waits for the end of a run, or for the end of all work.

Waiters are told by what the engine sees committed, and then look for themselves: what the store says counts, what is
kept here is only a hint when to look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from perdure.clock import Clock
from perdure.errors import NotFoundError, StoreBrokenError, UnavailableError

from .store import RunRow, Store
from .writer import Writer

POLL_SECONDS = 5.0
"""How often somebody who waits for the end of all work looks, whatever the hint says."""

SHARED_POLL_SECONDS = 1.0
"""How often somebody who waits for the end of a run looks where other engines may execute it."""


class Waits:
    """Waiters of one engine.

    Attributes:
        active: runs queued or executing, by the changes committed since `active` was set.
        commits: how many transactions were committed.
    """

    def __init__(
        self,
        store: Store,
        writer: Writer,
        clock: Clock,
        on_due: Callable[[int], None],
        *,
        is_shared: bool = False,
    ) -> None:
        """`on_due(now)` is called when something turns out to be due that nobody has done yet.

        `is_shared`: other engines use the store, too; nobody tells when they end a run.
        """
        self._is_shared = is_shared
        self.active = 0
        self.commits = 0
        self._store = store
        self._writer = writer
        self._clock = clock
        self._on_due = on_due
        self._closed: str | None = None
        self._ends: dict[str, list[asyncio.Future[None]]] = {}
        self._idlers: list[asyncio.Future[None]] = []

    async def settled(self, run_id: str) -> RunRow:
        """See Engine.wait_settled."""
        while True:
            end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiters = self._ends.setdefault(run_id, [])
            waiters.append(end)  # before reading: an end in between would be missed otherwise
            timer: asyncio.TimerHandle | None = None
            try:
                run = await self._read_run(run_id)
                if run is None:
                    raise NotFoundError(kind="run", id=run_id)
                if run.status.is_terminal:
                    return run
                self._require_open()
                if self._is_shared:
                    timer = asyncio.get_running_loop().call_later(SHARED_POLL_SECONDS, _resolve, end)
                await end
            finally:
                if timer is not None:
                    timer.cancel()
                waiters.remove(end)
                if not waiters and self._ends.get(run_id) is waiters:
                    del self._ends[run_id]

    async def idle(self) -> None:
        """See Engine.wait_idle."""
        loop = asyncio.get_running_loop()
        while True:
            idle: asyncio.Future[None] = loop.create_future()
            self._idlers.append(idle)
            timer = loop.call_later(POLL_SECONDS, _resolve, idle)
            try:
                self._require_open()
                if await self._is_idle():
                    return
                self._require_open()
                await idle
            finally:
                timer.cancel()
                self._idlers.remove(idle)

    def run_ended(self, run_id: str) -> None:
        """A transaction in which the run ended was committed. Hot."""
        if self._ends:
            for end in self._ends.get(run_id, ()):
                _resolve(end)

    def committed(self) -> None:
        """A transaction was committed, and `active` says what is left. Hot."""
        self.commits += 1
        if self._idlers and self.active <= 0:
            for idle in self._idlers:
                _resolve(idle)

    def close(self, reason: str) -> None:
        """Nothing will be committed any more: everybody gets UnavailableError."""
        self._closed = reason
        for waiter in (*self._idlers, *(end for ends in self._ends.values() for end in ends)):
            _resolve(waiter)

    async def _is_idle(self) -> bool:
        while True:
            await self._writer.flush()
            commits = self.commits
            if any((await self._store.count_by_status(active_only=True)).values()):
                return False
            now = self._clock.now()
            if await self._is_due(now):
                self._on_due(now)
                return False
            if commits == self.commits and not self._writer.size:
                return True

    async def _is_due(self, now: int) -> bool:
        """Whether a run has to be woken, an event to be delivered, or compared with who waits for it; or a call is made."""
        store = self._store
        return bool(
            await store.due_runs(now, 1)
            or await store.due_events(now, 1)
            or await store.matches(1)
            or await store.unchecked_waiters(1)
            or await store.due_operations(now, 1)
        )

    async def _read_run(self, run_id: str) -> RunRow | None:
        try:
            return await self._store.get_run(run_id)
        except StoreBrokenError:
            self._require_open()  # who waits is told why the engine stopped, not what its store says to a read
            raise

    def _require_open(self) -> None:
        if self._closed is not None:
            raise UnavailableError(self._closed)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
