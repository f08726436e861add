"""A client that runs embedded: from where it may be used, and jobs that are defined on it later."""

from __future__ import annotations

import asyncio
import threading

import pytest

from perdure import ConflictError, RunStatus, UsageError


def in_a_thread(call):
    """What `call` returns or raises in a thread of its own; the loop stands still meanwhile."""
    ended = []

    def run():
        try:
            ended.append(call())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return ended[0]


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.send_event("job", id="only"),
        lambda client: client.invoke("job", None),
        lambda client: client.get_run("run_x"),
        lambda client: client.get_runs(),
        lambda client: client.wait_for_run("run_x", timeout=1),
        lambda client: client.cancel_run("run_x"),
        lambda client: client.drain(),
    ],
)
async def test_other_event_loops_are_refused_before_anything_is_stored(app, use):
    async def job(payload, io, ctx):
        app.done.append(ctx.run.id)

    app.define(job)
    async with app.embedded():
        error = in_a_thread(lambda: asyncio.run(use(app.client)))

        assert isinstance(error, UsageError)
        assert "run_coroutine_threadsafe" in str(error)
        assert "client.sync" in str(error)
        await asyncio.sleep(100)
        assert await app.client.get_runs() == []
        assert await app.client.get_event("only") is None
        assert app.done == []


@pytest.mark.real_time
async def test_other_threads_reach_the_loop_in_the_way_that_the_error_names(app):
    async def job(payload, io, ctx):
        return payload

    app.define(job)
    async with app.embedded():
        loop = asyncio.get_running_loop()

        def send():
            return asyncio.run_coroutine_threadsafe(app.client.send_event("job", 3), loop).result()

        event = await asyncio.to_thread(send)
        run = await app.end_of(event.runs[0].id)

    assert run.output == 3


@pytest.mark.parametrize("where", ["in the loop", "in a thread"])
async def test_jobs_defined_later_are_started_like_others(app, where):
    async def late(payload, io, ctx):
        return await io.run_task("double", lambda: payload * 2)

    async with app.embedded():
        await app.client.drain()
        job = app.define(late) if where == "in the loop" else in_a_thread(lambda: app.define(late))
        with pytest.raises(ConflictError):
            app.define(late)
        if where == "in a thread":
            await asyncio.sleep(0)

        by_event = await app.end_of(await app.start("late", 2))
        by_hand = await app.end_of((await job.invoke(4)).id)

    assert (by_event.output, by_hand.output) == (4, 8)


async def test_runs_that_waited_for_a_job_go_on_when_it_is_defined(app):
    async def job(payload, io, ctx):
        await io.wait("pause", 100)
        return "end"

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
    release = app.deployed()
    async with release.embedded():
        await asyncio.sleep(300)
        assert (await release.look(started)).status is RunStatus.PENDING
        release.define(job)
        run = await release.end_of(started, within=5)

    assert run.output == "end"
