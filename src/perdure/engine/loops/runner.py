"""Runs a maintenance loop: `async step(now) -> next due`, again when it is due or when somebody says that it is earlier."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable

from perdure.clock import Clock, Random
from perdure.engine.store import Result
from perdure.errors import StoreBrokenError, UnavailableError

logger = logging.getLogger("perdure.engine")

RETRY_MS = 1_000
"""Pause after a step that failed."""


class LoopRunner:
    """Calls `step` at start and whenever it is due. Errors are reported and the step is repeated; a loop never dies.

    `step(now)` returns the instant at which it wants to be called next, None if it only waits for `notify`. Every
    `idle_seconds` (spread by a quarter, so that nodes don't act in step) it is called anyway.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[int], Awaitable[int | None]],
        clock: Clock,
        random: Random,
        *,
        idle_seconds: float,
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._name = name
        self._step = step
        self._clock = clock
        self._random = random
        self._idle_ms = idle_seconds * 1000
        self._on_broken = on_broken
        self._due: float = math.inf
        self._sleeper: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"perdure-{self._name}")

    def notify(self, at: int) -> None:
        """Have the step called at `at` if it isn't due earlier."""
        if at < self._due:
            self._due = at
            self._wake()

    def cancel(self) -> None:
        """Have the loop end; what a step under way has submitted is written nevertheless."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Cancel the loop and wait for its end."""
        self.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            self._due = math.inf  # a notification during the step lowers it again
            now = self._clock.now()
            try:
                due = await self._step(now)
            except UnavailableError:
                due = now + RETRY_MS  # the writer has reported it
            except StoreBrokenError as exc:
                self._on_broken(exc)
                return
            except Exception:
                logger.exception("the %s failed and will be repeated", self._name)
                due = now + RETRY_MS
            latest = self._clock.now() + self._idle_ms * (0.75 + self._random.random() / 2)
            self._due = min(self._due, latest, math.inf if due is None else due)
            while (left := self._due - self._clock.now()) > 0:
                await self._sleep(left / 1000)

    async def _sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._sleeper = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await self._sleeper
        finally:
            self._sleeper = None
            timer.cancel()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)


async def settled(futures: Iterable[asyncio.Future[Result]]) -> list[Result]:
    """The results of changes submitted together, all of them, or the first error."""
    return await asyncio.gather(*futures)
