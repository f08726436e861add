"""PostgreSQL's own: lost connections and commits, migrations, roles, what statements cost."""

from __future__ import annotations

import asyncio
import re

import asyncpg
import pytest

from perdure.engine.store import Applied, Ingested
from perdure.errors import (
    ConfigurationError,
    SchemaOutdatedError,
    StoreBrokenError,
    UnavailableError,
    UsageError,
)
from perdure.schema.runs import RunStatus
from perdure.store.postgresql import PostgresqlStore, connection, migrating, settings
from perdure.store.postgresql.reads import list_runs_query
from perdure.store.postgresql.statements import number_parameters, queries
from perdure.testing.store_contract.factories import (
    apply,
    claimed,
    completed_task,
    executing_run,
    ingest,
    move,
    record,
)
from tests.postgresql import server

pytestmark = pytest.mark.slow


@pytest.fixture
async def store(postgresql):
    store = await PostgresqlStore.open(postgresql.url, postgresql.environment())
    yield store
    await store.close()


# --- connections that are lost ---------------------------------------------------------------------------------------------


def lose(store: PostgresqlStore, when: str) -> None:
    """Have the connection break once, before the next COMMIT is sent or before its answer arrives."""

    def hook(now: str) -> None:
        if now == when:
            store._database.on_commit = None
            store._database._writer.terminate()
            raise ConnectionResetError("the cable was pulled")

    store._database.on_commit = hook


async def test_a_commit_that_was_not_answered_is_asked_for(store):
    lose(store, "after")

    (result,) = await apply(store, ingest())

    assert isinstance(result, Ingested)
    assert not result.duplicate
    assert await store.get_run("run_1") is not None
    assert len(await claimed(store)) == 1


async def test_a_commit_that_was_never_sent_is_told_as_such(store):
    lose(store, "before")

    with pytest.raises(UnavailableError, match="nothing was written"):
        await apply(store, ingest())

    assert await store.get_run("run_1") is None
    assert isinstance((await apply(store, ingest()))[0], Ingested)


async def test_who_asks_waits_for_the_old_transaction(store, postgresql):
    """It may still be on its way to COMMIT, on a server process that doesn't know that its client is gone."""
    database = store._database
    old = await asyncpg.connect(postgresql.url)
    await old.execute("begin;" + database._marking(77))

    asking = asyncio.ensure_future(database._was_committed(77))
    await asyncio.sleep(0.1)
    assert not asking.done()
    await old.execute("commit")

    assert await asking is True
    await old.close()


async def test_what_became_of_a_commit_is_asked_until_somebody_answers(store, monkeypatch):
    connect, refused = connection.connect, 0

    async def refuse(to):
        nonlocal refused
        refused += 1
        if refused < 4:
            raise ConnectionRefusedError("restarting")
        return await connect(to)

    await apply(store, ingest("run_0"))
    monkeypatch.setattr(connection, "connect", refuse)
    lose(store, "after")

    (result,) = await apply(store, ingest())

    assert isinstance(result, Ingested)
    assert refused == 4


async def test_a_connection_that_died_while_idle_is_replaced_unnoticed(store, postgresql):
    await executing_run(store)
    assert await store.get_run("run_1") is not None
    postgresql.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'perdure'"
    )

    assert await store.get_run("run_1") is not None
    assert await apply(store, record(completed_task("t", 1))) == [Applied()]


async def test_a_server_process_that_is_killed_in_a_transaction_wrote_nothing(store, postgresql):
    await executing_run(store)

    def kill(now: str) -> None:
        if now == "before":
            store._database.on_commit = None
            pid = store._database._writer.get_server_pid()
            postgresql.sql(f"select pg_terminate_backend({pid}, 5000)")

    store._database.on_commit = kill
    with pytest.raises(UnavailableError):
        await apply(store, record(completed_task("t", 1)))

    assert await store.get_tasks("run_1") == []
    assert await apply(store, record(completed_task("t", 1))) == [Applied()]


async def test_cancelled_caller_leaves_the_store_in_order(store):
    for pause in (0, 0.0005, 0.001, 0.002, 0.004):
        writing = asyncio.ensure_future(apply(store, ingest(f"run_{pause}")))
        await asyncio.sleep(pause)
        writing.cancel()
        await asyncio.wait([writing])

    assert isinstance((await apply(store, ingest("run_last")))[0], Ingested)
    assert await store.check() == []


async def test_forked_child_is_refused(store, monkeypatch):
    monkeypatch.setattr(connection.os, "getpid", lambda: -1)

    with pytest.raises(UsageError):
        await store.get_run("run_1")


