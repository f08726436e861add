"""What simulated jobs are made of. A new kind of step is a class with `run`, and a line in `STEPS`.

A step does something with `io` and tells the ledger what really happened: that a body starts, what a task returned, when
a wait began and ended. It asks nothing of chance when it runs: durations and numbers are drawn when the program is made.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from perdure import IO, Job, Retry, TaskError, current_task

from .ledger import Ledger
from .others import SIGNAL
from .queues import Lane

BODY_SECONDS = (0.0, 0.0, 0.01, 0.2, 1.5, 12.0)
WAIT_SECONDS = (0.0, 0.5, 1.2, 5.0, 40.0, 300.0)


class SimulatedError(Exception):
    """What simulated code fails with."""


@dataclass(frozen=True)
class Scene:
    """Where a step runs. `lane`: whose slots its run takes, by its job and its payload."""

    io: IO
    run_id: str
    ledger: Ledger
    jobs: Mapping[str, Job[Any, Any]]
    lane: Lane
    path: str = ""

    def below(self, key: str) -> Scene:
        return replace(self, path=f"{self.path}/{key}")

    async def task(
        self, key: str, body: Callable[[int], Any], *, is_work: bool = True, **options: Any
    ) -> Any:
        """`io.run_task` of `body(how often it has been started)`; its value is told to the ledger.

        `is_work`: nothing in the body waits durably, so it takes a slot as long as it runs.
        """
        path = f"{self.path}/{key}"
        ids: list[str] = []

        async def run() -> Any:
            n = self._starts(path, ids)
            if is_work:
                self.ledger.bodies.begin(self.run_id, self.lane)
            try:
                value = body(n)
                if asyncio.iscoroutine(value):
                    value = await value
            finally:
                if is_work:
                    self.ledger.bodies.end(self.run_id, self.lane)
            return self.ledger.fresh_value() if value is None else value

        value = await self.io.run_task(key, run, **options)
        if ids:
            self.ledger.got(self.run_id, ids[-1], value, path)
        return value

    async def plain_task(self, key: str) -> Any:
        """A task whose body is a plain `def`."""
        path = f"{self.path}/{key}"
        ids: list[str] = []

        def run() -> int:
            self._starts(path, ids)
            self.ledger.bodies.begin(self.run_id, self.lane)
            self.ledger.bodies.end(self.run_id, self.lane)
            return self.ledger.fresh_value()

        value = await self.io.run_task(key, run)
        if ids:
            self.ledger.got(self.run_id, ids[-1], value, path)
        return value

    def _starts(self, path: str, ids: list[str]) -> int:
        ids.append(current_task().id)
        return self.ledger.body_starts(self.run_id, ids[-1], path)


class Step:
    """A piece of a job."""

    @property
    def fails(self) -> bool:
        """Whether it raises, whatever happens around it."""
        return False

    async def run(self, at: Scene) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Work(Step):
    """A task; `seconds` are what its body takes, None for a plain `def`."""

    key: str
    seconds: float | None

    async def run(self, at: Scene) -> Any:
        seconds = self.seconds
        if seconds is None:
            return await at.plain_task(self.key)

        async def body() -> None:
            await asyncio.sleep(seconds)

        return await at.task(self.key, lambda _: body())


@dataclass(frozen=True)
class Flaky(Step):
    """A task whose body fails the first `failures` times that it is started, and is retried until it doesn't."""

    key: str
    failures: int
    delay: float

    async def run(self, at: Scene) -> Any:
        async def body(n: int) -> None:
            await asyncio.sleep(0.01)
            if n <= self.failures:
                raise SimulatedError(f"start {n}")

        retry = Retry(attempts=1_000, factor=1, min_delay=self.delay, max_delay=max(self.delay, 1))
        return await at.task(self.key, body, retry=retry)


@dataclass(frozen=True)
class Failure(Step):
    """A task that fails for good, after `attempts`; `caught`: the run goes on."""

    key: str
    attempts: int
    caught: bool

    @property
    def fails(self) -> bool:
        return not self.caught

    async def run(self, at: Scene) -> Any:
        async def body(n: int) -> None:
            raise SimulatedError(f"start {n}")

        try:
            await at.task(self.key, body, retry=Retry(attempts=self.attempts, min_delay=2))
        except TaskError:
            if not self.caught:
                raise
            return "caught"


@dataclass(frozen=True)
class TimedOut(Step):
    """A task whose body takes longer than its time-out, which is caught."""

    key: str
    timeout: float

    async def run(self, at: Scene) -> Any:
        async def body() -> None:
            await asyncio.sleep(self.timeout + 3)

        try:
            await at.task(self.key, lambda _: body(), timeout=self.timeout)
        except TaskError:
            return "timed out"


