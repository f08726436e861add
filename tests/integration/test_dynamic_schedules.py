"""Dynamic schedules: registered by key while the application runs, from outside or in runs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from perdure import RunStatus, UsageError

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
"""Virtual time begins at midnight of that day."""


def define_ticking(app, schedule, id="ticking"):
    """A job that keeps what fired it."""

    async def ticking(payload, io, ctx):
        app.done.append((ctx.source.id, payload.ts))
        return ctx.source.metadata, ctx.account and ctx.account.id

    return app.define(ticking, id=id, trigger=schedule)


def keys_of(app) -> list[str]:
    return [key for key, _ in app.done]


async def until(moment: datetime, app) -> None:
    await asyncio.sleep((moment - datetime.fromtimestamp(app.clock.now() / 1000, UTC)).total_seconds())


# --- registering ---------------------------------------------------------------------------------------------------------


async def test_registration_fires_by_its_own_schedule(app):
    schedule = app.client.dynamic_schedule(id="reports")
    define_ticking(app, schedule)
    async with app.embedded():
        await schedule.register("a", interval=3600)
        await schedule.register("b", cron="0 12 * * *", timezone="Europe/Berlin")
        await asyncio.sleep(12.5 * 3600)

    assert keys_of(app).count("a") == 12
    assert [ts for key, ts in app.done if key == "b"] == [NOON - timedelta(hours=1)]


async def test_runs_get_key_metadata_and_account(app):
    schedule = app.client.dynamic_schedule(id="reports")
    job = define_ticking(app, schedule)
    async with app.embedded():
        await app.client.put_account("acc", {"plan": "pro"})
        await schedule.register("a", interval=60, metadata={"region": ["eu"]}, account_id="acc")
        await asyncio.sleep(61)
        [run] = await app.client.get_runs(job.id)

    assert run.output == ({"region": ["eu"]}, "acc")


async def test_registering_tells_what_is_registered(app):
    schedule = app.client.dynamic_schedule(id="reports")
    async with app.embedded():
        made = await schedule.register("a", cron="0 12 * * *", metadata=1, account_id="acc", catch_up=True)
        await schedule.register("b", interval=timedelta(hours=3))

        assert (made.key, made.cron, made.timezone, made.interval) == ("a", "0 12 * * *", "UTC", None)
        assert (made.metadata, made.account_id, made.catch_up) == (1, "acc", True)
        assert (made.next_at, made.last_at) == (NOON, None)
        listed = await schedule.list()
        assert listed[0] == made
        assert [(each.key, each.interval) for each in listed[1:]] == [("b", timedelta(hours=3))]
        assert await app.client.dynamic_schedule(id="other").list() == []


async def test_same_key_replaces(app):
    schedule = app.client.dynamic_schedule(id="reports")
    define_ticking(app, schedule)
    async with app.embedded():
        await schedule.register("a", interval=60)
        await asyncio.sleep(30)
        await schedule.register("a", interval=3600)
        await asyncio.sleep(3590)
        assert app.done == []
        await asyncio.sleep(11)

        assert keys_of(app) == ["a"]
        assert len(await schedule.list()) == 1


async def test_same_again_changes_nothing_of_when_it_fires(app):
    schedule = app.client.dynamic_schedule(id="reports")
    define_ticking(app, schedule)
    async with app.embedded():
        first = await schedule.register("a", interval=60)
        await asyncio.sleep(40)
        second = await schedule.register("a", interval=60, metadata="new")
        await asyncio.sleep(21)

        assert first.next_at == second.next_at
        assert second.metadata == "new"
        assert keys_of(app) == ["a"]


async def test_unregistered_fires_no_more(app):
    schedule = app.client.dynamic_schedule(id="reports")
    define_ticking(app, schedule)
    async with app.embedded():
        await schedule.register("a", interval=60)
        await schedule.register("b", interval=60)
        await asyncio.sleep(61)

        assert await schedule.unregister("a") is True
        assert await schedule.unregister("a") is False
        assert await schedule.unregister("unknown") is False
        assert [each.key for each in await schedule.list()] == ["b"]
        await asyncio.sleep(60)

    assert sorted(keys_of(app)) == ["a", "b", "b"]


async def test_unregistered_in_the_very_moment_it_is_due(app):
    schedule = app.client.dynamic_schedule(id="reports")
    define_ticking(app, schedule)
    async with app.embedded():
        await schedule.register("a", interval=60)
        await asyncio.sleep(60)  # the tick and this are due in one turn of the loop
        assert await schedule.unregister("a") is True
        await asyncio.sleep(300)

    assert len(app.done) <= 1


async def test_registered_again_counts_from_now_and_knows_its_last_tick(app):
    schedule = app.client.dynamic_schedule(id="reports")
    define_ticking(app, schedule)
    async with app.embedded():
        await schedule.register("a", interval=60)
        await asyncio.sleep(61)
        await schedule.unregister("a")
        await asyncio.sleep(100)
        again = await schedule.register("a", interval=60)

        assert again.last_at == app.done[0][1]
        assert again.next_at > datetime.fromtimestamp(app.clock.now() / 1000, UTC) + timedelta(seconds=59)


async def test_two_jobs_on_one_schedule_each_run(app):
    schedule = app.client.dynamic_schedule(id="reports")
    first, second = define_ticking(app, schedule, "first"), define_ticking(app, schedule, "second")
    async with app.embedded():
        await schedule.register("a", interval=60)
        await schedule.register("b", interval=60)
        await asyncio.sleep(61)

        for job in (first, second):
            runs = await app.client.get_runs(job.id)
            assert [run.status for run in runs] == [RunStatus.COMPLETED] * 2
    assert sorted(keys_of(app)) == ["a", "a", "b", "b"]


async def test_schedules_of_other_ids_are_apart(app):
    reports, bills = app.client.dynamic_schedule(id="reports"), app.client.define_dynamic_schedule(id="bills")
    define_ticking(app, reports)
    async with app.embedded():
        await bills.register("a", interval=60)
        assert await reports.unregister("a") is False
        await asyncio.sleep(61)

        assert app.done == []
        assert app.client.dynamic_schedule(id="reports") is reports


# --- restarts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catch_up", [False, True])
async def test_registrations_outlive_the_process(app, catch_up):
    schedule = app.client.dynamic_schedule(id="reports")
    define_ticking(app, schedule)
    async with app.embedded() as process:
        await schedule.register("a", interval=60, catch_up=catch_up)
        await asyncio.sleep(61)
        await process.crash()
    await asyncio.sleep(600)
    async with app.embedded():
        await asyncio.sleep(61)
        assert [each.key for each in await schedule.list()] == ["a"]

    # The one that was due comes late; those after it are skipped, or made up for one by one.
    minutes = [round((ts - app.done[0][1]).total_seconds() / 60) for _, ts in app.done]
    assert minutes == (list(range(12)) if catch_up else [0, 1, 11])


async def test_registration_of_a_release_without_the_job_waits_for_one_that_has_it(app):
    schedule = app.client.dynamic_schedule(id="reports")
    async with app.embedded():
        await schedule.register("a", interval=60)
        await asyncio.sleep(61)
    release = app.deployed()
    define_ticking(release, release.client.dynamic_schedule(id="reports"))
    async with release.embedded():
        await asyncio.sleep(61)

    assert keys_of(app) == ["a"]


# --- in runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force_replay", [False, True])
async def test_registering_in_a_run_is_a_task(app, force_replay):
    schedule = app.client.dynamic_schedule(id="reports")
    define_ticking(app, schedule)

    async def job(payload, io, ctx):
        made = await schedule.register(payload["key"], interval=3600, metadata=payload)
        await io.wait("pause", 1800)
        listed = await schedule.list()
        return made.key, made.next_at, [each.key for each in listed]

    run = await app.run(job, {"key": "a"}, force_replay=force_replay)

    assert run.output[0] == "a"
    # The replay after half an hour gives what was registered then, and registers nothing.
    assert run.output[1] - datetime(2030, 1, 1, 1, tzinfo=UTC) < timedelta(seconds=1)
    assert run.output[2] == ["a"]
    assert [task.name for task in run.tasks] == ["Register Schedule", "wait", "List Schedules"]
    assert run.tasks[0].params["key"] == "a"


async def test_unregistering_in_a_run_keeps_its_answer(app):
    schedule = app.client.dynamic_schedule(id="reports")

    async def job(payload, io, ctx):
        found = await schedule.unregister("a")
        await io.wait("pause", 60)
        again = await schedule.unregister("a", task_key="once more")
        return found, again

    app.define(job)
    async with app.embedded(force_replay=True):
        await schedule.register("a", interval=60)
        assert (await app.end_of(await app.start("job"))).output == (True, False)


async def test_registering_one_key_twice_in_a_run_needs_another_task_key(app):
    schedule = app.client.dynamic_schedule(id="reports")

    async def job(payload, io, ctx):
        await schedule.register("a", interval=60)
        await schedule.register("a", interval=120, task_key="again")
        await schedule.register("a", interval=180)

    run = await app.run(job)

    assert run.error.name == "DuplicateKeyError"
    assert len(run.tasks) == 2


async def test_schedules_in_a_sync_run(app):
    schedule = app.client.dynamic_schedule(id="reports")

    def job(payload, io, ctx):
        made = io.register_schedule("register", schedule, "a", interval=60, metadata={"x": 1})
        io.wait("pause", 30)
        return made.metadata, io.unregister_schedule("unregister", schedule, "a")

    assert (await app.run(job)).output == ({"x": 1}, True)


async def test_io_has_the_same_in_async_runs(app):
    schedule = app.client.dynamic_schedule(id="reports")

    async def job(payload, io, ctx):
        made = await io.register_schedule("register", schedule, "a", cron="@hourly")
        return made.cron, await io.unregister_schedule("unregister", schedule, "a")

    run = await app.run(job, force_replay=True)

    assert run.output == ("@hourly", True)
    assert [task.key for task in run.tasks] == ["register", "unregister"]


async def test_awaitable_form_in_a_sync_run_says_what_to_use(app):
    schedule = app.client.dynamic_schedule(id="reports")

    def job(payload, io, ctx):
        schedule.register("a", interval=60)

    run = await app.run(job)

    assert run.error.name == "UsageError"
    assert "io.register_schedule" in run.error.message


# --- mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, says",
    [
        pytest.param({}, "one of cron=", id="no schedule"),
        pytest.param({"cron": "@daily", "interval": 60}, "one of cron=", id="both"),
        pytest.param({"interval": 5}, "20 s", id="too short"),
        pytest.param({"interval": timedelta(days=31)}, "30 days", id="too long"),
        pytest.param({"interval": 60.5}, "whole number", id="fraction"),
        pytest.param({"interval": 60, "timezone": "Europe/Berlin"}, "timezone", id="interval with a zone"),
        pytest.param({"cron": "61 * * * *"}, "61 * * * *", id="bad expression"),
        pytest.param({"cron": "@daily", "timezone": "Europe/Atlantis"}, "Europe/Atlantis", id="no such zone"),
        pytest.param({"interval": 60, "meta": 1}, "'meta'", id="no such option"),
        pytest.param({"interval": 60, "metadata": object()}, "metadata", id="metadata that is no JSON"),
        pytest.param({"interval": 60, "account_id": 7}, "account_id", id="account that is no text"),
    ],
)
async def test_registrations_that_are_refused(app, options, says):
    schedule = app.client.dynamic_schedule(id="reports")
    async with app.embedded():
        with pytest.raises(Exception, match=r"reports.register\('a'\)") as refused:
            await schedule.register("a", **options)

        assert says in str(refused.value)
        assert await schedule.list() == []


@pytest.mark.parametrize("id", ["", "a:b", "a\x00"])
def test_ids_that_are_refused(app, id):
    with pytest.raises(UsageError):
        app.client.dynamic_schedule(id=id)


def test_empty_key_is_refused(app):
    with pytest.raises(UsageError, match="needs a key"):
        app.client.dynamic_schedule(id="reports").register("", interval=60)
