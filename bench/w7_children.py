"""W7: a parent that waits for many children: all of them at once, in one operation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from perdure import IO, Client, Context, event_trigger, invoke_trigger

from . import floor
from .workload import Figures, Stopwatch, Target, Workload, stored

client = Client(id="bench-w7")


@client.job(id="child", trigger=invoke_trigger())
async def child(payload: dict[str, int], io: IO, ctx: Context) -> int:
    return payload["i"]


@client.job(id="parent", trigger=event_trigger(name="parent"))
async def parent(payload: dict[str, int], io: IO, ctx: Context) -> int:
    ended = await child.batch_invoke_and_wait([{"i": i} for i in range(payload["n"])], key="all")
    return sum(each.output for each in ended if each.output is not None)


async def measure(file: Path, n: int) -> Figures:
    """A tenth of the children first, then all of them, each under a parent of its own."""
    async with client.embedded(f"sqlite:///{file}") as embedded:
        few = await _one(embedded, n // 10)
        many = await _one(embedded, n)
    with stored(file) as db:
        count = "select count(*) from runs where job_id = 'child' and status = 'SUCCESS'"
        assert db.execute(count).fetchone() == (n + n // 10,)
    return _figures(few, many)


async def _one(embedded: Any, n: int) -> Figures:
    watch = Stopwatch()
    event = await client.send_event("parent", {"n": n})
    run = await client.wait_for_run(event.runs[0].id)
    figures = watch.rate(n, "child")
    assert run.output == sum(range(n))
    await embedded.drain()
    return figures


async def measure_floor(file: Path, n: int) -> Figures:
    """Children are events and runs written at once, which then end one by one, each with a row of its parent's."""

    async def one(first: int, count: int) -> Figures:
        async def end(i: int) -> None:
            await to.write(floor.finish(first + i), floor.task(first, i))

        watch = Stopwatch()
        await to.write(*(row for i in range(count) for row in (floor.event(first + i), floor.run(first + i))))
        await asyncio.gather(*(end(i) for i in range(count)))
        return watch.rate(count, "child")

    async with floor.Floor(file) as to:
        return _figures(await one(0, n // 10), await one(n, n))


def _figures(few: Figures, many: Figures) -> Figures:
    return {
        "children/s, a tenth": few["childs/s"],
        "children/s": many["childs/s"],
        "rate of all / of a tenth": many["childs/s"] / few["childs/s"],
        "CPU µs/child, a tenth": few["CPU µs/child"],
        "CPU µs/child": many["CPU µs/child"],
    }


WORKLOAD = Workload(
    id="W7",
    what="a parent waiting for {size:,} children, and for a tenth of them",
    size=10_000,
    quick=500,
    perdure=measure,
    floor=measure_floor,
    targets=(
        Target("children/s, a tenth", "at_least", 3_000),
        Target("children/s", "at_least", 3_000),
        Target("rate of all / of a tenth", "at_least", 0.8),
    ),
)
