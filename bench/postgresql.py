"""The first workloads on PostgreSQL, one embedded process: `python -m bench.postgresql [url]`.

Without a URL it starts a server of its own in a temporary folder (fsync and synchronous_commit on), as the tests do. Beside
each rate: CPU time per run or task, of this process and of the server's process that writes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import uvloop

from tests.postgresql import server

from . import w1_noop_runs as w1, w2_tasks as w2, w3_sequential as w3, w4_latency as w4
from .workload import latencies

DURABLE = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
}


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has had (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def cpu_of_server(url: str) -> float:
    """Of all client processes of the server; 0 if they aren't on this machine."""
    connection = await asyncpg.connect(url)
    try:
        found = await connection.fetch(
            "select pid from pg_stat_activity where application_name = 'perdure' and datname = current_database()"
        )
        return sum(cpu_of(row["pid"]) for row in found)
    except FileNotFoundError:
        return 0
    finally:
        await connection.close()


async def rate(url: str, name: str, client: Any, n: int, per_run: int, unit: str) -> None:
    async with client.embedded(url) as embedded:
        server_before, before, start = await cpu_of_server(url), time.process_time(), time.perf_counter()
        await asyncio.gather(*(client.send_event(name, {"i": i}) for i in range(n)))
        sent = time.perf_counter() - start
        await embedded.drain()
        seconds, ours = time.perf_counter() - start, time.process_time() - before
        theirs = await cpu_of_server(url) - server_before
    count = n * per_run
    print(
        f"{name:6} {count / seconds:8,.0f} {unit}s/s   {ours / count * 1e6:6.1f} µs here  "
        f"{theirs / count * 1e6:6.1f} µs there per {unit}   (sent in {sent:.2f} of {seconds:.2f} s)",
        flush=True,
    )


async def latency(url: str, n: int) -> None:
    w4.first_lines.clear()
    sent: list[float] = []
    async with w4.client.embedded(url):
        for i in range(n):
            sent.append(time.perf_counter())
            event = await w4.client.send_event("ping", {"i": i})
            await w4.client.wait_for_run(event.runs[0].id)
    print("ping  ", latencies(line - start for start, line in zip(sent, w4.first_lines, strict=True)))


async def sequential(url: str, tasks: int) -> None:
    async with w3.client.embedded(url) as embedded:
        start = time.perf_counter()
        await w3.client.send_event("long", {"tasks": tasks, "n": tasks})
        await embedded.drain()
        print(f"long   {tasks / (time.perf_counter() - start):8,.0f} tasks/s, one after the other")


async def main(url: str, scale: float) -> None:
    await rate(url, "noop", w1.client, int(500 * scale), 1, "run")
    await rate(url, "noop", w1.client, int(20_000 * scale), 1, "run")
    await rate(url, "ten", w2.client, int(3_000 * scale), w2.TASKS, "task")
    await latency(url, int(500 * scale))


if __name__ == "__main__":
    given = sys.argv[1] if len(sys.argv) > 1 else None
    with nullcontext(SimpleNamespace(url=given)) if given else server(**DURABLE) as running:
        uvloop.run(main(running.url, float(os.environ.get("SCALE", "1"))))
