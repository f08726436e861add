"""What people write before they have read the reference: it is refused, and the message says what to write."""

from __future__ import annotations

import asyncio
import logging

import pytest

from perdure import Retry, RunStatus, TaskError, UsageError, event_trigger


async def nothing(payload, io, ctx):
    pass


@pytest.mark.parametrize("call", ["invoke", "rerun", "continue_run", "rerun_runs", "continue_runs"])
async def test_calls_that_a_replay_would_repeat_are_refused_in_a_run_function(app, call):
    async def parent(payload, io, ctx):
        given = (app.client.jobs["nothing"], 1) if call == "invoke" else (ctx.run.id,)
        await getattr(app.client, call)(*given)

    app.define(nothing)
    run = await app.run(parent)

    assert run.error.name == "UsageError"
    assert f"client.{call} in a run function does it again at every replay" in run.error.message


async def test_invoking_with_a_key_is_the_same_run_each_time(app):
    async def parent(payload, io, ctx):
        await app.client.invoke(app.client.jobs["nothing"], 1, key="once")
        await io.wait("a while", 60)
        return (await app.client.invoke(app.client.jobs["nothing"], 1, key="once")).id

    app.define(nothing)
    run = await app.run(parent)

    assert run.status is RunStatus.COMPLETED


@pytest.mark.parametrize("call", ["get_run", "wait_for_run", "cancel_run", "why_not_running"])
async def test_a_run_in_place_of_its_id(app, call):
    app.define(nothing)
    async with app.embedded():
        run = await app.client.get_run(await app.start("nothing"))
        with pytest.raises(UsageError, match="must be a string, not a Run: pass its id"):
            await getattr(app.client, call)(run)


async def test_a_job_in_place_of_its_id_and_a_word_in_place_of_a_status(app):
    job = app.define(nothing)
    async with app.embedded():
        with pytest.raises(UsageError, match="job_id must be a string, not a Job"):
            await app.client.get_runs(job)
        with pytest.raises(UsageError, match=r"RunStatus\.FAILED, not 'failed'"):
            await app.client.get_runs(status="failed")


def test_a_number_in_place_of_a_retry(app):
    with pytest.raises(UsageError, match=r"job 'j': retry must be a Retry, like Retry\(attempts=3\), not 3"):
        app.client.define_job(id="j", run=nothing, retry=3)


async def test_the_loggers_name_of_the_standard_library(app):
    async def job(payload, io, ctx):
        io.logger.warning("hot")

    run = await app.run(job)

    assert [(line.level, line.message) for line in run.logs] == [("WARN", "hot")]


async def test_every_bad_end_is_told(app, caplog):
    async def slow(payload, io, ctx):
        await io.run_task("wait", _asleep)

    app.client.define_job(id="typed", run=nothing, trigger=event_trigger(name="typed", schema=int))
    app.define(slow, max_duration=1)
    async with app.embedded():
        for name in ("typed", "slow"):
            await app.end_of(await app.start(name, "no int"))

    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("ended as Invalid payload" in line for line in told)
    assert any("ended as Timed out: it executed for more than 1 s" in line for line in told)


async def test_a_handler_that_fails_is_told_at_each_try(app, caplog):
    tries = []

    def alert(notification):
        tries.append(notification.id)
        raise KeyError("the alert is broken")

    async def fails(payload, io, ctx):
        raise TaskError(key="k", error_name="E", error_message="m")

    app.define(fails, on_failure=alert, retry=Retry(attempts=1))
    async with app.embedded():
        await app.end_of(await app.start("fails"))
        await app.reached(lambda: len(tries) == 3)

    told = [record.getMessage() for record in caplog.records if "the alert is broken" in record.getMessage()]
    assert len(told) >= 2
    assert "at its try 1 of" in told[0]


async def _asleep() -> None:
    await asyncio.sleep(100)
