"""What a SQLite store remembers instead of asking is what its database says, whatever was rolled back."""

import pytest

from perdure.engine.store import Applied, Refused
from perdure.schema.runs import RunStatus, TaskStatus
from perdure.store.sqlite import SqliteStore
from perdure.testing.store_contract.factories import (
    apply,
    claimed,
    completed_task,
    executing_run,
    ingest,
    make_task,
    move,
    record,
    stored_run,
)


class Crash(BaseException):
    pass


class Hook:
    """Raises Crash at the next "before" or "after" of a COMMIT that it is told."""

    def __init__(self):
        self.crash_at = None

    def __call__(self, when):
        if when == self.crash_at:
            self.crash_at = None
            raise Crash


@pytest.fixture
def hook():
    return Hook()


@pytest.fixture
async def store(tmp_path, hook):
    store = await SqliteStore.open(str(tmp_path / "jobs.db"), on_commit=hook)
    yield store
    await store.close()


async def test_claim_that_was_rolled_back_gives_no_right_to_write(store, hook):
    await apply(store, ingest())
    hook.crash_at = "before"
    with pytest.raises(Crash):
        await claimed(store)

    results = await apply(store, record(completed_task("a", 1)), move(RunStatus.COMPLETED))

    assert [type(result) for result in results] == [Refused, Refused]
    assert (await stored_run(store)).status is RunStatus.QUEUED


async def test_end_that_was_rolled_back_leaves_the_right_to_write(store, hook):
    await executing_run(store)
    hook.crash_at = "before"
    with pytest.raises(Crash):
        await apply(store, move(RunStatus.COMPLETED))

    results = await apply(store, record(completed_task("a", 1)), move(RunStatus.COMPLETED))

    assert [type(result) for result in results] == [Applied, Applied]


async def test_end_whose_acknowledgement_was_lost_takes_the_right_to_write(store, hook):
    await executing_run(store)
    hook.crash_at = "after"
    with pytest.raises(Crash):
        await apply(store, move(RunStatus.COMPLETED, output="1"))

    (result,) = await apply(store, record(completed_task("a", 1)))

    assert type(result) is Refused


@pytest.mark.parametrize("fails", [True, False])
async def test_numbers_of_runs_have_no_gap_where_some_were_rolled_back(store, hook, fails):
    await apply(store, ingest("run_1"))
    if fails:
        hook.crash_at = "before"
        with pytest.raises(Crash):
            await apply(store, ingest("run_2"))

    await apply(store, ingest("run_3"), ingest("run_4"))

    assert [(await stored_run(store, run_id)).number for run_id in ("run_1", "run_3", "run_4")] == [1, 2, 3]


async def test_stores_of_one_environment_know_the_same(store):
    other = store.for_environment("dev")
    await executing_run(store)
    await apply(other, record(completed_task("a", 1)))
    await apply(other, move(RunStatus.WAITING))

    (late,) = await apply(store, record(completed_task("b", 2)))
    await apply(other, ingest("run_2"))
    await apply(store, ingest("run_3"))

    assert type(late) is Refused
    assert [(await stored_run(store, run_id)).number for run_id in ("run_2", "run_3")] == [2, 3]
    await other.close()


@pytest.mark.parametrize("reopened", [True, False])
async def test_end_of_a_run_closes_tasks_opened_at_any_time(store, tmp_path, reopened):
    await executing_run(store)
    await apply(store, record(completed_task("a", 1)))
    await apply(store, record(make_task("b", status=TaskStatus.RUNNING)))
    if reopened:
        await store.close()
        store = await SqliteStore.open(str(tmp_path / "jobs.db"))

    await apply(store, move(RunStatus.FAILED, cancel_open=True))

    statuses = {task.id: task.status for task in await store.get_tasks("run_1")}
    assert statuses == {"a": TaskStatus.COMPLETED, "b": TaskStatus.CANCELED}
    if reopened:
        await store.close()


async def test_end_of_a_later_execution_closes_tasks_of_an_earlier_one(store):
    await executing_run(store)
    await apply(store, record(make_task("a")), move(RunStatus.QUEUED))
    assert len(await claimed(store)) == 1

    await apply(store, move(RunStatus.FAILED, execution=2, cancel_open=True))

    (task,) = await store.get_tasks("run_1")
    assert task.status is TaskStatus.CANCELED
