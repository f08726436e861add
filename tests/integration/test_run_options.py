"""What senders say about runs (account, tags, metadata, priority), and where runs and people find it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from perdure import Context, LimitExceededError, Limits, SerializationError, UsageError, event_trigger
from perdure.testing.virtual_clock import START


def note_context(app, **options):
    async def job(payload, io, ctx: Context):
        app.done.append(ctx)

    return app.define(job, **options)


async def test_run_is_told_what_its_sender_said(app):
    note_context(app)
    async with app.embedded():
        event = await app.client.send_event(
            "job", 1, account_id="user_1", tags=["a", "b", "a"], metadata={"plan": "free"}, priority=7
        )
        run = await app.end_of(event.runs[0].id)

    (ctx,) = app.done
    assert (ctx.run.tags, ctx.run.metadata, ctx.run.priority) == (("a", "b"), {"plan": "free"}, 7)
    assert (ctx.event.account_id, ctx.account.id, ctx.account.metadata) == ("user_1", "user_1", {})
    assert (run.tags, run.metadata, run.priority, run.account_id) == (
        ["a", "b"],
        {"plan": "free"},
        7,
        "user_1",
    )
    assert event.account_id == "user_1"


async def test_run_of_a_delayed_event_is_told_as_well(app):
    note_context(app)
    async with app.embedded():
        await app.client.send_event("job", 1, account_id="u", tags=["t"], metadata={"m": 1}, deliver_after=60)
        await app.clock.advance(timedelta(minutes=2))

    (ctx,) = app.done
    assert (ctx.run.tags, ctx.run.metadata, ctx.account.id) == (("t",), {"m": 1}, "u")


async def test_invoked_run_is_told_as_well(app):
    job = note_context(app)
    async with app.embedded():
        run = await app.client.invoke(
            job, 1, account_id="u", tags=["t"], metadata={"m": 1}, priority=3, concurrency_key="k"
        )
        await app.end_of(run.id)

    (ctx,) = app.done
    assert (ctx.run.tags, ctx.run.metadata, ctx.account.id, ctx.run.priority) == (("t",), {"m": 1}, "u", 3)
    assert (run.concurrency_key, run.queue) == ("k", "job")


async def test_nothing_said(app):
    note_context(app)
    async with app.embedded():
        await app.end_of(await app.start("job"))

    (ctx,) = app.done
    assert (ctx.run.tags, ctx.run.metadata, ctx.account, ctx.source) == ((), {}, None, None)


async def test_runs_are_numbered_by_job(app):
    note_context(app)
    note_context(app, id="other", trigger=event_trigger("job"))
    async with app.embedded() as process:
        for _ in range(2):
            await app.start("job")
            await app.clock.advance(1)  # ids of one millisecond are in no order
        await app.client.drain()
        await process.crash()
    async with app.embedded():
        await app.end_of(await app.start("job"))
        numbers = [run.number for run in await app.client.get_runs("job")]

    assert numbers == [3, 2, 1]
    assert sorted(ctx.run.number for ctx in app.done if ctx.job.id == "other")[:2] == [1, 2]


async def test_run_sees_the_latest_metadata_of_its_account(app):
    note_context(app)
    async with app.embedded():
        assert await app.client.get_account("u") is None
        await app.client.send_event("job", account_id="u")
        await app.client.put_account("u", {"name": "Ada"})
        await app.client.send_event("job", account_id="u")
        await app.client.drain()
        account = await app.client.get_account("u")

    assert app.done[-1].account.metadata == {"name": "Ada"}
    assert (account.id, account.metadata, account.created_at) == ("u", {"name": "Ada"}, START)


async def test_metadata_of_an_account_is_replaced(app):
    async with app.embedded():
        await app.client.put_account("u", {"a": 1})
        await app.client.put_account("u", {"b": 2})

        assert (await app.client.get_account("u")).metadata == {"b": 2}


async def test_rerun_keeps_what_the_sender_said(app):
    note_context(app)
    async with app.embedded():
        event = await app.client.send_event("job", account_id="u", tags=["t"], metadata={"m": 1})
        await app.end_of(event.runs[0].id)
        again = await app.client.rerun(event.runs[0].id)
        await app.end_of(again.id)

    assert [(ctx.run.tags, ctx.run.metadata, ctx.account.id) for ctx in app.done] == [
        (("t",), {"m": 1}, "u")
    ] * 2


@pytest.mark.parametrize(
    "options, error",
    [
        pytest.param({"tags": "abc"}, UsageError, id="a string for tags"),
        pytest.param({"tags": [1]}, UsageError, id="a tag that is no string"),
        pytest.param({"tags": [""]}, UsageError, id="an empty tag"),
        pytest.param({"tags": ["x" * 129]}, LimitExceededError, id="a long tag"),
        pytest.param({"tags": map(str, range(51))}, LimitExceededError, id="many tags"),
        pytest.param({"tags": ["\x00"]}, UsageError, id="a NUL in a tag"),
        pytest.param({"metadata": [1]}, UsageError, id="metadata that is no object"),
        pytest.param({"metadata": {"a": object()}}, SerializationError, id="metadata that is no JSON"),
        pytest.param({"metadata": {"a": "x" * 300_000}}, LimitExceededError, id="much metadata"),
        pytest.param({"priority": 1.5}, UsageError, id="a fraction as priority"),
        pytest.param({"priority": True}, UsageError, id="a boolean as priority"),
        pytest.param({"concurrency_key": 5}, UsageError, id="a number as key"),
        pytest.param({"account_id": ""}, UsageError, id="an empty account"),
    ],
)
async def test_what_can_not_be_is_refused(app, options, error):
    note_context(app)
    async with app.embedded():
        with pytest.raises(error, match="event 'job'"):
            await app.client.send_event("job", **options)

        assert await app.client.get_runs() == []


async def test_limits_are_settings(app):
    note_context(app)
    app.client.limits = Limits(tags_per_run_max=1)
    async with app.embedded():
        with pytest.raises(LimitExceededError, match="tags_per_run_max"):
            await app.client.send_event("job", tags=["a", "b"])
