"""What goes wrong: the weather of a seed, and a Store that is slow, fails, breaks or takes its process down with it.

Each seed draws its own weather, from fair (many interleavings, few faults) to foul, so that deep states are reached in
some seeds and recoveries in others. `Weather.calm()` ends it: from then on only what is ordinary happens.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

from perdure.engine.store import Change, Result, Store
from perdure.errors import StoreBrokenError, UnavailableError

from .trace import Trace

T = TypeVar("T")

SLOW_SECONDS = (0.5, 2.0, 8.0, 45.0)
"""How long a slow call takes; the last is longer than a lease."""

OUTAGE_SECONDS = (0.2, 1.0, 5.0, 40.0)


class Weather:
    """How likely what goes wrong is, in one seed. Rates are per call of the store unless their name says otherwise.

    Attributes:
        latency: seconds that an ordinary call may take.
        slow, unavailable, outage, broken, crash_before, crash_after: what may happen to a call.
        steps_per_crash: callbacks after which the process dies, on average; 0 for never.
        steps_per_freeze: likewise, for being frozen for a while.
        restart: the chance that a process which is to go does so in an orderly way.
        healthy_since: since when nothing has gone wrong, in seconds of the loop.
    """

    def __init__(self, chance: random.Random, trace: Trace, now: Callable[[], float]) -> None:
        self._chance = chance
        self._trace = trace
        self._now = now
        self._is_calm = False
        self._outage_until = 0.0
        self.healthy_since = 0.0
        foul = chance.choice((0.0, 0.3, 1.0, 1.0, 3.0))
        self.latency = chance.choice((0.0, 0.0005, 0.003, 0.02, 0.06))
        self.slow = 0.004 * foul
        self.unavailable = chance.choice((0.0, 0.006)) * foul
        self.outage = chance.choice((0.0, 0.003)) * foul
        self.broken = chance.choice((0.0, 0.004)) * foul
        self.crash_before = 0.006 * foul
        self.crash_after = 0.006 * foul
        self.steps_per_crash = chance.choice((0, 300, 1_000, 4_000)) if foul else 0
        self.steps_per_freeze = chance.choice((0, 500, 3_000)) if foul else 0
        self.restart = chance.choice((0.0, 0.3))

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        self._is_calm = True
        self._outage_until = 0.0
        self.noted(0.0)
        self.steps_per_crash = self.steps_per_freeze = 0

    def noted(self, seconds: float) -> None:
        """Something is wrong for so many seconds from now."""
        self.healthy_since = max(self.healthy_since, self._now() + seconds)

    def steps(self, mean: int) -> int:
        """A number of callbacks, `mean` on average; small ones are the most likely."""
        return int(self._chance.expovariate(1 / mean))

    def happens(self, rate: float) -> bool:
        return not self._is_calm and rate > 0 and self._chance.random() < rate

    def pause(self) -> float:
        """How long the next stretch of a call takes, seconds."""
        if self.happens(self.slow):
            seconds = self._chance.choice(SLOW_SECONDS)
            self._trace.add("slow", f"{seconds} s")
            self.noted(seconds)
            return seconds
        return self._chance.random() * self.latency

    def outage_now(self) -> bool:
        """Whether the store can't be used now."""
        if self.happens(self.outage):
            seconds = self._chance.choice(OUTAGE_SECONDS)
            self._trace.add("outage", f"{seconds} s")
            self._outage_until = self._now() + seconds
        if self._now() < self._outage_until:
            self.noted(self._outage_until - self._now())
            return True
        if self.happens(self.unavailable):
            self.noted(0)
            return True
        return False

    def choose(self, *options: T) -> T:
        return self._chance.choice(options)


class Witness(Protocol):
    """Who looks at everything that is committed."""

    async def committed(self, changes: Sequence[Change], results: Sequence[Result]) -> None: ...


class FaultyStore:
    """A Store as one process sees it (port: Store), in front of one that survives processes.

    Args:
        inner: where the data is; never closed by this.
        witness: told of every commit, before anything else can happen.
        die: kills the process that uses this store; the argument says where. Nothing of it runs afterwards.
        on_broken: called when the store breaks.
    """

    def __init__(
        self,
        inner: Store,
        *,
        weather: Weather,
        trace: Trace,
        witness: Witness,
        die: Callable[[str], None],
        on_broken: Callable[[], None],
    ) -> None:
        self._inner = inner
        self._weather = weather
        self._trace = trace
        self._witness = witness
        self._die = die
        self._on_broken = on_broken
        self._broken: str | None = None

    def cut(self) -> None:
        """The process is dead: whatever still gets here, in unwinding, has no effect."""
        self._broken = "this process is dead"

    async def apply(self, changes: Sequence[Change]) -> list[Result]:
        weather = self._weather
        await self._enter("apply")
        if weather.happens(weather.crash_before):
            await self._crash(f"before a commit of {_named(changes)}")
        if weather.happens(weather.broken):
            if weather.choose(True, False):
                await self._commit(changes)
            self._break("the outcome of a COMMIT is unknown")
        results = await self._commit(changes)
        if weather.happens(weather.crash_after):
            await self._crash(f"after a commit of {_named(changes)}")
        await self._leave()
        return results

    async def _commit(self, changes: Sequence[Change]) -> list[Result]:
        results = await self._inner.apply(changes)
        await self._witness.committed(changes, results)
        return results

    def __getattr__(self, name: str) -> Any:
        """Every other method of the port reads; so a method it gains meets the weather without a word here."""
        found = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def read(*args: Any, **options: Any) -> Any:
            await self._enter(name)
            value = await found(*args, **options)
            await self._leave()
            return value

        return read

    async def close(self) -> None:
        """Of the process's own connection only."""
        self._broken = "the store is closed"

    # --- parts ----------------------------------------------------------------------------------------------------------

    async def _enter(self, what: str) -> None:
        if self._broken is not None:
            raise StoreBrokenError(self._broken)
        await asyncio.sleep(self._weather.pause())
        if self._broken is not None:
            raise StoreBrokenError(self._broken)
        if self._weather.outage_now():
            self._trace.add("unavailable", what)
            raise UnavailableError("the simulated disk is full; nothing was written")

    async def _leave(self) -> None:
        seconds = self._weather.pause()
        if seconds:
            await asyncio.sleep(seconds)

    async def _crash(self, where: str) -> NoReturn:
        self._die(where)
        await asyncio.Future[None]()
        raise AssertionError("a dead process went on")

    def _break(self, reason: str) -> NoReturn:
        self._broken = reason
        self._trace.add("broken", reason)
        self._weather.noted(0)
        self._on_broken()
        raise StoreBrokenError(reason)


def _named(changes: Sequence[Change]) -> str:
    return ", ".join(type(change).__name__ for change in changes)
