"""The seeded scheduler: processes that die and freeze between callbacks, virtual time, no threads."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from perdure.testing.simulation.loop import HARNESS, SimulatedLoop


def run(main: Callable[[SimulatedLoop], Coroutine[Any, Any, Any]], *, seed: int = 0, **options: float) -> Any:
    loop = SimulatedLoop(random.Random(seed), **options)
    try:
        result = loop.run_until_complete(loop.spawn(HARNESS, main(loop)))
        loop.unwind()
        return result
    finally:
        loop.close()


async def count(counts: list[int], seconds: float = 1) -> None:
    while True:
        counts.append(len(counts))
        await asyncio.sleep(seconds)


def test_killed_process_runs_no_callback_any_more():
    counts: list[int] = []

    async def main(loop: SimulatedLoop) -> int:
        loop.spawn(1, count(counts))
        await asyncio.sleep(3.5)
        loop.kill(1)
        await asyncio.sleep(10)
        return len(counts)

    assert run(main) == 4


def test_killed_process_runs_no_finally():
    seen: list[str] = []

    async def process() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            seen.append("finally")

    async def main(loop: SimulatedLoop) -> list[str]:
        loop.spawn(1, process())
        await asyncio.sleep(0.5)
        loop.kill(1)
        await asyncio.sleep(10)
        return list(seen)

    assert run(main) == []


def test_frozen_process_goes_on_when_it_is_thawed():
    counts: list[int] = []

    async def main(loop: SimulatedLoop) -> tuple[int, int]:
        loop.spawn(1, count(counts))
        await asyncio.sleep(3.5)
        loop.freeze(1)
        await asyncio.sleep(10)
        frozen = len(counts)
        loop.thaw(1)
        await asyncio.sleep(2)
        return frozen, len(counts)

    frozen, thawed = run(main)
    assert frozen == 4
    assert thawed > 4


def test_process_dies_between_any_two_callbacks():
    def steps_until_death(steps: int) -> list[str]:
        seen: list[str] = []

        async def process() -> None:
            for n in range(10):
                seen.append(f"step {n}")
                await asyncio.sleep(0)

        async def main(loop: SimulatedLoop) -> list[str]:
            loop.alarm(1, steps, lambda: loop.kill(1))
            loop.spawn(1, process())
            await asyncio.sleep(1)
            return list(seen)

        return run(main)

    assert [len(steps_until_death(n)) for n in range(10)] == list(range(10))


def test_task_of_one_process_is_woken_by_another():
    async def main(loop: SimulatedLoop) -> list[str]:
        seen: list[str] = []
        gate = asyncio.Event()

        async def waiter() -> None:
            await gate.wait()
            seen.append("woken")
            await asyncio.sleep(1)
            seen.append("still alive")

        async def opener() -> None:
            gate.set()

        loop.spawn(1, waiter())
        await asyncio.sleep(0.1)
        loop.spawn(2, opener())
        await asyncio.sleep(0.1)
        loop.kill(2)
        await asyncio.sleep(2)
        return seen

    assert run(main) == ["woken", "still alive"]


def test_callbacks_of_one_process_keep_their_order():
    async def main(loop: SimulatedLoop) -> list[int]:
        seen: list[int] = []
        for n in range(100):
            loop.call_soon(seen.append, n)
        await asyncio.sleep(1)
        return seen

    assert run(main, drift=0.001, jitter=0.01) == list(range(100))


def test_which_process_moves_next_is_drawn():
    async def main(loop: SimulatedLoop) -> str:
        seen: list[str] = []

        async def process(name: str) -> None:
            for _ in range(10):
                seen.append(name)
                await asyncio.sleep(0)

        loop.spawn(1, process("a"))
        loop.spawn(2, process("b"))
        await asyncio.sleep(1)
        return "".join(seen)

    assert len({run(main, seed=seed) for seed in range(20)}) > 10
    assert run(main, seed=3) == run(main, seed=3)


def test_timers_are_late_by_the_jitter_at_most():
    async def main(loop: SimulatedLoop) -> float:
        await asyncio.sleep(1)
        return loop.time()

    times = [run(main, seed=seed, jitter=0.1) for seed in range(20)]
    assert all(1 <= time <= 1.1 for time in times)
    assert len(set(times)) > 10


def test_plain_functions_run_without_threads():
    async def main(loop: SimulatedLoop) -> Any:
        assert await loop.run_in_executor(None, threading.get_ident) == threading.get_ident()
        with pytest.raises(ValueError, match="no"):
            await loop.run_in_executor(None, _fail)

    run(main)


def _fail() -> None:
    raise ValueError("no")
