"""Events sent for later: delivered once, at their time, to the jobs that there are then; edited and cancelled before."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure import ConflictError, NotFoundError, TaskError, UsageError, event_trigger
from perdure.testing.virtual_clock import START

HOUR = timedelta(hours=1)


def note_events(app, **options):
    """A job that notes when it ran, and its payload."""

    async def later(payload, io, ctx):
        app.done.append((since_start(app), payload))

    return app.define(later, **options)


def since_start(app):
    """Whole seconds since the beginning."""
    return round(app.clock.now() / 1000 - START.timestamp())


async def test_event_is_delivered_at_its_time(app):
    note_events(app)
    async with app.embedded():
        event = await app.client.send_event("later", "at", deliver_at=START + HOUR)
        await app.client.send_event("later", "after", deliver_after=2 * HOUR)
        assert event.runs == []
        assert event.deliver_at == START + HOUR
        assert event.delivered_at is None

        await app.clock.advance(3 * HOUR)
        delivered = await app.client.get_event(event.id)

    assert app.done == [(3600, "at"), (7200, "after")]
    assert delivered.delivered_at >= START + HOUR
    assert [run.job_id for run in delivered.runs] == ["later"]


async def test_past_time_is_now(app):
    note_events(app)
    async with app.embedded():
        event = await app.client.send_event("later", 1, deliver_at=START - HOUR)

        assert len(event.runs) == 1


async def test_events_are_delivered_in_the_order_of_their_times(app):
    note_events(app, concurrency_limit=1)
    async with app.embedded():
        for seconds in (30, 10, 20, 10.5):
            await app.client.send_event("later", seconds, deliver_after=seconds)
        await app.clock.advance(HOUR)

    assert [payload for _, payload in app.done] == [10, 10.5, 20, 30]


async def test_delivery_survives_a_crash_and_comes_to_jobs_defined_meanwhile(app):
    async with app.embedded() as process:
        await app.client.send_event("later", 1, deliver_after=HOUR)
        await app.client.send_event("later", 2, deliver_after=3 * HOUR)
        await process.crash()
    await app.clock.advance(2 * HOUR)

    release = app.deployed()
    note_events(release)
    async with release.embedded():
        await app.clock.advance(2 * HOUR)

    # The first was due while nobody was there: at once, then.
    assert app.done == [(7200, 1), (10800, 2)]


async def test_every_delayed_event_runs_once_whatever_dies(app):
    note_events(app)
    async with app.embedded():
        for n in range(50):
            await app.client.send_event("later", n, deliver_after=10 + n / 10)
    for _ in range(8):
        async with app.embedded() as process:
            await app.clock.advance(2)
            await process.crash()
    async with app.embedded():
        await app.clock.advance(HOUR)
        runs = await app.client.get_runs("later", limit=100)

    assert len(runs) == 50
    assert sorted({payload for _, payload in app.done}) == list(range(50))


async def test_sending_again_edits_what_is_not_delivered(app):
    note_events(app)
    async with app.embedded():
        await app.client.send_event("later", "old", id="e", deliver_after=HOUR, context={"a": 1})
        edited = await app.client.send_event("later", "new", id="e", deliver_after=2 * HOUR)
        await app.clock.advance(3 * HOUR)

    assert app.done == [(7200, "new")]
    assert (edited.payload, edited.context, edited.deliver_at) == ("new", {"a": 1}, START + 2 * HOUR)


async def test_event_can_be_brought_forward_to_now(app):
    note_events(app)
    async with app.embedded():
        await app.client.send_event("later", 1, id="e", deliver_after=HOUR)
        await app.client.send_event("later", 1, id="e")
        await app.clock.advance(2 * HOUR)

    assert [when < 60 for when, _ in app.done] == [True]


async def test_delivered_event_is_not_edited(app):
    note_events(app)
    async with app.embedded():
        await app.client.send_event("later", "old", id="e", deliver_after=10)
        await app.clock.advance(11)
        again = await app.client.send_event("later", "new", id="e", deliver_after=HOUR)
        await app.clock.advance(2 * HOUR)

    assert again.payload == "old"
    assert [payload for _, payload in app.done] == ["old"]


async def test_cancelled_event_is_never_delivered(app):
    note_events(app)
    async with app.embedded():
        event = await app.client.send_event("later", 1, deliver_after=HOUR)
        cancelled = await app.client.cancel_event(event.id)
        again = await app.client.cancel_event(event.id)
        await app.client.send_event("later", 2, id=event.id)  # is known, and stays cancelled
        await app.clock.advance(2 * HOUR)

    assert cancelled.cancelled_at == again.cancelled_at == START
    assert app.done == []


async def test_delivered_event_can_not_be_cancelled(app):
    note_events(app)
    async with app.embedded():
        event = await app.client.send_event("later", 1)

        with pytest.raises(ConflictError, match="cancel_runs_for_event"):
            await app.client.cancel_event(event.id)
        with pytest.raises(NotFoundError):
            await app.client.cancel_event("nothing")


async def test_runs_send_for_later_and_cancel(app):
    note_events(app)

    async def planner(payload, io, ctx):
        kept = await io.send_event("keep", "later", "kept", deliver_after=HOUR)
        dropped = await io.send_event("drop", "later", "dropped", deliver_after=HOUR)
        await io.cancel_event("cancel", dropped.id)
        await io.wait("until both are due", 2 * HOUR)
        try:
            await io.cancel_event("too late", kept.id)
        except TaskError as error:
            return error.matches(ConflictError)

    run = await app.run(planner, force_replay=True, within=timedelta(days=1))

    assert run.output is True
    assert [payload for _, payload in app.done] == ["kept"]


async def test_sync_runs_send_for_later_and_cancel(app):
    note_events(app)

    def planner(payload, io, ctx):
        io.send_event("keep", "later", "kept", deliver_after=10)
        dropped = io.send_event("drop", "later", "dropped", deliver_after=10)
        io.cancel_event("cancel", dropped.id)

    async with app.embedded():
        job = app.define(planner)
        await app.end_of(await app.start(job))
        await app.clock.advance(60)

    assert [payload for _, payload in app.done] == ["kept"]


async def test_filters_are_asked_at_delivery(app):
    note_events(app, trigger=event_trigger("later", filter={"n": [2]}))
    async with app.embedded():
        await app.client.send_event("later", {"n": 1}, id="e", deliver_after=HOUR)
        await app.client.send_event("later", {"n": 2}, id="e", deliver_after=HOUR)
        await app.clock.advance(2 * HOUR)

    assert [payload for _, payload in app.done] == [{"n": 2}]


async def test_wrong_times_are_refused(app):
    async with app.embedded():
        for options in (
            {"deliver_at": START.replace(tzinfo=None)},
            {"deliver_after": -1},
            {"deliver_after": 1, "deliver_at": START},
            {"deliver_in": 1},
        ):
            with pytest.raises(UsageError, match="deliver_"):
                await app.client.send_event("later", **options)


async def test_drain_does_not_wait_for_delayed_events(app):
    note_events(app)
    async with app.embedded():
        await app.client.send_event("later", 1, deliver_after=HOUR)
        await asyncio.wait_for(app.client.drain(), 60)

        assert since_start(app) < 60
