"""The one shape of a benchmark, and how its figures come about."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Figures = dict[str, float]
"""What was measured: {"runs/s": 6600.0, ...}."""

Measure = Callable[[Path, int], Coroutine[Any, Any, Figures]]
"""`await measure(file, n)`: the workload of size n, on a database at `file`, which doesn't exist yet."""


@dataclass(frozen=True)
class Target:
    """What the issue asks of a figure: "at_least" or "at_most" so much, or such a ratio to the floor; one of them will do."""

    figure: str
    bound: str
    value: float | None = None
    ratio: float | None = None

    def is_met(self, figure: float, ratio: float | None) -> bool:
        return any(
            asked is not None
            and is_ is not None
            and (is_ >= asked if self.bound == "at_least" else is_ <= asked)
            for asked, is_ in ((self.value, figure), (self.ratio, ratio))
        )

    def __str__(self) -> str:
        sign = "≥" if self.bound == "at_least" else "≤"
        asked = [] if self.value is None else [f"{self.value:,g}"]
        if self.ratio is not None:
            asked.append(f"{self.ratio:g} × floor")
        return f"{sign} {' or '.join(asked)}"


@dataclass(frozen=True)
class Workload:
    """`size` is that of the issue, `quick` one which takes a second.

    Attributes:
        floor: measured beside it; None where nothing smaller does the same.
        repeats_max: how often it is measured at most, however often that is asked for: some take long.
    """

    id: str
    what: str
    size: int
    quick: int
    perdure: Measure
    floor: Measure | None = None
    targets: tuple[Target, ...] = ()
    repeats_max: int = 1_000


@dataclass(frozen=True)
class Line:
    """One figure of one workload. `ratio`: perdure / floor, the median of repeats measured one right after the other."""

    workload: str
    what: str
    figure: str
    perdure: float
    floor: float | None
    ratio: float | None
    target: str | None
    met: bool | None


def measure(workload: Workload, *, quick: bool, repeats: int, folder: Path | None) -> list[Line]:
    """Floor and perdure in turn, `repeats` times; the medians."""
    size = workload.quick if quick else workload.size
    pairs = [
        (
            {} if workload.floor is None else _once(workload.floor, size, folder),
            _once(workload.perdure, size, folder),
        )
        for _ in range(min(repeats, workload.repeats_max))
    ]
    targets = {target.figure: target for target in workload.targets}
    lines: list[Line] = []
    for name in pairs[0][1]:
        value = median(perdure[name] for _, perdure in pairs)
        floor, ratio = None, None
        if name in pairs[0][0]:
            floor = median(floor[name] for floor, _ in pairs)
            ratio = median(perdure[name] / floor[name] for floor, perdure in pairs)
        target = targets.get(name)
        lines.append(
            Line(
                workload=workload.id,
                what=workload.what.format(size=size),
                figure=name,
                perdure=value,
                floor=floor,
                ratio=ratio,
                target=None if target is None else str(target),
                met=None if target is None or quick else target.is_met(value, ratio),
            )
        )
    return lines


def _once(measure: Measure, size: int, folder: Path | None) -> Figures:
    with tempfile.TemporaryDirectory(prefix="perdure-bench-", dir=folder) as directory:
        gc.collect()
        return asyncio.run(measure(Path(directory) / "bench.db", size))


class Stopwatch:
    """Time passed, and CPU time of all threads, since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._cpu = time.process_time()

    def rate(self, n: int, unit: str) -> Figures:
        """{"runs/s": ..., "CPU µs/run": ...} for n units in the time so far."""
        seconds, cpu = time.perf_counter() - self._started, time.process_time() - self._cpu
        return {f"{unit}s/s": n / seconds, f"CPU µs/{unit}": cpu / n * 1e6}


def latencies(seconds: Iterable[float]) -> Figures:
    ordered = sorted(seconds)
    return {f"p{p} ms": ordered[len(ordered) * p // 100] * 1e3 for p in (50, 99)}


@contextmanager
def stored(file: Path) -> Iterator[sqlite3.Connection]:
    """What a workload left behind, to see that it is what it should be."""
    connection = sqlite3.connect(file)
    try:
        yield connection
    finally:
        connection.close()


def fsync_ms(folder: Path | None, times: int = 50) -> float:
    """Median time for a page appended to a file to become durable: what no commit can be faster than."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        taken: list[float] = []
        for _ in range(times):
            file.write(b"\0" * 4096)
            started = time.perf_counter()
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - started)
    return median(taken) * 1e3
