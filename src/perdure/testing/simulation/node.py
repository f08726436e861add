"""A node: one simulated process that runs an engine, executes jobs and calls a client, on a store it shares with the next.

It is put together as an application's process is, by `client.embedded`; only the store comes through the weather. It
ends by leaving in an orderly way, or by dying between two callbacks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import cast

from perdure import Client, UnavailableError
from perdure.embedded import Embedded
from perdure.engine.store import Store
from perdure.errors import StoreBrokenError
from perdure.testing.virtual_clock import VirtualClock

from .clients import Caller
from .faults import FaultyStore, Weather, Witness
from .findings import Findings
from .ledger import Ledger
from .loop import HARNESS, SimulatedLoop
from .programs import Program, define
from .trace import Trace


class Node:
    """One life of a process.

    Attributes:
        process: its number in the loop; each life has its own.
        gone: set when it has ended, in whatever way.
        is_up: its engine runs, and it hasn't been told to leave.
        up_since: when it came up, seconds of the loop.
        calls: of its client that are under way.
        programs: the jobs that it defines; all of them if it `is_whole`.
    """

    def __init__(
        self,
        process: int,
        store: Store,
        *,
        loop: SimulatedLoop,
        chance: random.Random,
        weather: Weather,
        trace: Trace,
        findings: Findings,
        ledger: Ledger,
        witness: Witness,
        programs: list[Program],
        slots: int,
        environment_limit: int | None,
        notifies: bool,
        is_whole: bool,
    ) -> None:
        self.process = process
        self.gone = asyncio.Event()
        self.is_up = False
        self.up_since = 0.0
        self.calls = 0
        self.client = client = Client(id="simulated")
        # Now and then a release that lacks a job: its runs wait for one that has it.
        self.programs = [
            program for program in programs if is_whole or program.is_child or chance.random() < 0.9
        ]
        for program in self.programs:
            define(client, program, ledger, by_clock=not is_whole)
        if notifies:
            client.on("run_succeeded", ledger.told_of_end)
            client.on("run_failed", ledger.told_of_end)
        self._loop = loop
        self._chance = chance
        self._weather = weather
        self._trace = trace
        self._findings = findings
        self._ledger = ledger
        self._leaving = asyncio.Event()
        self._store = FaultyStore(
            store,
            weather=weather,
            trace=trace,
            witness=witness,
            die=self.die,
            on_broken=self._store_broke,
        )
        self._embedded: Embedded = client.embedded(
            ":memory:",
            open_store=self._open_store,
            owner=f"node-{process}",
            clock=VirtualClock(loop=loop),
            random=random.Random(chance.getrandbits(64)),
            max_executions=slots,
            concurrency_limit=environment_limit,
            grace=chance.choice((0.0, 2.0)),
            linger=chance.choice((1.0, 1.0, 0.05, 10.0)),
            force_replay=chance.random() < 0.1,
            divided_from=chance.choice((2, 2, None)),
            watch_loop=False,
        )

    async def _open_store(self) -> Store:
        return cast("Store", self._store)

    def start(self, callers: int, take_action: Callable[[], bool]) -> None:
        """Begin its life, with so many callers; each acts as long as `take_action()` says so."""
        self._trace.add("start", f"process {self.process}")
        self._arm()
        self._loop.spawn(self.process, self._live(callers, take_action))

    def leave(self) -> None:
        """Have it end in an orderly way."""
        self.is_up = False
        self._leaving.set()

    def die(self, where: str) -> None:
        """End it on the spot."""
        if self.gone.is_set():
            return
        self._trace.add("crash", f"process {self.process} {where}")
        self._weather.noted(0)
        self._end()
        with self._loop.acting_as(self.process):
            # What a crashed engine does before its first await is all that the living notice of it (hooks in the loop).
            crash = self._embedded.crash()
            try:
                crash.send(None)
            except StopIteration:
                pass
            else:
                crash.close()
        self._loop.kill(self.process)

    # --- parts ----------------------------------------------------------------------------------------------------------

    async def _live(self, callers: int, take_action: Callable[[], bool]) -> None:
        try:
            await self._embedded.__aenter__()
        except (UnavailableError, StoreBrokenError) as error:
            self.die(f"could not start: {type(error).__name__}")
            return
        except Exception as error:  # noqa: BLE001 - that is what we are looking for
            self._findings.add("an engine starts on whatever a crash left", f"{error!r}")
            self.die("could not start")
            return
        self.is_up = not self._leaving.is_set()
        self.up_since = self._loop.time()
        tasks = [asyncio.create_task(self._call(take_action)) for _ in range(callers)]
        await self._leaving.wait()
        for task in tasks:
            task.cancel()
        try:
            await self._embedded.__aexit__(None, None, None)
        except (UnavailableError, StoreBrokenError):
            pass
        except Exception as error:  # noqa: BLE001
            self._findings.add("an engine stops when it is told to", f"{error!r}")
        self._trace.add("left", f"process {self.process}")
        self._end()
        self._loop.kill(self.process)

    async def _call(self, take_action: Callable[[], bool]) -> None:
        caller = Caller(
            self.client,
            self.programs,
            self._ledger,
            self._findings,
            self._trace,
            random.Random(self._chance.getrandbits(64)),
        )
        while take_action():
            self.calls += 1
            await caller.act()
            self.calls -= 1
            await asyncio.sleep(caller.chance.choice((0, 0.001, 0.05, 1, 5, 30)))

    def _end(self) -> None:
        self.is_up = False
        self._store.cut()
        self._ledger.bodies.died(self.process)
        self.gone.set()

    def _store_broke(self) -> None:
        """Whoever runs the process sees its engine stop, and sooner or later does something about it."""
        seconds = self._chance.choice((0, 0.01, 3))
        self._weather.noted(seconds)
        with self._loop.acting_as(HARNESS):
            self._loop.call_later(seconds, self._chance.choice((self.leave, self._die_broken)))

    def _die_broken(self) -> None:
        self.die("because its store broke")

    def _arm(self) -> None:
        """Choose between which two callbacks it dies or freezes."""
        weather = self._weather
        freezes = weather.steps_per_freeze and (not weather.steps_per_crash or self._chance.random() < 0.5)
        if weather.steps_per_crash and not freezes:
            self._loop.alarm(self.process, weather.steps(weather.steps_per_crash), self._die_at_random)
        elif freezes:
            self._loop.alarm(self.process, weather.steps(weather.steps_per_freeze), self._freeze)

    def _die_at_random(self) -> None:
        if self._weather.steps_per_crash:
            self.die("between two callbacks")

    def _freeze(self) -> None:
        if not self._weather.steps_per_freeze:
            return
        seconds = self._chance.choice((0.1, 5, 29, 70))
        self._trace.add("freeze", f"process {self.process} for {seconds} s")
        self._weather.noted(seconds)
        self._loop.freeze(self.process)
        with self._loop.acting_as(HARNESS):
            self._loop.call_later(seconds, self._thaw)

    def _thaw(self) -> None:
        self._loop.thaw(self.process)
        self._arm()
