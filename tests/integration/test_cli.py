"""`perdure`: what it prints, what it ends with, and that it looks into a file while an engine owns it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from perdure import IO, Client, Context, event_trigger
from perdure._version import __version__
from perdure.cli.main import app
from perdure.engine.store import ClaimRuns, IngestEvent, MoveRun, NewRun, RecordTasks
from perdure.schema.execution import EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import ErrorInfo, RunStatus, TaskStatus
from perdure.store.sqlite.store import SqliteStore

T0 = 1_767_225_600_000  # 2026-01-01 00:00:00 UTC

DONE = "run_00000000000000000000000001"
BROKEN = "run_00000000000000000000000002"
QUEUED = "run_00000000000000000000000003"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Path]:
    """A file with a completed, a failed and a queued run, owned by an engine's store that is still open."""
    path = tmp_path / "jobs.db"
    with asyncio.Runner() as loop:
        store = loop.run(SqliteStore.open(str(path), environment="dev"))
        loop.run(fill(store))
        yield path
        loop.run(store.close())


async def fill(store: SqliteStore) -> None:
    for number, (run_id, job) in enumerate([(DONE, "fetcher"), (BROKEN, "mailer")]):
        await ingest(store, run_id, job, created_at=T0 + number)
    claim = ClaimRuns(
        owner="me",
        limit=2,
        at=T0 + 10,
        expires_at=T0 + 60_000,
        expected=RunStatus.QUEUED,
        status=RunStatus.EXECUTING,
    )
    await store.apply([claim])
    tasks = [
        make_task(
            "fetch",
            position=0,
            started_at=T0 + 20,
            completed_at=T0 + 1270,
            attempts=2,
            output='{"token":"abc"}',
        ),
        make_task(
            "parse",
            position=1,
            parent_id="id-fetch",
            started_at=T0 + 40,
            completed_at=T0 + 50,
            output='"ok"',
        ),
    ]
    logs = [LogRecord(id="log-1", level="INFO", message="got it", at=T0 + 30, task_id="id-fetch")]
    await store.apply([RecordTasks(run_id=DONE, execution=1, tasks=tasks, logs=logs)])
    done: dict[str, Any] = {
        "expected": RunStatus.EXECUTING,
        "execution": 1,
        "at": T0 + 2000,
        "completed_at": T0 + 2000,
    }
    await store.apply(
        [
            MoveRun(run_id=DONE, status=RunStatus.COMPLETED, output='{"status":"success"}', **done),
            MoveRun(
                run_id=BROKEN,
                status=RunStatus.FAILED,
                error=ErrorInfo(name="ValueError", message="no such mailbox", stack="Traceback: mail.py"),
                **done,
            ),
        ]
    )
    await ingest(store, QUEUED, "mailer", created_at=T0 + 5000)


async def ingest(store: SqliteStore, run_id: str, job: str, *, created_at: int) -> None:
    event = EventRecord(
        id=f"evt-{run_id}", name="foo.bar", payload='{"url":"http://x"}', timestamp=created_at
    )
    run = NewRun(id=run_id, job_id=job, job_version="1.0.0", status=RunStatus.QUEUED, created_at=created_at)
    await store.apply([IngestEvent(event=event, runs=[run], created_at=created_at)])


def make_task(key: str, **given: Any) -> TaskRecord:
    defaults: dict[str, Any] = {
        "id": f"id-{key}",
        "idempotency_key": "0" * 64,
        "key": key,
        "name": key,
        "status": TaskStatus.COMPLETED,
        "details": '{"redact":["token"]}',
    }
    return TaskRecord(**defaults | given)


def perdure(*arguments: str | Path, **environment: str) -> Result:
    wide = {"COLUMNS": None} | environment  # pytest-xdist sets it in its workers
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=wide)


# --- list ---------------------------------------------------------------------------------------------------------------


def test_list_shows_runs_newest_first_in_full(db: Path):
    result = perdure("runs", "list", "--db", db)

    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert [line.split()[0] for line in lines] == ["run", QUEUED, BROKEN, DONE]
    assert "Failed" in lines[2]
    assert lines[2].endswith("ValueError: no such mailbox")


