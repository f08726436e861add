"""Runs against a model of them: whatever is done in whatever order, each is where the model says.

The job does what it is told, step by step: each step is a task whose body waits for the test's order. The model is a
dict of runs; time is virtual, and after every action enough of it passes for all that is due at once to happen.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import tempfile
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from perdure import IO, Client, ConflictError, Context, RunStatus, event_trigger
from perdure.embedded import Embedded
from perdure.engine.core.runs import rescue_delay_ms
from perdure.testing.virtual_clock import VirtualClock, VirtualTimeLoop

SLOTS = 3
WAIT_SECONDS = 600
PAUSE_SECONDS = 35.007
"""Passes after each action: more than the longest back-off after a crash, and no multiple of it is a multiple of 300."""

POISONED_AFTER = 5

# --- the model -----------------------------------------------------------------------------------------------------------


@dataclass
class ModelRun:
    """What is known of a run.

    Attributes:
        step: the one whose body waits for an order, or did last.
        waits: the step is done, and an io.wait comes next. `due`: when it ends, once it has begun.
        fails: when it is executed it fails at once, by itself.
        wake: when a back-off after a crash ends.
        queued: when it was put into the queue.
        ready: its place there: when it was continued; else when it was made, however often it comes there.
        made: when that was.
        progressed: something has been recorded since it was claimed.
    """

    status: RunStatus = RunStatus.QUEUED
    step: int = 1
    waits: bool = False
    due: float | None = None
    fails: bool = False
    wake: float | None = None
    queued: float = 0
    ready: float = 0
    made: float = 0
    crashes: int = 0
    progressed: bool = False
    output: int | None = None


@dataclass
class Model:
    """All runs by id, and events by the ids given to them."""

    runs: dict[str, ModelRun] = field(default_factory=dict)
    events: dict[str, str] = field(default_factory=dict)

    def having(self, *statuses: RunStatus) -> list[str]:
        return sorted(run_id for run_id, run in self.runs.items() if run.status in statuses)

    def enqueue(self, run: ModelRun, now: float) -> None:
        run.status, run.queued, run.ready, run.wake = RunStatus.QUEUED, now, run.made, None

    def end(self, run: ModelRun, status: RunStatus) -> None:
        run.status, run.crashes, run.wake = status, 0, None

    def order(self, run: ModelRun, order: str, now: float) -> None:
        """The body of the step under way gets an order."""
        run.progressed = True
        match order:
            case "next":
                run.step += 1
            case "wait":
                run.waits, run.due = True, now + WAIT_SECONDS
                self.end(run, RunStatus.WAITING)
            case "finish":
                run.output = run.step
                self.end(run, RunStatus.COMPLETED)
            case "break":
                self.end(run, RunStatus.FAILED)
            case _:
                run.fails = True
                self.end(run, RunStatus.FAILED)

    def cancel(self, run: ModelRun) -> None:
        if run.status is not RunStatus.CANCELLED:
            run.due = (
                None  # an open wait is cancelled with the run, and begins anew should the run be continued
            )
            self.end(run, RunStatus.CANCELLED)

    def crash(self, now: float) -> None:
        for run_id, run in self.runs.items():
            if run.status is RunStatus.EXECUTING:
                run.crashes = 0 if run.progressed else run.crashes + 1
                if run.crashes == POISONED_AFTER:
                    self.end(run, RunStatus.FAILED)
                elif run.crashes > 1:
                    run.status, run.wake = (
                        RunStatus.WAITING,
                        now + rescue_delay_ms(run_id, run.crashes) / 1000,
                    )
                else:
                    self.enqueue(run, now)

    def put_down(self, now: float) -> None:
        """An orderly end of the engine."""
        for run in self.runs.values():
            if run.status is RunStatus.EXECUTING:
                run.crashes = 0
                self.enqueue(run, now)

    def pass_time(self, since: float, now: float) -> None:
        """All that happens by itself from `since` (nothing before that is left to do) until `now`."""
        self.fill_slots(since)
        while True:
            waiting = [
                (at, run)
                for run in self.runs.values()
                if run.status is RunStatus.WAITING
                and (at := run.wake if run.wake is not None else run.due) is not None
                and at <= now
            ]
            if not waiting:
                return
            at = min(at for at, _ in waiting)
            for due, run in waiting:
                if due == at:
                    self.enqueue(run, at)
            self.fill_slots(since)

    def fill_slots(self, since: float) -> None:
        while (queue := self.having(RunStatus.QUEUED)) and len(self.having(RunStatus.EXECUTING)) < SLOTS:
            run = self.runs[min(queue, key=lambda run_id: (self.runs[run_id].ready, run_id))]
            self.execute(run, max(run.queued, since))

    def execute(self, run: ModelRun, now: float) -> None:
        run.progressed = False
        if run.fails:
            self.end(run, RunStatus.FAILED)
        elif run.waits and run.due is None:
            run.due = now + WAIT_SECONDS
            self.end(run, RunStatus.WAITING)
        else:
            run.status = RunStatus.EXECUTING
            if run.waits:
                run.waits, run.due, run.progressed = False, None, True
                run.step += 1


# --- the machine -----------------------------------------------------------------------------------------------------------

TERMINAL = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)
ALIVE = (RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.WAITING)
CHOICE = st.integers(0, 1_000_000)


class RunsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.gates: dict[str, tuple[int, asyncio.Future[str]]] = {}
        self.done: set[tuple[str, int]] = set()
        self.repeated: list[tuple[str, int]] = []
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.client = self.make_client()
        self.clock = VirtualClock(loop=self.runner.get_loop())
        self.run(self.open())

    def make_client(self) -> Client:
        client = Client(id="machine")

        async def step(run_id: str, n: int) -> str:
            if (run_id, n) in self.done:
                self.repeated.append((run_id, n))
            order: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self.gates[run_id] = (n, order)
            try:
                if await order == "break":
                    raise RuntimeError("the step was told to break")
                return order.result()
            finally:
                if self.gates.get(run_id) == (n, order):
                    del self.gates[run_id]

        async def job(payload: Any, io: IO, ctx: Context) -> int:
            for n in itertools.count(1):
                order = await io.run_task(["step", n], step, ctx.run.id, n)
                self.done.add((ctx.run.id, n))
                if order == "finish":
                    return n
                if order == "fail":
                    raise RuntimeError("the run was told to fail")
                if order == "wait":
                    await io.wait(["wait", n], timedelta(seconds=WAIT_SECONDS))
            raise AssertionError

        client.define_job(id="job", run=job, trigger=event_trigger(name="go"))
        return client

    def run(self, action: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(action)

    @property
    def now(self) -> float:
        return self.runner.get_loop().time()

    async def open(self) -> None:
        self.embedded: Embedded = self.client.embedded(
            f"sqlite:///{self.folder.name}/jobs.db",
            clock=self.clock,
            inline=True,
            max_executions=SLOTS,
            grace=0.01,
        )
        await self.embedded.__aenter__()

    def pass_time(self, seconds: float = 0) -> None:
        """Let things settle, in the model as in the engine."""
        since = self.now
        self.run(asyncio.sleep(PAUSE_SECONDS + seconds))
        self.model.pass_time(since, self.now)

    def some(self, choice: int, *statuses: RunStatus) -> str:
        found = self.model.having(*statuses)
        return found[choice % len(found)]

    def teardown(self) -> None:
        self.run(self.embedded.crash())
        self.runner.close()
        self.folder.cleanup()

    # --- actions --------------------------------------------------------------------------------------------------------

    @rule(event_id=st.none() | st.sampled_from(["a", "b", "c"]))
    def send(self, event_id: str | None) -> None:
        event = self.run(self.client.send_event("go", id=event_id))
        (run,) = event.runs
        if event_id in self.model.events:
            assert run.id == self.model.events[event_id]
            assert run.status is self.model.runs[run.id].status
        else:
            assert run.id not in self.model.runs
            self.model.runs[run.id] = ModelRun(made=self.now, ready=self.now, queued=self.now)
            if event_id is not None:
                self.model.events[event_id] = run.id
        self.pass_time()

    @precondition(lambda self: self.model.having(RunStatus.EXECUTING))
    @rule(choice=CHOICE, order=st.sampled_from(["next", "next", "wait", "wait", "finish", "break", "fail"]))
    def give_order(self, choice: int, order: str) -> None:
        run_id = self.some(choice, RunStatus.EXECUTING)
        self.gates[run_id][1].set_result(order)
        self.model.order(self.model.runs[run_id], order, self.now)
        self.pass_time()

    @rule(seconds=st.sampled_from([300, 600, 1200]))
    def advance(self, seconds: int) -> None:
        self.pass_time(seconds)

    @precondition(lambda self: self.model.runs)
    @rule(choice=CHOICE)
    def cancel(self, choice: int) -> None:
        run_id = self.some(choice, *RunStatus)
        run = self.model.runs[run_id]
        if run.status in (RunStatus.COMPLETED, RunStatus.FAILED):
            with pytest.raises(ConflictError):
                self.run(self.client.cancel_run(run_id))
        else:
            self.run(self.client.cancel_run(run_id))
            self.model.cancel(run)
        self.pass_time()

    @precondition(lambda self: self.model.runs)
    @rule(choice=CHOICE)
    def rerun(self, choice: int) -> None:
        run_id = self.some(choice, *RunStatus)
        if self.model.runs[run_id].status in TERMINAL:
            again = self.run(self.client.rerun(run_id))
            assert again.id not in self.model.runs
            self.model.runs[again.id] = ModelRun(made=self.now, ready=self.now, queued=self.now)
        else:
            with pytest.raises(ConflictError):
                self.run(self.client.rerun(run_id))
        self.pass_time()

    @precondition(lambda self: self.model.runs)
    @rule(choice=CHOICE)
    def continue_(self, choice: int) -> None:
        run_id = self.some(choice, *RunStatus)
        run = self.model.runs[run_id]
        if run.status in (RunStatus.FAILED, RunStatus.CANCELLED):
            self.run(self.client.continue_run(run_id))
            self.model.enqueue(run, self.now)
            run.ready = self.now
        else:
            with pytest.raises(ConflictError):
                self.run(self.client.continue_run(run_id))
        self.pass_time()

    @rule()
    def crash(self) -> None:
        self.run(self.embedded.crash())
        self.gates.clear()
        self.model.crash(self.now)
        self.run(self.open())
        self.pass_time()

    @rule()
    def restart(self) -> None:
        self.run(self.embedded.__aexit__(None, None, None))
        assert self.gates == {}
        self.model.put_down(self.now)
        self.run(self.open())
        self.pass_time()

    @rule()
    def drain(self) -> None:
        busy = self.model.having(RunStatus.EXECUTING, RunStatus.QUEUED)
        draining = asyncio.wait_for(self.client.drain(), timeout=0.001)
        if busy:
            with pytest.raises(TimeoutError):
                self.run(draining)
        else:
            self.run(draining)

    @precondition(lambda self: self.model.runs)
    @rule(choice=CHOICE)
    def wait_for_run(self, choice: int) -> None:
        run_id = self.some(choice, *RunStatus)
        waiting = self.client.wait_for_run(run_id, timeout=0.001)
        if self.model.runs[run_id].status in TERMINAL:
            assert self.run(waiting).id == run_id
        else:
            with pytest.raises(TimeoutError):
                self.run(waiting)

    # --- what must hold ---------------------------------------------------------------------------------------------------

    @invariant()
    def every_run_is_where_the_model_says(self) -> None:
        runs = {run.id: run for run in self.run(self.client.get_runs(limit=1_000))}
        assert {run_id: run.status for run_id, run in runs.items()} == {
            run_id: run.status for run_id, run in self.model.runs.items()
        }
        for run_id, known in self.model.runs.items():
            assert runs[run_id].output == known.output
            assert (runs[run_id].error is not None) == (known.status is RunStatus.FAILED)
            assert (runs[run_id].completed_at is not None) == (known.status in TERMINAL)

    @invariant()
    def exactly_the_executing_runs_wait_for_orders(self) -> None:
        assert {run_id: step for run_id, (step, _) in self.gates.items()} == {
            run_id: self.model.runs[run_id].step for run_id in self.model.having(RunStatus.EXECUTING)
        }

    @invariant()
    def no_step_that_was_done_begins_again(self) -> None:
        assert self.repeated == []


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Crashes are logged, hundreds of them."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


SCALE = float(os.environ.get("PERDURE_TEST_SCALE", "1"))


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("quiet")
class TestRuns(RunsMachine.TestCase):
    settings = settings(
        max_examples=max(5, int(80 * SCALE)),
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
