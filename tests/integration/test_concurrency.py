"""Limits are exact: counted where code runs, under waits, retries, cancellations, crashes and restarts; queues are fair."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from random import Random

import pytest

from perdure import ConflictError, Retry, RunStatus, UsageError
from perdure.schema.reasons import Limited


class Census:
    """How much code of runs is under way, by whatever they are counted under.

    Attributes:
        now: as it is.
        most: the most that there was at once.
    """

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    @contextmanager
    def counted(self, *names: str) -> Iterator[None]:
        for name in names:
            self.now[name] += 1
            self.most[name] = max(self.most[name], self.now[name])
        try:
            yield
        finally:
            for name in names:
                self.now[name] -= 1


@pytest.fixture
def census():
    return Census()


def define_work(app, census, id="work", **options):
    """A job that does some of everything, for about two seconds; retried once in a while."""
    chance = Random(id)

    async def step(seconds):
        await asyncio.sleep(seconds)

    async def work(payload, io, ctx):
        key = payload["key"] if isinstance(payload, dict) else ""
        with census.counted("all", id, f"key {key}"):
            await io.run_task("first", step, chance.random())
            await io.wait("short", 0.5)
            await io.wait("long", 3 + chance.random())
            if ctx.run.attempt == 1 and chance.random() < 0.3:
                raise ValueError("again")
            await io.run_task("last", step, chance.random())
        app.done.append(id)

    return app.define(work, id=id, retry=Retry(attempts=3, min_delay=1), **options)


async def send(app, count, job="work", **options):
    events = [app.client.event(job, {"key": f"k{n % 3}", "n": n}, **options) for n in range(count)]
    return [event.runs[0].id for event in await app.client.send_events(events)]


async def finish(app, ids):
    for run_id in ids:
        assert (await app.client.wait_for_run(run_id, timedelta(hours=5))).status is RunStatus.COMPLETED


@pytest.mark.parametrize("limit", [1, 3])
async def test_limit_of_a_job(app, census, limit):
    define_work(app, census, concurrency_limit=limit)
    define_work(app, census, id="free")
    async with app.embedded():
        ids = await send(app, 20) + await send(app, 20, "free")
        await finish(app, ids)

    assert census.most["work"] == limit
    assert census.most["free"] == 20


async def test_limit_per_key(app, census):
    define_work(app, census, concurrency_limit=2, concurrency_key="key")
    async with app.embedded():
        await finish(app, await send(app, 24))

    assert {name: census.most[f"key {name}"] for name in ("k0", "k1", "k2")} == {"k0": 2, "k1": 2, "k2": 2}
    assert census.most["work"] == 6


async def test_limit_that_jobs_share(app, census):
    shared = app.client.define_concurrency_limit(id="shared", limit=3, per_key=2)
    for job_id in ("one", "two"):
        define_work(app, census, id=job_id, concurrency_limit=shared, concurrency_key="key")
    async with app.embedded():
        await finish(app, await send(app, 15, "one") + await send(app, 15, "two"))
        queues = await app.client.get_queues()

    assert census.most["all"] == 3
    assert max(census.most[f"key k{n}"] for n in range(3)) <= 2
    assert [(queue.id, queue.concurrency_limit, queue.per_key) for queue in queues] == [("shared", 3, 2)]


async def test_limit_of_the_environment(app, census):
    define_work(app, census)
    define_work(app, census, id="other", concurrency_limit=2)
    async with app.embedded(concurrency_limit=4):
        await finish(app, await send(app, 15) + await send(app, 15, "other"))

    assert census.most["all"] == 4
    assert census.most["other"] <= 2


async def test_limits_hold_over_crashes_and_restarts(app, census):
    define_work(app, census, concurrency_limit=2, concurrency_key="key")
    ids = []
    for life in range(6):
        async with app.embedded(concurrency_limit=5) as process:
            ids += await send(app, 6)
            await app.clock.advance(1.7 + life)
            if life % 2:
                await process.crash()
        census.now.clear()  # what was under way died with its process
    async with app.embedded(concurrency_limit=5):
        await finish(app, ids)
        [queue] = await app.client.get_queues()

    assert (queue.executing, queue.queued) == (0, 0)
    assert census.most["all"] <= 5
    assert max(census.most[f"key k{n}"] for n in range(3)) <= 2


async def test_limits_hold_while_runs_are_cancelled(app, census):
    define_work(app, census, concurrency_limit=2)
    async with app.embedded():
        ids = await send(app, 20)
        for run_id in ids[::2]:
            await app.clock.advance(0.7)
            if not (await app.look(run_id)).status.is_terminal:
                await app.client.cancel_run(run_id)
        for run_id in ids:
            await app.client.wait_for_run(run_id)
        await app.client.drain()

    assert census.most["work"] == 2


async def test_cancelled_execution_keeps_its_slot_until_its_code_has_ended(app, census):
    async def slow_to_go(payload, io, ctx):
        with census.counted("all"):
            app.done.append(("begun", payload))
            try:
                await io.run_task("long", asyncio.sleep, 1000)
            finally:
                await asyncio.sleep(3)
                app.done.append(("gone", payload))

    app.define(slow_to_go, concurrency_limit=1)
    async with app.embedded():
        first = await app.start("slow_to_go", 1)
        await app.start("slow_to_go", 2)
        await app.reached(lambda: app.done)
        await app.client.cancel_run(first)
        [queue] = await app.client.get_queues()
        await app.reached(lambda: len(app.done) == 3)

    assert (queue.executing, queue.queued) == (1, 1)
    assert app.done[:3] == [("begun", 1), ("gone", 1), ("begun", 2)]
    assert census.most["all"] == 1


@pytest.mark.real_time
async def test_cancelled_sync_run_keeps_its_slot_until_its_thread_has_ended(app):
    gate = threading.Event()

    def stubborn(payload, io, ctx):
        app.done.append(("begun", payload))
        gate.wait(10)
        app.done.append(("gone", payload))

    app.define(stubborn, concurrency_limit=1)
    async with app.embedded():
        first = await app.start("stubborn", 1)
        await app.reached(lambda: app.done)
        second = await app.start("stubborn", 2)
        await app.client.cancel_run(first)
        reasons = await app.client.why_not_running(second)
        gate.set()
        await app.client.wait_for_run(second, 20)

    assert reasons == [Limited(scope="queue", id="stubborn", limit=1, executing=1)]
    assert app.done == [("begun", 1), ("gone", 1), ("begun", 2), ("gone", 2)]


async def test_waiting_run_has_no_slot(app):
    async def waiter(payload, io, ctx):
        await io.wait("long", timedelta(hours=1))
        app.done.append(payload)

    app.define(waiter, concurrency_limit=1)
    async with app.embedded():
        for n in range(5):
            await app.start("waiter", n)
        await app.clock.advance(timedelta(hours=1, minutes=1))

    assert sorted(app.done) == [0, 1, 2, 3, 4]


async def test_limits_are_changed_by_a_release(app, census):
    define_work(app, census, concurrency_limit=1)
    async with app.embedded():
        ids = await send(app, 30)
        await app.clock.advance(5)
    assert census.most["work"] == 1

    release = app.deployed()
    define_work(release, census, concurrency_limit=4)
    async with release.embedded():
        await release.clock.advance(5)
    assert census.most["work"] == 4

    census.most.clear()
    release = app.deployed()
    define_work(release, census)
    async with release.embedded():
        await finish(release, ids)
    assert census.most["work"] > 4


def define_quick(app, id="quick", **options):
    async def quick(payload, io, ctx):
        app.done.append(payload)

    return app.define(quick, id=id, **options)


async def test_higher_priority_is_first(app):
    define_quick(app, concurrency_limit=1)
    async with app.embedded():
        await app.client.pause_queue("quick")
        for n, priority in enumerate([0, 5, -1, 5, None]):
            await app.client.send_event("quick", n, priority=priority)
            await app.clock.advance(1)
        await app.client.resume_queue("quick")
        await app.client.drain()

    assert app.done == [1, 3, 0, 4, 2]


async def test_job_of_higher_priority_is_first(app):
    async def blocker(payload, io, ctx):
        await io.run_task("block", asyncio.sleep, 5)

    app.define(blocker)
    for priority, job_id in enumerate(["low", "middle", "high"]):
        define_quick(app, job_id, priority=priority)
    async with app.embedded(concurrency_limit=1):
        await app.start("blocker")
        await app.clock.advance(1)
        for job_id in ("low", "middle", "high"):
            for _ in range(3):
                await app.client.send_event(job_id, job_id)
        await app.client.drain()

    assert app.done == ["high"] * 3 + ["middle"] * 3 + ["low"] * 3


async def test_full_key_does_not_keep_another_waiting(app):
    async def tenant(payload, io, ctx):
        app.done.append(payload["tenant"])
        await asyncio.sleep(0.01)

    app.define(tenant, concurrency_key="tenant")
    async with app.embedded(max_executions=10):
        for _ in range(3):
            await app.client.send_events(
                [app.client.event("tenant", {"tenant": "many"}) for _ in range(1_000)]
            )
        begun = len(app.done)
        event = await app.client.send_event("tenant", {"tenant": "one"})
        await app.client.wait_for_run(event.runs[0].id)

    assert app.done.index("one") <= begun + 20


async def test_busy_job_does_not_keep_another_waiting(app):
    async def job(payload, io, ctx):
        app.done.append(ctx.job.id)
        await asyncio.sleep(0.01)

    app.define(job, id="many")
    app.define(job, id="one")
    async with app.embedded(max_executions=10):
        for _ in range(3):
            await app.client.send_events([app.client.event("many") for _ in range(1_000)])
        begun = len(app.done)
        await app.client.wait_for_run(await app.start("one"))

    assert app.done.index("one") <= begun + 20


@pytest.mark.parametrize(
    "key, payload, expected",
    [
        pytest.param("user.id", {"user": {"id": "u"}}, "u", id="path"),
        pytest.param("user.id", {"user": {"id": 7}}, "7", id="number"),
        pytest.param("user.id", {"user": None}, None, id="missing"),
        pytest.param("user.id", [1], None, id="no object"),
        pytest.param(lambda payload: payload["a"] + payload["b"], {"a": "x", "b": "y"}, "xy", id="function"),
        pytest.param(lambda payload: None, {}, None, id="function without a key"),
    ],
)
async def test_concurrency_key_comes_from_the_payload(app, key, payload, expected):
    define_quick(app, concurrency_key=key)
    async with app.embedded():
        run = await app.look(await app.start("quick", payload))

    assert run.concurrency_key == expected


async def test_sender_may_name_the_key(app):
    define_quick(app, concurrency_key="key")
    async with app.embedded():
        event = await app.client.send_event("quick", {"key": "a"}, concurrency_key="b")
        run = await app.look(event.runs[0].id)

    assert run.concurrency_key == "b"


async def test_key_that_can_not_be_worked_out_is_refused(app):
    define_quick(app, concurrency_key=lambda payload: payload["missing"])
    async with app.embedded():
        with pytest.raises(UsageError, match=r"quick.*concurrency_key.*KeyError"):
            await app.client.send_event("quick", {})

        assert await app.client.get_runs() == []


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "2"])
def test_limits_are_whole_numbers_from_one(app, limit):
    with pytest.raises(UsageError, match=r"concurrency_limit.*pause_queue"):
        define_quick(app, concurrency_limit=limit)
    with pytest.raises(UsageError, match="limit"):
        app.client.define_concurrency_limit(id="x", limit=limit)


@pytest.mark.parametrize("key", ["", "a..b", 5])
def test_concurrency_key_is_a_path_or_a_function(app, key):
    with pytest.raises(UsageError, match="concurrency_key"):
        define_quick(app, concurrency_key=key)


def test_ids_of_limits_are_their_own(app):
    app.client.define_concurrency_limit(id="mail", limit=1)
    define_quick(app)

    with pytest.raises(ConflictError, match="mail"):
        app.client.define_concurrency_limit(id="mail", limit=1)
    with pytest.raises(ConflictError, match="mail"):
        define_quick(app, id="mail")
    with pytest.raises(ConflictError, match="quick"):
        app.client.define_concurrency_limit(id="quick", limit=1)
    with pytest.raises(UsageError, match="limit="):
        app.client.define_concurrency_limit(id="nothing")


async def test_children_count_for_their_own_job(app, census):
    async def child(payload, io, ctx):
        with census.counted("child"):
            await io.run_task("step", asyncio.sleep, 1)
        return payload

    child_job = app.define(child, concurrency_limit=2)

    async def parent(payload, io, ctx):
        with census.counted("parent"):
            results = await child_job.batch_invoke_and_wait(list(range(8)), key="children")
        return [result.output for result in results]

    app.define(parent, concurrency_limit=1)
    async with app.embedded(concurrency_limit=3):
        runs = [await app.end_of(run_id) for run_id in [await app.start("parent") for _ in range(3)]]

    assert [run.output for run in runs] == [list(range(8))] * 3
    assert (census.most["child"], census.most["parent"]) == (2, 1)


async def test_limits_of_a_job_that_is_defined_while_the_client_is_connected(app, census):
    """They hold from the first run on, also if the event that starts it is sent in the same turn."""
    async with app.embedded():
        await asyncio.sleep(1)
        define_work(app, census, concurrency_limit=2)
        await finish(app, await send(app, 12))
        (queue,) = [queue for queue in await app.client.get_queues() if queue.id == "work"]

    assert census.most["work"] == 2
    assert queue.concurrency_limit == 2
