"""W9: one tenant has a backlog that is executed at full speed; how long another's single run waits for its turn."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from perdure import IO, Client, Context, event_trigger
from perdure.clock import SystemClock, system_random
from perdure.embedded import ENVIRONMENT, job_spec
from perdure.engine.core.jobs import Registry
from perdure.engine.store import IngestEvent
from perdure.ids import Ids
from perdure.schema.execution import EventRecord
from perdure.store.sqlite.store import SqliteStore

from .workload import Figures, Stopwatch, Target, Workload, latencies

TIMES = 20
BATCH = 1_000

client = Client(id="bench-w9")
first_lines: dict[int, float] = {}
done = [0]


@client.job(id="backlog", trigger=event_trigger(name="backlog"))
async def backlog(payload: dict[str, Any], io: IO, ctx: Context) -> None:
    done[0] += 1


@client.job(id="single", trigger=event_trigger(name="single"))
async def single(payload: dict[str, Any], io: IO, ctx: Context) -> None:
    first_lines[payload["i"]] = time.perf_counter()


async def measure(file: Path, n: int) -> Figures:
    first_lines.clear()
    done[0] = 0
    times = min(TIMES, max(1, n // 1_000))
    await _queue(file, n)
    sent: list[float] = []
    async with client.embedded(f"sqlite:///{file}") as embedded:
        watch = Stopwatch()
        for i in range(times):
            while done[0] < n * (i + 1) // (times + 5):
                await asyncio.sleep(0.001)
            sent.append(time.perf_counter())
            event = await client.send_event("single", {"i": i})
            await client.wait_for_run(event.runs[0].id)
        assert done[0] < n, "the backlog was gone before the last single run"
        await embedded.drain()
        rate = watch.rate(n + times, "run")
    delays = [first_lines[i] - start for i, start in enumerate(sent)]
    return {
        "delay p50 ms": latencies(delays)["p50 ms"],
        "delay max ms": max(delays) * 1e3,
        "backlog runs/s": rate["runs/s"],
    }


async def _queue(file: Path, n: int) -> None:
    """The backlog, put into the file before anybody executes it."""
    clock = SystemClock()
    ids = Ids(clock, system_random())
    registry = Registry()
    registry.add([job_spec(backlog)])
    store = await SqliteStore.open(str(file), ENVIRONMENT.id)
    try:
        for start in range(0, n, BATCH):
            now = clock.now()
            events = [
                EventRecord(
                    id=ids.event_id(), name="backlog", payload=f'{{"i":{i}}}', timestamp=now, delivered_at=now
                )
                for i in range(start, min(n, start + BATCH))
            ]
            await store.apply(
                [
                    IngestEvent(
                        event=event,
                        runs=registry.runs_of(event, now, iter(ids.run_id, "")),
                        created_at=now,
                    )
                    for event in events
                ]
            )
    finally:
        await store.close()


WORKLOAD = Workload(
    id="W9",
    what=f"a single run of one tenant, {TIMES} times, while {{size:,}} of another are executed",
    size=100_000,
    quick=5_000,
    perdure=measure,
    targets=(Target("delay p50 ms", "at_most", 100), Target("delay max ms", "at_most", 100)),
    repeats_max=1,
)
