"""Engines, clients and user code under faults, seed by seed: every promise holds. docs/reliability.md says which.

PERDURE_SIMULATION_SEEDS=n runs so many. A seed that found a bug is kept in `REGRESSIONS`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from perdure.testing.simulation import simulate
from perdure.testing.simulation.__main__ import main

SCALE = float(os.environ.get("PERDURE_TEST_SCALE", "1"))
SEEDS = int(os.environ.get("PERDURE_SIMULATION_SEEDS", max(20, int(500 * SCALE))))
PARTS = 10

REGRESSIONS: tuple[int, ...] = ()
"""Seeds beyond those of every run which once found something."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_promise_holds(part: int):
    for seed in range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS):
        report = simulate(seed)
        if not report.is_clean:
            pytest.fail(report.describe(), pytrace=False)


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_seed_that_once_failed(seed: int):
    report = simulate(seed)

    assert report.is_clean, report.describe()


@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_one_seed_is_one_trace(seed: int):
    first = simulate(seed)
    again = simulate(seed)

    assert (again.digest, again.lines) == (first.digest, first.lines)


def test_a_seed_is_the_same_trace_in_another_process():
    """Nothing depends on the hashes of strings, nor on where in memory things are."""
    code = "from perdure.testing.simulation import simulate; print([simulate(seed).digest for seed in range(10)])"

    def digests(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert digests("1") == digests("2") == f"{[simulate(seed).digest for seed in range(10)]}\n"


def test_seeds_differ():
    assert len({simulate(seed).digest for seed in range(20)}) == 20


def test_seeds_cover_what_can_go_wrong_and_how_runs_end():
    counts: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    for seed in range(80):
        report = simulate(seed)
        counts += report.counts
        statuses += report.statuses

    assert {
        "slow",
        "unavailable",
        "outage",
        "broken",
        "crash",
        "freeze",
        "left",
        "body",
        "client",
    } <= counts.keys()
    assert {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"} <= statuses.keys()
    assert counts["crash"] > 50


def test_command_tells_what_it_did(capsys: pytest.CaptureFixture[str]):
    assert main(["--seeds", "3", "--first", "5", "--jobs", "1"]) == 0

    said = capsys.readouterr().out
    assert "seeds 5 to 7" in said
    assert "0 failed" in said


def test_command_replays_a_seed(capsys: pytest.CaptureFixture[str]):
    assert main(["--replay", "5", "--lines", "10"]) == 0

    said = capsys.readouterr().out
    assert "seed 5: 0 findings" in said
    assert "--replay 5" in said
