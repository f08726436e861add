"""`job.invoke`: starting a run by calling its job."""

from __future__ import annotations

import asyncio

import pytest

from perdure import NotFoundError, RunStatus, event_trigger, invoke_trigger


@pytest.mark.parametrize("trigger", [invoke_trigger(), event_trigger(name="x")], ids=["invoke", "event"])
async def test_invoke_starts_a_run_whatever_the_trigger(app, trigger):
    job = define_job(app, trigger=trigger)
    async with app.embedded():
        queued = await job.invoke({"n": 1}, context={"c": 2})
        run = await app.end_of(queued.id)

    assert queued.status in (RunStatus.QUEUED, RunStatus.EXECUTING)
    assert run.output == [{"n": 1}, {"c": 2}]


async def test_invoke_by_id_through_the_client(app):
    define_job(app)
    async with app.embedded():
        run = await app.end_of((await app.client.invoke("job", 1)).id)

    assert run.output == [1, None]


async def test_invoking_an_unknown_job_is_not_found(app):
    async with app.embedded():
        with pytest.raises(NotFoundError, match="nothing"):
            await app.client.invoke("nothing", 1)


async def test_repeated_key_returns_the_first_run(app):
    job = define_job(app)
    async with app.embedded():
        first = await job.invoke(1, key="same")
        second = await job.invoke(2, key="same")
        other = await job.invoke(3, key="other")
        run = await app.end_of(second.id)

    assert first.id == second.id != other.id
    assert run.payload == 1


async def test_concurrent_invokes_with_one_key_start_one_run(app):
    job = define_job(app)
    async with app.embedded():
        runs = await asyncio.gather(*(job.invoke(n, key="same") for n in range(30)))
        await app.client.drain()

    assert len({run.id for run in runs}) == 1
    assert len(app.done) == 1


async def test_without_key_every_invoke_is_a_run(app):
    job = define_job(app)
    async with app.embedded():
        runs = [await job.invoke(1) for _ in range(3)]

    assert len({run.id for run in runs}) == 3


async def test_invoke_inside_a_run_without_a_key_is_refused_with_the_way_out(app):
    child = define_job(app)

    async def parent(payload, io, ctx):
        await child.invoke(1)

    run = await app.run(parent)

    assert run.error.name == "UsageError"
    assert "key=" in run.error.message


def define_job(app, **options):
    async def job(payload, io, ctx):
        app.done.append(payload)
        return [payload, ctx.event.context]

    return app.define(job, **options)
