"""What is SQLite's own: threads, files, faults, migrations. See test_sqlite_*.py for plans, copies and other processes."""

import asyncio
import os
import re
import sqlite3
import sys
import threading
from pathlib import Path

import pytest

from perdure.engine.store import Applied, Ingested, RunFilter
from perdure.errors import (
    ConfigurationError,
    SchemaOutdatedError,
    StoreBrokenError,
    StoreInUseError,
    UnavailableError,
    UsageError,
)
from perdure.schema.runs import RunStatus
from perdure.store.migrate import load_migrations
from perdure.store.sqlite import SqliteStore, connection, watch
from perdure.testing.store_contract.factories import (
    apply,
    completed_task,
    executing_run,
    ingest,
    make_task,
    move,
    record,
    stored_run,
)

SCHEMA = Path(connection.__file__).parent / "schema.sql"


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "jobs.db")


class Hook:
    """Raises the error planned for a point ("before" or "after" a COMMIT), once."""

    def __init__(self) -> None:
        self.planned: dict[str, BaseException] = {}

    def __call__(self, point: str) -> None:
        if error := self.planned.pop(point, None):
            raise error


def sqlite_error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(f"planned: {name}")
    error.sqlite_errorname = f"SQLITE_{name}"
    error.sqlite_errorcode = getattr(sqlite3, error.sqlite_errorname)
    return error


@pytest.fixture
def hook():
    return Hook()


@pytest.fixture
async def store(path, hook):
    store = await SqliteStore.open(path, on_commit=hook, busy_timeout_seconds=0.01)
    yield store
    await store.close()


# --- faults --------------------------------------------------------------------------------------------------------------


class Crash(BaseException):
    pass


async def test_crash_before_commit_writes_nothing(store, hook):
    hook.planned["before"] = Crash()

    with pytest.raises(Crash):
        await apply(store, ingest())

    assert await store.get_run("run_1") is None
    assert [type(result) for result in await apply(store, ingest())] == [Ingested]


async def test_lost_acknowledgement_is_found_by_the_repeat(store, hook):
    await executing_run(store)
    batch = [ingest("run_2"), record(completed_task("a", 1)), move(RunStatus.COMPLETED, output="1")]
    hook.planned["after"] = Crash()
    with pytest.raises(Crash):
        await apply(store, *batch)

    ingested, *applied = await apply(store, *batch)

    assert ingested.duplicate
    assert applied == [Applied(), Applied()]


@pytest.mark.parametrize("point", ["before", "after"])
async def test_io_error_in_commit_breaks_the_store(store, hook, path, point):
    hook.planned[point] = sqlite_error("IOERR")

    with pytest.raises(StoreBrokenError):
        await apply(store, ingest())

    with pytest.raises(StoreBrokenError):
        await apply(store, ingest())
    with pytest.raises(StoreBrokenError):
        await store.get_run("run_1")
    await store.close()
    reopened = await SqliteStore.open(path)
    assert (await reopened.get_run("run_1") is not None) == (point == "after")
    await reopened.close()


async def test_full_disk_is_unavailable_and_passes(store):
    def limit_pages(connection: sqlite3.Connection, more: int) -> None:
        (pages,) = connection.execute("pragma page_count").fetchone()
        connection.execute(f"pragma max_page_count = {pages + more}")

    await executing_run(store)
    big = record(make_task(output='"' + "x" * 100_000 + '"'))
    await store._database.write(lambda connection: limit_pages(connection, 5))

    with pytest.raises(UnavailableError):
        await apply(store, big, ingest("run_2"))

    assert await store.get_run("run_2") is None
    assert await store.get_tasks("run_1") == []
    await store._database.write(lambda connection: limit_pages(connection, 5_000))
    assert await apply(store, big) == [Applied()]