@dataclass(frozen=True)
class Rest(Step):
    """A wait."""

    key: str
    seconds: float

    async def run(self, at: Scene) -> Any:
        path = f"{at.path}/{self.key}"
        at.ledger.wait_begins(at.run_id, path, self.seconds)
        await at.io.wait(self.key, self.seconds)
        at.ledger.wait_ends(at.run_id, path)


@dataclass(frozen=True)
class Leave(Step):
    """The execution ends, and the run goes on in another one."""

    key: str

    async def run(self, at: Scene) -> Any:
        await at.io.yield_(self.key)


@dataclass(frozen=True)
class Remember(Step):
    """A value that is made once; a task that uses it shows it to the world."""

    key: str

    async def run(self, at: Scene) -> Any:
        value = str(await at.io.uuid(self.key))
        shown = await at.task(f"{self.key} shown", lambda _: value)
        if shown != value:
            raise AssertionError(f"{self.key} was {shown}, and is {value} on replay")
        return value


@dataclass(frozen=True)
class Tell(Step):
    """An event sent from inside the run; it starts a run of the job that listens to `event`."""

    key: str
    event: str

    async def run(self, at: Scene) -> Any:
        event = await at.io.send_event(self.key, self.event, {"from": at.run_id})
        at.ledger.sent_event(event.id, [run.id for run in event.runs])


@dataclass(frozen=True)
class Call(Step):
    """Runs of another job, whose ends it waits for, if it does; `timeout`: seconds, caught."""

    key: str
    child: str
    how: str
    count: int
    timeout: float | None

    async def run(self, at: Scene) -> Any:
        job = at.jobs[self.child]
        payloads = [{"tenant": "abc"[n % 3]} for n in range(self.count)]
        if self.how == "invoke":
            run = await job.invoke(payloads[0], key=self.key)
            at.ledger.sent_event(run.event_id, [run.id])
            return None
        try:
            if self.how == "batch":
                results = await job.batch_invoke_and_wait(payloads, key=self.key, timeout=self.timeout)
            else:
                results = [await job.invoke_and_wait(payloads[0], key=self.key, timeout=self.timeout)]
        except TaskError as error:
            if self.timeout is None or not error.matches(TimeoutError):
                raise
            return "timed out"
        if self.how == "batch" and len(results) != self.count:
            raise AssertionError(f"{self.key}: {len(results)} results of {self.count} runs")
        for result in results:
            at.ledger.saw_child(at.run_id, result.id, result.status)
        return None


@dataclass(frozen=True)
class Await(Step):
    """A wait for the event `SIGNAL` with number `n`, which clients send now and then; `since`: it looks back so far."""

    key: str
    n: int
    since: float | None
    timeout: float

    async def run(self, at: Scene) -> Any:
        try:
            event = await at.io.wait_for_event(
                self.key,
                SIGNAL,
                filter={"n": [self.n]},
                since=None if self.since is None else timedelta(seconds=self.since),
                timeout=self.timeout,
            )
        except TaskError as error:
            if not error.matches(TimeoutError):
                raise
            at.ledger.signal_missed(at.run_id, self.key, self.n, self.since or 0)
            return "timed out"
        at.ledger.signal_came(at.run_id, self.key, event.id, self.n, self.since or 0)
        return None


@dataclass(frozen=True)
class Nest(Step):
    """A task whose body consists of steps."""

    key: str
    steps: tuple[Step, ...]

    @property
    def fails(self) -> bool:
        return any(step.fails for step in self.steps)

    async def run(self, at: Scene) -> Any:
        return await at.task(self.key, lambda _: run_steps(self.steps, at.below(self.key)), is_work=False)


@dataclass(frozen=True)
class Together(Step):
    """Branches side by side; `how`: gather, group or parallel."""

    key: str
    how: str
    branches: tuple[tuple[Step, ...], ...]

    @property
    def fails(self) -> bool:
        return any(step.fails for branch in self.branches for step in branch)

    async def run(self, at: Scene) -> Any:
        if self.how == "parallel":

            async def one(branch: tuple[Step, ...], i: int) -> list[Any]:
                return await run_steps(branch, at.below(f"{self.key}[{i}]"))

            return await at.io.parallel(self.key, self.branches, one)
        if self.how == "gather":
            return await asyncio.gather(*(run_steps(branch, at) for branch in self.branches))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run_steps(branch, at)) for branch in self.branches]
        return [task.result() for task in tasks]


