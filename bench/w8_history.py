"""W8: a claim, and what it takes from trigger to user code, in a file full of finished runs; the floor is an empty file."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import Any

from perdure import IO, Client, Context, event_trigger
from perdure.clock import SystemClock, system_random
from perdure.embedded import ENVIRONMENT, job_spec
from perdure.engine.core import runs as core
from perdure.engine.core.jobs import Registry
from perdure.engine.store import Claimed, IngestEvent
from perdure.ids import Ids
from perdure.schema.execution import Completed, EventRecord
from perdure.store.sqlite.store import SqliteStore

from .workload import Figures, Target, Workload, latencies, stored

TIMES = 500
LEASE_MS = 30_000

client = Client(id="bench-w8")
first_lines: list[float] = []


@client.job(id="ping", trigger=event_trigger(name="ping"))
async def ping(payload: dict[str, Any], io: IO, ctx: Context) -> None:
    first_lines.append(time.perf_counter())


async def measure(file: Path, n: int) -> Figures:
    await _one_run(file)
    with stored(file) as db:
        _fill(db, n)
    return await measure_floor(file, n)


async def measure_floor(file: Path, n: int) -> Figures:
    times = min(TIMES, max(20, n // 10))
    await _one_run(file)
    claims = await _claims(file, times)
    triggers = await _triggers(file, times)
    return {f"claim {name}": value for name, value in claims.items()} | {
        f"trigger → code {name}": value for name, value in triggers.items()
    }


async def _one_run(file: Path) -> None:
    async with client.embedded(f"sqlite:///{file}") as embedded:
        await client.send_event("ping", {"i": 0})
        await embedded.drain()


def _fill(db: sqlite3.Connection, n: int) -> None:
    """Copies of the one finished run there is, and of its event, with older ids: whatever columns the tables have."""
    db.execute("pragma synchronous = off")
    db.execute("pragma cache_size = -500000")
    numbers = "with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < ?)"
    event_id, run_id = "'evt_' || printf('%026d', n)", "'run_' || printf('%026d', n)"
    tables = (
        ("events", {"id": event_id}),
        ("runs", {"id": run_id, "event_id": event_id, "number": "n + 1", "completed_at": "completed_at - n"}),
    )
    for table, changed in tables:
        names: list[str] = [column[1] for column in db.execute(f"pragma table_info({table})")]
        values = ", ".join(changed.get(name, name) for name in names)
        template = f"(select * from {table} limit 1)"
        db.execute(
            f"{numbers} insert into {table} ({', '.join(names)}) select {values} from numbers, {template}",
            (n,),
        )
    db.execute("update job_counters set last_number = last_number + ?", (n,))
    db.commit()
    assert db.execute("select count(*) from runs where completed_at is not null").fetchone() == (n + 1,)
    db.execute("pragma wal_checkpoint(truncate)")


async def _claims(file: Path, times: int) -> Figures:
    """A ClaimRuns by itself, on one queued run."""
    clock = SystemClock()
    ids = Ids(clock, system_random())
    registry = Registry()
    registry.add([job_spec(ping)])
    taken: list[float] = []
    store = await SqliteStore.open(str(file), ENVIRONMENT.id)
    try:
        for _ in range(times):
            now = clock.now()
            event = EventRecord(id=ids.event_id(), name="ping", payload="{}", timestamp=now, delivered_at=now)
            runs = registry.runs_of(event, now, iter(ids.run_id, ""))
            await store.apply([IngestEvent(event=event, runs=runs, created_at=now)])
            start = time.perf_counter()
            [claimed] = await store.apply([core.claim("bench", 1, now, LEASE_MS)])
            taken.append(time.perf_counter() - start)
            assert isinstance(claimed, Claimed)
            await store.apply([core.close(claimed.claims[0], now, Completed("null", None), clock.now())])
    finally:
        await store.close()
    return latencies(taken)


async def _triggers(file: Path, times: int) -> Figures:
    first_lines.clear()
    sent: list[float] = []
    async with client.embedded(f"sqlite:///{file}"):
        for i in range(times):
            sent.append(time.perf_counter())
            event = await client.send_event("ping", {"i": i})
            await client.wait_for_run(event.runs[0].id)
            await asyncio.sleep(0)
    return latencies(line - start for start, line in zip(sent, first_lines, strict=True))


WORKLOAD = Workload(
    id="W8",
    what="one run at a time in a file with {size:,} finished runs; floor: perdure in an empty file",
    size=1_000_000,
    quick=500,
    perdure=measure,
    floor=measure_floor,
    targets=(
        Target("claim p50 ms", "at_most", ratio=1.5),
        Target("trigger → code p50 ms", "at_most", ratio=1.5),
    ),
    repeats_max=1,
)