@pytest.mark.parametrize("columns", ["80", "100", "120", "160"])
def test_list_has_all_columns_in_any_terminal(db: Path, columns: str):
    shown = perdure("runs", "list", "--db", db, COLUMNS=columns).stdout

    header = shown.partition(QUEUED)[0].split()
    assert header[:7] == ["run", "status", "created", "(UTC)", "job", "took", "executions"]
    assert [shown.count(what) for what in ("mailer 1.0.0", "fetcher 1.0.0", "1.99 s", "ValueError")] == [
        2,
        1,
        2,
        1,
    ]


@pytest.mark.parametrize(
    "options, expected",
    [
        pytest.param(["--status", "failed"], [BROKEN], id="status by label"),
        pytest.param(["--status", "SUCCESS"], [DONE], id="status by wire value"),
        pytest.param(["--status", "failed", "--status", "queued"], [QUEUED, BROKEN], id="two statuses"),
        pytest.param(["--status", "timed out"], [], id="a status that no run has"),
        pytest.param(["--job", "mailer"], [QUEUED, BROKEN], id="job"),
        pytest.param(["--job", "mailer", "--status", "queued"], [QUEUED], id="job and status"),
        pytest.param(["--limit", "1"], [QUEUED], id="limit"),
    ],
)
def test_list_filters(db: Path, options: list[str], expected: list[str]):
    result = perdure("runs", "list", "--db", db, "--json", *options)

    assert result.exit_code == 0, result.output
    assert [run["id"] for run in json.loads(result.stdout)] == expected


def test_list_without_runs_says_so(db: Path):
    result = perdure("runs", "list", "--db", db, "--status", "cancelled")

    assert (result.exit_code, result.stdout.strip()) == (0, "no runs")


# --- show ---------------------------------------------------------------------------------------------------------------


def test_show_draws_the_tree_of_tasks(db: Path):
    result = perdure("runs", "show", DONE, "--db", db)

    assert result.exit_code == 0, result.output
    assert f"{DONE}  Completed  fetcher 1.0.0" in result.stdout
    assert 'payload {"url":"http://x"}' in result.stdout
    assert '✓ fetch      at 10 ms, took 1.25 s, 2 attempts  = {"token":"[REDACTED]"}' in result.stdout
    assert "│   ├── info got it" in result.stdout
    assert '│   └── ✓ parse  at 30 ms, took 10 ms               = "ok"' in result.stdout
    assert 'output {"status":"success"}' in result.stdout
    assert "\x1b" not in result.stdout


def test_show_tells_why_a_run_failed(db: Path):
    assert "run failed: ValueError: no such mailbox" in perdure("runs", "show", BROKEN, "--db", db).stdout
    assert "Traceback: mail.py" in perdure("runs", "show", BROKEN, "--db", db, "--stacks").stdout


def test_show_as_json_has_everything_but_what_is_redacted(db: Path):
    result = perdure("runs", "show", DONE, "--db", db, "--json")

    run = json.loads(result.stdout)
    assert (run["status"], run["output"], run["payload"]) == (
        "SUCCESS",
        {"status": "success"},
        {"url": "http://x"},
    )
    assert [task["key"] for task in run["tasks"]] == ["fetch", "parse"]
    assert run["tasks"][0]["output"] == {"token": "[REDACTED]"}
    assert run["logs"][0]["message"] == "got it"


def test_show_takes_the_beginning_of_an_id(db: Path):
    only = Path(f"{db}.one")
    asyncio.run(fill_one(only))

    assert DONE in perdure("runs", "show", DONE[:10], "--db", only).stdout
    assert json.loads(perdure("runs", "show", "run", "--db", only, "--json").stdout)["id"] == DONE
    for nothing in ("", "un_", f"{DONE}0", DONE[:-1] + "0", DONE.upper()):
        assert perdure("runs", "show", nothing, "--db", only).exit_code == 1


