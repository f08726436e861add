"""The README does what it says: its example, pasted as it is, is killed while it waits and goes on."""

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

README = Path(__file__).parents[2] / "README.md"


def example() -> str:
    found = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found, "the README has no example"
    return found.group(1)


def runs(folder: Path) -> list[dict[str, Any]]:
    command = [Path(sys.executable).with_name("perdure"), "runs", "list", "--db", "jobs.db", "--json"]
    result = subprocess.run(command, cwd=folder, capture_output=True, timeout=30)
    return json.loads(result.stdout) if result.returncode == 0 else []


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.timeout(120)
def test_the_example_is_killed_while_it_waits_and_goes_on(tmp_path: Path):
    (tmp_path / "app.py").write_text(example())
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

    assert sorted(before) == ["charging the card", "mailing ann@example.com", "packing"]
    assert second.stdout.splitlines() == [
        "mailing ann@example.com",
        "Completed {'receipt': 'receipt 1', 'packed': 2}",
    ], second.stderr
    assert [(run["status"], run["executions"] >= 2) for run in runs(tmp_path)] == [("SUCCESS", True)]
