"""What a developer is told of his own accord about what looks like a mistake."""

import asyncio
import logging

import pytest

from perdure import RunStatus, TaskError, event_trigger


def lines_of(run):
    return [line.message for line in run.logs]


async def test_call_that_is_not_awaited_is_told_with_its_place(app, recwarn):
    async def job(payload, io, ctx):
        io.run_task("forgotten", lambda: 1)

    run = await app.run(job)
    recwarn.clear()  # Python's own, which names no run

    assert run.status is RunStatus.COMPLETED
    assert any("never awaited" in line and "in job" in line for line in lines_of(run))


async def test_send_event_of_the_client_is_refused_in_a_run_function(app):
    async def job(payload, io, ctx):
        await app.client.send_event("other")

    run = await app.run(job)

    assert run.error is not None
    assert "io.send_event" in run.error.message


@pytest.mark.parametrize("way", ["with an id", "in a task"])
async def test_send_event_of_the_client_that_is_safe_is_allowed(app, way):
    async def send():
        await app.client.send_event("other")

    async def job(payload, io, ctx):
        if way == "with an id":
            await app.client.send_event("other", id="once")
        else:
            await io.run_task("send", send)

    assert (await app.run(job)).status is RunStatus.COMPLETED


async def test_renamed_key_is_told(app):
    names = iter(["old", "new"])

    async def job(payload, io, ctx):
        await io.run_task(next(names), lambda: 1)
        await io.wait("pause", 600)

    run = await app.run(job)

    assert any("'old'" in line and "renamed" in line for line in lines_of(run))


async def test_run_that_comes_to_all_its_tasks_is_told_nothing(app):
    async def job(payload, io, ctx):
        async def outer():
            await io.run_task("inner", lambda: 1)

        await io.run_task("outer", outer)
        await io.wait("pause", 600)
        await io.run_task("last", lambda: 1)

    assert lines_of(await app.run(job)) == []


async def test_failed_run_is_in_the_log_of_the_process(app, caplog):
    async def job(payload, io, ctx):
        await io.run_task("boom", lambda: {}["missing"])

    with caplog.at_level(logging.WARNING, "perdure"):
        run = await app.run(job)

    assert f"run {run.id} (job job) failed: task 'boom': KeyError" in caplog.text


async def test_error_of_a_run_shows_where_it_left_the_run_function(app):
    async def job(payload, io, ctx):
        try:
            await io.run_task("boom", lambda: {}["missing"])
        except KeyError as error:  # looks right, and isn't: what run_task raises is a TaskError
            raise AssertionError from error

    run = await app.run(job)

    assert run.error is not None
    assert run.error.name == "KeyError"
    assert "TaskError" in run.error.stack
    assert "in job" in run.error.stack


async def test_event_that_triggers_nothing_is_told_once(app, caplog):
    async with app.embedded():
        with caplog.at_level(logging.WARNING, "perdure"):
            await app.client.send_event("misspelt")
            await app.client.send_event("misspelt")

    assert caplog.text.count("misspelt") == 1


async def test_task_error_matches_the_original(app):
    async def job(payload, io, ctx):
        try:
            await io.run_task("boom", lambda: {}["missing"])
        except TaskError as error:
            return error.matches(LookupError)

    assert (await app.run(job)).output is True


async def test_event_that_a_filter_or_a_waiting_run_takes_is_no_reason_for_a_hint(app, caplog):
    async def waits(payload, io, ctx):
        return (await io.wait_for_event("wait", "waited.for")).payload

    app.client.define_job(id="picky", run=waits, trigger=event_trigger(name="picked", filter={"n": [1]}))
    app.define(waits)
    async with app.embedded():
        run_id = await app.start("waits")
        await asyncio.sleep(1)
        await app.client.send_event("picked", {"n": 2})
        await app.client.send_event("waited.for", "here")
        await app.client.send_event("unheard", 1)
        run = await app.client.wait_for_run(run_id)

    assert run.output == "here"
    assert [record.args[0] for record in caplog.records if "listens" in record.message] == ["unheard"]
