"""Pauses of queues, and why a run isn't executing."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import pytest

from perdure import NotFoundError, Reason, Retry, RunStatus
from perdure.schema.reasons import (
    Behind,
    Ended,
    Executing,
    Limited,
    Paused,
    Unattended,
    Unknown,
    WaitsForCall,
    WaitsForEvent,
    WaitsForRun,
    WaitsUntil,
)
from perdure.testing.virtual_clock import START

HOUR = timedelta(hours=1)


def define_blocker(app, **options):
    """A job whose runs execute for an hour of their own."""

    async def blocker(payload, io, ctx):
        app.done.append(payload)
        await io.run_task("block", asyncio.sleep, 3600)

    return app.define(blocker, **options)


async def why(app, run_id):
    """The reasons, which survive JSON."""
    found = await app.client.why_not_running(run_id)
    assert msgspec.json.decode(msgspec.json.encode(found), type=list[Reason]) == found
    assert all(str(reason) for reason in found)
    return found


async def test_nothing_is_started_from_a_paused_queue(app):
    define_blocker(app)
    async with app.embedded():
        await app.start("blocker", 1)
        await app.clock.advance(1)
        await app.client.pause_queue("blocker")
        await app.start("blocker", 2)
        await app.clock.advance(10)
        [paused] = await app.client.get_queues()
        assert app.done == [1]  # which goes on

        await app.client.resume_queue("blocker")
        await app.clock.advance(1)
        [resumed] = await app.client.get_queues()

    assert app.done == [1, 2]
    assert (paused.paused_at, paused.queued, paused.executing) == (START + timedelta(seconds=1), 1, 1)
    assert (resumed.paused_at, resumed.queued, resumed.executing) == (None, 0, 2)


async def test_pause_survives_restarts(app):
    define_blocker(app)
    async with app.embedded() as process:
        await app.client.pause_queue("blocker")
        await process.crash()
    async with app.embedded():
        run_id = await app.start("blocker", 1)
        await app.clock.advance(10)
        assert app.done == []
        [reason] = await why(app, run_id)

    assert reason == Paused(queue="blocker", since=START)


async def test_only_queues_that_there_are_can_be_paused(app):
    async with app.embedded():
        with pytest.raises(NotFoundError):
            await app.client.pause_queue("nothing")
        with pytest.raises(NotFoundError):
            await app.client.resume_queue("nothing")
        with pytest.raises(NotFoundError):
            await app.client.why_not_running("nothing")


async def test_what_executes_and_what_has_ended(app):
    define_blocker(app)
    async with app.embedded():
        run_id = await app.start("blocker")
        await app.clock.advance(1)
        executing = await why(app, run_id)
        await app.client.cancel_run(run_id)
        ended = await why(app, run_id)

    assert executing == [Executing(execution=1)]
    assert ended == [Ended(status=RunStatus.CANCELLED)]


async def test_limits_and_the_place_in_the_queue(app):
    define_blocker(app, concurrency_limit=1, concurrency_key="k")
    async with app.embedded(concurrency_limit=2):
        for key in ("a", "b", "a", "a"):
            await app.start("blocker", {"k": key})
            await app.clock.advance(1)
        last = (await app.client.get_runs(limit=1))[0].id
        found = await why(app, last)

    assert found == [
        Limited(scope="environment", limit=2, executing=2),
        Limited(scope="key", id="a", limit=1, executing=1),
        Behind(queue="blocker", key="a", ahead=1),
    ]
    assert str(found[1]) == "the concurrency limit of key 'a' is reached: 1 of 1 are executing"
    assert str(found[2]) == "1 run is before it in queue 'blocker' under key 'a'"


async def test_limit_of_the_queue(app):
    shared = app.client.define_concurrency_limit(id="shared", limit=1)
    define_blocker(app, concurrency_limit=shared)
    async with app.embedded():
        await app.start("blocker")
        await app.clock.advance(1)
        found = await why(app, await app.start("blocker"))

    assert found == [Limited(scope="queue", id="shared", limit=1, executing=1)]


async def test_no_executor_is_free(app):
    define_blocker(app)
    async with app.embedded(max_executions=1):
        await app.start("blocker")
        await app.clock.advance(1)
        found = await why(app, await app.start("blocker"))

    assert found == [Unattended(executing=1, max_executions=1)]
    assert "max_executions" in str(found[0])


async def test_job_is_unknown(app):
    define_blocker(app)
    async with app.embedded():
        await app.client.pause_queue("blocker")
        run_id = await app.start("blocker")
    release = app.deployed()
    async with release.embedded():
        await release.client.resume_queue("blocker")
        await release.clock.advance(1)
        found = await why(release, run_id)

    assert found == [Unknown(job_id="blocker")]


async def test_waits_and_retries(app):
    async def waiter(payload, io, ctx):
        await io.wait("three hours", 3 * HOUR)

    async def failing(payload, io, ctx):
        raise ValueError

    app.define(waiter)
    app.define(failing, retry=Retry(attempts=2, min_delay=3600, max_delay=3600, jitter=False))
    async with app.embedded():
        waiting, failed = await app.start("waiter"), await app.start("failing")
        await app.clock.advance(HOUR / 2)
        of_wait, of_retry = await why(app, waiting), await why(app, failed)

    assert of_wait == [WaitsUntil(at=START + 3 * HOUR, task="three hours")]
    [reason] = of_retry
    assert abs(reason.at - (START + HOUR)) < timedelta(seconds=1)
    assert reason.task is None


async def test_waits_for_another_run(app):
    blocker = define_blocker(app)

    async def parent(payload, io, ctx):
        await blocker.invoke_and_wait(None, key="child")

    app.define(parent)
    async with app.embedded():
        run_id = await app.start("parent")
        await app.clock.advance(100)
        [child] = await app.client.get_runs(parent=run_id)
        found = await why(app, run_id)
        await app.client.cancel_run(child.id)
        await app.end_of(run_id)

    assert found == [WaitsForRun(task="child", run_id=child.id, job_id="blocker", status=RunStatus.EXECUTING)]
    assert child.parent_run_id == run_id


async def test_waits_for_an_event(app):
    async def listener(payload, io, ctx):
        await io.wait_for_event("either", ["paid", "refunded"], timeout=2 * HOUR)

    app.define(listener)
    async with app.embedded():
        run_id = await app.start("listener")
        await app.clock.advance(HOUR)
        [reason] = await why(app, run_id)

    assert isinstance(reason, WaitsForEvent)
    assert (reason.task, reason.names) == ("either", ("paid", "refunded"))
    assert reason.until is not None
    assert abs(reason.until - (START + 2 * HOUR)) < timedelta(seconds=1)
    assert str(reason).startswith("task 'either' waits for event 'paid' or 'refunded', until 2030-01-01")


async def test_waits_for_a_request(app):
    async def fetcher(payload, io, ctx):
        await io.background_fetch(
            "get", "http://127.0.0.1:9/", retry={"all": Retry(attempts=2, min_delay=7200, max_delay=7200)}
        )

    app.define(fetcher)
    async with app.embedded():
        run_id = await app.start("fetcher")
        await app.clock.advance(HOUR)
        found = await why(app, run_id)

    assert [(type(reason), reason.task, reason.attempt) for reason in found] == [(WaitsForCall, "get", 2)]
