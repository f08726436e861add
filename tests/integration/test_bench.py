"""`make bench`: its figures are for people, but that it runs and says what it promises is tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a quick run of every workload measured."""
    done = run_bench("--quick", "--json", "--folder", str(tmp_path_factory.mktemp("bench")))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["lines"]


def test_every_workload_is_measured_beside_its_floor(lines: list[dict[str, Any]]) -> None:
    assert {line["workload"] for line in lines} == {"W1", "W2", "W3", "W4"}
    for line in lines:
        assert line["perdure"] > 0
        assert line["floor"] > 0
        assert line["ratio"] == pytest.approx(line["perdure"] / line["floor"])


def test_targets_of_the_issue_are_shown_and_not_judged_on_small_sizes(lines: list[dict[str, Any]]) -> None:
    targets = {(line["workload"], line["figure"]): line["target"] for line in lines if line["target"]}

    assert targets == {
        ("W1", "runs/s"): "≥ 5,000",
        ("W2", "tasks/s"): "≥ 15,000",
        ("W3", "last part / first"): "≤ 1.1",
        ("W4", "p50 ms"): "≤ 3",
    }
    assert all(line["met"] is None for line in lines)


def test_the_table_names_workload_floor_and_target(tmp_path: Path) -> None:
    done = run_bench("--quick", "--only", "W4", "--folder", str(tmp_path))

    assert done.returncode == 0, done.stderr
    for word in ("W4", "first line of user code", "perdure", "floor", "ratio", "≤ 3", "p99 ms"):
        assert word in done.stdout


def test_an_unknown_workload_is_refused() -> None:
    done = run_bench("--only", "W99")

    assert done.returncode == 2
    assert "W99" in done.stderr
