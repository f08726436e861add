"""`io.wait_for_event`: runs that wait for what others send."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from pydantic import BaseModel

from perdure import RunStatus, TaskError, TaskStatus
from perdure.clock import to_datetime


class Approval(BaseModel):
    by: str
    level: int


def waiting_job(app, sync=False, **options):
    """A job that waits for "go" and returns payload and name of what came, or the failure's name."""

    async def waits(payload, io, ctx):
        try:
            event = await io.wait_for_event("k", options.pop("name", "go"), **options)
        except TaskError as error:
            return error.error_name
        return [event.id, event.payload]

    def waits_sync(payload, io, ctx):
        try:
            event = io.wait_for_event("k", options.pop("name", "go"), **options)
        except TaskError as error:
            return error.error_name
        return [event.id, event.payload]

    return app.define(waits_sync if sync else waits, id="waits")


both = pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])


@both
@pytest.mark.parametrize("after", [0, 0.02, 5, 3500])
async def test_event_wakes_the_run(app, sync, after):
    job = waiting_job(app, sync)
    async with app.embedded():
        run_id = await app.start(job)
        while not (await app.look(run_id)).tasks and not after:
            await asyncio.sleep(0.001)
        await asyncio.sleep(after)
        await app.client.send_event("other", 0)
        await app.client.send_event("go", {"a": 1}, id="e1")
        run = await app.end_of(run_id, within=3600)

    assert run.output == ["e1", {"a": 1}]
    assert run.execution_duration < timedelta(seconds=2)


@both
async def test_no_event_in_time_fails_the_task(app, sync):
    job = waiting_job(app, sync, timeout=60)
    async with app.embedded():
        run_id = await app.start(job)
        await asyncio.sleep(61)
        await app.client.send_event("go", 1)
        run = await app.end_of(run_id)

    assert run.output == "TimeoutError"
    (task,) = run.tasks
    assert task.status is TaskStatus.ERRORED
    assert "'go'" in task.error.message
    assert "60 s" in task.error.message


async def test_an_hour_unless_said_otherwise(app):
    job = waiting_job(app)
    async with app.embedded():
        run_id = await app.start(job)
        await asyncio.sleep(3590)
        assert not (await app.look(run_id)).status.is_terminal
        run = await app.end_of(run_id)
    assert run.output == "TimeoutError"


async def test_none_waits_for_ever(app):
    job = waiting_job(app, timeout=None)
    async with app.embedded():
        run_id = await app.start(job)
        await asyncio.sleep(1)
        run = await app.look(run_id)
        assert (run.status, run.wake_at) == (RunStatus.WAITING, None)
        await asyncio.sleep(24 * 3600)
        await app.client.send_event("go", 1, id="late")
        assert (await app.end_of(run_id)).output == ["late", 1]


@pytest.mark.parametrize(
    "options, wrong, right",
    [
        ({"filter": {"n": [{"$gt": 2}]}}, {"payload": {"n": 2}}, {"payload": {"n": 3}}),
        ({"context_filter": {"a": ["x"]}}, {"context": {"a": "y"}}, {"context": {"a": "x"}}),
        ({"source": "mine"}, {}, {"source": "mine"}),
        ({"account_id": "u1"}, {"account_id": "u2"}, {"account_id": "u1"}),
    ],
    ids=["filter", "context", "source", "account"],
)
@pytest.mark.parametrize("before", [False, True], ids=["sent later", "sent before it is put down"])
async def test_only_events_that_fit(app, options, wrong, right, before):
    job = waiting_job(app, **options)
    async with app.embedded():
        run_id = await app.start(job)
        await asyncio.sleep(0.01 if before else 10)
        for name, what in (("wrong", wrong), ("right", right)):
            await app.client.send_event("go", id=name, **{"payload": None, **what})
        run = await app.end_of(run_id)

    assert run.output[0] == "right"


