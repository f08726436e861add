"""The maintenance of one engine: all of its services, each with the loop that runs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from perdure.clock import Random

from .adopter import Adopter
from .deliverer import Deliverer
from .matcher import Matcher
from .operator import Operator
from .pruner import Pruner
from .renewer import Renewer
from .rescuer import Rescuer
from .runner import LoopRunner
from .scheduler import Scheduler
from .waker import Waker

if TYPE_CHECKING:
    from perdure.engine.engine import Engine
    from perdure.engine.fetcher import HttpClient

IDLE_SECONDS = 60.0
"""How often loops look although nothing was announced. All changes of an owned store pass through its engine, so this is
only a safety net."""


class Loops:
    """Runs them between `start` and `stop`.

    Attributes:
        waker, rescuer, renewer, adopter, deliverer, matcher, scheduler, pruner, operator: the loops; `notify` makes one
            look earlier.
        schedules: what the scheduler's loop runs, which also takes registrations.
        retention: what the pruner's loop runs, which also prunes when asked to.
        calls: what the operator's loop begins.
    """

    def __init__(
        self, engine: Engine, random: Random, http: HttpClient | None, output_bytes_max: int
    ) -> None:
        store, submit = engine.store, engine.submit
        self._engine = engine
        self._random = random
        self._rescuer = Rescuer(
            store,
            submit,
            is_alive=engine.is_alive,
            orphans=engine.orphans,
            lease_ms=engine.lease_ms,
            endings=engine.endings,
        )
        self._adopter = Adopter(store, submit, jobs=engine.registry.jobs)
        self._renewer = Renewer(
            submit, owner=engine.owner, lease_ms=engine.lease_ms, is_needed=lambda: bool(engine.executing)
        )
        self.schedules = Scheduler(
            store, submit, engine.clock, registry=engine.registry, run_ids=engine.run_ids
        )
        deliverer = Deliverer(store, submit, registry=engine.registry, run_ids=engine.run_ids)
        self.retention = Pruner(store, submit, ages=engine.retention)
        self.waker = self._loop("waker", Waker(store, submit).step)
        self.rescuer = self._loop("rescuer", self._rescuer.step)
        self.renewer = self._loop("renewer", self._renewer.step)
        self.adopter = self._loop("adopter", self._adopter.step)
        self.deliverer = self._loop("deliverer", deliverer.step)
        self.matcher = self._loop("matcher", Matcher(store, submit).step)
        self.scheduler = self._loop("scheduler", self.schedules.step)
        self.pruner = self._loop("pruner", self.retention.step)
        self.schedules.on_change = self.scheduler.notify
        self.calls = Operator(
            store, submit, engine.clock, random, http=http, output_bytes_max=output_bytes_max
        )
        self.operator = self._loop("operator", self.calls.step)
        self.calls.on_change = self.operator.notify
        self._all = (
            self.waker,
            self.rescuer,
            self.renewer,
            self.adopter,
            self.deliverer,
            self.matcher,
            self.scheduler,
            self.pruner,
            self.operator,
        )

    def start(self) -> None:
        for loop in self._all:
            loop.start()

    async def stop(self) -> None:
        for loop in self._all:
            await loop.stop()
        await self.calls.stop()

    def cancel(self) -> None:
        for loop in self._all:
            loop.cancel()
        self.calls.cancel()

    def look(self, now: int) -> None:
        """Something is due: have those look that could do it."""
        self.waker.notify(now)
        self.deliverer.notify(now)
        self.matcher.notify(now)
        self.operator.notify(now)

    def set_up_soon(self) -> None:
        """Jobs were defined: write their schedules, and queue runs that waited for them."""
        self._adopter.is_needed = True
        self.schedules.is_changed = True
        now = self._engine.clock.now()
        self.adopter.notify(now)
        self.scheduler.notify(now)

    async def adopt(self, now: int) -> None:
        """Queue the runs that wait for a known job."""
        await self._adopter.adopt(now)

    async def rescue_all(self, now: int) -> None:
        """Take back every run that is leased: nobody else uses the store."""
        await self._rescuer.recover(now)

    def claimed(self, at: int) -> None:
        """Leases were taken at `at`."""
        self.renewer.notify(self._renewer.due_after(at))

    def _loop(self, name: str, step: Callable[[int], Awaitable[int | None]]) -> LoopRunner:
        engine = self._engine
        return LoopRunner(
            name,
            step,
            engine.clock,
            self._random,
            idle_seconds=IDLE_SECONDS,
            on_broken=engine.writer.break_off,
        )
