"""Things that happen at the same moment, one way round and the other: limits, ends, resolutions, back-offs, schedules."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure import (
    ConflictError,
    Retry,
    RunStatus,
    TaskError,
    event_trigger,
    interval_trigger,
    invoke_trigger,
)

from .commit_faults import run_with_each_commit_broken

MS = 0.001


@pytest.mark.parametrize("unwinding", [0.0, 3.0, 4.9])
async def test_cancelled_run_keeps_its_slot_until_it_has_unwound(app, unwinding):
    async def one(payload, io, ctx):
        app.done.append(("begins", payload))
        try:
            await io.run_task("work", asyncio.sleep, 1_000)
        finally:
            await asyncio.sleep(unwinding)
            app.done.append(("ends", payload))

    job = app.define(one, concurrency_limit=1)
    async with app.embedded():
        first = await app.start(job, 1)
        await app.start(job, 2)
        await app.reached(lambda: app.done)
        await app.client.cancel_run(first)
        await app.reached(lambda: len(app.done) > 2)

    assert app.done[:3] == [("begins", 1), ("ends", 1), ("begins", 2)]


async def test_environment_limit_holds_while_runs_come_and_go(app):
    active, most = set(), []

    async def busy(payload, io, ctx):
        for n in range(3):
            active.add(ctx.run.id)
            most.append(len(active))
            try:
                await io.run_task(["work", n], asyncio.sleep, payload % 7 * 0.3)
            finally:
                await asyncio.sleep(payload % 3 * 0.5)
                active.discard(ctx.run.id)
            await io.wait(["wait", n], timedelta(seconds=payload % 5 + 2))

    job = app.define(busy)
    async with app.embedded(concurrency_limit=3):
        runs = [await app.start(job, n) for n in range(12)]
        for run_id in runs[::4]:
            await asyncio.sleep(0.4)
            await app.client.cancel_run(run_id)
        ended = [await app.end_of(run_id) for run_id in runs]

    assert max(most) == 3
    assert {run.status for run in ended} <= {RunStatus.COMPLETED, RunStatus.CANCELLED}


@pytest.mark.parametrize("delay", [n * 5 * MS for n in range(14)])
async def test_child_that_ends_while_its_parent_suspends_wakes_it(app, delay):
    async def child(payload, io, ctx):
        await asyncio.sleep(delay)
        return payload

    child_job = app.define(child, trigger=invoke_trigger())

    async def parent(payload, io, ctx):
        results = await asyncio.gather(*(child_job.invoke_and_wait(n, key=["child", n]) for n in range(3)))
        return [result.output for result in results]

    run = await app.run(parent, within=30)

    assert run.output == [0, 1, 2]


@pytest.mark.parametrize("delay", [n * 5 * MS for n in range(1, 14)])
async def test_event_that_comes_while_its_waiter_suspends_wakes_it(app, delay):
    async def waiting(payload, io, ctx):
        event = await io.wait_for_event("it", "comes")
        return event.payload

    job = app.define(waiting)
    async with app.embedded():
        run_id = await app.start(job)
        await asyncio.sleep(delay)
        await app.client.send_event("comes", 7)
        await app.client.drain()
        run = await app.look(run_id)

    assert (run.status, run.output) == (RunStatus.COMPLETED, 7)


@pytest.mark.parametrize("turns", range(0, 24, 2))
async def test_end_and_cancellation_agree_for_everybody(app, turns):
    async def child(payload, io, ctx):
        await io.run_task("work", asyncio.sleep, 0.2)
        app.done.append(ctx.run.id)
        return "done"

    child_job = app.define(child, trigger=invoke_trigger())

    async def parent(payload, io, ctx):
        result = await child_job.invoke_and_wait(None, key="child")
        return result.status.value

    job = app.define(parent)
    async with app.embedded():
        parent_id = await app.start(job)
        await app.reached(lambda: app.done)
        for _ in range(turns):
            await asyncio.sleep(0)
        try:
            await app.client.cancel_run(app.done[0])
            cancelled = True
        except ConflictError:
            cancelled = False
        parent_run = await app.end_of(parent_id)
        child_run = await app.end_of(app.done[0])

    assert child_run.status is (RunStatus.CANCELLED if cancelled else RunStatus.COMPLETED)
    assert parent_run.output == child_run.status.value


async def test_retry_of_a_run_waits_though_its_child_ends(app):
    async def child(payload, io, ctx):
        await io.wait("some time", timedelta(seconds=20))

    child_job = app.define(child, trigger=invoke_trigger())

    async def failing(payload, io, ctx):
        app.done.append(app.clock.now())
        if len(app.done) > 1:
            return
        waiting = asyncio.create_task(child_job.invoke_and_wait(None, key="child"))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        raise ValueError("first time")

    retry = Retry(attempts=2, min_delay=timedelta(seconds=60), max_delay=timedelta(seconds=60), jitter=False)
    run = await app.run(failing, options={"retry": retry})

    assert run.status is RunStatus.COMPLETED
    assert app.done[1] - app.done[0] >= 60_000


async def test_schedule_goes_on_though_a_key_cannot_be_worked_out(app):
    async def ticking(payload, io, ctx):
        app.done.append(payload.ts)

    broken = []

    def key(payload):
        if not broken:
            broken.append(payload)
            raise ValueError("no key")
        return "k"

    app.define(ticking, trigger=interval_trigger(timedelta(minutes=1)), concurrency_key=key)
    async with app.embedded():
        await app.clock.advance(timedelta(seconds=190))

    assert len(app.done) == 2


async def test_delayed_event_runs_the_jobs_whose_keys_can_be_worked_out(app):
    async def good(payload, io, ctx):
        app.done.append("good")

    async def bad(payload, io, ctx):
        app.done.append("bad")

    app.define(good, id="good", trigger=event_trigger(name="later"))
    app.define(
        bad, id="bad", trigger=event_trigger(name="later"), concurrency_key=lambda payload: payload["missing"]
    )
    async with app.embedded():
        await app.client.send_event("later", {}, deliver_after=timedelta(seconds=9))
        await asyncio.sleep(20)
        await app.client.drain()

    assert app.done == ["good"]


async def test_slots_and_children_come_back_whichever_commit_breaks(app):
    active, most, runs = set(), [], []

    async def child(payload, io, ctx):
        active.add(ctx.run.id)
        most.append(len(active))
        try:
            await io.run_task("work", asyncio.sleep, 0.1)
        finally:
            active.discard(ctx.run.id)
        return payload

    child_job = app.define(child, trigger=invoke_trigger(), concurrency_limit=2)

    async def parent(payload, io, ctx):
        results = await asyncio.gather(*(child_job.invoke_and_wait(n, key=["child", n]) for n in range(3)))
        return [result.output for result in results]

    app.define(parent)
    async with app.embedded():  # what the start of a process writes is written now
        pass
    async for run in run_with_each_commit_broken(app, "parent", 60):
        active.clear()  # those of the process that died
        runs.append(run)
        assert run.output == [0, 1, 2]
        assert {queue.executing for queue in await app.client.get_queues()} == {0}

    assert len(runs) > 10
    assert max(most) == 2


@pytest.mark.parametrize("turns", range(0, 21, 4))
async def test_nothing_begins_in_a_queue_once_it_is_paused(app, turns):
    async def job(payload, io, ctx):
        app.done.append(payload)
        await io.run_task("work", asyncio.sleep, 0.05)

    app.define(job)
    async with app.embedded():
        runs = [await app.start("job", n) for n in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await app.client.pause_queue("job")
        begun = [each for each in runs if (await app.look(each)).status is not RunStatus.QUEUED]
        await asyncio.sleep(60)
        assert [each for each in runs if (await app.look(each)).status is not RunStatus.QUEUED] == begun
        await app.client.resume_queue("job")
        for run_id in runs:
            await app.end_of(run_id, within=5)

    assert sorted(app.done) == [0, 1, 2]


async def test_event_is_either_cancelled_or_delivered(app):
    async def job(payload, io, ctx):
        app.done.append(payload)

    app.define(job, trigger=event_trigger(name="late"))
    cancelled = set()
    async with app.embedded():
        for n in range(12):
            await app.client.send_event("late", n, id=f"event {n}", deliver_after=6)
            await asyncio.sleep(5.994 + n * MS)
            try:
                await app.client.cancel_event(f"event {n}")
            except ConflictError:
                continue
            cancelled.add(n)
        await app.client.drain()

    assert cancelled
    assert sorted(app.done) == [n for n in range(12) if n not in cancelled]


@pytest.mark.parametrize("takes", [1.99 + n * 0.002 for n in range(6)])
async def test_child_that_ends_when_its_time_is_up_ends_in_time_or_not(app, takes):
    async def child(payload, io, ctx):
        await io.run_task("work", asyncio.sleep, takes)
        return "in time"

    child_job = app.define(child, trigger=invoke_trigger())

    async def parent(payload, io, ctx):
        try:
            return (await child_job.invoke_and_wait(None, key="child", timeout=2)).output
        except TaskError as error:
            return "too late" if error.matches(TimeoutError) else error

    run = await app.run(parent, within=30)

    assert run.output in ("in time", "too late")
