"""What SQLite's statements cost: the indexes they use, and how many there are."""

import re
import sqlite3
from pathlib import Path

import pytest

from perdure.engine.store import DeleteRuns, RunFilter
from perdure.schema.effects import AnnotateRun, SetValue, UpdateStatus
from perdure.schema.runs import RunStatus
from perdure.store.sqlite import SqliteStore, claims, connection, tasks
from perdure.store.sqlite.store import queries
from perdure.testing.store_contract.delayed import delay, deliver, put, tick
from perdure.testing.store_contract.factories import (
    apply,
    claim,
    claimed,
    completed_task,
    ingest,
    make_task,
    move,
    record,
)

SCHEMA = Path(connection.__file__).parent / "schema.sql"


@pytest.fixture
async def store(tmp_path):
    store = await SqliteStore.open(str(tmp_path / "jobs.db"))
    yield store
    await store.close()


JSON = {"renewals": "{}"}


def whole_query(name: str) -> str:
    """A query as it is executed; pick_from_lane is a part of pick_runs, and rows that are bound have columns."""
    if name == "pick_runs":
        return claims.pick_sql(2)
    sql = queries()[name]
    if found := re.search(r"with batch \(([^)]*)\) as \(values /\* rows", sql):
        columns = ", ".join("null" for _ in found[1].split(","))
        return sql.replace("/* rows */", f"({columns}), ({columns})")
    return sql


def parameters(sql: str) -> dict[str, str | int]:
    return {name: JSON.get(name, "[]") for name in re.findall(r":(\w+)", sql)} | {"limit": 1}


@pytest.mark.parametrize("name", sorted(queries()))
async def test_no_query_scans_a_table(store, name):
    """Every table is found by its key or an index, whose first column is the environment."""
    sql = whole_query(name)

    plan = await store._database.read(
        lambda connection: [
            row[3] for row in connection.execute(f"explain query plan {sql}", parameters(sql))
        ]
    )

    tables = "|".join(re.findall(r"create table \"?(\w+)", SCHEMA.read_text().lower()))
    assert [step for step in plan if re.match(rf"SCAN ({tables})\b", step)] == []
    assert all("(env=?" in step for step in plan if re.match(rf"SEARCH ({tables})\b", step))


