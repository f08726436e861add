"""Sending events: stored once, deduplicated by id, refused with a reason."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from perdure import LimitExceededError, RunStatus, SerializationError, UsageError


async def test_event_is_returned_with_its_runs(app):
    define_job(app)
    async with app.embedded():
        event = await app.client.send_event("job", {"n": 1}, context={"c": 2}, source="me")
        stored = await app.client.get_event(event.id)

    assert (event.name, event.payload, event.context, event.source) == ("job", {"n": 1}, {"c": 2}, "me")
    assert [run.job_id for run in event.runs] == ["job"]
    assert stored.id == event.id
    assert [run.id for run in stored.runs] == [run.id for run in event.runs]


async def test_event_that_nobody_waits_for_is_stored(app):
    async with app.embedded():
        event = await app.client.send_event("nobody")

        assert event.runs == []
        assert (await app.client.get_event(event.id)).name == "nobody"


async def test_unknown_event_is_none(app):
    async with app.embedded():
        assert await app.client.get_event("nothing") is None


async def test_repeated_id_returns_the_first_event_and_starts_nothing(app):
    define_job(app)
    async with app.embedded():
        first = await app.client.send_event("job", {"n": 1}, id="same")
        second = await app.client.send_event("job", {"n": 2}, id="same")
        await app.client.drain()
        runs = await app.client.get_runs("job")

    assert second.payload == {"n": 1}
    assert [run.id for run in second.runs] == [run.id for run in first.runs]
    assert len(runs) == 1


async def test_repeated_id_after_the_run_ended_and_the_process_died(app):
    define_job(app)
    async with app.embedded() as process:
        first = await app.client.send_event("job", id="same")
        await app.end_of(first.runs[0].id)
        await process.crash()
    async with app.embedded():
        second = await app.client.send_event("job", id="same")
        await app.client.drain()

    assert second.runs[0].id == first.runs[0].id
    assert app.done == ["run"]


async def test_concurrent_sends_of_one_id_start_one_run(app):
    define_job(app)
    async with app.embedded():
        events = await asyncio.gather(*(app.client.send_event("job", n, id="same") for n in range(50)))
        await app.client.drain()

    assert len({event.runs[0].id for event in events}) == 1
    assert len({event.payload for event in events}) == 1
    assert app.done == ["run"]


async def test_same_id_twice_in_one_send_starts_one_run(app):
    define_job(app)
    async with app.embedded():
        client = app.client
        events = await client.send_events([client.event("job", n, id="same") for n in range(3)])
        await client.drain()

    assert len({event.runs[0].id for event in events}) == 1
    assert app.done == ["run"]


async def test_several_events_in_one_go_keep_their_order(app):
    define_job(app)
    async with app.embedded():
        events = await app.client.send_events([app.client.event("job", n) for n in range(20)])

    assert [event.payload for event in events] == list(range(20))


async def test_sending_nothing(app):
    async with app.embedded():
        assert await app.client.send_events([]) == []


async def test_rich_values_become_json(app):
    define_job(app)
    async with app.embedded():
        event = await app.client.send_event("job", {"at": datetime(2024, 1, 1, tzinfo=UTC), "pair": (1, 2)})

    assert event.payload["at"].startswith("2024-01-01T00:00:00")
    assert event.payload["pair"] == [1, 2]


async def test_timestamp_is_kept(app):
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    async with app.embedded():
        event = await app.client.send_event("x", timestamp=moment)

    assert event.timestamp == moment


@pytest.mark.parametrize(
    "options, error",
    [
        pytest.param({"name": ""}, UsageError, id="no name"),
        pytest.param({"name": "x\x00"}, UsageError, id="NUL in the name"),
        pytest.param({"name": "\ud800"}, UsageError, id="surrogate in the name"),
        pytest.param({"name": 3}, UsageError, id="name that is no string"),
        pytest.param({"name": "x" * 1000}, LimitExceededError, id="long name"),
        pytest.param({"id": "\x00"}, UsageError, id="NUL in the id"),
        pytest.param({"id": "x" * 1000}, LimitExceededError, id="long id"),
        pytest.param({"payload": object()}, SerializationError, id="object"),
        pytest.param({"payload": {"a": [float("nan")]}}, SerializationError, id="NaN"),
        pytest.param({"payload": {"a": "\ud800"}}, SerializationError, id="surrogate in the payload"),
        pytest.param({"payload": "x" * 11_000_000}, LimitExceededError, id="large payload"),
        pytest.param({"context": "x" * 1_100_000}, LimitExceededError, id="large context"),
        pytest.param({"timestamp": datetime(2024, 1, 1)}, UsageError, id="naive timestamp"),
    ],
)
async def test_event_that_cannot_be_stored_is_refused_and_the_next_one_taken(app, options, error):
    define_job(app)
    async with app.embedded():
        with pytest.raises(error):
            await app.client.send_event(**{"name": "job", **options})
        event = await app.client.send_event("job")
        run = await app.end_of(event.runs[0].id)

    assert run.status is RunStatus.COMPLETED


async def test_payload_with_nul_characters_is_kept(app):
    define_job(app)
    async with app.embedded():
        run = await app.end_of((await app.client.send_event("job", {"a\x00": "b\x00c"})).runs[0].id)

    assert run.payload == {"a\x00": "b\x00c"}


async def test_too_many_events_in_one_send_are_refused(app):
    async with app.embedded():
        with pytest.raises(LimitExceededError, match="events_per_send_max"):
            await app.client.send_events([app.client.event("x")] * 1_001)


async def test_event_sent_from_a_run_is_sent_once(app):
    define_job(app)

    async def sender(payload, io, ctx):
        event = await io.send_event("send", "job", {"n": 1})
        app.done.append(event.id)
        await io.wait("pause", 600)
        return event.runs[0].id

    app.define(sender)
    async with app.embedded():
        run = await app.end_of(await app.start("sender"))
        child = await app.end_of(run.output)

    ids = [entry for entry in app.done if entry != "run"]
    assert len(set(ids)) == 1
    assert app.done.count("run") == 1
    assert child.payload == {"n": 1}


async def test_event_sent_from_a_body_that_is_cut_off_by_a_crash_is_not_sent_twice(app):
    define_job(app)
    sent = []

    async def sender(payload, io, ctx):
        await io.send_events("send", [app.client.event("job"), app.client.event("job")])

    app.define(sender)

    def on_commit(moment):
        sent.append(moment)

    async with app.embedded(on_commit=on_commit) as process:
        started = await app.start("sender")
        await app.client.drain()
        await process.crash()
    async with app.embedded():
        await app.end_of(started)
        await app.client.drain()
        runs = await app.client.get_runs("job")

    assert len(runs) == 2


async def test_get_event_inside_a_run_is_the_same_on_replay(app):
    define_job(app)

    async def reader(payload, io, ctx):
        event = await io.get_event("get", payload)
        app.done.append(event)
        await io.wait("pause", 600)

    app.define(reader)
    async with app.embedded():
        event = await app.client.send_event("job", {"n": 1})
        await app.end_of(await app.start("reader", event.id))

    seen = [entry for entry in app.done if entry != "run"]
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert type(seen[0]) is type(seen[1]) is type(event)


async def test_get_event_of_an_unknown_id_raises_task_error(app):
    async def job(payload, io, ctx):
        from perdure import TaskError

        try:
            await io.get_event("get", "nothing")
        except TaskError as error:
            return error.error_name

    assert (await app.run(job)).output == "NotFoundError"


async def test_test_events_mark_their_runs(app):
    define_job(app)
    async with app.embedded():
        event = await app.client.send_event("job", is_test=True)

        assert (await app.look(event.runs[0].id)).is_test


def define_job(app):
    async def job(payload, io, ctx):
        app.done.append("run")

    app.define(job)
