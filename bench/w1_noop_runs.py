"""W1: no-op runs, all sent under one gather, until the last is Completed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from perdure import IO, Client, Context, event_trigger

from . import floor
from .workload import Figures, Stopwatch, Target, Workload, stored

client = Client(id="bench-w1")


@client.job(id="noop", trigger=event_trigger(name="noop"))
async def noop(payload: dict[str, Any], io: IO, ctx: Context) -> None:
    pass


async def measure(file: Path, n: int) -> Figures:
    async with client.embedded(f"sqlite:///{file}") as embedded:
        watch = Stopwatch()
        await asyncio.gather(*(client.send_event("noop", {"i": i}) for i in range(n)))
        await embedded.drain()
        figures = watch.rate(n, "run")
    with stored(file) as db:
        assert db.execute("select count(*) from runs where status = 'SUCCESS'").fetchone() == (n,)
    return figures


async def measure_floor(file: Path, n: int) -> Figures:
    async def one(i: int) -> None:
        await to.write(floor.event(i), floor.run(i))
        await to.write(floor.finish(i))

    async with floor.Floor(file) as to:
        watch = Stopwatch()
        await asyncio.gather(*(one(i) for i in range(n)))
        return watch.rate(n, "run")


WORKLOAD = Workload(
    id="W1",
    what="{size:,} no-op runs sent under one gather, until the last is Completed",
    size=20_000,
    quick=500,
    perdure=measure,
    floor=measure_floor,
    targets=(Target("runs/s", "at_least", 12_000, ratio=0.5),),
)
