"""`io.wait` and `io.wait_until`: how long, what they cost, and what survives."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from perdure import Retry, RunStatus, TaskStatus
from perdure.clock import to_datetime


@pytest.mark.parametrize("duration", [0, 0.3, 5, 3600, timedelta(days=3)], ids=str)
async def test_wait_takes_as_long_as_said(app, duration):
    async def job(payload, io, ctx):
        before = await io.now("before")
        await io.wait("pause", duration)
        return await io.now("after") - before

    run = await app.run(job, within=timedelta(days=4))

    seconds = duration if isinstance(duration, (int, float)) else duration.total_seconds()
    assert seconds <= run.output.total_seconds() <= seconds + 2


async def test_wait_until_a_moment(app):
    async def job(payload, io, ctx):
        moment = await io.now("start") + timedelta(hours=1)
        await io.wait_until("moment", moment)
        return await io.now("after") - moment

    late = (await app.run(job)).output

    assert timedelta(0) <= late < timedelta(seconds=2)


async def test_wait_until_the_past_does_not_put_the_run_down(app):
    async def job(payload, io, ctx):
        await io.wait_until("past", datetime(2001, 1, 1, tzinfo=UTC))
        return ctx.run.execution

    assert (await app.run(job)).output == 1


async def test_naive_moment_is_refused(app):
    async def job(payload, io, ctx):
        await io.wait_until("moment", datetime(2040, 1, 1))

    run = await app.run(job)

    assert run.error.name == "UsageError"
    assert "moment" in run.error.message


@pytest.mark.parametrize("duration", [-1, float("nan"), float("inf"), "3", None], ids=repr)
async def test_impossible_duration_is_refused(app, duration):
    async def job(payload, io, ctx):
        await io.wait("pause", duration)

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert run.error.name == "UsageError"


async def test_waiting_run_shows_what_it_waits_for(app):
    async def job(payload, io, ctx):
        await io.wait("pause", timedelta(days=3))

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
        run = await app.look(started)

        assert run.status is RunStatus.WAITING
        assert run.tasks[0].status is TaskStatus.WAITING
        left = run.tasks[0].delay_until - to_datetime(app.clock.now())
        assert timedelta(days=2.9) < left <= timedelta(days=3)
        assert run.wake_at == run.tasks[0].delay_until


async def test_wait_shorter_than_linger_stays_in_the_same_execution(app):
    async def job(payload, io, ctx):
        await io.wait("pause", 2)
        return ctx.run.execution

    assert (await app.run(job, linger=3)).output == 1


async def test_wait_longer_than_linger_ends_the_execution_at_once(app):
    async def job(payload, io, ctx):
        await io.wait("pause", 4)
        return ctx.run.execution

    run = await app.run(job, linger=3)

    assert run.output == 2
    assert run.execution_duration < timedelta(seconds=1)


async def test_waiting_run_holds_no_slot(app):
    async def waits(payload, io, ctx):
        await io.wait("pause", 3600)

    async def quick(payload, io, ctx):
        return to_datetime(app.clock.now())

    app.define(waits)
    app.define(quick)
    async with app.embedded(max_executions=1):
        for _ in range(3):
            await app.start("waits")
        before = to_datetime(app.clock.now())
        run = await app.end_of(await app.start("quick"))

    assert run.output - before < timedelta(seconds=30)


async def test_wait_goes_on_over_a_crash(app):
    async def job(payload, io, ctx):
        start = await io.now("start")
        await io.wait("pause", 3600)
        return await io.now("end") - start

    app.define(job)
    async with app.embedded() as process:
        started = await app.start("job")
        await app.client.drain()
        await asyncio.sleep(1800)
        await process.crash()
    async with app.embedded():
        run = await app.end_of(started)

    assert timedelta(hours=1) <= run.output < timedelta(hours=1, seconds=2)


async def test_wait_that_ended_while_nothing_ran_goes_on_at_start(app):
    async def job(payload, io, ctx):
        await io.wait("pause", 60)
        return await io.now("end")

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
    await asyncio.sleep(3600)
    before = to_datetime(app.clock.now())
    async with app.embedded():
        run = await app.end_of(started)

    assert run.output - before < timedelta(seconds=2)


async def test_clean_stop_during_a_wait_changes_nothing(app):
    async def job(payload, io, ctx):
        app.done.append(await io.run_task("before", lambda: "before"))
        await io.wait("pause", 3600)
        return "after"

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
    async with app.embedded():
        run = await app.end_of(started)

    assert run.output == "after"
    assert run.tasks[0].attempts == 1


async def test_waits_in_parallel_take_as_long_as_the_longest(app):
    async def job(payload, io, ctx):
        start = await io.now("start")
        await asyncio.gather(*(io.wait(["pause", n], n * 600) for n in range(1, 5)))
        return await io.now("end") - start

    run = await app.run(job)

    assert timedelta(minutes=40) <= run.output < timedelta(minutes=40, seconds=5)


async def test_run_wakes_at_the_earliest_of_its_waits(app):
    async def job(payload, io, ctx):
        async def branch(n):
            await io.wait(["pause", n], n * 600)
            await io.run_task(["after", n], lambda: app.done.append(to_datetime(app.clock.now())))

        await asyncio.gather(*(branch(n) for n in (3, 1, 2)))

    await app.run(job)

    first, second, third = app.done
    assert second - first == pytest.approx(timedelta(minutes=10), abs=timedelta(seconds=3))
    assert third - second == pytest.approx(timedelta(minutes=10), abs=timedelta(seconds=3))


async def test_delay_until_starts_the_body_then(app):
    async def job(payload, io, ctx):
        moment = await io.now("start") + timedelta(hours=1)
        began = await io.run_task("later", lambda: to_datetime(app.clock.now()), delay_until=moment)
        return began - moment

    run = await app.run(job)

    assert timedelta(0) <= run.output < timedelta(seconds=2)
    assert run.executions == 2


async def test_delay_until_holds_over_a_crash(app):
    async def job(payload, io, ctx):
        moment = await io.now("start") + timedelta(hours=1)
        return await io.run_task("later", lambda: to_datetime(app.clock.now()), delay_until=moment) - moment

    app.define(job)
    async with app.embedded() as process:
        started = await app.start("job")
        await app.client.drain()
        await process.crash()
    async with app.embedded():
        run = await app.end_of(started)

    assert timedelta(0) <= run.output < timedelta(seconds=2)


async def test_task_delayed_into_the_past_starts_at_once(app):
    async def job(payload, io, ctx):
        await io.run_task("now", lambda: None, delay_until=datetime(2001, 1, 1, tzinfo=UTC))
        return ctx.run.execution

    assert (await app.run(job)).output == 1


async def test_wait_does_not_change_what_is_deployed_later(app):
    async def job(payload, io, ctx):
        await io.wait("pause", 3600)
        return "old"

    async def changed(payload, io, ctx):
        await io.wait("pause", timedelta(days=300))
        return "new"

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
    release = app.deployed()
    release.define(changed, id="job")
    async with release.embedded():
        run = await release.end_of(started)

    assert run.output == "new"


async def test_drain_does_not_wait_for_waiting_runs(app):
    async def job(payload, io, ctx):
        await io.wait("pause", timedelta(days=300))

    app.define(job)
    async with app.embedded():
        await app.start("job")
        before = app.clock.now()
        await app.client.drain()

        assert app.clock.now() - before < 60_000


async def test_retry_is_not_confused_by_waits_in_the_body(app):
    async def job(payload, io, ctx):
        async def body():
            app.done.append("begin")
            await io.wait("pause", 3600)
            if app.done.count("end") < 1:
                app.done.append("end")
                raise OSError
            return "done"

        return await io.run_task("task", body, retry=Retry(attempts=2, min_delay=60, jitter=False))

    run = await app.run(job)

    assert run.output == "done"
    assert run.tasks[0].attempts == 2
