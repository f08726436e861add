"""Generated programs give the same result and the same effects however they are executed.

Normally, with replay forced after every task, and with the process dying at random commits; programs whose outcome is
determined are also held against plain asyncio. PERDURE_PROGRAM_SEED=n executes only the program of that seed and prints,
if it fails, the smallest program that fails in the same way.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from .program_generator import generate, size
from .program_modes import is_determined, report

PROGRAMS = max(20, int(1_000 * float(os.environ.get("PERDURE_TEST_SCALE", "1"))))
PARTS = 20


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Crashes are reported with tracebacks, thousands of them."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def seeds(part: int) -> range:
    return range(part * PROGRAMS // PARTS, (part + 1) * PROGRAMS // PARTS)


@pytest.mark.timeout(300)
@pytest.mark.skipif("PERDURE_PROGRAM_SEED" in os.environ, reason="only one seed is asked for")
@pytest.mark.parametrize("part", range(PARTS))
def test_every_mode_of_execution_agrees(part: int):
    for seed in seeds(part):
        problem = report(seed)
        if problem is not None:
            pytest.fail(problem, pytrace=False)


@pytest.mark.skipif("PERDURE_PROGRAM_SEED" not in os.environ, reason="set PERDURE_PROGRAM_SEED")
def test_program_of_seed():
    seed = int(os.environ["PERDURE_PROGRAM_SEED"])
    print(generate(seed).code())

    problem = report(seed)

    if problem is not None:
        pytest.fail(problem, pytrace=False)


def test_a_seed_always_gives_the_same_program():
    assert [generate(seed) for seed in range(50)] == [generate(seed) for seed in range(50)]


def test_programs_said_to_be_determined_are():
    """Small delays around every operation change nothing: what the comparison of modes rests on."""
    determined = [program for program in map(generate, range(60)) if program.determined and not program.sync]

    assert len(determined) > 30
    assert [program.code() for program in determined if not is_determined(program)] == []


def test_programs_are_of_all_sizes():
    sizes = [size(generate(seed).root) for seed in range(200)]

    assert min(sizes) < 8
    assert max(sizes) > 40
