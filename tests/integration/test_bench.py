"""`make bench`: its figures are for people, but that it runs and says what it promises is tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.workload import Target

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


def test_every_workload_is_measured_beside_its_floor_where_it_has_one(lines: list[dict[str, Any]]) -> None:
    assert {line["workload"] for line in lines} == {f"W{n}" for n in range(1, 10)}
    assert {line["workload"] for line in lines if line["floor"]} == {"W1", "W2", "W3", "W4", "W7", "W8"}
    for line in lines:
        assert line["perdure"] > 0 or line["figure"] in {
            "bytes/waiting run",
            "lost runs",
            "tasks repeated after recorded",
        }
        if line["floor"] is not None:
            assert line["ratio"] == pytest.approx(line["perdure"] / line["floor"])


def test_nothing_is_lost_or_repeated_by_a_kill(lines: list[dict[str, Any]]) -> None:
    figures = {line["figure"]: line["perdure"] for line in lines if line["workload"] == "W6"}

    assert figures["tasks left at the kill"] > 0
    assert figures["lost runs"] == 0
    assert figures["tasks repeated after recorded"] == 0


def test_targets_of_the_issue_are_shown_and_not_judged_on_small_sizes(lines: list[dict[str, Any]]) -> None:
    targets = {(line["workload"], line["figure"]): line["target"] for line in lines if line["target"]}

    assert targets == {
        ("W1", "runs/s"): "≥ 12,000 or 0.5 × floor",
        ("W2", "tasks/s"): "≥ 35,000 or 0.5 × floor",
        ("W3", "tasks/s"): "≥ 4,000 or 0.7 × floor",
        ("W3", "last part / first"): "≤ 1.1",
        ("W4", "p50 ms"): "≤ 1.5",
        ("W4", "p99 ms"): "≤ 5",
        ("W5", "bytes/waiting run"): "≤ 1,000",
        ("W5", "woken runs/s"): "≥ 8,000",
        ("W6", "s from restart to all done"): "≤ 2",
        ("W6", "lost runs"): "≤ 0",
        ("W6", "tasks repeated after recorded"): "≤ 0",
        ("W7", "children/s, a tenth"): "≥ 3,000",
        ("W7", "children/s"): "≥ 3,000",
        ("W7", "rate of all / of a tenth"): "≥ 0.8",
        ("W8", "claim p50 ms"): "≤ 1.5 × floor",
        ("W8", "trigger → code p50 ms"): "≤ 1.5 × floor",
        ("W9", "delay p50 ms"): "≤ 100",
        ("W9", "delay max ms"): "≤ 100",
    }
    assert all(line["met"] is None for line in lines)


@pytest.mark.parametrize(
    "target, figure, ratio, is_met",
    [
        pytest.param(Target("x", "at_least", 10), 10.0, None, True, id="as much as was asked"),
        pytest.param(Target("x", "at_least", 10), 9.9, 0.9, False, id="too little"),
        pytest.param(Target("x", "at_least", 10, ratio=0.5), 5.0, 0.5, True, id="little, but near the floor"),
        pytest.param(Target("x", "at_least", 10, ratio=0.5), 5.0, 0.4, False, id="far from both"),
        pytest.param(Target("x", "at_most", ratio=1.5), 900.0, 1.4, True, id="only the ratio counts"),
        pytest.param(Target("x", "at_most", 0), 1.0, None, False, id="too much"),
    ],
)
def test_a_target_is_met_by_the_figure_or_by_its_ratio_to_the_floor(
    target: Target, figure: float, ratio: float | None, is_met: bool
) -> None:
    assert target.is_met(figure, ratio) is is_met


def test_the_table_names_workload_floor_and_target(tmp_path: Path) -> None:
    done = run_bench("--quick", "--only", "W4", "--folder", str(tmp_path))

    assert done.returncode == 0, done.stderr
    for word in ("W4", "first line of user code", "perdure", "floor", "ratio", "≤ 1.5", "p99 ms"):
        assert word in done.stdout


def test_an_unknown_workload_is_refused() -> None:
    done = run_bench("--only", "W99")

    assert done.returncode == 2
    assert "W99" in done.stderr
