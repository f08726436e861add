"""W2: many runs of ten tasks each."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from perdure import IO, Client, Context, event_trigger

from . import floor
from .workload import Figures, Stopwatch, Target, Workload, stored

TASKS = 10

client = Client(id="bench-w2")


@client.job(id="ten", trigger=event_trigger(name="ten"))
async def ten(payload: dict[str, Any], io: IO, ctx: Context) -> None:
    for k in range(TASKS):
        await io.run_task(f"t{k}", body)


async def body() -> int:
    return 1


async def measure(file: Path, n: int) -> Figures:
    async with client.embedded(f"sqlite:///{file}") as embedded:
        watch = Stopwatch()
        await asyncio.gather(*(client.send_event("ten", {"i": i}) for i in range(n)))
        await embedded.drain()
        figures = watch.rate(n * TASKS, "task")
    with stored(file) as db:
        assert db.execute("select count(*) from tasks where status = 'COMPLETED'").fetchone() == (n * TASKS,)
    return figures


async def measure_floor(file: Path, n: int) -> Figures:
    async def one(i: int) -> None:
        await to.write(floor.event(i), floor.run(i))
        for k in range(TASKS):
            await to.write(floor.task(i, k))
        await to.write(floor.finish(i))

    async with floor.Floor(file) as to:
        watch = Stopwatch()
        await asyncio.gather(*(one(i) for i in range(n)))
        return watch.rate(n * TASKS, "task")


WORKLOAD = Workload(
    id="W2",
    what=f"{{size:,}} runs × {TASKS} tasks",
    size=3_000,
    quick=50,
    perdure=measure,
    floor=measure_floor,
    targets=(Target("tasks/s", "at_least", 35_000, ratio=0.5),),
)