@dataclass(frozen=True)
class Limited(Step):
    """Steps inside `io.timeout`; whether they made it in time depends on the weather."""

    key: str
    seconds: float
    steps: tuple[Step, ...]

    async def run(self, at: Scene) -> Any:
        try:
            async with at.io.timeout(self.key, self.seconds):
                return await run_steps(self.steps, at)
        except TimeoutError:
            return "timed out"


async def run_steps(steps: Sequence[Step], at: Scene) -> list[Any]:
    """One after the other."""
    return [await step.run(at) for step in steps]


# --- making programs -----------------------------------------------------------------------------------------------------


@dataclass
class Writer:
    """Draws steps until its budget is used up. `events`: those that a program may send; `children`: jobs it may invoke."""

    chance: random.Random
    budget: int
    events: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    depth: int = 0
    failing: bool = False
    _keys: int = field(default=0)

    def key(self, letter: str) -> str:
        self._keys += 1
        return f"{letter}{self._keys}"

    def steps(self, most: int) -> tuple[Step, ...]:
        return tuple(self.step() for _ in range(self.chance.randint(1, most)))

    def step(self) -> Step:
        self.budget -= 1
        makers = [pair for pair in STEPS if not pair[2] or (self.depth < 3 and self.budget > 0)]
        (make,) = self.chance.choices([make for make, _, _ in makers], [weight for _, weight, _ in makers])
        return make(self)

    def inner(self, most: int) -> tuple[Step, ...]:
        self.depth += 1
        try:
            return self.steps(most)
        finally:
            self.depth -= 1


def _work(writer: Writer) -> Step:
    return Work(writer.key("w"), writer.chance.choice((None, *BODY_SECONDS)))


def _flaky(writer: Writer) -> Step:
    return Flaky(writer.key("f"), writer.chance.randint(1, 3), writer.chance.choice((0.1, 2.0, 30.0)))


def _failure(writer: Writer) -> Step:
    caught = not writer.failing or writer.chance.random() < 0.5
    return Failure(writer.key("x"), writer.chance.randint(1, 2), caught)


def _timed_out(writer: Writer) -> Step:
    return TimedOut(writer.key("t"), writer.chance.choice((0.05, 1.0, 7.0)))


def _rest(writer: Writer) -> Step:
    return Rest(writer.key("r"), writer.chance.choice(WAIT_SECONDS))


def _leave(writer: Writer) -> Step:
    return Leave(writer.key("y"))


def _remember(writer: Writer) -> Step:
    return Remember(writer.key("u"))


def _tell(writer: Writer) -> Step:
    if not writer.events:
        return _work(writer)
    return Tell(writer.key("e"), writer.chance.choice(writer.events))


def _call(writer: Writer) -> Step:
    if not writer.children:
        return _work(writer)
    chance = writer.chance
    return Call(
        writer.key("c"),
        chance.choice(writer.children),
        chance.choice(("invoke", "wait", "wait", "batch")),
        chance.choice((1, 2, 4)),
        chance.choice((None, None, 5.0, 100.0)),
    )


def _await(writer: Writer) -> Step:
    chance = writer.chance
    return Await(
        writer.key("a"),
        chance.randrange(2),
        chance.choice((None, None, 40.0)),
        chance.choice((3.0, 60.0, 200.0)),
    )


def _nest(writer: Writer) -> Step:
    return Nest(writer.key("n"), writer.inner(3))


def _together(writer: Writer) -> Step:
    how = writer.chance.choice(("gather", "group", "parallel"))
    return Together(writer.key("p"), how, tuple(writer.inner(2) for _ in range(writer.chance.randint(2, 3))))


def _limited(writer: Writer) -> Step:
    failing, writer.failing = writer.failing, False  # else whether it fails would depend on the weather
    steps = writer.inner(2)
    writer.failing = failing
    return Limited(writer.key("l"), writer.chance.choice((0.5, 20.0, 200.0)), steps)


STEPS: tuple[tuple[Callable[[Writer], Step], int, bool], ...] = (
    (_work, 10, False),
    (_flaky, 3, False),
    (_failure, 2, False),
    (_timed_out, 1, False),
    (_rest, 6, False),
    (_leave, 1, False),
    (_remember, 1, False),
    (_tell, 2, False),
    (_call, 3, False),
    (_await, 1, False),
    (_nest, 3, True),
    (_together, 5, True),
    (_limited, 1, True),
)
"""(maker, weight, whether it has steps inside)."""
