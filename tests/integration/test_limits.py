"""Sizes above the limits fail clearly, naming the setting, and can be raised."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Limits, RunStatus


async def test_output_of_a_task_above_the_limit_fails_it_and_names_the_setting(app):
    async def job(payload, io, ctx):
        await io.run_task("large output", lambda: "x" * 2_000)

    run = await app.run(job, limits=Limits(output_bytes_max=1_000))

    assert run.status is RunStatus.FAILED
    assert run.error.name == "LimitExceededError"
    assert "large output" in run.error.message
    assert "output_bytes_max" in run.error.message


async def test_output_below_a_raised_limit_is_stored(app):
    async def job(payload, io, ctx):
        return len(await io.run_task("large", lambda: "x" * 11_000_000))

    run = await app.run(job, limits=Limits(output_bytes_max=12_000_000))

    assert run.output == 11_000_000


async def test_output_of_a_run_above_the_limit_fails_it(app):
    async def job(payload, io, ctx):
        return "x" * 2_000

    run = await app.run(job, limits=Limits(run_output_bytes_max=1_000))

    assert run.status is RunStatus.FAILED
    assert "run_output_bytes_max" in run.error.message


async def test_more_tasks_than_a_run_may_have_fail_it(app):
    async def job(payload, io, ctx):
        for n in range(20):
            await io.run_task(["task", n], lambda: None)

    run = await app.run(job, limits=Limits(tasks_per_run_max=10))

    assert run.status is RunStatus.FAILED
    assert "tasks_per_run_max" in run.error.message
    assert len(run.tasks) == 10


async def test_key_above_the_limit_is_refused(app):
    async def job(payload, io, ctx):
        await io.run_task("x" * 2_000, lambda: None)

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert "key_chars_max" in run.error.message


@pytest.mark.parametrize("size", [1_000, 100_000])
async def test_outputs_larger_than_a_claim_carries_are_fetched_when_asked_for(app, size):
    async def job(payload, io, ctx):
        values = [await io.run_task(["value", n], lambda n=n: str(n) * size) for n in range(8)]
        await io.wait("pause", 600)
        return [len(value) for value in values] == [size] * 8 and [value[0] for value in values]

    run = await app.run(job, limits=Limits(claim_bytes_max=3 * size))

    assert run.output == list("01234567")


async def test_omitted_outputs_keep_the_order_of_parallel_branches(app):
    async def job(payload, io, ctx):
        order = []

        async def branch(n):
            await io.run_task(["value", n], asyncio.sleep, 8 - n, "x" * (10 if n % 2 else 10_000))
            order.append(n)

        await asyncio.gather(*(branch(n) for n in range(8)))
        app.done.append(order)
        await io.wait("pause", 600)

    await app.run(job, limits=Limits(claim_bytes_max=100))

    assert app.done == [[7, 6, 5, 4, 3, 2, 1, 0]] * 2
