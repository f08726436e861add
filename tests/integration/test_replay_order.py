"""A replay lets nothing happen before what came before it the first time, be that a completion or a beginning."""

import asyncio
import contextlib

import pytest


@pytest.mark.parametrize("how", ["wait timeout", "sleep", "shield"])
async def test_branch_taken_before_a_wait_is_taken_again_on_replay(app, how):
    async def job(payload, io, ctx):
        slow = asyncio.create_task(io.run_task("slow", asyncio.sleep, 50, "slow"))
        if how == "wait timeout":
            await asyncio.wait({slow}, timeout=10)
        elif how == "sleep":
            await asyncio.sleep(10)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(slow), 10)
        if slow.done():
            await io.wait("in time", 600)
            await io.run_task("thank", lambda: app.done.append("thank"))
        else:  # always this one in plain asyncio
            await io.wait("too slow", 600)
            await io.run_task("apologise", lambda: app.done.append("apologise"))
        return await slow

    run = await app.run(job)
    assert app.done == ["apologise"], (app.done, [(t.key, t.status.name) for t in run.tasks])


async def test_order_between_a_parked_wait_and_a_completion(app):
    """The same without any asyncio timer: the second branch sees slow.done() False when it opens its wait."""

    async def job(payload, io, ctx):
        async def branch():
            await io.run_task("quick", asyncio.sleep, 1)
            if not slow.done():
                await io.wait("pause", 600)
                await io.run_task("saw it running", lambda: app.done.append("running"))
            else:
                await io.run_task("saw it done", lambda: app.done.append("done"))

        slow = asyncio.create_task(io.run_task("slow", asyncio.sleep, 50))
        await asyncio.gather(branch(), slow)

    await app.run(job)
    assert app.done == ["running"]


async def test_data_order_between_start_of_body_and_completion(app):
    """A branch that started a body (never completed: crash) before another completed."""

    async def job(payload, io, ctx):
        async def branch():
            await asyncio.sleep(10)
            key = "body b" if slow.done() else "body a"
            await io.run_task(key, body, key)

        slow = asyncio.create_task(io.run_task("slow", asyncio.sleep, 50))
        await asyncio.gather(branch(), slow)

    async def body(key):
        app.done.append(key)
        await asyncio.sleep(1000)

    app.define(job)
    async with app.embedded() as p:
        s = await app.start("job")
        await asyncio.sleep(200)
        await p.crash()
    async with app.embedded():
        await app.end_of(s)
    assert app.done == ["body a", "body a"]
