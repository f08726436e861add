"""Every transition of the table of statuses, reached from outside."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import ConflictError, Retry, RunStatus, event_trigger

S = RunStatus


async def test_queued_then_executing_then_completed(app):
    async def job(payload, io, ctx):
        await io.run_task("hold", asyncio.sleep, 10)

    app.define(job)
    async with app.embedded(max_executions=1):
        first, second = await app.start("job"), await app.start("job")
        await asyncio.sleep(1)

        assert (await app.look(first)).status is S.EXECUTING
        assert (await app.look(second)).status is S.QUEUED
        assert (await app.end_of(first)).status is S.COMPLETED
        await asyncio.sleep(1)
        assert (await app.look(second)).status is S.EXECUTING
        assert (await app.end_of(second)).status is S.COMPLETED


async def test_executing_waiting_queued_executing(app):
    async def job(payload, io, ctx):
        await io.wait("pause", 600)
        await io.run_task("hold", asyncio.sleep, 10)

    async def holds(payload, io, ctx):
        await io.run_task("hold", asyncio.sleep, 1200)

    app.define(job)
    app.define(holds)
    async with app.embedded(max_executions=1):
        started = await app.start("job")
        await app.client.drain()
        assert (await app.look(started)).status is S.WAITING
        await app.start("holds")
        await asyncio.sleep(700)
        assert (await app.look(started)).status is S.QUEUED
        assert (await app.end_of(started)).status is S.COMPLETED


async def test_yielded_run_is_queued(app):
    async def job(payload, io, ctx):
        if ctx.run.execution == 1:
            await holding.start()
        await io.yield_("here")

    class Holding:
        """Queues a run of higher priority, so that the one that yields has to queue behind it."""

        async def start(self):
            self.run = (await app.client.send_event("holds", id="held")).runs[0].id

    async def holds(payload, io, ctx):
        await io.run_task("hold", asyncio.sleep, 60)

    holding = Holding()
    app.define(job)
    app.define(holds, priority=5)
    async with app.embedded(max_executions=1):
        started = await app.start("job")
        await asyncio.sleep(10)

        assert (await app.look(started)).status is S.QUEUED
        assert (await app.end_of(started)).status is S.COMPLETED


async def test_failed(app):
    async def job(payload, io, ctx):
        raise ValueError

    assert (await app.run(job)).status is S.FAILED


async def test_retried_run_waits(app):
    async def job(payload, io, ctx):
        raise ValueError

    app.define(job, retry=Retry(attempts=2, min_delay=600, max_delay=600, jitter=False))
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()

        assert (await app.look(started)).status is S.WAITING
        assert (await app.end_of(started)).status is S.FAILED


@pytest.mark.parametrize("status", [S.PENDING, S.QUEUED, S.EXECUTING, S.WAITING], ids=lambda s: s.name)
async def test_cancelled_from(app, status):
    started, process = await run_in(app, status)
    async with process as client:
        assert (await client.get_run(started)).status is status
        run = await client.cancel_run(started)
        await asyncio.sleep(1200)
        later = await client.get_run(started)

    assert run.status is later.status is S.CANCELLED
    assert later.completed_at is not None


async def test_timed_out(app):
    async def job(payload, io, ctx):
        await io.run_task("hold", asyncio.sleep, 100)

    assert (await app.run(job, options={"max_duration": 10})).status is S.TIMED_OUT


async def test_invalid_payload(app):
    async def job(payload, io, ctx):
        pass

    trigger = event_trigger(name="job", schema=dict[str, int])

    assert (await app.run(job, 3, options={"trigger": trigger})).status is S.INVALID_PAYLOAD


async def test_pending_then_queued_when_the_job_is_known(app):
    started, process = await run_in(app, S.PENDING)
    async with process as client:
        assert (await client.get_run(started)).status is S.PENDING
    async with app.embedded():
        assert (await app.end_of(started)).status is S.COMPLETED


async def test_rescued_run_is_queued_and_goes_on(app):
    async def job(payload, io, ctx):
        app.done.append("began")
        await io.run_task("hold", asyncio.sleep, 60)

    app.define(job)
    async with app.embedded() as process:
        started = await app.start("job")
        await app.reached(lambda: app.done)
        await process.crash()
    async with app.embedded():
        run = await app.end_of(started)

    assert run.status is S.COMPLETED
    assert app.done == ["began"] * 2


@pytest.mark.parametrize("status", [S.FAILED, S.CANCELLED, S.TIMED_OUT], ids=lambda s: s.name)
async def test_continued_from(app, status):
    async def job(payload, io, ctx):
        if app.done:
            return "end"
        if status is S.FAILED:
            raise ValueError
        await io.run_task("hold", asyncio.sleep, 100)
        return None

    app.define(job, max_duration=50)
    async with app.embedded():
        started = await app.start("job")
        await asyncio.sleep(1)
        if status is S.CANCELLED:
            await app.client.cancel_run(started)
        ended = await app.end_of(started)
        app.done.append("repaired")
        queued = await app.client.continue_run(started)
        run = await app.end_of(started)

    assert ended.status is status
    assert queued.status in (S.QUEUED, S.EXECUTING)
    assert run.error is None


@pytest.mark.parametrize(
    "status", [S.COMPLETED, S.INVALID_PAYLOAD, S.EXECUTING, S.QUEUED], ids=lambda s: s.name
)
async def test_not_continued_from(app, status):
    started, process = await run_in(app, status)
    async with process as client:
        with pytest.raises(ConflictError):
            await client.continue_run(started)
        assert (await client.get_run(started)).status is status


@pytest.mark.parametrize(
    "status", [S.COMPLETED, S.FAILED, S.TIMED_OUT, S.INVALID_PAYLOAD], ids=lambda s: s.name
)
async def test_not_cancelled_from(app, status):
    started, process = await run_in(app, status)
    async with process as client:
        with pytest.raises(ConflictError):
            await client.cancel_run(started)
        assert (await client.get_run(started)).status is status


async def test_labels_are_those_people_see():
    assert [status.label for status in RunStatus] == [
        "Pending",
        "Queued",
        "Waiting on connections",
        "Executing",
        "Waiting",
        "Completed",
        "Failed",
        "Cancelled",
        "Timed out",
        "Invalid payload",
        "Unresolved auth",
    ]


async def test_runs_can_be_listed_by_status(app):
    async def job(payload, io, ctx):
        if payload:
            raise ValueError

    app.define(job)
    async with app.embedded():
        for n in range(6):
            await app.start("job", n % 2)
        await app.client.drain()
        failed = await app.client.get_runs("job", status=S.FAILED)
        both = await app.client.get_runs("job", status=[S.FAILED, S.COMPLETED])

    assert len(failed) == 3
    assert {run.status for run in failed} == {S.FAILED}
    assert len(both) == 6


async def test_runs_are_listed_newest_first_page_by_page(app):
    async def job(payload, io, ctx):
        pass

    app.define(job)
    async with app.embedded():
        started = [await app.start("job") for _ in range(7)]
        pages = [await app.client.get_runs("job", limit=3)]
        while len(pages[-1]) == 3:
            pages.append(await app.client.get_runs("job", limit=3, before=pages[-1][-1].id))

    assert [run.id for page in pages for run in page] == started[::-1]


class Process:
    """An engine of an application, as a context that gives its client."""

    def __init__(self, app):
        self._app = app
        self._embedded: Any = None

    async def enter(self, **settings):
        self._embedded = self._app.embedded(**settings)
        await self._embedded.__aenter__()

    async def __aenter__(self):
        return self._app.client

    async def __aexit__(self, *exc_info):
        await self._embedded.__aexit__(*exc_info)


async def run_in(app, status):
    """A run in `status`, and the process that has it there."""

    async def job(payload, io, ctx):
        match payload:
            case "WAITING" | "PENDING":
                await io.wait("pause", 600)
            case "EXECUTING":
                await io.run_task("hold", asyncio.sleep, 100_000)
            case "TIMED_OUT":
                await io.run_task("hold", asyncio.sleep, 100_000)
            case "FAILED":
                raise ValueError

    async def holds(payload, io, ctx):
        await io.run_task("hold", asyncio.sleep, 100_000)

    schema = int if status is S.INVALID_PAYLOAD else None
    app.define(
        job,
        trigger=event_trigger(name="job", schema=schema),
        max_duration=50 if status is S.TIMED_OUT else None,
    )
    app.define(holds)
    process = Process(app)
    await process.enter(max_executions=1, grace=0)
    if status is S.QUEUED:
        await app.start("holds")
    started = await app.start("job", status.name)
    await asyncio.sleep(100)
    if status is S.PENDING:
        await process.__aexit__(None, None, None)
        process = Process(app.deployed())
        await process.enter()
        await asyncio.sleep(1200)
    return started, process
