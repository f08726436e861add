"""A run that takes its process down again and again is given up, and says at which task."""

from __future__ import annotations

import asyncio

import pytest

from perdure import RunStatus


async def test_run_that_kills_five_processes_fails_and_names_the_task(app):
    async def job(payload, io, ctx):
        await io.run_task("harmless", lambda: None)
        await io.run_task("deadly", dies, app)

    app.define(job)
    run = await live_until_ended(app)

    assert run.status is RunStatus.FAILED
    assert "deadly" in run.error.message
    assert app.done.count("died") in (5, 6)


async def test_run_that_makes_progress_between_deaths_is_not_given_up(app):
    async def job(payload, io, ctx):
        for n in range(12):
            await io.run_task(["step", n], step, n)

    async def step(n):
        if app.done.count(n) == 0:
            app.done.append(n)
            await dies(app)
        return n

    app.define(job)
    run = await live_until_ended(app)

    assert run.status is RunStatus.COMPLETED
    assert app.done.count("died") == 12


async def test_innocent_runs_beside_a_deadly_one_complete(app):
    async def job(payload, io, ctx):
        await io.run_task("deadly", dies, app)

    async def innocent(payload, io, ctx):
        await io.wait("pause", 600)
        await io.run_task("work", lambda: None)
        return "end"

    app.define(job)
    app.define(innocent)
    others = []

    async def also():
        if not others:
            others.extend([await app.start("innocent") for _ in range(3)])

    run = await live_until_ended(app, also)
    async with app.embedded():
        outputs = [(await app.end_of(run_id)).output for run_id in others]

    assert run.status is RunStatus.FAILED
    assert outputs == ["end"] * 3


async def test_given_up_run_can_be_continued_after_the_fix(app):
    async def job(payload, io, ctx):
        await io.run_task("deadly", dies, app)

    async def repaired(payload, io, ctx):
        return await io.run_task("deadly", lambda: "fine")

    app.define(job)
    failed = await live_until_ended(app)
    release = app.deployed()
    release.define(repaired, id="job")
    async with release.embedded():
        await release.client.continue_run(failed.id)
        run = await release.end_of(failed.id)

    assert failed.status is RunStatus.FAILED
    assert run.output == "fine"


@pytest.mark.parametrize("kind", ["sync", "between tasks"])
async def test_deadly_code_elsewhere_is_given_up_too(app, kind):
    def sync_job(payload, io, ctx):
        io.run_task("deadly", app.dying)

    async def job_between_tasks(payload, io, ctx):
        await dies(app)

    app.define(sync_job if kind == "sync" else job_between_tasks, id="job")
    run = await live_until_ended(app)

    assert run.status is RunStatus.FAILED


async def dies(app):
    """The process dies in here."""
    app.done.append("died")
    app.death.set()
    await asyncio.sleep(3600)


async def live_until_ended(app, also=None):
    """Start process after process until the run of job `job` has ended; returns it."""
    loop = asyncio.get_running_loop()

    def dying():
        import threading

        app.done.append("died")
        loop.call_soon_threadsafe(app.death.set)
        threading.Event().wait(0.3)

    app.dying = dying
    for _ in range(30):
        app.death = asyncio.Event()
        async with app.embedded() as process:
            event = await app.client.send_event("job", id="only")
            if also is not None:
                await also()
            living = asyncio.create_task(app.client.wait_for_run(event.runs[0].id, timeout=7200))
            dead = asyncio.create_task(app.death.wait())
            await asyncio.wait({living, dead}, return_when=asyncio.FIRST_COMPLETED)
            dead.cancel()
            if living.done():
                return await app.look(event.runs[0].id)
            await process.crash()
            await asyncio.gather(living, return_exceptions=True)
    raise AssertionError("the run did not end in 30 lives")
