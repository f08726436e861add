"""Several nodes on one PostgreSQL database: what one may do while others do the same."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from perdure.engine.store import (
    Applied,
    CheckWaiter,
    Claimed,
    DefineQueue,
    Ingested,
    Refused,
    ResolveTask,
)
from perdure.schema.runs import RunStatus, TaskStatus
from perdure.store.postgresql import PostgresqlStore
from perdure.store.sqlite import SqliteStore
from perdure.testing.store_contract.delayed import put, tick
from perdure.testing.store_contract.factories import (
    NOW,
    apply,
    claimed,
    completed_task,
    executing_run,
    ingest,
    make_event,
    make_task,
    move,
    record,
    stored_run,
    wake,
)
from perdure.testing.store_contract.waiting import send, suspend, wait
from perdure.testing.store_model import StoreModel
from tests.property.store_batches import Batches

pytestmark = pytest.mark.slow


@pytest.fixture
async def nodes(postgresql):
    """Opens so many stores, each with connections of its own, on one new environment."""
    opened: list[PostgresqlStore] = []
    environment = postgresql.environment()

    async def open_nodes(count: int) -> list[PostgresqlStore]:
        opened.extend(
            await asyncio.gather(*(PostgresqlStore.open(postgresql.url, environment) for _ in range(count)))
        )
        return opened

    yield open_nodes
    for store in opened:
        await store.close()


def deadlocks(stores: list[PostgresqlStore]) -> int:
    return sum(store._database.deadlocks for store in stores)


async def test_no_run_is_claimed_twice(nodes):
    stores = await nodes(4)
    await apply(stores[0], *(ingest(f"run_{n:03}", queue_key=str(n % 7)) for n in range(300)))

    async def work(store, chance):
        mine = []
        while True:
            found = await claimed(store, chance.randint(1, 9))
            if not found:
                return mine
            mine += [each.run_id for each in found]
            await apply(store, *(move(RunStatus.COMPLETED, each.run_id) for each in found))

    found = await asyncio.gather(*(work(store, random.Random(n)) for n, store in enumerate(stores)))

    assert sorted(run_id for mine in found for run_id in mine) == [f"run_{n:03}" for n in range(300)]
    assert await stores[0].check() == []
    assert deadlocks(stores) == 0


async def test_limits_are_exact(nodes):
    stores = await nodes(4)
    await apply(
        stores[0],
        DefineQueue(id="whole", concurrency_limit=3),
        DefineQueue(id="keyed", key_limit=2),
        DefineQueue(id="both", concurrency_limit=4, key_limit=3),
    )
    changes = [
        ingest(f"run_{queue}_{n:03}", queue=queue, queue_key=str(n % 3))
        for queue in ("whole", "keyed", "both", "free")
        for n in range(60)
    ]
    await apply(stores[0], *changes)
    highest: Counter[str] = Counter()
    done = 0

    async def work(store, chance):
        nonlocal done
        while done < len(changes):
            found = await claimed(store, chance.randint(1, 12), environment_limit=11)
            leases = await store.leases(expired_at=None, limit=1000)
            taken = Counter(lease.run_id.split("_")[1] for lease in leases)
            keys = Counter(
                (lease.run_id.split("_")[1], int(lease.run_id.split("_")[2]) % 3) for lease in leases
            )
            for name, count in taken.items():
                highest[name] = max(highest[name], count)
            highest["all"] = max(highest["all"], len(leases))
            highest["keyed key"] = max(highest["keyed key"], *(keys["keyed", key] for key in range(3)))
            highest["both key"] = max(highest["both key"], *(keys["both", key] for key in range(3)))
            for each in found:
                await apply(store, move(RunStatus.COMPLETED, each.run_id))
                done += 1

    await asyncio.gather(*(work(store, random.Random(n)) for n, store in enumerate(stores)))

    assert highest["whole"] <= 3
    assert highest["both"] <= 4
    assert highest["keyed key"] <= 2
    assert highest["both key"] <= 3
    assert highest["all"] <= 11
    assert highest["all"] > 5  # they did run side by side
    assert await stores[0].check() == []
    assert deadlocks(stores) == 0


async def test_keys_come_and_go_and_nothing_is_left_behind(nodes):
    """A claim drops the lane of a key that it finds empty while another node puts a run into it."""
    stores = await nodes(3)
    finished = 0

    async def send_runs(n, store):
        for i in range(60):
            changes = [ingest(f"run_{n}_{i}_{key}", queue="q", queue_key=key) for key in ("a", "b", "c")]
            await apply(store, *(changes if n else reversed(changes)))

    async def execute(store):
        nonlocal finished
        while finished < 2 * 60 * 3:
            found = await claimed(store, 5)
            await apply(store, *(move(RunStatus.COMPLETED, each.run_id) for each in found))
            finished += len(found)

    async with asyncio.timeout(60):
        await asyncio.gather(send_runs(0, stores[0]), send_runs(1, stores[1]), execute(stores[2]))

    assert await stores[0].check() == []
    assert deadlocks(stores) == 0


async def test_an_event_is_stored_once(nodes):
    stores = await nodes(4)

    results = await asyncio.gather(
        *(apply(store, *(ingest(f"run_{n}") for n in range(20))) for store in stores)
    )

    made = [result for found in results for result in found if not result.duplicate]
    assert len(made) == 20
    assert all(len(result.runs) == 1 for found in results for result in found if isinstance(result, Ingested))
    runs = [await stored_run(stores[0], f"run_{n}") for n in range(20)]
    assert sorted(run.number for run in runs) == list(range(1, 21))


async def test_run_numbers_have_no_gaps(nodes):
    stores = await nodes(3)

    async def send_runs(n, store):
        for i in range(40):
            await apply(store, ingest(f"run_{n}_{i}"), ingest(f"run_all_{i}"))

    await asyncio.gather(*(send_runs(n, store) for n, store in enumerate(stores)))

    ids = [f"run_{n}_{i}" for n in (0, 1, 2, "all") for i in range(40)]
    numbers = [(await stored_run(stores[0], each)).number for each in ids]
    assert sorted(numbers) == list(range(1, 161))


async def test_a_schedule_ticks_once(nodes):
    stores = await nodes(4)
    await apply(stores[0], put())

    results = await asyncio.gather(*(apply(store, tick("run_1")) for store in stores))

    assert sum(result == [Applied()] for result in results) == 1
    assert sum(result == [Refused(run=None)] for result in results) == 3


async def test_a_timer_wakes_its_run_once(nodes):
    stores = await nodes(4)
    await apply(stores[0], *(ingest(f"run_{n:02}") for n in range(40)))
    found = await claimed(stores[0], 40)
    await apply(stores[0], *(move(RunStatus.WAITING, each.run_id) for each in found))

    results = await asyncio.gather(*(apply(store, wake(NOW + 1_000, limit=30)) for store in stores))

    woken = [run_id for (result,) in results for run_id in result.runs]
    assert len(woken) == len(set(woken))
    while await stores[0].next_due() is not None:
        await apply(stores[0], wake(NOW + 1_000, limit=30))
    assert (await stores[0].count_by_status())[RunStatus.QUEUED] == 40
    assert await stores[0].check() == []


async def test_a_run_that_was_taken_away_records_nothing(nodes):
    """An execution records while another node ends its run: either before that, or not at all."""
    one, two = await nodes(2)
    for n in range(40):
        await executing_run(one, f"run_{n}")
        (ended,), (recorded,) = await asyncio.gather(
            apply(two, move(RunStatus.CANCELLED, f"run_{n}", cancel_open=True)),
            apply(one, record(make_task("t"), run_id=f"run_{n}")),
        )
        assert ended == Applied()
        tasks = await one.get_tasks(f"run_{n}")
        assert [task.status for task in tasks] == ([TaskStatus.CANCELED] if recorded == Applied() else [])


async def test_a_suspension_and_a_resolution_meet(nodes):
    """A run suspends while another node resolves its task: it goes on at once, or is woken."""
    one, two = await nodes(2)
    for n in range(40):
        run_id = f"run_{n}"
        await executing_run(one, run_id)
        await apply(one, record(make_task("t"), run_id=run_id))
        resolution = ResolveTask(
            run_id=run_id,
            task_id="t",
            status=TaskStatus.COMPLETED,
            at=NOW,
            waiting=RunStatus.WAITING,
            queued=RunStatus.QUEUED,
        )
        suspension = move(
            RunStatus.WAITING, run_id, wake_at=None, open_waits=1, wakes_seen=0, otherwise=RunStatus.QUEUED
        )
        await asyncio.gather(apply(one, suspension), apply(two, resolution))

        assert (await stored_run(one, run_id)).status is RunStatus.QUEUED
        (found,) = await claimed(two)
        await apply(two, move(RunStatus.COMPLETED, run_id, execution=found.execution))


@asynccontextmanager
async def unfinished(store: PostgresqlStore, *changes):
    """Changes whose transaction is about to commit, and does so on leaving."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    database = store._database
    commit = database._commit

    async def held(*arguments):
        reached.set()
        await go_on.wait()
        await commit(*arguments)

    database._commit = held  # pyright: ignore[reportAttributeAccessIssue]
    writing = asyncio.ensure_future(apply(store, *changes))
    await reached.wait()
    try:
        yield
    finally:
        database._commit = commit
        go_on.set()
        await writing


