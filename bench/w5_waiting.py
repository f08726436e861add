"""W5: runs in a durable wait: the memory they take, and waking them all at once.

`python -m bench.w5_waiting FILE N` measures one number of runs, in a process of its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path
from typing import Any

from perdure import IO, Client, Context, event_trigger
from perdure.clock import Instant, SystemClock, to_datetime

from . import processes
from .workload import Figures, Stopwatch, Target, Workload, stored

FAR_MS = 24 * 3_600_000
SENDERS = 500
"""Events sent at once: more would be memory of senders, not of waiting runs."""

client = Client(id="bench-w5")
lateness_ms: list[int] = [0, 0]
"""Runs that went on, and how late the last one was."""


class LeapingClock(SystemClock):
    """The system's, which can be put forward."""

    ahead = 0

    def now(self) -> Instant:
        return Instant(super().now() + self.ahead)


clock = LeapingClock()


@client.job(id="wait", trigger=event_trigger(name="wait"))
async def wait(payload: dict[str, int], io: IO, ctx: Context) -> None:
    await io.wait_until("far", to_datetime(payload["until"]))
    lateness_ms[0] += 1
    lateness_ms[1] = max(lateness_ms[1], clock.now() - payload["until"])


async def measure(file: Path, n: int) -> Figures:
    few = processes.answer("w5_waiting", file.with_name("few.db"), n // 10)
    many = processes.answer("w5_waiting", file, n)
    with stored(file) as db:
        assert db.execute("select count(*) from runs where status = 'SUCCESS'").fetchone() == (n,)
    return {
        "bytes/waiting run": (many["rss"] - few["rss"]) / (n - n // 10),
        "MB in all": many["rss"] / 1e6,
        "put to wait runs/s": many["runs/s"],
        "woken runs/s": n / many["lateness"],
        "CPU µs/woken run": many["CPU µs/woken run"],
        "last one s late": many["lateness"],
    }


async def one(file: Path, n: int) -> dict[str, Any]:
    async with client.embedded(f"sqlite:///{file}", clock=clock, watch_loop=True) as embedded:
        until = clock.now() + FAR_MS
        watch = Stopwatch()
        for start in range(0, n, SENDERS):
            await asyncio.gather(
                *(client.send_event("wait", {"until": until}) for _ in range(start, min(n, start + SENDERS)))
            )
        await embedded.drain()
        waiting = watch.rate(n, "run")
        assert lateness_ms == [0, 0]
        gc.collect()
        rss = resident_bytes()
        clock.ahead = until - clock.now()
        assert embedded._engine is not None
        embedded._engine.loops.waker.notify(0)  # it sleeps by the loop's time, which hasn't leapt
        watch = Stopwatch()
        await embedded.drain()
        assert lateness_ms[0] == n
        return {
            "rss": rss,
            "runs/s": waiting["runs/s"],
            "CPU µs/woken run": watch.rate(n, "run")["CPU µs/run"],
            "lateness": lateness_ms[1] / 1000,
        }


def resident_bytes() -> int:
    """Memory of this process that is in use now; where the system doesn't tell, the most that was."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


WORKLOAD = Workload(
    id="W5",
    what="{size:,} runs in a durable wait, due at the same instant",
    size=100_000,
    quick=500,
    perdure=measure,
    targets=(
        Target("bytes/waiting run", "at_most", 1_000),
        Target("woken runs/s", "at_least", 8_000),
    ),
    repeats_max=1,
)

if __name__ == "__main__":
    print(json.dumps(asyncio.run(one(Path(sys.argv[1]), int(sys.argv[2])))))
