"""The jobs of a seed: what they do, what starts them, and how their runs must end."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from perdure import IO, Client, Context, Retry, event_trigger

from .ledger import Ledger
from .steps import Scene, Step, Writer, run_steps

EVENTS = ("go", "go again", "tell")
"""The last one is sent by jobs to start others, whose programs send nothing: so there is an end to it."""


@dataclass(frozen=True)
class Program:
    """A job. `retries`: executions its `retry` allows after an uncaught error, None without one.

    `max_duration`: seconds that it may execute in all; whether that is enough depends on the weather.
    """

    job_id: str
    event: str
    steps: tuple[Step, ...]
    priority: int = 0
    retries: int | None = None
    max_duration: float | None = None

    @property
    def fails(self) -> bool:
        """Whether its runs fail, if nobody cancels them."""
        return any(step.fails for step in self.steps)


def make_programs(chance: random.Random) -> list[Program]:
    """Those of a seed."""
    return [
        _program(chance, f"job-{n}", event) for n, event in enumerate((*EVENTS, chance.choice(EVENTS[:2])))
    ]


def _program(chance: random.Random, job_id: str, event: str) -> Program:
    writer = Writer(
        chance,
        budget=chance.choice((3, 6, 10)),
        events=() if event == EVENTS[-1] else (EVENTS[-1],),
        failing=chance.random() < 0.25,
    )
    return Program(
        job_id,
        event,
        writer.steps(4),
        priority=chance.choice((0, 0, 1)),
        retries=chance.choice((None, None, 2)),
        max_duration=chance.choice((None, None, None, None, None, None, 1.0, 10.0)),
    )


def define(client: Client, program: Program, ledger: Ledger) -> None:
    """Define it on a client, whose process tells `ledger` what its code does."""

    async def job(payload: Any, io: IO, ctx: Context) -> Any:
        return await run_steps(program.steps, Scene(io, ctx.run.id, ledger))

    client.define_job(
        id=program.job_id,
        run=job,
        trigger=event_trigger(name=program.event),
        priority=program.priority,
        max_duration=program.max_duration,
        retry=None if program.retries is None else Retry(attempts=program.retries, min_delay=3),
    )