async def test_an_event_written_beside_its_waiter_is_found(nodes):
    """Neither transaction sees the other's rows: whoever looks for events before the waiter has to wait for the first."""
    one, two = await nodes(2)
    await executing_run(two)
    async with unfinished(one, send("e1")):
        await apply(two, suspend(wait()))
        looking = asyncio.ensure_future(two.unchecked_waiters(10))
        await asyncio.sleep(0.1)
        assert not looking.done()
    (waiter,) = await looking

    found = await two.events_since(waiter.name, waiter.since, after=None, limit=10)

    assert "e1" in [event.id for event in found]
    await apply(two, CheckWaiter(run_id="run_1", task_id=waiter.task_id))
    assert await two.unchecked_waiters(10) == []


async def recorded_batches(seed: int, count: int):
    """Batches that made sense one after the other."""
    model = StoreModel()
    batches = Batches(seed, model)
    store = await SqliteStore.open(":memory:", "dev", inline=True)
    made = []
    for _ in range(count):
        batch = batches.next()
        found = await store.apply(batch)
        model.apply(
            batch, [[one.run_id for one in each.claims] for each in found if isinstance(each, Claimed)]
        )
        made.append(batch)
    await store.close()
    return made


@pytest.mark.parametrize("seed", range(3))
async def test_random_batches_of_several_nodes_leave_no_contradiction(nodes, seed):
    """Batches that once made sense one after the other are applied by three nodes at once. Nobody waits for ever."""
    stores = await nodes(3)
    todo = iter(await recorded_batches(seed, 350))

    async def work(store):
        for batch in todo:
            await store.apply(batch)

    await asyncio.gather(*(work(store) for store in stores))

    faults = [
        fault for fault in await stores[0].check() if "wait for nothing" not in fault
    ]  # as they were told to
    assert faults == []
    assert deadlocks(stores) == 0


async def test_deadlocks_are_repeated(nodes, postgresql):
    """What the order of locks can't prevent PostgreSQL finds, and the transaction is repeated: nobody notices."""
    one, two = await nodes(2)
    a, b = make_event("a", name="x"), make_event("b", name="x")
    await executing_run(one, "run_1")
    await executing_run(two, "run_2")
    first = [ingest("run_a", event=a), record(completed_task("t", 1))]
    first[1].effects = [ingest("run_b", event=b)]
    second = [ingest("run_b", event=b), record(completed_task("t", 1), run_id="run_2")]
    second[1].effects = [ingest("run_a", event=a)]

    results = await asyncio.gather(apply(one, *first), apply(two, *second))

    assert [type(result) for found in results for result in found] == [Ingested, Applied] * 2
    assert await one.check() == []
