"""One seed: a world in which everything is drawn from it, what goes on there, and the report.

First act: a process lives, dies and comes back, its clients do what they like, the weather is what it is. Second act: the
weather is calm, nobody asks for anything, and every run has to end. Then the books are checked, once more after a last
restart.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from perdure.engine.store import Store
from perdure.schema.runs import RunStatus
from perdure.store.sqlite.store import SqliteStore
from perdure.testing.virtual_clock import VirtualClock

from .calendar import Calendar
from .faults import Weather
from .findings import Finding, Findings
from .history import History
from .ledger import Ledger
from .loop import HARNESS, SimulatedLoop
from .node import Node
from .others import NotificationWatch, OthersWatch
from .programs import make_programs
from .queues import Bodies, Limits, QueueWatch
from .trace import Trace

FIRST_ACT_SECONDS = 600.0
SECOND_ACT_SECONDS = 4 * 3600.0
"""Far more than all waits and back-offs of a program together."""

PATIENCE_SECONDS = 8.0
"""How long a run may be late for no reason while nothing is wrong: pauses after failures are at most five seconds."""

SLOT_SECONDS = 100.0
"""How long a slot may stay taken after the end of a run: one that can't be given back in an outage is free when its lease
has ended and that was looked at, each after 30 seconds."""

LOOK_SECONDS = 2.0


@dataclass
class Report:
    """What came of a seed.

    Attributes:
        digest: equal for equal histories.
        counts: how often what happened, by the first word of the trace's lines.
        statuses: in which statuses runs ended.
        lines: the last of what happened.
        seconds: of virtual time.
        steps: callbacks of the loop.
    """

    seed: int
    findings: list[Finding]
    digest: int
    counts: Counter[str]
    statuses: Counter[str]
    seconds: float
    steps: int
    lines: list[str] = field(default_factory=list[str])

    @property
    def is_clean(self) -> bool:
        return not self.findings

    def describe(self, lines: int = 60) -> str:
        """For people: what was found, what had gone wrong, the last `lines` of the trace, how to replay it."""
        faults = {kind: n for kind, n in self.counts.items() if kind in FAULTS}
        return "\n".join(
            [
                f"seed {self.seed}: {len(self.findings)} findings",
                *(f"  {finding}" for finding in self.findings),
                f"faults injected: {faults or 'none'}; {self.seconds:.0f} virtual seconds, {self.steps} callbacks",
                "",
                *self.lines[-lines:],
                "",
                f"replay: make simulate SEEDS=1 FIRST={self.seed}, or",
                f"        python -m perdure.testing.simulation --replay {self.seed}",
            ]
        )


FAULTS = ("slow", "unavailable", "outage", "broken", "crash", "freeze")


def simulate(seed: int) -> Report:
    """Run the simulation of one seed. Blocks; needs no event loop running in this thread."""
    with _quiet(), _no_collections():
        return World(seed).run()


class World:
    """All there is in the simulation of a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        scheduling = self._stream("scheduling")
        self.loop = SimulatedLoop(
            scheduling,
            jitter=scheduling.choice((0.0, 0.001, 0.02)),
            drift=scheduling.choice((0.0, 0.0001, 0.002)),
        )
        self.trace = Trace(self.loop.time)
        self.findings = Findings(self.trace)
        self.weather = Weather(self._stream("weather"), self.trace, self.loop.time)
        workload = self._stream("workload")
        self.programs = make_programs(workload)
        self.slots = workload.choice((1, 2, 5, 50))
        self.limits = Limits(
            {program.queue.id: program.queue for program in self.programs},
            environment=workload.choice((None, None, None, 1, 3)),
        )
        self._notifies = self._stream("notifications").random() < 0.2
        self._callers = workload.choice((1, 2, 4))
        self._actions_left = workload.choice((6, 15, 30))
        self._chance = workload
        self._processes = 0
        self._retirement: asyncio.TimerHandle | None = None
        self.loop.set_exception_handler(self._complain)

    def _stream(self, name: str) -> random.Random:
        """A source of chance of its own for each concern: a change of one leaves the others as they are."""
        return random.Random(f"{self.seed}:{name}")

    def run(self) -> Report:
        try:
            report = self.loop.run_until_complete(self.loop.spawn(HARNESS, self._run()))
            self.loop.unwind()
        finally:
            self.loop.close()
        return report

    async def _run(self) -> Report:
        store = await SqliteStore.open(":memory:", inline=True, clock=VirtualClock(loop=self.loop))
        await self._play(store)
        report = Report(
            seed=self.seed,
            findings=list(self.findings.all),
            digest=self.loop.digest << 32 | self.trace.digest,
            counts=Counter(self.trace.counts),
            statuses=Counter(run.status.name for run in self.history.runs.values()),
            seconds=self.loop.time(),
            steps=self.loop.steps,
            lines=list(self.trace.lines),
        )
        await store.close()
        return report

    async def _play(self, store: Store) -> None:
        self._store = store
        self.history = History(store, self.findings, self.trace, now=self.loop.time, slots=self.slots)
        self.queues = QueueWatch(store, self.history.runs, self.limits, self.findings, self.loop.time)
        self.calendar = Calendar(store, self.history.runs, self.findings)
        others = OthersWatch(store, self.history.runs, self.history.tasks, self.history.past, self.findings)
        self.notifications = NotificationWatch(
            self.history.runs, self.findings, lambda job_id: job_id in self._node.client.jobs
        )
        self.history.watches += [self.queues, self.calendar, others, self.notifications]
        bodies = Bodies(self.limits, self.findings, lambda: self.loop.process)
        self.ledger = Ledger(
            self.history,
            self.calendar,
            others,
            bodies,
            self.findings,
            self.trace,
            now=self.loop.time,
            calm_since=self._calm_since,
        )
        acts = asyncio.create_task(self._acts())
        found = asyncio.create_task(self.findings.any.wait())
        await asyncio.wait({acts, found}, return_when=asyncio.FIRST_COMPLETED)
        if acts.done():
            acts.result()
        else:
            acts.cancel()

    # --- the acts -------------------------------------------------------------------------------------------------------

    async def _acts(self) -> None:
        node = await self._first_act()
        self.trace.add("calm")
        self.weather.calm()
        if self._retirement is not None:
            self._retirement.cancel()
        if node is None:
            node = self._start_node(callers=0)
        elif len(node.programs) < len(self.programs) or any(program.schedule for program in self.programs):
            node.leave()  # the next one knows all jobs, and none that the clock starts for ever
        node = await self._until_all_ended(node)
        await self._check_idle(node)
        node.leave()
        await node.gone.wait()
        await self._check_books()
        before = dict(self.history.runs)
        node = self._start_node(callers=0)
        await asyncio.sleep(2)
        node.leave()
        await node.gone.wait()
        if before != self.history.runs:
            self.findings.add("every run ends", "a restart changed runs that had all ended")
        await self._check_books()

    async def _first_act(self) -> Node | None:
        """Lives of processes one after the other; returns the one that is left, if one is."""
        until = self.loop.time() + FIRST_ACT_SECONDS
        while True:
            node = self._start_node(callers=self._callers)
            if self._chance.random() < self.weather.restart:
                lifetime = self._chance.expovariate(1 / 30)
                self._retirement = self.loop.call_later(lifetime, node.leave)
            while not node.gone.is_set():
                if self.loop.time() >= until or not self._actions_left:
                    return node
                self._look_for_the_late(node)
                await _wait(node.gone, LOOK_SECONDS)
            if self.loop.time() >= until or not self._actions_left:
                return None
            downtime = self._chance.choice((0.0, 0.05, 3.0, 40.0))
            self.weather.noted(downtime)
            await asyncio.sleep(downtime)

    async def _until_all_ended(self, node: Node) -> Node:
        until = self.loop.time() + SECOND_ACT_SECONDS
        while (
            node.gone.is_set()
            or node.calls
            or self.calendar.is_open
            or not all(run.status.is_terminal for run in self.history.runs.values())
            or not node.is_up
        ):
            if node.gone.is_set():  # it was on its way out when the weather calmed down
                node = self._start_node(callers=0)
            if self.loop.time() > until:
                left = [
                    f"{run.id} is {run.status.name} ({run.reason})"
                    for run in self.history.runs.values()
                    if not run.status.is_terminal
                ]
                self.findings.add(
                    "every run ends", "; ".join(left) or "the engine isn't up, or events are left"
                )
                break
            self._look_for_the_late(node)
            if node.is_up:
                self._resume_queues(node)
            await _wait(node.gone, LOOK_SECONDS)
        return node

    def _resume_queues(self, node: Node) -> None:
        for queue in sorted(self.queues.paused):
            self.loop.spawn(node.process, node.client.resume_queue(queue))

    async def _check_idle(self, node: Node) -> None:
        """The engine, too, knows that there is nothing left."""
        await asyncio.sleep(
            max(0.0, self.weather.healthy_since - self.loop.time())
        )  # a slow call may be under way
        until = self.loop.time() + SLOT_SECONDS
        while self.loop.time() < until and await self._store.leases(expired_at=None, limit=1):
            await asyncio.sleep(LOOK_SECONDS)
        draining = self.loop.spawn(node.process, node.client.drain())
        await asyncio.wait({draining}, timeout=PATIENCE_SECONDS)
        if not draining.done():
            self.findings.add("no slot leaks", "all runs have ended, and drain() doesn't return")

    async def _check_books(self) -> None:
        await self.history.end()
        self.calendar.end()
        if self._notifies:
            self.notifications.end()
        programs = {program.job_id: program for program in self.programs}
        for run_id, run in self.history.runs.items():
            if run.is_internal:
                continue
            program = programs[run.job_id]
            self.ledger.check_end(run_id, fails=program.fails, may_time_out=program.max_duration is not None)
        for event_id, run_ids in self.ledger.sent.items():
            if await self._store.get_event(event_id) is None:
                self.findings.add("nothing acknowledged is lost", f"event {event_id} is gone")
            for run_id in run_ids:
                if await self._store.get_run(run_id) is None:
                    self.findings.add("nothing acknowledged is lost", f"{run_id} is gone")

    # --- parts ----------------------------------------------------------------------------------------------------------

    def _start_node(self, *, callers: int) -> Node:
        """A process with so many callers; one without any, which has only to finish what is there, defines every job."""
        self._processes += 1
        node = Node(
            self._processes,
            self._store,
            loop=self.loop,
            chance=self._stream(f"process {self._processes}"),
            weather=self.weather,
            trace=self.trace,
            findings=self.findings,
            ledger=self.ledger,
            witness=self.history,
            programs=self.programs,
            slots=self.slots,
            environment_limit=self.limits.environment,
            notifies=self._notifies,
            is_whole=not callers,
        )
        node.start(callers, self._take_action)
        self._node = node
        return node

    def _take_action(self) -> bool:
        if self._actions_left:
            self._actions_left -= 1
            return True
        return False

    def _calm_since(self) -> int:
        """Since when nothing has been wrong, milliseconds."""
        now = self.loop.time()
        since = max(self.weather.healthy_since, self._node.up_since if self._node.is_up else now)
        return VirtualClock(loop=self.loop).now() + int((since - now) * 1000)

    def _look_for_the_late(self, node: Node) -> None:
        """No run waits for a reason that is resolved, while nothing is wrong."""
        now = self.loop.time()
        late = now - PATIENCE_SECONDS
        if not node.is_up or node.up_since > late or self.weather.healthy_since > late:
            return
        is_free = not self.history.is_full and self.history.full_at <= late
        instant = VirtualClock(loop=self.loop).now() - int(PATIENCE_SECONDS * 1000)
        for late_one in self.calendar.late(instant):
            self.findings.add("no run waits for a resolved reason", late_one)
        for run in self.history.runs.values():
            since = self.history.since[run.id]
            if (
                run.status is RunStatus.QUEUED
                and since <= late
                and is_free
                and not self.queues.is_blocked(run, late)
            ):
                self.findings.add(
                    "no run waits for a resolved reason",
                    f"{run.id} is queued since {since:.3f}, and a slot is free since {self.history.full_at:.3f}",
                )
            elif (
                run.status is RunStatus.WAITING
                and since <= late
                and run.wake_at is not None
                and run.wake_at <= instant
            ):
                self.findings.add(
                    "no run waits for a resolved reason", f"{run.id} was to wake at {run.wake_at}"
                )
            elif run.status is RunStatus.PENDING and since <= late and run.job_id in node.client.jobs:
                self.findings.add("no run waits for a resolved reason", f"{run.id} is pending: {run.reason}")

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "handle" in context:
            self.findings.add(
                "no callback fails",
                f"{context.get('message')}: {context.get('exception')!r} in {context['handle']}",
            )


async def _wait(event: asyncio.Event, seconds: float) -> None:
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait({waiting}, timeout=seconds)
    waiting.cancel()


@contextmanager
def _quiet() -> Generator[None]:
    """Crashes are logged, hundreds of them."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _no_collections() -> Generator[None]:
    """What a garbage collection runs (`finally` blocks of what a dead process left) would come at another moment each time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
