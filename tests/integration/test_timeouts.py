"""Durable time-outs (`io.timeout`, `timeout=`) and asyncio's, which count within one execution."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure import Retry, RunStatus, TaskError, TaskStatus, current_task


async def test_durable_time_out_over_a_long_wait(app):
    async def job(payload, io, ctx):
        start = await io.now("start")
        try:
            async with io.timeout("limit", timedelta(days=1)):
                await io.wait("long", timedelta(days=3))
        except TimeoutError:
            return await io.now("end") - start
        return "no time-out"

    run = await app.run(job, within=timedelta(days=4))

    assert timedelta(days=1) <= run.output < timedelta(days=1, seconds=5)


async def test_durable_time_out_that_is_not_reached(app):
    async def job(payload, io, ctx):
        async with io.timeout("limit", 7000):
            await io.wait("pause", 3600)
        await io.wait("longer than the limit", 7000)
        return "end"

    assert (await app.run(job, within=timedelta(hours=4))).output == "end"


async def test_durable_time_out_counts_from_the_first_execution(app):
    async def job(payload, io, ctx):
        start = await io.now("start")
        try:
            async with io.timeout("limit", 1000):
                for n in range(10):
                    await io.wait(["pause", n], 300)
        except TimeoutError:
            return await io.now("end") - start

    run = await app.run(job)

    assert timedelta(seconds=1000) <= run.output < timedelta(seconds=1005)
    assert run.executions == 5


async def test_durable_time_out_counts_over_a_crash(app):
    async def job(payload, io, ctx):
        start = await io.now("start")
        try:
            async with io.timeout("limit", 1000):
                await io.wait("pause", 5000)
        except TimeoutError:
            return await io.now("end") - start

    app.define(job)
    async with app.embedded() as process:
        started = await app.start("job")
        await app.client.drain()
        await asyncio.sleep(500)
        await process.crash()
    async with app.embedded():
        run = await app.end_of(started)

    assert timedelta(seconds=1000) <= run.output < timedelta(seconds=1005)


async def test_durable_time_out_fires_again_on_replay(app):
    async def job(payload, io, ctx):
        try:
            async with io.timeout("limit", 600):
                await io.wait("long", 5000)
        except TimeoutError:
            app.done.append("timed out")
        await io.wait("pause", 600)
        return "end"

    run = await app.run(job)

    assert run.output == "end"
    assert app.done == ["timed out", "timed out"]


async def test_durable_time_out_interrupts_a_running_body(app):
    async def job(payload, io, ctx):
        try:
            async with io.timeout("limit", 5):
                await io.run_task("slow", asyncio.sleep, 3600)
        except TimeoutError:
            app.done.append("timed out")
        await io.wait("pause", 600)
        return "end"

    run = await app.run(job)

    assert run.output == "end"
    assert app.done == ["timed out"] * 2
    assert next(task for task in run.tasks if task.key == "slow").status is TaskStatus.CANCELED


async def test_completion_before_the_deadline_wins_on_replay_too(app):
    async def job(payload, io, ctx):
        async with io.timeout("limit", 5):
            result = await io.run_task("quick", asyncio.sleep, 1, "result")
        await io.wait("pause", 3600)
        return result

    assert (await app.run(job)).output == "result"


async def test_nested_durable_time_outs_the_inner_first(app):
    async def job(payload, io, ctx):
        try:
            async with io.timeout("outer", 1000):
                try:
                    async with io.timeout("inner", 500):
                        await io.wait("long", 5000)
                except TimeoutError:
                    await io.run_task("note", lambda: app.done.append("inner"))
                await io.wait("long again", 5000)
        except TimeoutError:
            await io.run_task("note outer", lambda: app.done.append("outer"))

    await app.run(job)

    assert app.done == ["inner", "outer"]


async def test_nested_durable_time_outs_the_outer_first(app):
    async def job(payload, io, ctx):
        try:
            async with io.timeout("outer", 500):
                try:
                    async with io.timeout("inner", 1000):
                        await io.wait("long", 5000)
                except TimeoutError:
                    app.done.append("wrong")
        except TimeoutError:
            await io.run_task("note outer", lambda: app.done.append("outer"))
        return "end"

    run = await app.run(job)

    assert run.output == "end"
    assert app.done == ["outer"]


async def test_durable_time_out_around_several_branches(app):
    async def job(payload, io, ctx):
        try:
            async with io.timeout("limit", 600):
                await asyncio.gather(io.wait("a", 300), io.wait("b", 5000), io.wait("c", 9000))
        except TimeoutError:
            return "timed out"

    run = await app.run(job)

    assert run.output == "timed out"
    assert {task.key: task.status.name for task in run.tasks if task.key in "abc"} == {
        "a": "COMPLETED",
        "b": "CANCELED",
        "c": "CANCELED",
    }


async def test_own_time_out_error_inside_a_durable_time_out_is_passed_on(app):
    async def job(payload, io, ctx):
        async with io.timeout("limit", 600):
            raise TimeoutError("my own")

    run = await app.run(job)

    assert run.error.name == "TimeoutError"
    assert run.error.message == "my own"


async def test_time_out_of_a_task_fails_its_attempt(app):
    async def job(payload, io, ctx):
        try:
            await io.run_task("slow", asyncio.sleep, 3600, timeout=5)
        except TaskError as error:
            return error.matches(TimeoutError)

    assert (await app.run(job, force_replay=True)).output is True


async def test_time_out_of_a_task_counts_waits_in_its_body(app):
    async def job(payload, io, ctx):
        async def body():
            await io.wait("pause", 5000)

        start = await io.now("start")
        try:
            await io.run_task("slow", body, timeout=600)
        except TaskError as error:
            return [error.error_name, await io.now("end") - start]

    name, took = (await app.run(job)).output

    assert name == "TimeoutError"
    assert timedelta(seconds=600) <= took < timedelta(seconds=605)


async def test_time_out_of_a_task_survives_a_crash(app):
    async def job(payload, io, ctx):
        async def body():
            await io.wait("pause", 5000)

        start = await io.now("start")
        try:
            await io.run_task("slow", body, timeout=600)
        except TaskError:
            return await io.now("end") - start

    app.define(job)
    async with app.embedded() as process:
        started = await app.start("job")
        await app.client.drain()
        await asyncio.sleep(300)
        await process.crash()
    async with app.embedded():
        run = await app.end_of(started)

    assert timedelta(seconds=600) <= run.output < timedelta(seconds=605)


async def test_every_attempt_has_the_whole_time_out(app):
    async def job(payload, io, ctx):
        async def body():
            await asyncio.sleep(8 if current_task().attempts == 1 else 4)
            return current_task().attempts

        return await io.run_task("task", body, timeout=5, retry=Retry(attempts=2, min_delay=60, jitter=False))

    assert (await app.run(job)).output == 2


async def test_time_out_of_a_task_with_time_left_does_nothing(app):
    async def job(payload, io, ctx):
        async def body():
            await io.wait("pause", 3600)
            return "done"

        return await io.run_task("task", body, timeout=7000)

    assert (await app.run(job)).output == "done"


async def test_body_that_catches_its_time_out_may_return(app):
    async def job(payload, io, ctx):
        async def body():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                return "cancelled"

        try:
            return await io.run_task("task", body, timeout=5)
        except TaskError as error:
            return error.error_name

    assert (await app.run(job)).output in ("TimeoutError", "cancelled")


async def test_asyncio_time_out_over_a_wait_within_one_execution(app):
    async def job(payload, io, ctx):
        try:
            async with asyncio.timeout(5):
                await io.wait("pause", 3600)
        except TimeoutError:
            return ctx.run.execution

    assert (await app.run(job)).output == 1


async def test_asyncio_time_out_armed_too_long_fails_and_names_the_durable_one(app):
    async def job(payload, io, ctx):
        async with asyncio.timeout(1000):
            await io.wait("pause", 3600)

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert "io.timeout" in run.error.message


async def test_timer_of_a_sleeping_branch_keeps_the_run_in_memory_until_it_fires(app):
    async def job(payload, io, ctx):
        async def branch():
            await asyncio.sleep(30)
            await io.run_task("after", lambda: app.done.append(ctx.run.execution))

        await asyncio.gather(branch(), io.wait("pause", 3600))

    await app.run(job)

    assert app.done == [1]


@pytest.mark.parametrize("duration", [-1, float("nan"), "5"], ids=repr)
async def test_impossible_time_out_is_refused(app, duration):
    async def job(payload, io, ctx):
        await io.run_task("task", asyncio.sleep, 0, timeout=duration)

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert "UsageError" in (run.error.name, *run.error.types)


async def test_slot_of_a_run_that_timed_out_is_free_once_its_bodies_have_ended(app):
    async def body():
        app.done.append("begins")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.5)
            app.done.append("ended")

    async def job(payload, io, ctx):
        await io.run_task("body", body)

    app.define(job, concurrency_limit=1, max_duration=1)

    async with app.embedded():
        for _ in range(3):
            await app.client.send_event("job")
        await app.client.drain()

    assert app.done == ["begins", "ended"] * 3
