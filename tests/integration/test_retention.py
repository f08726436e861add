"""What has ended is kept as long as it is said, and what live runs refer to is kept longer; copies and checks."""

from __future__ import annotations

from datetime import timedelta

import pytest

from perdure import Client, ConfigurationError, Pruned, Retention, UsageError

HOUR = timedelta(hours=1)
"""Loops look around once a minute also under virtual time: days would take their time."""


def define_jobs(app):
    async def good(payload, io, ctx):
        await io.run_task("task", int)
        io.logger.info("a line")

    async def bad(payload, io, ctx):
        raise ValueError

    async def long(payload, io, ctx):
        await io.wait("long", 100 * HOUR)

    app.define(good)
    app.define(bad)
    app.define(long)


async def jobs_of_runs(app):
    return sorted(run.job_id for run in await app.client.get_runs())


async def test_everything_is_kept_by_default(app):
    define_jobs(app)
    async with app.embedded():
        await app.start("good")
        await app.clock.advance(10 * HOUR)

        assert await jobs_of_runs(app) == ["good"]
        assert await app.client.prune() == Pruned()


async def test_runs_go_when_they_are_old_enough_by_how_they_ended(app):
    define_jobs(app)
    async with app.embedded(retention=Retention(completed=7 * HOUR, failed=30 * HOUR)):
        event = await app.client.send_event("good")
        for job in ("bad", "long"):
            await app.start(job)

        await app.clock.advance(7 * HOUR - timedelta(minutes=5))
        assert await jobs_of_runs(app) == ["bad", "good", "long"]
        await app.clock.advance(timedelta(minutes=10))
        assert await jobs_of_runs(app) == ["bad", "long"]
        assert await app.client.get_run(event.runs[0].id) is None
        assert await app.client.get_event(event.id) is None
        await app.clock.advance(30 * HOUR)
        assert await jobs_of_runs(app) == ["long"]
        assert await app.client.check() == []


async def test_retention_may_be_a_dict_with_a_default(app):
    define_jobs(app)
    async with app.embedded(retention={"default": HOUR, "failed": 3 * HOUR}):
        unheard = await app.client.send_event("unheard")
        for job in ("good", "bad", "long"):
            await app.start(job)
        await app.clock.advance(2 * HOUR)

        assert await jobs_of_runs(app) == ["bad", "long"]
        assert await app.client.get_event(unheard.id) is None


async def test_retention_counts_over_restarts(app):
    define_jobs(app)
    async with app.embedded():
        await app.start("good")
        await app.client.drain()
    await app.clock.advance(2 * HOUR)

    async with app.embedded(retention={"completed": HOUR}):
        await app.clock.advance(60)

        assert await jobs_of_runs(app) == []


async def test_many_are_deleted_batch_by_batch(app):
    define_jobs(app)
    async with app.embedded(retention={"completed": HOUR}):
        await app.client.send_events([app.client.event("good") for _ in range(1_000)])
        await app.clock.advance(HOUR + timedelta(minutes=3))

        assert await app.client.get_runs() == []


async def test_prune_now(app):
    define_jobs(app)
    async with app.embedded():
        await app.client.send_events([app.client.event("good") for _ in range(500)])
        await app.start("bad")
        await app.client.send_event("unheard")
        await app.client.drain()
        await app.clock.advance(60)

        assert await app.client.prune(Retention(default=7200)) == Pruned()
        assert await app.client.prune({"completed": 30}) == Pruned(runs=500)
        assert await app.client.prune({"events": 30}) == Pruned(events=1)
        assert await jobs_of_runs(app) == ["bad"]


async def test_delayed_events_are_not_pruned(app):
    define_jobs(app)
    async with app.embedded(retention={"default": HOUR}):
        event = await app.client.send_event("good", deliver_after=10 * HOUR)
        await app.clock.advance(5 * HOUR)
        assert await app.client.get_event(event.id) is not None

        await app.clock.advance(5 * HOUR + timedelta(minutes=1))
        assert await jobs_of_runs(app) == ["good"]


async def test_what_a_live_run_has_waited_for_stays(app):
    async def child(payload, io, ctx):
        return payload

    child_job = app.define(child)

    async def parent(payload, io, ctx):
        result = await child_job.invoke_and_wait(payload, key="child")
        await io.wait("long", 5 * HOUR)
        return result.output

    app.define(parent)
    async with app.embedded(retention={"default": HOUR}):
        run_id = await app.start("parent", "x")
        await app.clock.advance(4 * HOUR)
        assert await jobs_of_runs(app) == ["child", "parent"]

        assert (await app.end_of(run_id, 10 * HOUR)).output == "x"
        await app.clock.advance(HOUR + timedelta(minutes=3))
        assert await jobs_of_runs(app) == []
        assert await app.client.check() == []


@pytest.mark.parametrize("retention", [{"complete": 1}, {"completed": -1}, 5, {"completed": "week"}])
async def test_what_is_no_retention_is_refused(app, retention):
    with pytest.raises(UsageError, match="retention"):
        app.embedded(retention=retention)


async def test_backup_is_a_database_of_the_same_runs(app, tmp_path):
    define_jobs(app)
    copy = tmp_path / "copy.db"
    async with app.embedded():
        run_id = await app.start("good")
        await app.start("long")
        await app.client.drain()
        await app.client.backup(copy)
        await app.start("good")
        with pytest.raises(ConfigurationError, match="exists"):
            await app.client.backup(copy)

    other = Client(id="other")
    async with other.embedded(f"sqlite:///{copy}", clock=app.clock, inline=True):
        assert sorted(run.job_id for run in await other.get_runs()) == ["good", "long"]
        copied = await other.get_run(run_id)
        assert copied is not None
        assert [task.key for task in copied.tasks] == ["task"]
        assert await other.check() == []