@pytest.mark.parametrize(
    "name, step",
    [
        ("pick_runs", "SEARCH ready USING PRIMARY KEY (env=? AND queue=? AND queue_key=?)"),
        (
            "leave_ready",
            (
                "SEARCH ready USING PRIMARY KEY "
                "(env=? AND queue=? AND queue_key=? AND priority=? AND ready_at=? AND run_id=?)"
            ),
        ),
        (
            "leave_lane",
            "SEARCH ready USING PRIMARY KEY (env=? AND queue=? AND queue_key=? AND priority=? AND (ready_at,run_id)<(?,?))",
        ),
        ("read_claims", "SEARCH runs USING PRIMARY KEY (env=? AND id=?)"),
        ("read_claims", "SEARCH events USING PRIMARY KEY (env=? AND id=?)"),
        (
            "ready_queues",
            "SEARCH lanes USING COVERING INDEX lanes_turn_idx (env=? AND queue=? AND is_blocked=?)",
        ),
        ("leave_timers", "SEARCH timers USING PRIMARY KEY (env=? AND due_at=? AND run_id=?)"),
        ("leave_leases", "SEARCH leases USING PRIMARY KEY (env=? AND run_id=?)"),
        ("due_runs", "SEARCH timers USING PRIMARY KEY (env=? AND due_at<?)"),
        ("due_ids", "SEARCH timers USING PRIMARY KEY (env=? AND due_at<?)"),
        ("wake_runs", "SEARCH runs USING PRIMARY KEY (env=? AND id=?)"),
        ("move_runs", "SEARCH runs USING PRIMARY KEY (env=? AND id=?)"),
        ("claim_runs", "SEARCH runs USING PRIMARY KEY (env=? AND id=?)"),
        ("due_events", "SEARCH events USING COVERING INDEX events_due_idx (env=? AND due_at<?)"),
        ("next_event_due", "SEARCH events USING COVERING INDEX events_due_idx (env=? AND due_at>?)"),
        (
            "list_events",
            "SEARCH events USING COVERING INDEX events_arrived_idx (env=? AND (arrived_at,id)<(?,?))",
        ),
        (
            "list_events_by_name",
            "SEARCH events USING COVERING INDEX events_name_idx (env=? AND name=? AND (arrived_at,id)<(?,?))",
        ),
        (
            "events_since",
            "SEARCH events USING INDEX events_name_idx (env=? AND name=? AND (arrived_at,id)>(?,?))",
        ),
        ("due_schedules", "SEARCH schedules USING INDEX schedules_due_idx (env=? AND next_at<?)"),
        ("next_tick", "SEARCH schedules USING INDEX schedules_due_idx (env=? AND next_at>?)"),
        (
            "awaited_events",
            "SEARCH event_waiters USING COVERING INDEX event_waiters_name_idx (env=? AND name=?)",
        ),
        ("unchecked_waiters", "SEARCH event_waiters USING INDEX event_waiters_unchecked_idx (env=?)"),
        ("matches", "SEARCH event_waiters USING INDEX event_waiters_name_idx (env=? AND name=?)"),
        ("due_operations", "SEARCH operations USING INDEX operations_due_idx (env=? AND due_at<?)"),
        (
            "next_operation_due",
            "SEARCH operations USING COVERING INDEX operations_due_idx (env=? AND due_at>?)",
        ),
        ("waiting", "SEARCH event_waiters USING PRIMARY KEY (env=? AND run_id=?)"),
        ("waiting", "SEARCH operations USING PRIMARY KEY (env=? AND run_id=? AND task_id=?)"),
        ("ended_runs", "SEARCH runs USING INDEX runs_completed_idx (env=? AND completed_at<?)"),
        ("childless_events", "SEARCH events USING INDEX events_arrived_idx (env=? AND arrived_at<?)"),
        ("runs_by_event", "SEARCH runs USING COVERING INDEX runs_event_idx (env=? AND event_id=?)"),
        ("count_by_status", "SEARCH runs USING COVERING INDEX runs_status_idx (env=?)"),
        ("size_tasks", "SEARCH tasks USING PRIMARY KEY (env=? AND run_id=?)"),
        ("whole_tasks_by_run", "SEARCH tasks USING PRIMARY KEY (env=? AND run_id=?)"),
        ("tasks_by_run", "SEARCH tasks USING PRIMARY KEY (env=? AND run_id=?)"),
    ],
)
async def test_hot_queries_keep_their_index(store, name, step):
    sql = whole_query(name)

    plan = await store._database.read(
        lambda connection: [
            row[3] for row in connection.execute(f"explain query plan {sql}", parameters(sql))
        ]
    )

    assert step in plan
    assert name != "pick_runs" or not any("TEMP B-TREE" in each for each in plan)


