"""Real processes over a real file, killed with SIGKILL at random moments and at every commit.

Two promises are checked: every event that was acknowledged has its runs completed in the end, and no task that was
recorded as completed has begun its body again after that.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

ROUNDS = max(10, int(200 * float(os.environ.get("PERDURE_TEST_SCALE", "1"))))
SEED = int(os.environ.get("PERDURE_KILL_SEED", "1"))
LIFE_SECONDS_MAX = 0.6
APP = Path(__file__).with_name("kill_loop_app.py")

pytestmark = [pytest.mark.kill, pytest.mark.durability]


class Zygote:
    """Starts lives of the application, one at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(APP)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, folder: Path, **command: Any) -> int:
        """Begin a life; its pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"folder": str(folder), **command}) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """Exit status of the life under way; negative if a signal ended it."""
        return int(self._line())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=30)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the application's zygote has ended with status {self._process.wait(timeout=30)}"
        return line


class Observer:
    """What can be known of the application from outside: its files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._completed_at: dict[str, int] = {}

    def progress(self) -> int:
        return sum(self._size(name) for name in ("acknowledged", "effects"))

    def acknowledged(self) -> list[str]:
        return self._text("acknowledged").split()

    def note_completed(self) -> None:
        """Remember for each task recorded as completed how long the list of effects was when that was first seen."""
        if not (self._folder / "jobs.db").exists():
            return
        offset = self._size("effects")
        for (task_id,) in self.query("select id from tasks where status in ('COMPLETED', 'ERRORED')"):
            self._completed_at.setdefault(task_id, offset)

    def repeated(self) -> list[str]:
        """Effects of tasks that had been recorded as completed before."""
        found: list[str] = []
        offset = 0
        for line in self._text("effects").splitlines(keepends=True):
            task_id = line.split()[0]
            if offset >= self._completed_at.get(task_id, sys.maxsize):
                found.append(line.strip())
            offset += len(line)
        return found

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._folder / "jobs.db")) as connection:
            try:
                return connection.execute(sql).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):  # killed before the schema was there
                    return []
                raise

    def unfinished_runs(self) -> list[tuple[Any, ...]]:
        return self.query(
            "select id, job_id, event_id, status, reason, error from runs where status != 'SUCCESS'"
        )

    def runs_per_event(self) -> dict[str, int]:
        return dict(self.query("select event_id, count(*) from runs group by event_id"))

    def _size(self, name: str) -> int:
        path = self._folder / name
        return path.stat().st_size if path.exists() else 0

    def _text(self, name: str) -> str:
        path = self._folder / name
        return path.read_text() if path.exists() else ""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_and_nothing_recorded_is_repeated(tmp_path: Path):
    chance = random.Random(SEED)
    observer = Observer(tmp_path)

    with closing(Zygote()) as zygote:
        for life in range(ROUNDS):
            pid = zygote.start(tmp_path, do="live", life=life, events=chance.randint(0, 2))
            live_for_a_while(observer, chance)
            os.kill(pid, signal.SIGKILL)
            assert zygote.wait() == -signal.SIGKILL, f"life {life} ended by itself (seed {SEED})"
            observer.note_completed()
        acknowledged = observer.acknowledged()
        zygote.start(tmp_path, do="finish", events=acknowledged)
        assert zygote.wait() == 0, f"seed {SEED}"

    runs = observer.runs_per_event()
    assert len(acknowledged) >= ROUNDS // 4, "hardly anything happened between the kills"
    assert observer.unfinished_runs() == [], f"seed {SEED}"
    assert {event_id: runs.get(event_id) for event_id in acknowledged} == dict.fromkeys(acknowledged, 2)
    assert observer.repeated() == [], f"seed {SEED}"


def live_for_a_while(observer: Observer, chance: random.Random) -> None:
    """Return at a random moment: after so much has been written, and a random fraction of a commit later."""
    enough = observer.progress() + chance.choice((0, 1, 40, 200, 400, 800))
    end = time.monotonic() + chance.uniform(0.02, LIFE_SECONDS_MAX)
    while observer.progress() < enough and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.01))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_death_at_any_commit_loses_and_repeats_nothing(tmp_path: Path, moment: str):
    died = 0
    with closing(Zygote()) as zygote:
        for commit in range(1, 200):
            folder = tmp_path / str(commit)
            folder.mkdir()
            observer = Observer(folder)
            zygote.start(folder, do="crash", moment=moment, commit=commit)
            if zygote.wait() == 0:
                break
            died += 1
            observer.note_completed()
            zygote.start(folder, do="crash", moment=moment, commit=0)

            assert zygote.wait() == 0
            assert observer.unfinished_runs() == []
            assert observer.runs_per_event() == {"only": 2}
            assert observer.repeated() == []

    assert died > 15