@pytest.mark.parametrize("before", [False, True], ids=["sent later", "sent before it is put down"])
async def test_one_of_several_names_is_enough(app, before):
    job = waiting_job(app, name=["a", "b", "c"])
    async with app.embedded():
        run_id = await app.start(job)
        await asyncio.sleep(0.01 if before else 10)
        for name in ("d", "b", "a"):
            await app.client.send_event(name, None, id=name)
            await asyncio.sleep(0.005)
        run = await app.end_of(run_id)

    assert run.output[0] == "b"


async def test_events_before_the_call_do_not_count_unless_it_looks_back(app):
    async def waits(payload, io, ctx):
        await io.wait("later", 60)
        try:
            await io.wait_for_event("new", "go", timeout=1)
        except TaskError:
            app.done.append("none since")
        one = await io.wait_for_event("back", "go", since=timedelta(minutes=10))
        two = await io.wait_for_event("at", "go", since=app.began)
        return [one.id, two.id]

    job = app.define(waits)
    async with app.embedded():
        await app.client.send_event("go", 0, id="old")
        await asyncio.sleep(1000)
        app.began = to_datetime(app.clock.now())
        run_id = await app.start(job)
        await asyncio.sleep(1)
        await app.client.send_event("go", 1, id="first")
        await app.client.send_event("go", 2, id="second")
        run = await app.end_of(run_id)

    assert run.output == ["first", "first"]
    assert app.done[0] == "none since"


async def test_delayed_event_counts_when_it_is_delivered(app):
    job = waiting_job(app)
    async with app.embedded():
        run_id = await app.start(job)
        await asyncio.sleep(1)
        await app.client.send_event("go", 1, id="e", deliver_after=600)
        await asyncio.sleep(500)
        assert (await app.look(run_id)).status is RunStatus.WAITING
        run = await app.end_of(run_id)
    assert run.output == ["e", 1]
    assert run.completed_at - run.created_at >= timedelta(seconds=600)


async def test_payload_is_parsed_by_the_schema(app):
    async def waits(payload, io, ctx):
        event = await io.wait_for_event("k", "go", schema=Approval)
        app.done.append(event.payload)
        try:
            await io.wait_for_event("bad", "go", schema=Approval)
        except TaskError as error:
            return [error.error_name, error.error_message]

    job = app.define(waits)
    async with app.embedded():
        run_id = await app.start(job)
        await asyncio.sleep(1)
        await app.client.send_event("go", {"by": "me", "level": 3})
        await asyncio.sleep(1)
        await app.client.send_event("go", {"by": "me", "level": "high"}, id="e2")
        run = await app.end_of(run_id)

    assert app.done[0] == Approval(by="me", level=3)
    assert run.output[0] == "SerializationError"
    assert "$.level" in run.output[1]
    assert "e2" in run.output[1]


async def test_each_wait_takes_an_event_of_its_own_time(app):
    async def waits(payload, io, ctx):
        return [(await io.wait_for_event(["k", n], "go")).payload for n in range(5)]

    job = app.define(waits)
    async with app.embedded():
        run_id = await app.start(job)
        for n in range(5):
            await asyncio.sleep(10)
            await app.client.send_event("go", n)
        run = await app.end_of(run_id)

    assert run.output == [0, 1, 2, 3, 4]


async def test_one_event_wakes_all_that_wait_for_it(app):
    job = waiting_job(app)
    async with app.embedded():
        runs = [await app.start(job) for _ in range(450)]
        await asyncio.sleep(10)
        await app.client.send_event("go", 1, id="e")
        await asyncio.sleep(5)
        outputs = [(await app.look(run_id)).output for run_id in runs]

    assert outputs == [["e", 1]] * 450


async def test_event_is_noticed_while_a_body_keeps_the_run_in_memory(app):
    """It came in time, so the wait is no failure, however long something else in the run takes."""

    async def waits(payload, io, ctx):
        async def slow():
            await asyncio.sleep(500)

        async def wait():
            event = await io.wait_for_event("k", "go", timeout=100)
            app.done.append(app.clock.now())
            return event.payload

        return (await asyncio.gather(io.run_task("slow", slow), wait()))[1]

    job = app.define(waits)
    async with app.embedded():
        run_id = await app.start(job)
        await asyncio.sleep(50)
        sent = app.clock.now()
        await app.client.send_event("go", 7)
        run = await app.end_of(run_id)

    assert run.output == 7
    assert app.done[0] - sent < 1000
    assert run.executions == 1