@pytest.mark.durability
async def test_nothing_acknowledged_is_lost_when_the_server_crashes():
    """`pg_ctl restart -m immediate`, again and again: what was acknowledged is there, what was refused isn't."""
    with server(fsync="on", full_page_writes="on", recovery_init_sync_method="syncfs") as running:
        stores = [await PostgresqlStore.open(running.url) for _ in range(2)]
        acknowledged: set[str] = set()
        refused: set[str] = set()
        is_over = False

        async def send(n: int, store: PostgresqlStore) -> None:
            count = 0
            while not is_over:
                count += 1
                run_id = f"run_{n}_{count:05}"
                try:
                    (result,) = await apply(store, ingest(run_id))
                except UnavailableError:
                    refused.add(run_id)
                    await asyncio.sleep(0.01)
                else:
                    assert not result.duplicate
                    acknowledged.add(run_id)

        sending = [asyncio.ensure_future(send(n, store)) for n, store in enumerate(stores)]
        for _ in range(3):
            await asyncio.sleep(0.3)
            await asyncio.to_thread(running.ctl, "restart", "-m", "immediate")
        await asyncio.sleep(0.3)
        is_over = True
        await asyncio.gather(*sending)

        stored = {run_id for run_id in acknowledged | refused if await stores[0].get_run(run_id) is not None}
        assert acknowledged - stored == set()
        assert refused & stored == set()
        assert refused
        assert len(acknowledged) > 50
        assert await stores[0].check() == []
        for store in stores:
            await store.close()


async def test_what_cannot_be_found_out_ends_the_store(store, monkeypatch):
    """Somebody has dropped the tables meanwhile: guessing is no option."""

    def lose_tables(now: str) -> None:
        if now == "after":
            monkeypatch.setattr(
                store._database, "_marking", lambda number: "insert into perdure.nothing values (1)"
            )
            store._database.on_commit = None
            raise ConnectionResetError("the cable was pulled")

    store._database.on_commit = lose_tables
    with pytest.raises(StoreBrokenError):
        await apply(store, ingest())


async def test_a_role_that_is_not_let_in_any_more_leaves_the_batch_to_be_repeated(store, monkeypatch):
    async def refused(to):
        raise asyncpg.InvalidPasswordError("the password has been changed")

    await apply(store, ingest("run_0"))
    store._database._drop_writer()
    monkeypatch.setattr(connection, "connect", refused)
    with pytest.raises(UnavailableError):
        await apply(store, ingest())


@pytest.mark.parametrize("pooled", [False, True])
async def test_commits_are_durable_where_the_default_is_not(postgresql, pooled_url, pooled):
    with postgresql.database() as url:
        name = url.split("/")[3].split("?")[0]
        postgresql.sql(f"alter database {name} set synchronous_commit to off")
        store = await PostgresqlStore.open(pooled_url.replace("/postgres?", f"/{name}?") if pooled else url)

        found = await store._database.write(lambda connection: connection.fetchval("show synchronous_commit"))

        assert found == "on"
        await store.close()


async def test_rows_of_batches_do_not_pile_up(store, postgresql, monkeypatch):
    monkeypatch.setattr(connection, "BATCHES_KEPT", 5)
    for n in range(30):
        await apply(store, ingest(f"run_{n}"))

    node = store._database._node
    assert int(postgresql.sql(f"select count(*) from perdure.batches where node = '{node}'")) <= 7


# --- opening ---------------------------------------------------------------------------------------------------------------


async def test_nodes_that_start_together_migrate_once(postgresql):
    with postgresql.database() as url:
        stores = await asyncio.gather(*(PostgresqlStore.open(url) for _ in range(5)))

        assert isinstance((await apply(stores[3], ingest()))[0], Ingested)
        versions = postgresql.sql(
            "select version from perdure.schema_migrations order by version", url.split("/")[3].split("?")[0]
        )
        assert versions.split() == [str(each.version) for each in migrating.migrations()]
        for store in stores:
            await store.close()


async def test_nothing_is_made_outside_of_the_own_schema(postgresql):
    with postgresql.database() as url:
        store = await PostgresqlStore.open(url)
        await store.close()

        found = postgresql.sql(
            "select count(*) from pg_class join pg_namespace on pg_namespace.oid = relnamespace "
            "where nspname = 'public'",
            url.split("/")[3].split("?")[0],
        )
        assert found == "0"


async def test_newer_schema_is_refused(postgresql):
    with postgresql.database() as url:
        await (await PostgresqlStore.open(url)).close()
        database = url.split("/")[3].split("?")[0]
        postgresql.sql("insert into perdure.schema_migrations values (9999, 'later', 0)", database)

        with pytest.raises(SchemaOutdatedError):
            await PostgresqlStore.open(url)


GRANTS = """
create role app login;
grant usage on schema perdure to app;
grant select, insert, update, delete on all tables in schema perdure to app;
"""


async def test_least_privileges(postgresql):
    """docs/operations.md: one role migrates; another, which may read and write rows, runs."""
    with postgresql.database() as url:
        database = url.split("/")[3].split("?")[0]
        postgresql.sql("create role stranger login")
        as_stranger = url.replace("perdure_test@", "stranger@")
        with pytest.raises(ConfigurationError, match="create schema perdure authorization"):
            await PostgresqlStore.open(as_stranger)
        await (await PostgresqlStore.open(url)).close()
        postgresql.sql(GRANTS, database)

        store = await PostgresqlStore.open(url.replace("perdure_test@", "app@"))
        await executing_run(store)
        assert await apply(store, move(RunStatus.COMPLETED)) == [Applied()]
        assert await store.unchecked_waiters(1) == []
        assert await store.check() == []
        await store.close()