async def test_locked_by_another_connection_is_unavailable(store, path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")

    with pytest.raises(UnavailableError):
        await apply(store, ingest())
    assert await store.get_run("run_1") is None  # reading goes on

    other.execute("rollback")
    other.close()
    await apply(store, ingest())


@pytest.mark.parametrize("name", ["READONLY", "PERM", "AUTH", "CANTOPEN"])
async def test_database_that_may_not_be_written_is_unavailable_and_passes(store, hook, name):
    hook.planned["before"] = sqlite_error(name)

    with pytest.raises(UnavailableError):
        await apply(store, ingest())

    assert await store.get_run("run_1") is None
    assert [type(result) for result in await apply(store, ingest())] == [Ingested]


@pytest.mark.parametrize("name", ["CORRUPT", "NOTADB"])
async def test_damaged_database_breaks_the_store(store, hook, path, name):
    hook.planned["before"] = sqlite_error(name)

    with pytest.raises(StoreBrokenError, match=re.escape(str(path))):
        await apply(store, ingest())

    with pytest.raises(StoreBrokenError, match="damaged"):
        await apply(store, ingest())
    with pytest.raises(StoreBrokenError, match="damaged"):
        await store.get_run("run_1")


async def test_damage_that_a_read_finds_breaks_the_store(store):
    def fail(connection):
        raise sqlite_error("CORRUPT")

    with pytest.raises(StoreBrokenError):
        await store._database.read(fail)

    with pytest.raises(StoreBrokenError):
        await apply(store, ingest())


@pytest.mark.skipif(sys.platform == "win32", reason="open files can't be deleted there")
@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("how", ["deleted", "replaced"])
@pytest.mark.parametrize("by", ["write", "read"])
async def test_file_that_is_deleted_or_replaced_breaks_the_store(store, path, suffix, how, by, monkeypatch):
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0)
    await executing_run(store)
    file = Path(f"{path}{suffix}")
    copy = file.read_bytes()
    file.rename(f"{file}.away")
    if how == "replaced":
        file.write_bytes(copy)

    with pytest.raises(StoreBrokenError, match=f"{re.escape(str(file))} was deleted or replaced"):
        await (apply(store, ingest("run_2")) if by == "write" else store.get_run("run_1"))

    with pytest.raises(StoreBrokenError):
        await apply(store, ingest("run_3"))


async def test_files_are_looked_at_once_a_second(store, monkeypatch):
    looked = []
    monkeypatch.setattr(watch.os, "stat", lambda path: looked.append(path) or os.lstat(path))

    for n in range(100):
        await apply(store, ingest(f"run_{n}"))

    assert len(looked) <= 6


async def test_files_that_grow_shrink_and_are_checkpointed_are_still_there(store, path, monkeypatch):
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0)
    for n in range(20):
        await apply(store, ingest(f"run_{n}"))
        store._database._writer.execute("pragma wal_checkpoint(truncate)")
        sqlite3.connect(path).close()

    assert await store.get_run("run_19") is not None


async def test_folder_that_the_process_changes_to_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    store = await SqliteStore.open("jobs.db")
    monkeypatch.chdir(elsewhere)

    await apply(store, ingest())

    await store.close()
    assert (tmp_path / "jobs.db").exists()


async def test_cancelled_waiter_does_not_cancel_the_batch(store):
    waiter = asyncio.ensure_future(apply(store, ingest()))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter

    assert (await apply(store, ingest()))[0].duplicate


# --- threads -------------------------------------------------------------------------------------------------------------


async def test_reads_do_not_wait_for_a_commit(path):
    entered, leave = threading.Event(), threading.Event()

    def stall(point: str) -> None:
        if point == "before":
            entered.set()
            assert leave.wait(30)

    store = await SqliteStore.open(path, on_commit=stall)
    writing = asyncio.ensure_future(apply(store, ingest()))
    await asyncio.to_thread(entered.wait, 30)

    assert await store.get_run("run_1") is None
    assert not writing.done()

    leave.set()
    await writing
    assert await store.get_run("run_1") is not None
    await store.close()


@pytest.mark.parametrize("inline", [True, False])
async def test_inline_runs_in_the_caller(inline):
    threads: set[int] = set()
    store = await SqliteStore.open(
        ":memory:", inline=inline, on_commit=lambda _: threads.add(threading.get_ident())
    )

    await apply(store, ingest())

    assert (threads == {threading.get_ident()}) is inline
    await store.close()


async def test_close_leaves_no_thread_and_no_wal(path):
    before = threading.active_count()
    store = await SqliteStore.open(path)
    await apply(store, ingest())
    assert threading.active_count() == before + 2

    await store.close()

    assert threading.active_count() == before
    assert not Path(path + "-wal").exists()