async def test_run_does_not_wait_for_the_event_that_started_it(app):
    async def waits(payload, io, ctx):
        event = await io.wait_for_event("next", "waits", timeout=60)
        return [payload, event.payload]

    job = app.define(waits)
    async with app.embedded():
        run_id = await app.start(job, 1)
        await asyncio.sleep(30)
        await app.start(job, 2)
        run = await app.end_of(run_id)

    assert run.output == [1, 2]


async def test_event_sent_by_a_sibling_at_the_same_moment_counts(app):
    async def waits(payload, io, ctx):
        event, _ = await asyncio.gather(
            io.wait_for_event("k", "go", timeout=60), io.send_event("send", "go", 5)
        )
        return event.payload

    run = await app.run(waits)
    assert run.output == 5


async def test_waits_that_are_over_leave_nothing_behind(app):
    async def waits(payload, io, ctx):
        for n in range(5):
            try:
                await io.wait_for_event(["k", n], "go", timeout=10)
            except TaskError:
                app.done.append(n)
        try:
            async with asyncio.timeout(0.5):
                await io.wait_for_event("interrupted", "go")
        except TimeoutError:
            pass
        await io.wait("long", 100)

    job = app.define(waits)
    async with app.embedded() as embedded:
        run_id = await app.start(job)
        await asyncio.sleep(100)
        store = embedded._engine.store
        assert await store.waiter_names() == []
        await app.end_of(run_id)


@both
async def test_survives_restarts_at_any_time(app, sync):
    job = waiting_job(app, sync)
    run_id = None
    for _ in range(5):
        async with app.embedded() as embedded:
            run_id = run_id or await app.start(job)
            await asyncio.sleep(3)
            await embedded.crash()
    async with app.embedded() as embedded:
        await app.client.send_event("go", 1, id="e")
        await embedded.crash()
    async with app.embedded():
        run = await app.end_of(run_id, within=60)

    assert run.output == ["e", 1]


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("", {}, "name the event"),
        ([], {}, "name the event"),
        ([f"n{n}" for n in range(101)], {}, "at most 100"),
        ("go", {"filter": {"a": [{"$nope": 1}]}}, "filter"),
        ("go", {"timeout": -1}, "timeout"),
        ("go", {"since": datetime(2030, 1, 1)}, "since"),
    ],
)
async def test_mistakes_are_explained(app, name, options, says):
    async def waits(payload, io, ctx):
        await io.wait_for_event("k", name, **options)

    run = await app.run(waits)

    assert run.error.name == "UsageError", run.error
    assert "wait_for_event('k')" in run.error.message
    assert says in run.error.message


async def test_many_that_wait_for_several_names_and_an_event_that_was_there_before(app):
    """More waits than are compared at a time, the last of whose names has come already."""

    async def waits(payload, io, ctx):
        event = await io.wait_for_event("k", ["a", "b", "c"], since=timedelta(hours=1))
        return event.id

    job = app.define(waits)
    async with app.embedded():
        await app.client.send_event("c", id="early")
        await asyncio.sleep(60)
        runs = [await app.start(job) for _ in range(150)]
        await asyncio.sleep(30)
        outputs = [(await app.look(run_id)).output for run_id in runs]

    assert outputs == ["early"] * 150


async def test_of_several_events_that_were_there_before_the_earliest_counts(app):
    async def waits(payload, io, ctx):
        return (await io.wait_for_event("k", ["a", "b"], since=timedelta(hours=1))).id

    job = app.define(waits)
    async with app.embedded():
        await app.client.send_event("b", id="first")
        await asyncio.sleep(1)
        await app.client.send_event("a", id="second")
        await asyncio.sleep(60)
        run = await app.end_of(await app.start(job))

    assert run.output == "first"
