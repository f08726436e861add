"""The README does what it says: its programs run as pasted, and the first is killed while it waits and goes on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]
PRINTED = [text for kind, text in BLOCKS if kind == ""]
"""What the README shows as printed by each of its programs."""
INSTANT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def runs(folder: Path) -> list[dict[str, Any]]:
    command = [Path(sys.executable).with_name("perdure"), "runs", "list", "--db", "jobs.db", "--json"]
    result = subprocess.run(command, cwd=folder, capture_output=True, timeout=30)
    return json.loads(result.stdout) if result.returncode == 0 else []


def test_the_first_program_is_among_the_examples():
    assert PROGRAMS[0] == (ROOT / "examples" / "hello.py").read_text()


@pytest.mark.parametrize("n", [1, 2])
def test_the_other_programs_print_what_is_shown(n: int, tmp_path: Path):
    (tmp_path / "app.py").write_text(PROGRAMS[n])

    result = subprocess.run(
        [sys.executable, "app.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert len(PROGRAMS) == len(PRINTED) == 3
    assert result.returncode == 0, result.stderr
    assert [INSTANT.sub("", line) for line in result.stdout.splitlines()] == [
        INSTANT.sub("", line) for line in PRINTED[n].splitlines()
    ], result.stderr


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.timeout(120)
def test_the_example_is_killed_while_it_waits_and_goes_on(tmp_path: Path):
    (tmp_path / "app.py").write_text(PROGRAMS[0])
    start = [sys.executable, "app.py"]

    with subprocess.Popen(start, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as first:
        assert first.stdout
        deadline = time.monotonic() + 30
        while [run["status"] for run in runs(tmp_path)] != ["WAITING_TO_CONTINUE"]:
            assert first.poll() is None, first.stdout.read().decode()
            assert time.monotonic() < deadline, runs(tmp_path)
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        before = first.stdout.read().decode().splitlines()
    second = subprocess.run(start, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    third = subprocess.run(start, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert sorted(before) == ["charging the card", "mailing ann@example.com", "packing"]
    assert second.stdout.splitlines() == [
        "mailing ann@example.com",
        "Completed {'receipt': 'receipt 1', 'packed': 2}",
    ], second.stderr
    assert third.stdout == "Completed {'receipt': 'receipt 1', 'packed': 2}\n", third.stderr
    assert [(run["status"], run["executions"] >= 2) for run in runs(tmp_path)] == [("SUCCESS", True)]