async def fill_one(path: Path) -> None:
    store = await SqliteStore.open(str(path), environment="dev")
    await ingest(store, DONE, "fetcher", created_at=T0)
    await store.close()


def test_show_names_the_runs_that_a_beginning_may_mean(db: Path):
    result = perdure("runs", "show", DONE[:-1], "--db", db)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.split()[-3:] == [QUEUED, BROKEN, DONE]


# --- the file -----------------------------------------------------------------------------------------------------------


def test_the_file_may_be_given_as_url_or_by_the_environment(db: Path, monkeypatch: pytest.MonkeyPatch):
    assert QUEUED in perdure("runs", "list", "--db", f"sqlite:///{db}").stdout
    assert QUEUED in perdure("runs", "list", PERDURE_DATABASE_URL=f"sqlite:///{db}").stdout
    monkeypatch.chdir(db.parent)
    assert QUEUED in perdure("runs", "list", "--db", f"sqlite:///{db.name}").stdout


def test_reading_changes_nothing_and_works_without_an_owner(db: Path, tmp_path: Path):
    copy = tmp_path / "copy.db"
    with sqlite3.connect(db) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    before = copy.read_bytes()

    result = perdure("runs", "list", "--db", copy)

    assert result.exit_code == 0, result.output
    assert copy.read_bytes() == before
    assert not Path(f"{copy}.lock").exists()


# --- what goes wrong ----------------------------------------------------------------------------------------------------


def test_an_unknown_run_is_told_with_code_1(db: Path):
    result = perdure("runs", "show", "run_nope", "--db", db)

    assert result.exit_code == 1
    assert result.stderr == f"perdure: there is no run 'run_nope' in {db}; see perdure runs list --db {db}\n"


def test_a_missing_file_is_told_and_not_created(tmp_path: Path):
    result = perdure("runs", "list", "--db", tmp_path / "gone.db")

    assert result.exit_code == 2
    assert "there is no file" in result.stderr
    assert "gone.db" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_told(tmp_path: Path):
    file = tmp_path / "notes.txt"
    file.write_text("hello")

    result = perdure("runs", "list", "--db", file)

    assert result.exit_code == 2
    assert "is not a SQLite file" in result.stderr


def test_a_database_of_somebody_else_is_told(tmp_path: Path):
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("create table recipes (name text)")
    other.commit()
    other.close()

    result = perdure("runs", "list", "--db", path)

    assert result.exit_code == 2, result.output
    assert "no database of perdure's" in result.stderr


def test_a_folder_is_told(tmp_path: Path):
    assert perdure("runs", "list", "--db", tmp_path).exit_code == 2


