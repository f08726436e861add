"""Code that raises what isn't meant for it: SystemExit, StopIteration, endless messages; and keys used twice side by side."""

import asyncio

import pytest

from perdure import RunStatus, TaskError


@pytest.mark.parametrize("where", ["task", "run"])
async def test_huge_error_message_is_cut(app, where):
    def fail():
        raise ValueError("x" * 5_000_000)

    async def job(payload, io, ctx):
        if where == "run":
            fail()
        await io.run_task("task", fail)

    run = await app.run(job)
    assert run.status is RunStatus.FAILED
    assert len(run.error.message) <= 20_100


async def test_stop_iteration_of_a_plain_body(app):
    def body():
        raise StopIteration(1)

    async def job(payload, io, ctx):
        try:
            await io.run_task("task", body)
        except TaskError as error:
            return error.error_name

    run = await app.run(job)
    assert run.output in ("StopIteration", "RuntimeError")


async def test_system_exit_in_the_run_function_fails_the_run_only(app):
    async def job(payload, io, ctx):
        raise SystemExit(3)

    run = await app.run(job)
    assert run.status is RunStatus.FAILED
    assert run.error.name == "SystemExit"


async def test_two_branches_using_the_same_key_show_both_call_sites(app):
    async def job(payload, io, ctx):
        await asyncio.gather(io.run_task("same", asyncio.sleep, 1), io.run_task("same", asyncio.sleep, 1))

    run = await app.run(job)
    assert run.error.name == "DuplicateKeyError"
    assert run.error.message.count("in job") == 2, run.error.message
