"""Jobs that run by the clock: which ticks there are over time zones, restarts and releases, and what the job gets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from perdure import cron_trigger, interval_trigger
from perdure.testing.virtual_clock import START, VirtualClock

MINUTE = timedelta(minutes=1)


def note_ticks(app, trigger, **options):
    """A job that notes (ts, last_timestamp) of its ticks."""

    async def ticking(payload, io, ctx):
        app.done.append((payload.ts, payload.last_timestamp))

    return app.define(ticking, trigger=trigger, **options)


def at(*minutes):
    return [START + minute * MINUTE for minute in minutes]


async def test_interval_ticks_from_its_registration_on(app):
    note_ticks(app, interval_trigger(MINUTE))

    async with app.embedded():
        await app.clock.advance(timedelta(seconds=200))

    first, second, third = at(1, 2, 3)
    assert app.done == [(first, None), (second, first), (third, second)]


async def test_ticks_are_run_at_their_time(app):
    started = []

    async def job(payload, io, ctx):
        started.append((app.clock.now() - payload.ts.timestamp() * 1000, ctx.event.name, ctx.event.timestamp))

    app.define(job, trigger=interval_trigger(MINUTE))
    async with app.embedded():
        await app.clock.advance(MINUTE * 2.5)

    assert [late < 100 for late, _, _ in started] == [True, True]
    assert [(name, when) for _, name, when in started] == [
        ("dev.trigger.scheduled", tick) for tick in at(1, 2)
    ]


async def test_cron_follows_its_time_zone_over_a_change_of_clocks(app):
    note_ticks(app, cron_trigger("30 2 * * *", timezone="Europe/Berlin"))
    clock = VirtualClock(datetime(2030, 3, 29, 12, tzinfo=UTC))  # clocks go from 2 to 3 on the 31st

    async with app.embedded(clock=clock):
        await clock.advance(timedelta(days=4))

    assert [ts for ts, _ in app.done] == [
        datetime(2030, 3, 30, 1, 30, tzinfo=UTC),
        datetime(2030, 3, 31, 1, 0, tzinfo=UTC),  # there is no 2:30: at the end of the gap, once
        datetime(2030, 4, 1, 0, 30, tzinfo=UTC),
        datetime(2030, 4, 2, 0, 30, tzinfo=UTC),
    ]


async def test_cron_that_is_shown_twice_ticks_once(app):
    note_ticks(app, cron_trigger("30 2 * * *", timezone="Europe/Berlin"))
    clock = VirtualClock(datetime(2030, 10, 26, 12, tzinfo=UTC))  # clocks go back from 3 to 2 on the 27th

    async with app.embedded(clock=clock):
        await clock.advance(timedelta(days=1.5))

    assert [ts for ts, _ in app.done] == [datetime(2030, 10, 27, 0, 30, tzinfo=UTC)]


async def test_restart_goes_on_from_the_last_tick(app):
    note_ticks(app, interval_trigger(MINUTE))
    async with app.embedded() as process:
        await app.clock.advance(MINUTE * 2.5)
        await process.crash()

    async with app.embedded():
        await app.clock.advance(MINUTE)

    first, second, third = at(1, 2, 3)
    assert app.done == [(first, None), (second, first), (third, second)]


async def test_missed_ticks_are_skipped(app):
    note_ticks(app, interval_trigger(MINUTE))
    async with app.embedded():
        await app.clock.advance(MINUTE * 2.5)
    await app.clock.advance(MINUTE * 10)

    async with app.embedded():
        await app.clock.advance(MINUTE * 2)

    # The tick that was due when nobody was there is made up for once; then it goes on in step.
    assert [ts for ts, _ in app.done] == at(1, 2, 3, 13, 14)
    assert [last for _, last in app.done] == [None, *at(1, 2, 3, 13)]


async def test_missed_ticks_are_caught_up_on_if_asked_for(app):
    note_ticks(app, interval_trigger(MINUTE, catch_up=True))
    async with app.embedded():
        await app.clock.advance(MINUTE * 2.5)
    await app.clock.advance(MINUTE * 3)

    async with app.embedded():
        await app.clock.advance(MINUTE)

    assert sorted(app.done[2:]) == list(zip(at(3, 4, 5, 6), at(2, 3, 4, 5), strict=True))


async def test_changed_schedule_begins_anew(app):
    note_ticks(app, interval_trigger(MINUTE))
    async with app.embedded():
        await app.clock.advance(MINUTE * 1.5)
    release = app.deployed()
    note_ticks(release, interval_trigger(MINUTE * 2))

    async with release.embedded():
        await app.clock.advance(MINUTE * 2.5)

    assert [ts for ts, _ in app.done] == at(1, 3.5)
    assert [last for _, last in app.done] == [None, at(1)[0]]


async def test_schedule_rests_while_its_job_is_gone_and_comes_back_with_it(app):
    note_ticks(app, interval_trigger(MINUTE))
    async with app.embedded():
        await app.clock.advance(MINUTE * 1.5)
    async with app.deployed().embedded():
        await app.clock.advance(MINUTE * 3)

    release = app.deployed()
    note_ticks(release, interval_trigger(MINUTE))
    async with release.embedded():
        await app.clock.advance(MINUTE * 1.5)
        assert len(await release.client.get_runs()) == 2

    assert [ts for ts, _ in app.done] == at(1, 5.5)


async def test_disabled_job_does_not_tick(app):
    note_ticks(app, interval_trigger(MINUTE), enabled=False)

    async with app.embedded():
        await app.clock.advance(MINUTE * 3)

    assert app.done == []


async def test_job_defined_on_a_connected_client_ticks(app):
    async with app.embedded():
        await app.clock.advance(MINUTE * 5)
        note_ticks(app, interval_trigger(MINUTE))
        await app.clock.advance(MINUTE * 1.5)

    assert [ts for ts, _ in app.done] == at(6)


async def test_every_tick_runs_once_whatever_dies(app):
    note_ticks(app, interval_trigger(timedelta(seconds=20)))

    for _ in range(6):
        async with app.embedded() as process:
            await app.clock.advance(timedelta(seconds=20))
            await process.crash()
    async with app.embedded():
        await app.clock.advance(timedelta(seconds=21))
        await app.client.drain()

    ticks = [ts for ts, _ in app.done]
    assert sorted(set(ticks)) == [START + timedelta(seconds=20) * n for n in range(1, 8)]
    async with app.embedded():
        runs = await app.client.get_runs()
    assert len(runs) == 7
