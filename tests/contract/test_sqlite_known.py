"""What a SQLite store remembers instead of asking is what its database says, whatever was rolled back."""

import pytest

from perdure.engine.store import (
    Applied,
    AwaitEvent,
    Claimed,
    IngestEvent,
    PutAccount,
    RecordTasks,
    Refused,
)
from perdure.schema.effects import AnnotateRun, EventWait
from perdure.schema.execution import Claim
from perdure.schema.runs import RunStatus, TaskStatus
from perdure.store.sqlite import SqliteStore, fresh
from perdure.testing.store_contract.delayed import delay, deliver
from perdure.testing.store_contract.factories import (
    NOW,
    apply,
    claim,
    claimed,
    completed_task,
    executing_run,
    ingest,
    make_event,
    make_run,
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


# --- runs that were made a moment ago ------------------------------------------------------------------------------------


async def claimed_again(path, environment="dev") -> list[Claim]:
    """What is claimed by a store that remembers nothing."""
    store = await SqliteStore.open(str(path), environment)
    claims = await claimed(store, 1000)
    await store.close()
    return claims


EVENTS = [
    pytest.param({}, id="plain"),
    pytest.param({"context": '{"a": 1}', "source": "shop", "is_test": True}, id="with context"),
    pytest.param({"payload": '"\\u0000 \\" é \U0001f600"', "name": "é"}, id="odd text"),
    pytest.param({"source_context": '{"id": "x"}', "run_options": '{"priority": 1}'}, id="with options"),
    pytest.param({"delivered_at": NOW}, id="delivered"),
    pytest.param({"account_id": "ann"}, id="of an account"),
    pytest.param({"deliver_at": NOW - 1}, id="delayed to the past"),
]
RUNS = [
    pytest.param({}, id="plain"),
    pytest.param({"priority": -3, "queue": "q", "queue_key": "k"}, id="in a queue"),
    pytest.param({"tags": ("b", "a"), "metadata": '{"a": 1}', "reason": "r"}, id="annotated"),
    pytest.param({"parent_run_id": "run_0", "parent_task_id": "t", "is_internal": True}, id="child"),
    pytest.param({"created_at": NOW - 7, "job_id": "other", "job_version": "2"}, id="of another job"),
]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("run", RUNS)
async def test_claim_of_a_run_just_made_is_what_anybody_else_would_read(store, tmp_path, event, run):
    await apply(store, PutAccount(id="ann", metadata='{"x": 1}', at=NOW))
    change = IngestEvent(
        event=make_event(**event), runs=[make_run("run_0"), make_run(**run | {"job_id": "b"})], created_at=NOW
    )
    await apply(store, change)
    await store.backup(str(tmp_path / "copy.db"))

    claims = await claimed(store)

    assert len(claims) == 2
    assert claims == await claimed_again(tmp_path / "copy.db")


async def test_claim_has_what_came_to_a_run_while_it_was_queued(store, tmp_path):
    await apply(
        store,
        *(
            ingest(f"run_{n}", event=make_event(f"evt_{n}", account_id="ann" if n == 1 else None))
            for n in range(5)
        ),
    )
    await apply(
        store,
        AnnotateRun(run_id="run_0", tags=("new",), metadata='{"a": 1}'),
        PutAccount(id="ann", metadata='{"x": 1}', at=NOW),
        move(RunStatus.CANCELLED, "run_2", expected=RunStatus.QUEUED, execution=0),
        move(RunStatus.QUEUED, "run_3", expected=RunStatus.QUEUED, execution=0, priority=5, crashes=1),
    )
    await store.backup(str(tmp_path / "copy.db"))

    claims = {claim.run_id: claim for claim in await claimed(store)}

    assert claims["run_0"].tags == ["new"]
    assert claims["run_1"].account == '{"x": 1}'
    assert sorted(claims) == ["run_0", "run_1", "run_3", "run_4"]
    assert list(claims.values()) == await claimed_again(tmp_path / "copy.db")


async def test_run_that_was_rolled_back_is_never_claimed(store, hook):
    await apply(store, ingest("run_1"))
    hook.crash_at = "before"
    with pytest.raises(Crash):
        await apply(store, ingest("run_2", event=make_event(payload="1")), ingest("run_3"))
    await apply(store, ingest("run_2", event=make_event("evt_2", payload="2")))

    claims = await claimed(store)

    assert [(claim.run_id, claim.event.payload) for claim in claims] == [
        ("run_1", '{"a": 1}'),
        ("run_2", "2"),
    ]


async def test_claim_that_was_rolled_back_can_be_repeated(store, hook):
    await apply(store, ingest("run_1"), ingest("run_2"))
    hook.crash_at = "before"
    with pytest.raises(Crash):
        await claimed(store)

    assert [claim.run_id for claim in await claimed(store)] == ["run_1", "run_2"]
    assert await store.check() == []


async def test_run_comes_back_as_it_is_after_an_execution(store):
    await executing_run(store)
    await apply(store, record(completed_task("a", 1)), move(RunStatus.QUEUED, crashes=2))

    (second,) = await claimed(store)

    assert (second.execution, second.crashes, [task.id for task in second.tasks]) == (2, 2, ["a"])


async def test_claim_knows_that_the_event_was_delivered_to_a_waiter(store, tmp_path):
    await executing_run(store)
    wait = EventWait(task_id="t", names=("awaited",), since=NOW)
    await apply(
        store,
        RecordTasks(
            run_id="run_1",
            execution=1,
            tasks=[make_task("t", status=TaskStatus.WAITING)],
            effects=[AwaitEvent(run_id="run_1", wait=wait)],
        ),
    )
    await apply(store, ingest("run_2", event=make_event("evt_2", name="awaited")), ingest("run_3"))
    await store.backup(str(tmp_path / "copy.db"))

    claims = await claimed(store)

    assert [claim.event.delivered_at for claim in claims] == [NOW, None]
    assert claims == await claimed_again(tmp_path / "copy.db")


async def test_claim_of_a_run_of_a_delayed_event(store, tmp_path):
    await apply(store, delay("evt_2"))
    await apply(store, deliver("run_2", event_id="evt_2"))
    await store.backup(str(tmp_path / "copy.db"))

    claims = await claimed(store)

    assert len(claims) == 1
    assert claims == await claimed_again(tmp_path / "copy.db")


@pytest.mark.parametrize("limit", ["_RUNS_MAX", "_CHARACTERS_MAX"])
async def test_more_runs_than_are_remembered_are_claimed_in_their_order(store, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(fresh, limit, {"_RUNS_MAX": 10, "_CHARACTERS_MAX": 80}[limit])
    ids = [f"run_{n:02}" for n in range(45)]
    for part in (ids[:20], ids[20:]):
        await apply(
            store, *(ingest(each, event=make_event(f"evt_{each}", payload=f'"{each}"')) for each in part)
        )
    await store.backup(str(tmp_path / "copy.db"))

    claims = await claimed(store, 1000)

    assert [claim.run_id for claim in claims] == ids
    assert claims == await claimed_again(tmp_path / "copy.db")


async def test_runs_made_and_claimed_in_one_batch(store, tmp_path):
    *_, result = await apply(store, *(ingest(f"run_{n:02}") for n in range(30)), claim(20))

    assert isinstance(result, Claimed)
    assert [each.run_id for each in result.claims] == [f"run_{n:02}" for n in range(20)]
    assert [each.run_id for each in await claimed(store, 30)] == [f"run_{n:02}" for n in range(20, 30)]
    assert await store.check() == []


async def test_many_runs_of_several_lanes_and_priorities_leave_the_ready_queue(store):
    def run(n: int) -> IngestEvent:
        priority = 1 if n % 7 == 0 else 0
        return ingest(
            f"run_{n:03}", queue="ab"[n % 2], queue_key="xyz"[n % 3], priority=priority if n > 150 else 0
        )

    await apply(store, *map(run, range(300)))
    seen: list[str] = []
    while claims := await claimed(store, 110):
        seen += [claim.run_id for claim in claims]
        assert await store.check() == []
        assert await store.count_by_status(active_only=True) == {
            RunStatus.QUEUED: 300 - len(seen),
            RunStatus.EXECUTING: len(seen),
        }

    assert sorted(seen) == [f"run_{n:03}" for n in range(300)]


async def test_environments_do_not_know_runs_of_each_other(store, tmp_path):
    other = store.for_environment("prod")
    await apply(store, ingest("run_1", event=make_event(payload="1")))
    await apply(other, ingest("run_1", event=make_event(payload="2")))

    (theirs,), (ours,) = await claimed(other), await claimed(store)

    assert (ours.event.payload, theirs.event.payload) == ("1", "2")
    await other.close()


# --- rows that are bound -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 511, 512, 513, 1100])
async def test_batches_of_any_size_are_written_whole(store, count):
    ids = [f"run_{n:04}" for n in range(count)]
    await apply(store, *map(ingest, ids))
    claims = await claimed(store, count)
    await apply(store, *(record(completed_task("a", 1), completed_task("b", 2), run_id=each) for each in ids))

    assert [claim.run_id for claim in claims] == ids
    assert [task.id for task in await store.get_tasks(ids[-1])] == ["a", "b"]
    assert await store.count_by_status(active_only=True) == {RunStatus.QUEUED: 0, RunStatus.EXECUTING: count}


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: ingest("run_2", event=make_event("evt_2", name=text)),
        lambda text: ingest("run_2", job_version=text),
        lambda text: record(make_task(name=text)),
    ],
)
async def test_text_that_cannot_be_stored_is_refused(store, change, text):
    await executing_run(store)

    with pytest.raises(ValueError):
        await apply(store, change(text))

    assert await store.get_tasks("run_1") == []
    assert await store.get_run("run_2") is None
