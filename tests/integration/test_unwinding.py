"""Putting a run down: nothing that user code does while it unwinds can change the outcome."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest

from perdure import RunStatus, TaskStatus


async def test_except_base_exception_around_a_wait_changes_nothing(app):
    async def job(payload, io, ctx):
        start = await io.now("start")
        try:
            await io.wait("pause", 3600)
        except BaseException:
            app.done.append("caught")
        return await io.now("end") - start

    run = await app.run(job)

    assert run.status is RunStatus.COMPLETED
    assert run.output >= timedelta(hours=1)


async def test_returning_from_a_caught_wait_is_no_result(app):
    async def job(payload, io, ctx):
        try:
            await io.wait("pause", 3600)
        except BaseException:
            return "wrong"
        return "right"

    assert (await app.run(job)).output == "right"


async def test_raising_from_a_caught_wait_is_no_failure(app):
    async def job(payload, io, ctx):
        try:
            await io.wait("pause", 3600)
        except BaseException as signal:
            raise RuntimeError("wrong") from signal
        return "right"

    assert (await app.run(job)).output == "right"


async def test_suppressed_cancellation_around_a_gather_changes_nothing(app):
    async def job(payload, io, ctx):
        start = await io.now("start")
        with suppress(asyncio.CancelledError):
            await asyncio.gather(io.wait("a", 3600), io.wait("b", 1800))
        return await io.now("end") - start

    assert (await app.run(job)).output >= timedelta(hours=1)


async def test_except_exception_never_sees_a_wait(app):
    async def job(payload, io, ctx):
        try:
            await io.wait("pause", 3600)
        except Exception as error:
            app.done.append(error)

    await app.run(job)

    assert app.done == []


async def test_gather_with_return_exceptions_waits(app):
    async def job(payload, io, ctx):
        start = await io.now("start")
        results = await asyncio.gather(io.wait("a", 3600), io.wait("b", 60), return_exceptions=True)
        return [results, await io.now("end") - start]

    results, took = (await app.run(job)).output

    assert results == [None, None]
    assert took >= timedelta(hours=1)


async def test_io_does_nothing_while_unwinding(app):
    async def job(payload, io, ctx):
        try:
            await io.wait("pause", 3600)
        finally:
            try:
                await io.run_task("clean up", lambda: app.done.append("cleaned up"))
            except BaseException as signal:
                app.done.append(type(signal).__name__)
                raise

    run = await app.run(job)

    assert app.done == ["Signal", "cleaned up"]
    assert run.status is RunStatus.COMPLETED


async def test_durable_clean_up_runs_once_at_the_real_end_of_a_failing_run(app):
    async def job(payload, io, ctx):
        try:
            await io.wait("pause", 3600)
            raise ValueError("failed")
        finally:
            await io.run_task("clean up", lambda: app.done.append("cleaned up"))

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert run.error.name == "ValueError"
    assert app.done == ["cleaned up"]


async def test_finally_runs_in_every_execution(app):
    async def job(payload, io, ctx):
        try:
            await io.wait("pause", 3600)
        finally:
            app.done.append(io.is_unwinding)

    await app.run(job)

    assert app.done == [True, False]


async def test_async_context_managers_are_left_in_every_execution(app):
    @asynccontextmanager
    async def connection():
        app.done.append("open")
        try:
            yield
        finally:
            await asyncio.sleep(0)
            app.done.append("close")

    async def job(payload, io, ctx):
        async with connection():
            await io.wait("pause", 3600)

    await app.run(job)

    assert app.done == ["open", "close"] * 2


async def test_clean_up_may_await_for_a_while(app):
    async def job(payload, io, ctx):
        try:
            await io.wait("pause", 3600)
        finally:
            await asyncio.sleep(2)
            app.done.append("cleaned up")

    run = await app.run(job)

    assert app.done == ["cleaned up"] * 2
    assert run.status is RunStatus.COMPLETED


async def test_code_that_does_not_unwind_is_abandoned_and_logged_with_its_place(app, caplog):
    async def job(payload, io, ctx):
        try:
            await io.wait("pause", 3600)
        except BaseException:
            await never_ending()
        return "right"

    async def never_ending():
        await asyncio.Event().wait()

    with caplog.at_level(logging.WARNING, "perdure"):
        run = await app.run(job)

    assert run.output == "right"
    assert "unwound" in caplog.text
    assert __file__ in caplog.text


async def test_handle_of_an_abandoned_execution_is_dead(app):
    release = asyncio.Event()

    async def job(payload, io, ctx):
        if ctx.run.execution > 1:
            await io.wait("pause", 3600)
            return "right"
        try:
            await io.wait("pause", 3600)
        except BaseException:
            await release.wait()
            try:
                await io.run_task("too late", lambda: app.done.append("wrong"))
            except BaseException as signal:
                app.done.append(type(signal).__name__)

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await asyncio.sleep(60)
        release.set()
        run = await app.end_of(started)

    assert app.done == ["Signal"]
    assert run.output == "right"


async def test_loop_that_swallows_every_signal_is_abandoned(app):
    async def job(payload, io, ctx):
        for _ in range(200):
            try:
                await io.wait("pause", 3600)
                return "right"
            except BaseException:
                await asyncio.sleep(0.1)
        return "wrong"

    app.define(job)
    async with app.embedded():
        run = await app.end_of(await app.start("job"))

    assert run.output == "right"


async def test_branches_alive_when_the_run_function_ends_are_cancelled(app):
    async def job(payload, io, ctx):
        async def branch():
            try:
                await asyncio.sleep(3600)
            finally:
                app.done.append("branch ended")

        app.branch = asyncio.create_task(branch())
        await asyncio.sleep(0)
        return "returned"

    run = await app.run(job)

    assert run.output == "returned"
    assert app.done == ["branch ended"]


async def test_open_tasks_of_left_branches_become_cancelled(app):
    async def job(payload, io, ctx):
        app.branches = [
            asyncio.create_task(io.run_task("body", asyncio.sleep, 3600)),
            asyncio.create_task(io.wait("wait", 3600)),
        ]
        await asyncio.sleep(0.5)
        return "returned"

    run = await app.run(job)

    assert run.output == "returned"
    assert {task.key: task.status for task in run.tasks} == {
        "body": TaskStatus.CANCELED,
        "wait": TaskStatus.CANCELED,
    }


async def test_branch_that_does_not_end_does_not_hold_the_run(app):
    async def job(payload, io, ctx):
        async def stubborn():
            while True:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)
                if app.done:
                    return

        app.branch = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        return "returned"

    app.define(job)
    async with app.embedded():
        run = await app.end_of(await app.start("job"), within=60)
        app.done.append("end")
        await asyncio.sleep(7200)

    assert run.output == "returned"


async def test_failure_of_a_left_branch_does_not_change_the_result(app):
    async def job(payload, io, ctx):
        async def branch():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                raise ValueError("too late") from None

        app.branch = asyncio.create_task(branch())
        await asyncio.sleep(0)
        return "returned"

    assert (await app.run(job)).output == "returned"


@pytest.mark.parametrize("moment", ["wait", "task", "sleep"])
async def test_cancelling_unwinds_the_code(app, moment):
    async def job(payload, io, ctx):
        try:
            if moment == "wait":
                await io.wait("pause", 0.5)
            elif moment == "task":
                await io.run_task("task", asyncio.sleep, 3600)
            else:
                await asyncio.sleep(3600)
        finally:
            app.done.append("unwound")

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await asyncio.sleep(0.2)
        run = await app.client.cancel_run(started)
        await asyncio.sleep(1)

    assert run.status is RunStatus.CANCELLED
    assert app.done == ["unwound"]


@pytest.mark.parametrize("end", ["completes", "fails", "waits"])
async def test_execution_that_has_ended_leaves_nothing_for_the_garbage_collector(app, end):
    async def job(payload, io, ctx):
        await asyncio.gather(io.run_task("one", returns_one), io.run_task("two", returns_one))
        if end == "fails":
            raise ValueError("on purpose")
        app.done.append(ctx.run.execution)
        if end == "waits":
            await io.wait("long", timedelta(days=1))

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        if end == "waits":
            app.define(job)
            async with app.embedded():
                await app.start("job")
                await asyncio.sleep(2)
        else:
            await app.run(job)
        await asyncio.sleep(1)
        gc.collect()
        left = [
            kind
            for thing in gc.garbage
            if (kind := type(thing).__name__) in {"Execution", "Stage", "Branches"}
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()

    assert app.done == ([] if end == "fails" else [1])
    assert left == []


async def returns_one():
    return 1
