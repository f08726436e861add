"""The jobs of a seed: what they do, what starts them, and how their runs must end."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, cast

from perdure import (
    IO,
    Client,
    ConcurrencyLimit,
    Context,
    Retry,
    cron_trigger,
    event_trigger,
    interval_trigger,
    invoke_trigger,
)
from perdure.sdk.triggers.trigger import Trigger

from .calendar import CRON
from .ledger import Ledger
from .queues import Lane, Queue
from .steps import Scene, Step, Work, Writer, run_steps

EVENTS = ("go", "go again", "tell")
"""The last one is sent by jobs to start others, whose programs send nothing: so there is an end to it."""


DYNAMIC = "dynamic"
CHILDREN = ("child-0", "child-1")


@dataclass(frozen=True)
class Schedule:
    """`how`: "cron" (every minute), "interval", or "dynamic": what clients register, which is all the same to the job."""

    how: str
    seconds: int
    catch_up: bool


@dataclass(frozen=True)
class Program:
    """A job. `retries`: executions its `retry` allows after an uncaught error, None without one.

    `max_duration`: seconds that it may execute in all; whether that is enough depends on the weather.
    `schedule`: what starts it instead of an event.
    `calls`: it may invoke the jobs that are a child, and so never missing in a process; only invocations start these.
    `queue`: its own, or one that it shares with others; `keyed`: "path" or "function" if the payload divides it.
    """

    job_id: str
    event: str
    steps: tuple[Step, ...]
    queue: Queue
    priority: int = 0
    retries: int | None = None
    max_duration: float | None = None
    is_shared: bool = False
    keyed: str | None = None
    schedule: Schedule | None = None
    calls: bool = False
    is_child: bool = False

    def lane(self, payload: Any) -> Lane:
        """Whose slots a run with this payload takes: whoever sends one with a key of its own says so in the payload."""
        given: dict[str, str] = cast("dict[str, str]", payload) if isinstance(payload, dict) else {}
        tenant = given.get("tenant", "") if self.keyed else ""
        return self.queue.id, given.get("key", tenant)

    @property
    def fails(self) -> bool:
        """Whether its runs fail, if nobody cancels them."""
        return any(step.fails for step in self.steps)


def make_programs(chance: random.Random) -> list[Program]:
    """Those of a seed."""
    shared = Queue("group", limit=chance.choice((1, 2, 3)), per_key=chance.choice((None, 1)))
    programs = [
        _program(chance, f"job-{n}", event, shared)
        for n, event in enumerate((*EVENTS, chance.choice(EVENTS[:2])))
    ]
    if any(program.calls for program in programs):
        children = [
            replace(_program(chance, child, EVENTS[-1], shared), event="", is_child=True)
            for child in CHILDREN
        ]
        # One whose end comes about when the run that waits for it is put down.
        children[0] = replace(
            children[0], steps=(Work("w1", chance.choice((0.0, 0.02, 0.04, 0.05, 0.06))),), max_duration=None
        )
        programs += children
    if chance.random() < 0.25:
        how = chance.choice(("cron", "interval", DYNAMIC))
        schedule = Schedule(how, chance.choice((60, 150)), catch_up=chance.random() < 0.3)
        programs.append(
            replace(_program(chance, "job-by-clock", EVENTS[-1], shared), event="", schedule=schedule)
        )
    return programs


def _program(chance: random.Random, job_id: str, event: str, shared: Queue) -> Program:
    writer = Writer(
        chance,
        budget=chance.choice((3, 6, 10)),
        events=() if event == EVENTS[-1] else (EVENTS[-1],),
        failing=chance.random() < 0.25,
    )
    calls = job_id not in CHILDREN and event != EVENTS[-1] and chance.random() < 0.4
    if calls:
        writer.children = CHILDREN
    keyed = chance.choice((None, None, "path", "function"))
    limit = chance.choice((None, None, 1, 2))
    own = Queue(job_id, limit=None if keyed else limit, per_key=limit if keyed else None)
    is_shared = chance.random() < 0.25
    return Program(
        job_id,
        event,
        writer.steps(4),
        priority=chance.choice((0, 0, 1)),
        retries=chance.choice((None, None, 2)),
        max_duration=chance.choice((None, None, None, None, None, None, 1.0, 10.0)),
        queue=shared if is_shared else own,
        is_shared=is_shared,
        keyed=keyed,
        calls=calls,
    )


def define(client: Client, program: Program, ledger: Ledger, *, by_clock: bool) -> None:
    """Define it on a client, whose process tells `ledger` what its code does. `by_clock`: whether schedules start it."""

    async def job(payload: Any, io: IO, ctx: Context) -> Any:
        lane = program.lane(payload)
        return await run_steps(program.steps, Scene(io, ctx.run.id, ledger, client.jobs, lane))

    queue = program.queue
    limit = queue.limit if program.keyed is None else queue.per_key
    shared = ConcurrencyLimit(id=queue.id, limit=queue.limit, per_key=queue.per_key)

    client.define_job(
        id=program.job_id,
        run=job,
        trigger=_trigger(client, program),
        enabled=program.schedule is None or by_clock,
        priority=program.priority,
        max_duration=program.max_duration,
        concurrency_limit=shared if program.is_shared else limit,
        concurrency_key={"path": "tenant", "function": _tenant}.get(program.keyed or ""),
        retry=None if program.retries is None else Retry(attempts=program.retries, min_delay=3),
    )


def _trigger(client: Client, program: Program) -> Trigger[Any]:
    schedule = program.schedule
    if program.is_child:
        return invoke_trigger()
    if schedule is None:
        return event_trigger(name=program.event)
    if schedule.how == DYNAMIC:
        return client.dynamic_schedule(id=DYNAMIC)
    if schedule.how == "cron":
        return cron_trigger(CRON, catch_up=schedule.catch_up)
    return interval_trigger(schedule.seconds, catch_up=schedule.catch_up)


def _tenant(payload: Any) -> str | None:
    return payload.get("tenant") if isinstance(payload, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