@pytest.mark.parametrize(
    "filter",
    [
        RunFilter(job_id="a"),
        RunFilter(event_id="a"),
        RunFilter(statuses=(RunStatus.FAILED,)),
        RunFilter(statuses=(RunStatus.FAILED,), before="a"),
        RunFilter(statuses=(RunStatus.FAILED,), job_id="a"),
        RunFilter(statuses=(RunStatus.FAILED, RunStatus.TIMED_OUT), job_id="a", before="a"),
        RunFilter(statuses=(RunStatus.FAILED, RunStatus.TIMED_OUT)),
        RunFilter(statuses=(RunStatus.EXECUTING,)),
        RunFilter(statuses=(RunStatus.EXECUTING,), before="a"),
        RunFilter(statuses=(RunStatus.EXECUTING, RunStatus.QUEUED)),
        RunFilter(statuses=(RunStatus.EXECUTING, RunStatus.QUEUED), job_id="a"),
        RunFilter(tags=("a",)),
        RunFilter(tags=("a", "b"), statuses=(RunStatus.FAILED,)),
        RunFilter(account_id="a"),
        RunFilter(parent_run_id="a", statuses=(RunStatus.FAILED,)),
    ],
)
async def test_lists_do_not_walk_all_runs(store, filter):
    plans: list[str] = []

    def explain(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(seen.append)

    seen: list[str] = []
    await store._database.read(explain)
    await store.list_runs(filter)
    await store._database.read(lambda connection: connection.set_trace_callback(None))
    (sql,) = [each for each in seen if "-- Newest first" in each]
    await store._database.read(
        lambda connection: plans.extend(row[3] for row in connection.execute(f"explain query plan {sql}"))
    )

    assert "SEARCH runs USING PRIMARY KEY (env=?)" not in plans
    assert any("SEARCH runs" in step for step in plans)


async def test_claim_costs_the_same_beside_many_finished_runs(store):
    """Counted in steps of SQLite's virtual machine, so the machine's load doesn't matter."""

    async def cost() -> int:
        await apply(store, *(ingest(f"run_z{n}{len(steps)}") for n in range(10)))
        counted = 0

        def count() -> None:
            nonlocal counted
            counted += 1

        writer = store._database._writer
        assert writer
        writer.set_progress_handler(count, 10)
        assert len(await claimed(store, 10)) == 10
        writer.set_progress_handler(None, 0)
        steps.append(counted)
        return counted

    steps: list[int] = []
    few = await cost()
    count = 3_000
    await apply(store, *(ingest(f"run_{n:05}", priority=1) for n in range(count)))
    found = await claimed(store, count)
    await apply(store, *(move(RunStatus.COMPLETED, one.run_id) for one in found))

    many = await cost()

    assert many <= few * 1.5


async def test_a_batch_takes_few_statements_whatever_its_size(store):
    async def statements(changes) -> int:
        seen: list[str] = []
        writer = store._database._writer
        writer.set_trace_callback(seen.append)
        await store.apply(changes)
        writer.set_trace_callback(None)
        return len(seen)

    ids = [f"run_{n:03}" for n in range(200)]

    assert await statements([ingest(each) for each in ids]) <= 9
    assert await statements([claim(200)]) <= 9
    assert await statements([record(make_task(), run_id=each) for each in ids]) <= 4
    assert await statements([move(RunStatus.COMPLETED, each, tasks=[make_task()]) for each in ids]) <= 7


async def test_new_kinds_of_changes_take_few_statements_whatever_their_number(store):
    async def statements(*changes) -> int:
        seen: list[str] = []
        writer = store._database._writer
        writer.set_trace_callback(seen.append)
        await store.apply(changes)
        writer.set_trace_callback(None)
        return len(seen) - 2  # begin, commit

    runs = [f"run_{n:03}" for n in range(200)]
    await apply(store, *map(ingest, runs))

    assert await statements(*(UpdateStatus(run_id=each, key="k", id="u", at=0) for each in runs)) == 2
    assert await statements(*(SetValue(scope="env", key=each, value="1", at=0) for each in runs)) == 1
    assert await statements(*(SetValue(scope=f"run:{each}", key="k", value="1", at=0) for each in runs)) == 2
    assert await statements(*(AnnotateRun(run_id=each, tags=("a",)) for each in runs)) == 3
    assert await statements(*(delay(each) for each in runs)) == 2
    assert await statements(*(deliver(event_id=each) for each in runs)) == 3
    assert await statements(*(put(each) for each in runs)) == 1
    assert await statements(*(tick(id=each) for each in runs)) == 4
    assert await statements(DeleteRuns(ids=runs)) == 1
    taken = await claimed(store, 200)
    await apply(store, *(move(RunStatus.COMPLETED, one.run_id) for one in taken))
    assert await statements(DeleteRuns(ids=runs)) <= 11


async def test_claims_carry_at_most_what_one_answer_can_hold(store, monkeypatch):
    monkeypatch.setattr(tasks, "TOTAL_BYTES_MAX", 250)
    ids = ["run_1", "run_2", "run_3"]
    await apply(store, *map(ingest, ids), claim())
    output = '"' + "x" * 98 + '"'
    await apply(store, *(record(completed_task("t", 1, output=output), run_id=each) for each in ids))
    await apply(store, *(move(RunStatus.QUEUED, each) for each in ids))

    found = await claimed(store)

    assert [one.tasks[0].omitted for one in found] == [False, False, True]
    assert [task.output for task in await store.get_tasks("run_3")] == [output]
