"""A SQLite file and several processes: who owns it, who may read it, what a kill leaves behind."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from perdure.engine.store import RunFilter
from perdure.errors import StoreInUseError
from perdure.store.sqlite import SqliteStore
from perdure.testing.store_contract.factories import apply, claimed, ingest

pytestmark = [pytest.mark.kill, pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX only")]

PRELUDE = """
import asyncio, os, sys
from perdure.errors import PerdureError
from perdure.engine.store import RunFilter
from perdure.store.sqlite import SqliteStore
from perdure.testing.store_contract.factories import apply, claim, ingest, make_task, move, record
path = sys.argv[1]
"""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "jobs.db")


@pytest.fixture
def start(path):
    """Starts a Python program on the file; kills what is left at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(body: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PRELUDE + textwrap.dedent(body), path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


OWNER = """
async def main():
    store = await SqliteStore.open(path)
    await apply(store, ingest("run_1"))
    print("open", flush=True)
    sys.stdin.readline()
    await store.close()
    print("closed", flush=True)
    sys.stdin.readline()
asyncio.run(main())
"""


async def test_owner_is_named_and_a_kill_frees_the_file(path, start):
    owner = start(OWNER)
    assert owner.stdout.readline() == "open\n"

    with pytest.raises(StoreInUseError, match=rf"in use by pid {owner.pid} on host"):
        await SqliteStore.open(path, lock_wait_seconds=0)
    owner.send_signal(signal.SIGKILL)
    owner.wait()

    store = await SqliteStore.open(path, lock_wait_seconds=5)
    assert await store.get_run("run_1") is not None
    await store.close()


async def test_closing_frees_the_file(path, start):
    owner = start(OWNER)
    assert owner.stdout.readline() == "open\n"
    owner.stdin.write("\n")
    owner.stdin.flush()
    assert owner.stdout.readline() == "closed\n"

    await (await SqliteStore.open(path, lock_wait_seconds=0)).close()


async def test_another_process_may_read_while_the_engine_writes(path, start):
    store = await SqliteStore.open(path)
    await apply(store, ingest("run_1"))
    reader = start(
        """
        async def main():
            store = await SqliteStore.open(path, read_only=True)
            for line in sys.stdin:
                print(*[run.id for run in await store.list_runs(RunFilter())], flush=True)
        asyncio.run(main())
        """
    )

    def ask() -> str:
        reader.stdin.write("\n")
        reader.stdin.flush()
        return reader.stdout.readline().strip()

    assert ask() == "run_1"
    await apply(store, ingest("run_2"))
    assert ask() == "run_2 run_1"
    assert len(await claimed(store)) == 2
    await store.close()


async def test_forked_child_refuses_and_does_not_keep_the_lock(path, start):
    parent = start(
        """
        async def main():
            store = await SqliteStore.open(path)
            child = os.fork()
            if child == 0:
                for call in (lambda: apply(store, ingest("run_9")), lambda: store.get_run("run_1"), store.close):
                    try:
                        await call()
                    except PerdureError as error:
                        print(type(error).__name__, error.code, flush=True)
                print(os.getpid(), flush=True)
                sys.stdin.readline()  # outlives its parent
                os._exit(0)
            os.waitpid(child, os.WNOHANG)
            await asyncio.get_running_loop().create_future()
        asyncio.run(main())
        """
    )
    assert [parent.stdout.readline() for _ in range(3)] == ["UsageError usage\n"] * 3
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    store = await SqliteStore.open(path, lock_wait_seconds=5)

    os.kill(child, 0)  # it lives
    assert await store.list_runs(RunFilter()) == []
    await store.close()
    os.kill(child, signal.SIGKILL)


async def test_write_error_in_commit_breaks_the_store(path, start):
    """A real one: the process may write no file beyond a size, so the WAL can't grow."""
    limited = start(
        """
        import resource
        async def main():
            store = await SqliteStore.open(path)
            await apply(store, ingest("run_1"), claim())
            resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path + "-wal") + 5_000,) * 2)
            for _ in range(2):
                try:
                    await apply(store, record(make_task(output='"' + "x" * 100_000 + '"')))
                except PerdureError as error:
                    print(type(error).__name__, flush=True)
            os._exit(0)
        asyncio.run(main())
        """
    )
    assert limited.communicate(timeout=60)[0] == "StoreBrokenError\nStoreBrokenError\n"

    store = await SqliteStore.open(path)
    assert await store.get_tasks("run_1") == []
    assert len(await store.leases(expired_at=None, limit=10)) == 1
    await store.close()


async def test_what_was_acknowledged_survives_kill_9(path, start):
    writer = start(
        """
        async def main():
            store = await SqliteStore.open(path)
            n = 0
            while True:
                batch = [ingest(f"run_{n + i:06}") for i in range(5)]
                await apply(store, *batch)
                n += 5
                print(n, flush=True)
        asyncio.run(main())
        """
    )
    acknowledged = 0
    while acknowledged < 500:
        acknowledged = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    rest = writer.communicate()[0].splitlines()
    acknowledged = int(([str(acknowledged), *rest])[-1])

    store = await SqliteStore.open(path)
    found = [run.id for run in await store.list_runs(RunFilter(limit=1_000_000))]

    assert len(found) >= acknowledged
    assert len(found) % 5 == 0
    assert sorted(found) == [f"run_{n:06}" for n in range(len(found))]
    await store.close()