def test_another_database_is_told():
    result = perdure("runs", "list", "--db", "postgresql://localhost/jobs")

    assert result.exit_code == 2
    assert "takes a SQLite file" in result.stderr
    assert "localhost" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["runs", "list"], id="no file"),
        pytest.param(["runs", "list", "--db", "x", "--status", "happy"], id="unknown status"),
        pytest.param(["runs", "list", "--db", "x", "--limit", "0"], id="limit 0"),
        pytest.param(["runs", "show", "--db", "x"], id="no id"),
        pytest.param(["sprint"], id="unknown command"),
    ],
)
def test_wrong_usage_ends_with_code_2(arguments: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PERDURE_DATABASE_URL", raising=False)

    assert perdure(*arguments).exit_code == 2


def test_an_unknown_status_lists_those_there_are():
    result = perdure("runs", "list", "--db", "x", "--status", "happy", COLUMNS="200")

    assert "timed out" in result.output


def test_database_is_copied_while_it_is_owned(db: Path, tmp_path: Path):
    copy = tmp_path / "copy.db"

    result = perdure("db", "backup", str(db), str(copy))
    again = perdure("db", "backup", str(db), str(copy))

    assert (result.exit_code, again.exit_code) == (0, 2)
    assert "exists" in again.stderr
    assert (
        perdure("runs", "list", "--db", str(copy)).stdout == perdure("runs", "list", "--db", str(db)).stdout
    )


def test_database_in_order(db: Path):
    result = perdure("db", "check", str(db))

    assert result.exit_code == 0
    assert result.stdout.endswith("is in order\n")


def test_database_with_a_fault(db: Path):
    with sqlite3.connect(db) as connection:
        connection.execute("delete from ready")

    result = perdure("db", "check", str(db))

    assert result.exit_code == 1
    assert QUEUED in result.stdout


def test_run_that_does_not_execute_tells_why(db: Path):
    with sqlite3.connect(db) as connection:
        connection.execute(
            "insert or replace into queues (env, id, paused_at) select env, queue, 0 from runs"
        )

    shown = perdure("runs", "show", QUEUED, "--db", str(db))
    data = json.loads(perdure("runs", "show", QUEUED, "--db", str(db), "--json").stdout)

    assert "is paused since 1970-01-01" in shown.stdout
    assert [reason["kind"] for reason in data["reasons"]] == ["paused"]


def test_show_tells_what_a_run_was_given_and_says_of_its_progress(db: Path):
    client = Client(id="shop")

    @client.job(id="pay", trigger=event_trigger(name="pay"), concurrency_key="user")
    async def pay(payload: dict[str, Any], io: IO, ctx: Context) -> None:
        await io.create_status("progress", label="Paying", state="loading", data={"done": 1})

    async def main() -> str:
        async with client.embedded(f"sqlite:///{db.parent / 'shop.db'}"):
            event = await client.send_event(
                "pay",
                {"user": "u1"},
                tags=["paid", "\x1b[31mred"],
                metadata={"order": 7},
                priority=3,
                account_id="acme",
            )
            return (await client.wait_for_run(event.runs[0].id)).id

    run_id = asyncio.run(main())

    shown = perdure("runs", "show", run_id, "--db", db.parent / "shop.db").stdout

    assert "no. 1 of its job" in shown
    assert "priority 3, account acme, concurrency key u1, tags paid, \\x1b[31mred" in shown
    assert 'metadata {"order":7}' in shown
    assert 'status Paying  loading  {"done":1}' in shown
    assert "\x1b" not in shown
    tagged = perdure("runs", "list", "--db", db.parent / "shop.db", "--tag", "paid", "--tag", "\x1b[31mred")
    assert run_id in tagged.stdout
    assert "no runs" in perdure("runs", "list", "--db", db.parent / "shop.db", "--tag", "other").stdout


@pytest.mark.parametrize("command", [[], ["runs"], ["runs", "list"], ["runs", "show"]])
def test_help_shows_flags_as_flags(command: list[str]):
    result = perdure(*command, "--help", COLUMNS="100")

    assert result.exit_code == 0
    assert "--help" in result.stdout
    assert not re.search(r"bool|\{ID\}", result.stdout, re.IGNORECASE)


def test_version():
    result = perdure("--version")

    assert (result.exit_code, result.stdout) == (0, f"perdure {__version__}\n")


# --- the installed command ----------------------------------------------------------------------------------------------


def installed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = Path(sys.executable).with_name("perdure")
    return subprocess.run(
        [command, *arguments], capture_output=True, timeout=30, env={**os.environ, **environment}
    )


def test_the_installed_command_reads_beside_the_owner_and_prints_no_colour_into_a_pipe(db: Path):
    result = installed("runs", "show", DONE, "--db", str(db))

    assert (result.returncode, result.stderr) == (0, b"")
    assert DONE.encode() in result.stdout
    assert b"\x1b" not in result.stdout


def test_the_installed_command_copes_with_an_ascii_terminal(db: Path):
    result = installed(
        "runs", "show", DONE, "--db", str(db), PYTHONIOENCODING="ascii", NO_COLOR="1", TERM="dumb"
    )

    assert (result.returncode, result.stderr) == (0, b"")
    assert b"+ fetch" in result.stdout


def test_the_installed_command_has_its_codes(tmp_path: Path):
    assert installed("--version").returncode == 0
    assert installed("runs", "list", "--db", str(tmp_path / "gone.db")).returncode == 2
