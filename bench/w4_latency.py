"""W4: from the call that triggers a run to the first line of its function, on an idle engine, one at a time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from perdure import IO, Client, Context, event_trigger

from . import floor
from .workload import Figures, Target, Workload, latencies

client = Client(id="bench-w4")
first_lines: list[float] = []


@client.job(id="ping", trigger=event_trigger(name="ping"))
async def ping(payload: dict[str, Any], io: IO, ctx: Context) -> None:
    first_lines.append(time.perf_counter())


async def measure(file: Path, n: int) -> Figures:
    first_lines.clear()
    sent: list[float] = []
    async with client.embedded(f"sqlite:///{file}"):
        for i in range(n):
            sent.append(time.perf_counter())
            event = await client.send_event("ping", {"i": i})
            await client.wait_for_run(event.runs[0].id)
    return latencies(line - start for start, line in zip(sent, first_lines, strict=True))


async def measure_floor(file: Path, n: int) -> Figures:
    taken: list[float] = []
    async with floor.Floor(file) as to:
        for i in range(n):
            start = time.perf_counter()
            await to.write(floor.event(i), floor.run(i))
            taken.append(time.perf_counter() - start)
            await to.write(floor.finish(i))
    return latencies(taken)


WORKLOAD = Workload(
    id="W4",
    what="trigger → first line of user code, {size:,} times, idle",
    size=500,
    quick=50,
    perdure=measure,
    floor=measure_floor,
    targets=(Target("p50 ms", "at_most", 1.5), Target("p99 ms", "at_most", 5.0)),
)