async def test_passwords_are_not_told():
    with pytest.raises(ConfigurationError) as caught:
        await PostgresqlStore.open("postgresql://me:secret@127.0.0.1:1/jobs?sslmode=disable")

    assert "secret" not in str(caught.value)
    assert "127.0.0.1:1/jobs" in str(caught.value)


@pytest.mark.parametrize("option", ["pooler=session", "readers=0", "readers=many"])
async def test_option_without_meaning_is_refused(option):
    with pytest.raises(ConfigurationError, match=option):
        await PostgresqlStore.open(f"postgresql://127.0.0.1:1/jobs?{option}")


async def test_connections_are_bounded(store, postgresql):
    await executing_run(store)
    await asyncio.gather(*(store.get_run("run_1") for _ in range(50)), *(apply(store) for _ in range(50)))

    assert len(store._database._readers) <= settings.parse_url(postgresql.url).readers_max == 3


# --- statements ------------------------------------------------------------------------------------------------------------

ALL = {**queries(), "list_runs": list_runs_query(())}
OF_ALL_ENVIRONMENTS = {"gate_holders"}
# Their connections have the planner as it is: statistics say when to read more than by key.
OF_READERS = {name for name in ALL if name.endswith(("_without_run", "_without_lane", "_without_lease", "_without_event"))} | {
    "runs_not_in_ready", "runs_not_idle", "runs_not_in_ended", "runs_waiting_for_nothing", "leases", "due_runs", "matches",
    "ended_runs", "list_queues", "list_runs", "place_in_queue", "count_by_status", "statuses_by_run", "childless_events",
}  # fmt: skip


async def faults_of_plan(conn, name: str) -> str | None:
    """What is wrong with the plan of a query, as the connection that writes makes it."""
    query = ALL[name]
    await conn.execute(f"prepare query as {query.sql}")
    nothing = ", ".join(["null"] * len(query.names))
    plan = "\n".join(row[0] for row in await conn.fetch(f"explain (costs off) execute query ({nothing})"))
    await conn.execute("deallocate query")
    conditions = re.findall(r"Index Cond: (.*)", plan)
    is_by_index = not re.search(r"(Seq|Bitmap Heap) Scan on", plan)
    scans = re.findall(r"Index (?:Only )?Scan", plan)
    is_by_env = len(conditions) == len(scans) and all("env = " in each for each in conditions)
    return None if is_by_index and is_by_env and "env" in query.names else f"{name}:\n{plan}"


@pytest.mark.parametrize("name", sorted(set(ALL) - OF_ALL_ENVIRONMENTS))
async def test_no_query_scans_a_table_or_leaves_its_environment(store, postgresql, name):
    """By an index, whose first condition is on env."""
    conn = await asyncpg.connect(postgresql.url)
    try:
        await conn.execute(settings.set_session(settings.PLANNER))
        assert await faults_of_plan(conn, name) is None
    finally:
        await conn.close()


@pytest.mark.parametrize("runs", [0, 1, 40])
async def test_plans_do_not_depend_on_what_is_known_of_tables(postgresql, runs):
    """A table that was nearly empty when it was analyzed may have a hundred thousand rows a minute later."""
    with postgresql.database() as url:
        store = await PostgresqlStore.open(url)
        if runs:
            await apply(store, *(ingest(f"run_{n}") for n in range(runs)))
            found = await claimed(store, runs)
            await apply(store, *(record(completed_task("t", 1), run_id=each.run_id) for each in found))
            await apply(store, *(move(RunStatus.COMPLETED, each.run_id) for each in found))
        await store.close()
        conn = await asyncpg.connect(url)
        try:
            await conn.execute("analyze")
            await conn.execute(settings.set_session(settings.PLANNER))
            names = sorted(set(ALL) - OF_ALL_ENVIRONMENTS - OF_READERS)
            found = [await faults_of_plan(conn, name) for name in names]
        finally:
            await conn.close()
        faults = [fault for fault in found if fault]
        assert not faults, "\n".join(faults)


async def test_every_query_is_used():
    import perdure.store.postgresql as package

    sources = "\n".join(
        path.read_text() for path in __import__("pathlib").Path(package.__file__).parent.glob("*.py")
    )
    assert [name for name in queries() if f'"{name}"' not in sources] == []


def test_parameters_are_numbered_and_casts_stay():
    query = number_parameters("select :a::text, :b, :a  -- not :c\nwhere 'x:' = :b")

    assert query.sql == "select $1::text, $2, $1\nwhere 'x:' = $2"
    assert query.names == ("a", "b")
