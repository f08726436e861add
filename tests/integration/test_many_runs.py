"""Runs by filter: lists, pages, counts, and what is done to many at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure import NotFoundError, RunStatus, UsageError
from perdure.testing.virtual_clock import START


def define_jobs(app):
    async def good(payload, io, ctx):
        app.done.append(ctx.run.id)

    async def bad(payload, io, ctx):
        app.done.append(ctx.run.id)
        raise ValueError(payload)

    async def long(payload, io, ctx):
        await io.wait("long", timedelta(days=1))

    app.define(good)
    app.define(bad)
    app.define(long)


async def ids(app, *args, **selection):
    return [run.id for run in await app.client.get_runs(*args, **selection)]


async def test_runs_are_selected(app):
    define_jobs(app)
    async with app.embedded():
        first = (
            (await app.client.send_event("good", account_id="u", tags=["a", "b"], is_test=True)).runs[0].id
        )
        await app.clock.advance(60)
        second_event = await app.client.send_event("good", tags=["a"])
        second = second_event.runs[0].id
        await app.clock.advance(60)
        third = await app.start("bad")
        await app.client.drain()

        assert await ids(app) == [third, second, first]
        assert await ids(app, "good") == [second, first]
        assert await ids(app, limit=1) == [third]
        assert await ids(app, before=third, limit=1) == [second]
        assert await ids(app, status=RunStatus.FAILED) == [third]
        assert await ids(app, status=[RunStatus.FAILED, RunStatus.COMPLETED]) == [third, second, first]
        assert await ids(app, tags="a") == [second, first]
        assert await ids(app, tags=["a", "b"]) == [first]
        assert await ids(app, account_id="u") == [first]
        assert await ids(app, is_test=True) == [first]
        assert await ids(app, is_test=False) == [third, second]
        assert await ids(app, event_id=second_event.id) == [second]
        assert await ids(app, version="1.0.0", queue="bad") == [third]
        assert await ids(app, parent=first) == []
        assert await ids(app, created_after=START + timedelta(seconds=60)) == [third, second]
        assert await ids(app, created_before=START + timedelta(seconds=60)) == [first]
        assert await app.client.count_runs() == {
            **dict.fromkeys(RunStatus, 0),
            RunStatus.COMPLETED: 2,
            RunStatus.FAILED: 1,
        }


@pytest.mark.parametrize(
    "selection",
    [
        pytest.param({"colour": "red"}, id="unknown"),
        pytest.param({"status": "FAILED"}, id="a string for a status"),
        pytest.param({"created_after": START.replace(tzinfo=None)}, id="naive"),
        pytest.param({"limit": 0}, id="no limit"),
    ],
)
async def test_selection_that_means_nothing_is_refused(app, selection):
    async with app.embedded():
        with pytest.raises(UsageError, match=min(selection).split("_", maxsplit=1)[0]):
            await app.client.get_runs(**selection)


async def test_all_runs_page_by_page(app):
    define_jobs(app)
    async with app.embedded():
        await app.client.send_events([app.client.event("good") for _ in range(1_000)])
        await app.client.send_events([app.client.event("good") for _ in range(100)])
        await app.client.drain()
        found = [run.id async for run in app.client.iter_runs("good")]
        none = [run async for run in app.client.iter_runs("bad")]

    assert sorted(found) == sorted(app.done)
    assert found == sorted(found, reverse=True)
    assert none == []


async def test_cancel_by_filter(app):
    define_jobs(app)
    async with app.embedded():
        for n in range(3):
            await app.client.send_event("long", tags=[f"t{n % 2}"])
        ended = await app.start("good")
        await app.client.drain()

        result = await app.client.cancel_runs(tags=["t0"])
        left = await ids(app, "long", status=RunStatus.WAITING)

    assert len(result.done) == 2
    assert result.failed == {}
    assert len(left) == 1
    assert ended not in result.done


async def test_cancel_for_a_job_takes_whatever_has_not_ended(app):
    async def busy(payload, io, ctx):
        await io.run_task("busy", asyncio.sleep, 3600)

    app.define(busy, concurrency_limit=1)
    define_jobs(app)
    async with app.embedded():
        for _ in range(3):
            await app.start("busy")
        other = await app.start("long")
        await app.clock.advance(1)
        result = await app.client.cancel_runs_for_job("busy")
        runs = await app.client.get_runs("busy")

        assert len(result.done) == 3
        assert {run.status for run in runs} == {RunStatus.CANCELLED}
        assert (await app.look(other)).status is RunStatus.WAITING
        assert (await app.client.cancel_runs_for_job("busy")).done == []


async def test_cancel_for_an_event(app):
    define_jobs(app)
    async with app.embedded():
        event = await app.client.send_event("long")
        other = await app.start("long")
        await app.client.drain()
        result = await app.client.cancel_runs_for_event(event.id)

        assert result.done == [event.runs[0].id]
        assert (await app.look(other)).status is RunStatus.WAITING
        with pytest.raises(NotFoundError):
            await app.client.cancel_runs_for_event("nothing")


async def test_rerun_and_continue_by_filter(app):
    define_jobs(app)
    async with app.embedded():
        failed = [await app.start("bad", n) for n in range(3)]
        completed = await app.start("good")
        await app.client.drain()
        app.done.clear()

        rerun = await app.client.rerun_runs("bad", created_before=START + timedelta(days=1))
        await app.client.drain()
        assert sorted(rerun.done) == sorted(failed)
        assert len(app.done) == 3
        assert not set(app.done) & set(failed)

        app.done.clear()
        continued = await app.client.continue_runs(event_id=(await app.look(failed[0])).event_id)
        await app.client.drain()
        assert continued.done == app.done == [failed[0]]
        assert completed not in continued.done


async def test_nothing_selected_is_refused(app):
    async with app.embedded():
        for command in (app.client.cancel_runs, app.client.rerun_runs, app.client.continue_runs):
            with pytest.raises(UsageError, match="every run"):
                await command()


@pytest.mark.real_time
def test_sync_client_has_all_of_it(app, tmp_path):
    define_jobs(app)
    sync = app.client.sync
    with sync.embedded(app.url):
        event = sync.send_event("good", tags=["t"], account_id="u", deliver_after=3600)
        sync.cancel_event(event.id)
        sync.put_account("u", {"a": 1})
        run_id = sync.send_event("good").runs[0].id
        sync.wait_for_run(run_id, 10)

        assert sync.get_account("u").metadata == {"a": 1}
        assert [run.id for run in sync.iter_runs("good")] == [run_id]
        assert sync.count_runs()[RunStatus.COMPLETED] == 1
        assert [queue.id for queue in sync.get_queues()] == ["bad", "good", "long"]
        sync.pause_queue("good")
        sync.resume_queue("good")
        assert [str(reason) for reason in sync.why_not_running(run_id)] == ["it has ended: Completed"]
        assert sync.rerun_runs("good").done == [run_id]
        assert sync.cancel_runs_for_job("long").done == []
        assert sync.check() == []
        sync.backup(tmp_path / "copy.db")
        assert sync.prune({"completed": 0}).runs >= 1
