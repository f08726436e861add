"""W6: SIGKILL in the middle of W2's load; another process opens the file and finishes what was begun.

`python -m bench.w6_kill load|finish FILE [N]` are the two processes. Each task leaves a line in a file beside the
database, each acknowledged event another: they tell what was lost and what was done twice.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from perdure import IO, Client, Context, event_trigger

from . import processes
from .workload import Figures, Target, Workload, stored

TASKS = 10

client = Client(id="bench-w6")
ran: list[int] = []
"""File descriptor of the list of tasks that ran."""


@client.job(id="ten", trigger=event_trigger(name="ten"))
async def ten(payload: dict[str, Any], io: IO, ctx: Context) -> None:
    for k in range(TASKS):
        await io.run_task(f"t{k}", body, ctx.run.id, k)


async def body(run_id: str, k: int) -> int:
    os.write(ran[0], f"{run_id} t{k}\n".encode())
    return 1


async def measure(file: Path, n: int) -> Figures:
    with processes.start("w6_kill", "load", file, n) as load:
        _until_half_way(load, ran_file(file, "load"), n)
        load.kill()
    recorded = _recorded(file)
    started = time.perf_counter()
    with processes.start("w6_kill", "finish", file) as finish:
        assert finish.stdout is not None
        assert finish.stdout.readline() == b"done\n"
        seconds = time.perf_counter() - started
    again = set(_lines(ran_file(file, "finish"))) & recorded
    with stored(file) as db:
        completed = {event for (event,) in db.execute("select event_id from runs where status = 'SUCCESS'")}
    lost = set(_lines(acknowledged_file(file))) - completed
    return {
        "s from restart to all done": seconds,
        "tasks left at the kill": float(len(completed) * TASKS - len(recorded)),
        "lost runs": float(len(lost)),
        "tasks repeated after recorded": float(len(again)),
    }


def _until_half_way(load: Any, ran: Path, n: int) -> None:
    deadline = time.perf_counter() + 60
    half = n * TASKS // 2 * len(f"run_{0:026} t0\n")
    while not ran.exists() or ran.stat().st_size < half:
        assert load.poll() is None
        assert time.perf_counter() < deadline
        time.sleep(0.002)


def _recorded(file: Path) -> set[str]:
    """The tasks that were recorded as completed, read from a copy: looking at the file itself would tidy it up."""
    copy = file.with_name("copy.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{file}{suffix}", f"{copy}{suffix}")
    with stored(copy) as db:
        rows = db.execute("select run_id, key from tasks where status = 'COMPLETED'")
        return {f"{run_id} {key}" for run_id, key in rows}


def _lines(file: Path) -> list[str]:
    """Whole lines: the last one may have been cut."""
    return file.read_text().split("\n")[:-1]


def ran_file(file: Path, process: str) -> Path:
    return file.with_name(f"ran-{process}.txt")


def acknowledged_file(file: Path) -> Path:
    return file.with_name("acknowledged.txt")


async def load(file: Path, n: int) -> None:
    acknowledged = _append_to(acknowledged_file(file))

    async def send(i: int) -> None:
        event = await client.send_event("ten", {"i": i})
        os.write(acknowledged, f"{event.id}\n".encode())

    async with client.embedded(f"sqlite:///{file}") as embedded:
        await asyncio.gather(*(send(i) for i in range(n)))
        await embedded.drain()


async def finish(file: Path) -> None:
    async with client.embedded(f"sqlite:///{file}") as embedded:
        await embedded.drain()
        print("done", flush=True)


def _append_to(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


WORKLOAD = Workload(
    id="W6",
    what=f"SIGKILL in the middle of {{size:,}} runs × {TASKS} tasks, then another process goes on",
    size=3_000,
    quick=500,
    perdure=measure,
    targets=(
        Target("s from restart to all done", "at_most", 2),
        Target("lost runs", "at_most", 0),
        Target("tasks repeated after recorded", "at_most", 0),
    ),
)

if __name__ == "__main__":
    file = Path(sys.argv[2])
    ran.append(_append_to(ran_file(file, sys.argv[1])))
    asyncio.run(load(file, int(sys.argv[3])) if sys.argv[1] == "load" else finish(file))
