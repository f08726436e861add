"""Operations that user code cancels: recorded as interrupted, and interrupted again on replay."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure import RunStatus, TaskStatus


async def test_loser_of_first_completed_is_interrupted(app):
    async def job(payload, io, ctx):
        fast = asyncio.create_task(io.run_task("fast", body, app, "fast", 1))
        slow = asyncio.create_task(io.run_task("slow", body, app, "slow", 5))
        done, pending = await asyncio.wait({fast, slow}, return_when=asyncio.FIRST_COMPLETED)
        for loser in pending:
            loser.cancel()
        return [task.result() for task in done]

    run = await app.run(job)

    assert run.output == ["fast"]
    assert status_of(run, "slow") is TaskStatus.CANCELED
    assert app.done == ["fast began", "slow began", "fast ended"]


async def test_loser_is_interrupted_again_on_replay(app):
    async def job(payload, io, ctx):
        fast = asyncio.create_task(io.run_task("fast", body, app, "fast", 1))
        slow = asyncio.create_task(io.run_task("slow", body, app, "slow", 5))
        done, pending = await asyncio.wait({fast, slow}, return_when=asyncio.FIRST_COMPLETED)
        for loser in pending:
            loser.cancel()
        results = [task.result() for task in done]
        await io.wait("pause", 3600)
        return results

    run = await app.run(job)

    assert run.output == ["fast"]
    assert run.executions == 2
    assert app.done == ["fast began", "slow began", "fast ended"]


async def test_the_first_to_complete_is_the_first_on_replay_whatever_the_order_of_starting(app):
    async def job(payload, io, ctx):
        branches = [
            asyncio.create_task(io.run_task(name, body, app, name, seconds), name=name)
            for name, seconds in [("slow", 5), ("fast", 1), ("middle", 3)]
        ]
        finished = [await first for first in asyncio.as_completed(branches)]
        app.done.append(finished)
        await io.wait("pause", 3600)
        return finished

    run = await app.run(job)

    assert run.output == ["fast", "middle", "slow"]
    assert app.done[-2:] == [run.output, run.output]


async def test_interrupted_wait_does_not_hold_the_run(app):
    async def job(payload, io, ctx):
        start = await io.now("start")
        long = asyncio.create_task(io.wait("long", timedelta(days=300)))
        short = asyncio.create_task(io.wait("short", 60))
        _, pending = await asyncio.wait({long, short}, return_when=asyncio.FIRST_COMPLETED)
        for loser in pending:
            loser.cancel()
        await io.wait("pause", 3600)
        return await io.now("end") - start

    run = await app.run(job)

    assert timedelta(minutes=61) <= run.output < timedelta(minutes=61, seconds=5)
    assert status_of(run, "long") is TaskStatus.CANCELED


async def test_race_of_a_task_and_a_wait_across_suspension(app):
    async def job(payload, io, ctx):
        async def slow():
            app.done.append("body")
            await io.wait("inner", timedelta(days=2))
            return "finished"

        work = asyncio.create_task(io.run_task("work", slow))
        limit = asyncio.create_task(io.wait("limit", timedelta(days=1)))
        await asyncio.wait({work, limit}, return_when=asyncio.FIRST_COMPLETED)
        if limit.done():
            work.cancel()
            return "too slow"
        return work.result()

    run = await app.run(job, within=timedelta(days=3))

    assert run.output == "too slow"
    assert status_of(run, "work") is TaskStatus.CANCELED
    assert status_of(run, "inner") is TaskStatus.CANCELED


async def test_body_that_survives_its_cancellation_is_still_interrupted_on_replay(app):
    async def job(payload, io, ctx):
        async def stubborn():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                return "went on"

        work = asyncio.create_task(io.run_task("stubborn", stubborn))
        await asyncio.sleep(0.5)
        work.cancel()
        result = (await asyncio.gather(work, return_exceptions=True))[0]
        app.done.append(result if isinstance(result, str) else type(result).__name__)
        await io.wait("pause", 3600)

    run = await app.run(job)

    assert run.status is RunStatus.COMPLETED
    assert app.done[0] == app.done[1]


async def test_cancelled_wait_raises_cancelled_error_in_first_run_and_replay(app):
    async def job(payload, io, ctx):
        waiting = asyncio.create_task(io.wait("wait", 3600))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        try:
            await waiting
        except asyncio.CancelledError:
            app.done.append("cancelled")
        await io.wait("pause", 7000)

    await app.run(job, within=timedelta(hours=3))

    assert app.done == ["cancelled"] * 2


async def test_task_interrupted_before_its_completion_was_told_is_replayed_alike(app):
    async def job(payload, io, ctx):
        work = asyncio.create_task(io.run_task("work", body, app, "work", 0))
        await io.run_task("other", body, app, "other", 0.01)
        work.cancel()
        result = (await asyncio.gather(work, return_exceptions=True))[0]
        app.done.append(("saw", result if isinstance(result, str) else type(result).__name__))
        await io.wait("pause", 3600)

    await app.run(job)

    first, replayed = [entry for entry in app.done if entry[0] == "saw"]
    assert first == replayed


async def test_nobody_cancelling_what_was_interrupted_fails_naming_the_task(app):
    async def job(payload, io, ctx):
        work = asyncio.create_task(io.run_task("the loser", body, app, "work", 3600))
        await io.run_task("first", body, app, "first", 0.1)
        if ctx.run.execution == 1:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        await io.wait("pause", 60)
        await work

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert run.error.name == "NonDeterminismError"
    assert "the loser" in run.error.message


async def test_interrupted_parent_closes_its_open_children(app):
    async def job(payload, io, ctx):
        async def parent():
            await io.run_task("child", body, app, "child", 3600)

        work = asyncio.create_task(io.run_task("parent", parent))
        await io.run_task("other", body, app, "other", 1)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await io.wait("pause", 3600)
        return "end"

    run = await app.run(job)

    assert run.output == "end"
    assert status_of(run, "parent") is TaskStatus.CANCELED
    assert status_of(run, "child") is TaskStatus.CANCELED
    assert app.done.count("child began") == 1


async def test_interruption_is_remembered_over_a_crash(app):
    async def job(payload, io, ctx):
        work = asyncio.create_task(io.run_task("work", body, app, "work", 3600))
        await io.run_task("other", body, app, "other", 1)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await io.run_task("after", body, app, "after", 1)
        await io.wait("pause", 3600)
        return "end"

    app.define(job)
    async with app.embedded() as process:
        started = await app.start("job")
        await app.client.drain()
        await process.crash()
    async with app.embedded():
        run = await app.end_of(started)

    assert run.output == "end"
    assert app.done.count("work began") == 1
    assert app.done.count("after began") == 1


async def test_retry_after_interruption_of_the_same_key_is_refused_not_forgotten(app):
    async def job(payload, io, ctx):
        work = asyncio.create_task(io.run_task("work", body, app, "work", 3600))
        await asyncio.sleep(0.5)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await io.run_task("work", body, app, "work", 0)

    assert (await app.run(job)).error.name == "DuplicateKeyError"


async def test_new_attempt_of_a_parent_may_run_what_the_last_one_interrupted(app):
    from perdure import Retry, current_task

    async def job(payload, io, ctx):
        async def parent():
            child = asyncio.create_task(io.run_task("child", body, app, "child", 1))
            if current_task().attempts == 1:
                await asyncio.sleep(0.1)
                child.cancel()
                await asyncio.gather(child, return_exceptions=True)
                raise OSError
            return await child

        return await io.run_task("parent", parent, retry=Retry(attempts=2, min_delay=60, jitter=False))

    run = await app.run(job)

    assert run.output == "child"
    assert app.done == ["child began", "child began", "child ended"]


@pytest.mark.parametrize("kind", ["wait_for", "timeout"])
async def test_asyncio_time_out_around_a_task_interrupts_it_in_every_execution(app, kind):
    async def job(payload, io, ctx):
        work = io.run_task("slow", body, app, "slow", 3600)
        try:
            if kind == "wait_for":
                await asyncio.wait_for(work, 1)
            else:
                async with asyncio.timeout(1):
                    await work
        except TimeoutError:
            app.done.append("timed out")
        await io.wait("pause", 600)
        return "end"

    run = await app.run(job)

    assert run.output == "end"
    assert app.done == ["slow began", "timed out", "timed out"]
    assert status_of(run, "slow") is TaskStatus.CANCELED


async def body(app, name, seconds):
    app.done.append(f"{name} began")
    await asyncio.sleep(seconds)
    app.done.append(f"{name} ended")
    return name


def status_of(run, key):
    return next(task.status for task in run.tasks if task.key == key)
