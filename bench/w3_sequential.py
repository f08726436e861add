"""W3: one run of many tasks, one after the other. Each is one durable write that nobody shares."""

from __future__ import annotations

import time
from pathlib import Path

from perdure import IO, Client, Context, event_trigger

from . import floor
from .workload import Figures, Stopwatch, Target, Workload, stored

PARTS = 10
"""The first and the last of so many equal parts are compared: of 10,000 tasks, a thousand each."""

client = Client(id="bench-w3")
marks: list[tuple[float, float]] = []
"""Wall clock and CPU time of the process where a part begins, and at the end."""


@client.job(id="long", trigger=event_trigger(name="long"))
async def long(payload: dict[str, int], io: IO, ctx: Context) -> None:
    n = payload["n"]
    for k in range(n):
        if k % (n // PARTS) == 0:
            _mark()
        await io.run_task(f"t{k}", body)
    _mark()


async def body() -> int:
    return 1


async def measure(file: Path, n: int) -> Figures:
    marks.clear()
    async with client.embedded(f"sqlite:///{file}") as embedded:
        watch = Stopwatch()
        await client.send_event("long", {"n": n})
        await embedded.drain()
        figures = watch.rate(n, "task")
    with stored(file) as db:
        assert db.execute("select count(*) from tasks where status = 'COMPLETED'").fetchone() == (n,)
    return {**figures, **_last_to_first()}


async def measure_floor(file: Path, n: int) -> Figures:
    marks.clear()
    async with floor.Floor(file) as to:
        await to.write(floor.event(0), floor.run(0))
        watch = Stopwatch()
        for k in range(n):
            if k % (n // PARTS) == 0:
                _mark()
            await to.write(floor.task(0, k))
        _mark()
        return {**watch.rate(n, "task"), **_last_to_first()}


def _mark() -> None:
    marks.append((time.perf_counter(), time.process_time()))


def _last_to_first() -> Figures:
    """What the last part took, as a multiple of the first. The CPU's says the same without the disk's noise."""
    names = ("last part / first", "CPU last / first")
    return {name: (marks[-1][i] - marks[-2][i]) / (marks[1][i] - marks[0][i]) for i, name in enumerate(names)}


WORKLOAD = Workload(
    id="W3",
    what="one run of {size:,} sequential tasks",
    size=10_000,
    quick=200,
    perdure=measure,
    floor=measure_floor,
    targets=(Target("tasks/s", "at_least", 4_000, ratio=0.7), Target("last part / first", "at_most", 1.1)),
)