async def test_durable_settings(store):
    def settings(connection: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous")
        return [connection.execute(f"pragma {name}").fetchone()[0] for name in names]

    assert await store._database.write(settings) == ["wal", 2]


# --- files ---------------------------------------------------------------------------------------------------------------


async def test_file_outlives_the_store(path):
    store = await SqliteStore.open(path)
    await executing_run(store)
    await store.close()

    again = await SqliteStore.open(path)

    assert (await stored_run(again)).status is RunStatus.EXECUTING
    assert len(await again.leases(expired_at=None, limit=10)) == 1
    await again.close()


async def test_file_belongs_to_one_store(path, store):
    with pytest.raises(StoreInUseError, match=rf"pid {os.getpid()} on host .+, since 20") as caught:
        await SqliteStore.open(path, lock_wait_seconds=0)

    assert caught.value.path == path


async def test_waits_for_the_former_owner(path, store):
    opening = asyncio.ensure_future(SqliteStore.open(path, lock_wait_seconds=30))
    await asyncio.sleep(0)

    await store.close()

    await (await opening).close()


async def test_closing_one_environment_keeps_the_others_open(store):
    other = store.for_environment("prod")
    await store.close()

    assert await other.list_runs(RunFilter()) == []
    with pytest.raises(UnavailableError):
        store.for_environment("staging")
    await other.close()


async def test_read_only_sees_the_owners_writes_and_writes_nothing(path, store):
    await apply(store, ingest())
    reader = await SqliteStore.open(path, read_only=True)
    await apply(store, ingest("run_2"))

    assert [run.id for run in await reader.list_runs(RunFilter())] == ["run_2", "run_1"]
    with pytest.raises(UsageError, match="reading only"):
        await apply(reader, ingest("run_3"))
    await reader.close()
    await apply(store, ingest("run_3"))


async def test_read_only_without_an_owner(path):
    store = await SqliteStore.open(path)
    await apply(store, ingest())
    await store.close()

    reader = await SqliteStore.open(path, read_only=True)

    assert await reader.get_run("run_1") is not None
    await reader.close()


@pytest.mark.parametrize("name", ["a b?mode=x#%41.db", "ü.db"])
async def test_any_file_name_works(tmp_path, name):
    path = str(tmp_path / name)
    store = await SqliteStore.open(path)
    reader = await SqliteStore.open(path, read_only=True)
    await reader.close()
    await store.close()

    assert Path(path).exists()


@pytest.mark.parametrize("read_only", [True, False])
async def test_missing_folder_is_a_configuration_error(tmp_path, read_only):
    with pytest.raises(ConfigurationError, match="can't open"):
        await SqliteStore.open(str(tmp_path / "no" / "jobs.db"), read_only=read_only)


@pytest.mark.parametrize("read_only", [True, False])
async def test_other_files_are_refused(path, read_only):
    Path(path).write_bytes(b"not a database, but long enough to have a header" * 10)

    with pytest.raises(ConfigurationError, match="not a database"):
        await SqliteStore.open(path, read_only=read_only, lock_wait_seconds=0)


# --- schema --------------------------------------------------------------------------------------------------------------


def dump(connection: sqlite3.Connection) -> str:
    found = connection.execute(
        "select sql from sqlite_schema where sql is not null order by type = 'view', rowid"
    )
    return "".join(f"{sql};\n\n" for (sql,) in found)


async def test_migrated_schema_equals_the_checked_in_dump(store):
    found = await store._database.read(dump)

    if os.environ.get("PERDURE_UPDATE_SCHEMA"):
        SCHEMA.write_text(found)
    assert found == SCHEMA.read_text()


async def test_migrations_are_recorded(path, store):
    found = await store._database.read(
        lambda connection: connection.execute("select version, name from schema_migrations").fetchall()
    )

    assert found == [(m.version, m.name) for m in load_migrations("perdure.store.sqlite")]


@pytest.mark.parametrize("read_only", [True, False])
async def test_newer_schema_is_refused(path, read_only):
    await (await SqliteStore.open(path)).close()
    with sqlite3.connect(path) as other:
        other.execute("insert into schema_migrations (version, name, applied_at) values (9999, 'later', 0)")
    other.close()

    with pytest.raises(SchemaOutdatedError) as caught:
        await SqliteStore.open(path, read_only=read_only)

    assert caught.value.found == 9999
    with pytest.raises(SchemaOutdatedError):  # and the lock is free again
        await SqliteStore.open(path, read_only=read_only, lock_wait_seconds=0)


async def test_older_schema_is_migrated_but_not_by_a_reader(path, monkeypatch):
    await (await SqliteStore.open(path)).close()
    more = [*load_migrations("perdure.store.sqlite")]
    later = type(more[0])(
        version=len(more) + 1,
        name="later",
        sql="-- a; b\ncreate table later (a);\ninsert into later values (';');\n",
    )
    monkeypatch.setattr(connection, "load_migrations", lambda _: [*more, later])

    with pytest.raises(SchemaOutdatedError):
        await SqliteStore.open(path, read_only=True)
    await (await SqliteStore.open(path)).close()

    await (await SqliteStore.open(path, read_only=True)).close()


async def test_failed_migration_leaves_the_old_schema(path, monkeypatch):
    await (await SqliteStore.open(path)).close()
    more = [*load_migrations("perdure.store.sqlite")]
    bad = type(more[0])(
        version=len(more) + 1, name="bad", sql="create table half (a);\ninsert into nowhere values (1);\n"
    )
    with monkeypatch.context() as patched:
        patched.setattr(connection, "load_migrations", lambda _: [*more, bad])
        with pytest.raises(ConfigurationError):
            await SqliteStore.open(path)

    store = await SqliteStore.open(path, lock_wait_seconds=0)

    assert "half" not in await store._database.read(dump)
    await store.close()
