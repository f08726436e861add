"""Copies of a SQLite file while it is in use, and what a check finds in damaged ones."""

import asyncio
from pathlib import Path

import pytest

from perdure.engine.store import RunFilter
from perdure.errors import ConfigurationError
from perdure.schema.effects import EventWait
from perdure.schema.runs import RunStatus
from perdure.store.sqlite import SqliteStore, backup
from perdure.testing.store_contract.factories import (
    apply,
    claim,
    executing_run,
    ingest,
    make_task,
    move,
    record,
)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "jobs.db")


@pytest.fixture
async def store(path):
    store = await SqliteStore.open(path)
    yield store
    await store.close()


async def ids(store: SqliteStore) -> list[str]:
    return [run.id for run in await store.list_runs(RunFilter(limit=100_000))]


@pytest.mark.parametrize("where", ["file", "memory"])
async def test_backup_is_a_database_of_its_own(path, tmp_path, where):
    store = await SqliteStore.open(path if where == "file" else ":memory:")
    await executing_run(store)
    target = tmp_path / "backup.db"

    await store.backup(str(target))
    await apply(store, ingest("run_2"))
    await store.close()

    assert not list(tmp_path.glob("backup.db?*"))
    copy = await SqliteStore.open(str(target))
    assert await ids(copy) == ["run_1"]
    assert await copy.check() == []
    await apply(copy, move(RunStatus.COMPLETED))
    await copy.close()


async def test_backup_is_of_one_moment_while_work_goes_on(store, tmp_path, monkeypatch):
    monkeypatch.setattr(backup, "_STEP_PAGES", 5)
    await apply(store, *(ingest(f"run_{n:04}") for n in range(1_000)))
    target = str(tmp_path / "backup.db")

    copying = asyncio.ensure_future(store.backup(target))
    n = 1_000
    while not copying.done():
        await apply(store, *(ingest(f"run_{n + m:04}") for m in range(3)))
        n += 3
    await copying

    assert await store.check() == []
    copy = await SqliteStore.open(target)
    found = await ids(copy)
    assert 1_000 <= len(found) <= n
    assert len(found) % 3 == 1_000 % 3
    assert sorted(found) == [f"run_{m:04}" for m in range(len(found))]
    assert await copy.check() == []
    await copy.close()


async def test_backup_that_fails_leaves_nothing(store, tmp_path):
    with pytest.raises(ConfigurationError, match="can't write a backup to"):
        await store.backup(str(tmp_path / "no" / "backup.db"))

    assert [found.name for found in tmp_path.iterdir() if "backup" in found.name] == []


async def test_backup_replaces_what_an_interrupted_one_left(store, tmp_path):
    (tmp_path / "backup.db.partial").write_bytes(b"half" * 1_000)

    await store.backup(str(tmp_path / "backup.db"))

    copy = await SqliteStore.open(str(tmp_path / "backup.db"))
    assert await copy.check() == []
    await copy.close()


async def test_reader_makes_copies_too(path, store, tmp_path):
    await apply(store, ingest())
    reader = await SqliteStore.open(path, read_only=True)

    await reader.backup(str(tmp_path / "backup.db"))
    assert await reader.check() == []
    await reader.close()

    copy = await SqliteStore.open(str(tmp_path / "backup.db"))
    assert await ids(copy) == ["run_1"]
    await copy.close()


@pytest.mark.parametrize(
    "damage, found",
    [
        ("delete from ready", "queued runs are not in the ready queue: run_4"),
        (
            "update runs set status = 'FAILURE' where id = 'run_4'",
            "ready queue belong to no queued run: run_4",
        ),
        ("delete from lanes", "rows of the ready queue are in no lane, so no claim finds them: run_4"),
        ("delete from leases where run_id = 'run_1'", "executing runs have no lease: run_1"),
        ("update runs set execution = 9 where id = 'run_1'", "leases belong to no executing run: run_1"),
        ("delete from timers", "waiting runs have no timer: run_2"),
        ("update timers set due_at = 1", "timers belong to no waiting run: run_2"),
        ("update runs set open_waits = 0 where id = 'run_3'", "waiting runs wait for nothing: run_3"),
        ("delete from events where id = 'evt_1'", "runs have no event: run_1"),
        ("update tasks set run_id = 'run_9' where run_id = 'run_1'", "tasks belong to no run: run_9"),
        ("update event_waiters set run_id = 'run_9'", "waits belong to no live run: run_9"),
        ("insert into matches values ('dev', 1, 'evt_9')", "matches have no event: evt_9"),
    ],
)
async def test_check_finds_contradictions(store, damage, found):
    await apply(store, *(ingest(f"run_{n}") for n in (1, 2, 3)), claim())
    await apply(store, record(make_task()), ingest("run_4"))
    await apply(
        store,
        move(RunStatus.WAITING, "run_2"),
        move(
            RunStatus.WAITING,
            "run_3",
            wake_at=None,
            open_waits=1,
            waits=[EventWait(task_id="t", names=("x",), since=0)],
        ),
    )
    assert await store.check() == []

    await store._database.write(lambda connection: connection.execute(damage).close())

    assert any(found in fault for fault in await store.check())


async def test_check_names_a_few_of_many(store):
    await apply(store, *(ingest(f"run_{n}") for n in range(8)))
    await store._database.write(lambda connection: connection.execute("delete from ready").close())

    (fault,) = await store.check()

    assert fault.endswith("run_0, run_1, run_2, run_3, run_4 and 3 more")


async def test_check_finds_damage_of_the_file(path):
    store = await SqliteStore.open(path)
    await apply(store, *(ingest(f"run_{n}") for n in range(500)))
    await store.close()
    pages = Path(path).read_bytes()
    Path(path).write_bytes(
        pages[: len(pages) // 2] + b"\xff" * 4_096 * 4 + pages[len(pages) // 2 + 4_096 * 4 :]
    )
    reader = await SqliteStore.open(path, read_only=True)

    faults = await reader.check()

    assert faults
    assert all(fault.startswith("the file is damaged: ") for fault in faults)
    await reader.close()
