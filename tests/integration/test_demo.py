"""`make demo` shows what it promises: it checks that itself, and these tests check what a reader gets to see."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.demo.findings import Story, findings, remarks
from examples.demo.plan import ENDS
from perdure import Run

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.kill
def test_demo_survives_the_kill_and_says_what_the_reader_saw(tmp_path: Path):
    environment = {
        name: value for name, value in os.environ.items() if name not in {"COLUMNS", "FORCE_COLOR"}
    }

    result = subprocess.run(
        [sys.executable, "-m", "examples.demo", tmp_path / "demo"],
        cwd=ROOT,
        env=environment | {"NO_COLOR": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=90,
    )

    shown = result.stdout
    assert (result.returncode, result.stderr) == (0, ""), shown
    assert "\x1b" not in shown
    assert [
        line for line in shown.splitlines() if len(line) > 80 and "--db" not in line and " s  " not in line
    ] == []
    prose = " ".join(shown.split())
    assert re.search(r"kill -9 \d+", prose)
    assert re.search(r"[1-9]\d* tasks had been recorded before the kill; 0 of them ran again after it", prose)
    assert "3 runs completed" in prose
    assert '"status":"success"' in prose
    assert shown.count("  = ") == 15, "every task that returned something shows it"
    assert all(line.count('"') % 2 == 0 or "…" in line for line in shown.splitlines() if '":' in line)
    for text in (
        "Failed",
        "Invalid payload",
        "Cancelled",
        "HTTP Error 410",
        " attempts",
        "cut off, run again",
    ):
        assert text in prose
    assert "✗ The" not in shown
    look = next(line for line in shown.splitlines() if "runs list --db" in line)
    assert subprocess.run(look.split(), cwd=ROOT, capture_output=True, timeout=30).returncode == 0


def test_demo_finds_fault_with_a_story_in_which_nothing_happened():
    nothing: dict[str, Run] = {}
    story = Story(before=nothing, after=nothing, notes=[], visits=[], first=1, second=2)

    assert [finding.holds for finding in findings(story)] == [False] * len(findings(story))
    assert remarks(story) == {}
    assert len(ENDS) == 6


def test_demo_that_cannot_be_shown_says_why(tmp_path: Path):
    folder = tmp_path / "demo"
    folder.write_text("a file where the folder should be")

    result = subprocess.run(
        [sys.executable, "-m", "examples.demo", folder], cwd=ROOT, capture_output=True, text=True, timeout=90
    )

    assert result.returncode == 1
    assert result.stderr.startswith("demo: the demo needs a folder")
    assert "Traceback" not in result.stderr
