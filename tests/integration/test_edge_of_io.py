"""Texts, options and limits are checked where they come in; what goes wrong is said in terms of the call."""

import asyncio

import pytest

from perdure import Retry


@pytest.mark.parametrize("how", ["continue", "job retry"])
async def test_failure_by_io_timeout_is_reset(app, how):
    async def slow():
        app.done.append("x")
        await asyncio.sleep(3600 if len(app.done) == 1 else 1)

    async def job(payload, io, ctx):
        async with io.timeout("limit", 60):
            await io.run_task("slow", slow)
        return "end"

    app.define(job, retry=Retry(attempts=3, min_delay=1, jitter=False) if how == "job retry" else None)
    async with app.embedded():
        s = await app.start("job")
        r = await app.end_of(s)
        if how == "continue":
            assert r.error.name == "TimeoutError"
            await app.client.continue_run(s)
            r = await app.end_of(s)
    assert r.output == "end"


@pytest.mark.parametrize(
    "message", ["nul \x00", "surrogate \ud800", None, {"a": 1}], ids=["nul", "surrogate", "none", "dict"]
)
async def test_log_message(app, message):
    async def job(payload, io, ctx):
        io.logger.info(message)
        return "end"

    run = await app.run(job)
    assert run.output == "end" or run.error.name in ("UsageError", "SerializationError"), run.error


@pytest.mark.parametrize("name", ["\ud800", "x\x00", 3, "x" * 5000], ids=["surrogate", "nul", "int", "long"])
async def test_task_name(app, name):
    async def job(payload, io, ctx):
        await io.run_task("key", lambda: 1, name=name)

    run = await app.run(job)
    assert run.error is not None
    assert run.error.name in ("UsageError", "SerializationError", "LimitExceededError")


async def test_params_bytes_max(app):
    async def job(payload, io, ctx):
        await io.run_task("key", lambda: 1, params="x" * 2_000_000)

    assert (await app.run(job)).error.name == "LimitExceededError"


async def test_log_bytes_max(app):
    async def job(payload, io, ctx):
        io.logger.info("m", "x" * 2_000_000)  # noqa: PLE1205 - not the standard library's

    assert (await app.run(job)).error.name == "LimitExceededError"


async def test_redact_as_a_string_is_refused_or_works(app):
    async def job(payload, io, ctx):
        await io.run_task("key", lambda: {"password": "secret"}, redact="password")

    run = await app.run(job)
    assert "secret" not in repr(run.tasks), "silently not redacted"


@pytest.mark.parametrize(
    "options", [{"redact": 3}, {"retry": 3}, {"on_error": 3}, {"properties": 3}, {"style": 3}], ids=str
)
async def test_option_of_wrong_type(app, options):
    async def fails():
        raise ValueError

    async def job(payload, io, ctx):
        await io.run_task("key", fails, **options)

    run = await app.run(job)
    assert run.error.name == "UsageError", run.error.name


async def test_task_factory_set_while_running_is_kept(app):
    def factory(loop, coro, **k):
        return asyncio.Task(coro, loop=loop, **k)

    async with app.embedded():
        asyncio.get_running_loop().set_task_factory(factory)
    assert asyncio.get_running_loop().get_task_factory() is factory
