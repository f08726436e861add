"""User code that does what it shouldn't: a clear error, nothing else is disturbed."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time

import pytest

from perdure import RunStatus


async def test_io_of_another_run_is_refused(app):
    ios = []

    async def lends(payload, io, ctx):
        ios.append(io)
        await io.run_task("hold", asyncio.sleep, 10)

    async def borrows(payload, io, ctx):
        await ios[0].run_task("task", lambda: app.done.append("wrong"))

    app.define(lends)
    app.define(borrows)
    async with app.embedded():
        await app.start("lends")
        await app.reached(lambda: ios)
        run = await app.end_of(await app.start("borrows"))

    assert run.error.name == "UsageError"
    assert app.done == []


async def test_io_outside_any_run_is_refused(app):
    ios = []

    async def job(payload, io, ctx):
        ios.append(io)
        await io.run_task("hold", asyncio.sleep, 10)

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.reached(lambda: ios)
        from perdure import UsageError

        with pytest.raises(UsageError, match="run"):
            await ios[0].run_task("task", lambda: None)
        await app.end_of(started)


async def test_io_in_a_foreign_thread_is_refused(app):
    async def job(payload, io, ctx):
        def foreign():
            try:
                asyncio.run(io.run_task("task", lambda: None))
            except BaseException as error:
                app.done.append(type(error).__name__)

        thread = threading.Thread(target=foreign)
        thread.start()
        await asyncio.to_thread(thread.join)

    await app.run(job)

    assert app.done == ["UsageError"]


async def test_io_in_a_thread_with_the_runs_context_is_refused(app):
    async def job(payload, io, ctx):
        def foreign():
            try:
                asyncio.run(io.run_task("task", lambda: None))
            except BaseException as error:
                app.done.append(type(error).__name__)

        await asyncio.to_thread(foreign)

    run = await app.run(job)

    assert app.done == ["UsageError"]
    assert run.status is RunStatus.COMPLETED


async def test_io_of_an_ended_run_raises_the_signal(app):
    kept = []

    async def job(payload, io, ctx):
        kept.append((io, __import__("contextvars").copy_context()))

    app.define(job)
    async with app.embedded():
        await app.end_of(await app.start("job"))
        io, context = kept[0]

        async def late():
            try:
                await io.run_task("late", lambda: app.done.append("wrong"))
            except BaseException as signal:
                app.done.append(type(signal).__name__)

        await asyncio.create_task(late(), context=context)

    assert app.done == ["Signal"]


async def test_two_branches_using_the_same_key_at_once_are_refused(app):
    async def job(payload, io, ctx):
        await asyncio.gather(io.run_task("same", asyncio.sleep, 1), io.run_task("same", asyncio.sleep, 1))

    run = await app.run(job)

    assert run.error.name == "DuplicateKeyError"


async def test_run_function_that_spins_through_a_million_turns_does_not_stop_others(app):
    async def spins(payload, io, ctx):
        for _ in range(20_000):
            await asyncio.sleep(0)

    async def job(payload, io, ctx):
        return await io.run_task("task", asyncio.sleep, 0, "fine")

    app.define(spins)
    app.define(job)
    async with app.embedded():
        await app.start("spins")
        assert (await app.end_of(await app.start("job"))).output == "fine"


@pytest.mark.real_time
async def test_blocked_loop_has_a_line_in_the_log_of_the_run_with_the_place(app, caplog):
    async def job(payload, io, ctx):
        block_the_loop()
        await io.run_task("after", lambda: None)

    with caplog.at_level(logging.WARNING, "perdure"):
        run = await app.run(job, watch_loop=True)

    assert any("block_the_loop" in line.message for line in run.logs), caplog.text


def block_the_loop():
    time.sleep(2.5)


async def test_run_function_that_deletes_its_frame_references_survives_garbage_collection(app):
    async def job(payload, io, ctx):
        async def branch(n):
            await io.wait(["pause", n], 600)
            return n

        branches = asyncio.gather(*(branch(n) for n in range(3)))
        gc.collect()
        return await branches

    run = await app.run(job)
    gc.collect()

    assert run.output == [0, 1, 2]


async def test_recursion_error_in_a_body_fails_that_task(app):
    def deep():
        return deep()

    async def job(payload, io, ctx):
        await io.run_task("deep", deep)

    assert (await app.run(job)).error.name == "RecursionError"


async def test_output_nested_too_deeply_fails_that_task(app):
    def body():
        value = []
        for _ in range(100_000):
            value = [value]
        return value

    async def job(payload, io, ctx):
        await io.run_task("deep", body)

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert "deep" in run.error.message


async def test_output_that_contains_itself_fails_that_task(app):
    def body():
        value = []
        value.append(value)
        return value

    async def job(payload, io, ctx):
        await io.run_task("loop", body)

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert "loop" in run.error.message


async def test_cancelling_its_own_main_task_fails_the_run(app):
    async def job(payload, io, ctx):
        main = asyncio.current_task()
        assert main is not None
        main.cancel()
        await asyncio.sleep(0)

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert run.error.name == "CancelledError"


async def test_cancelling_all_tasks_of_the_loop_but_its_own_does_not_hang_the_run(app):
    async def job(payload, io, ctx):
        async def branch():
            await io.wait("pause", 600)

        branches = [asyncio.create_task(branch()) for _ in range(1)]
        await asyncio.sleep(0)
        for task in branches:
            task.cancel()
        await asyncio.wait(branches)
        return "end"

    assert (await app.run(job)).output == "end"


async def test_task_and_context_names_do_not_matter(app):
    async def job(payload, io, ctx):
        main = asyncio.current_task()
        assert main is not None
        main.set_name("")
        return await asyncio.create_task(io.run_task("task", lambda: 1), name="\ud800")

    assert (await app.run(job)).output == 1


async def test_key_list_changed_after_the_call_changes_nothing(app):
    async def job(payload, io, ctx):
        key = ["a"]
        running = asyncio.create_task(io.run_task(key, asyncio.sleep, 1, 1))
        await asyncio.sleep(0.1)
        key.append("b")
        return [await running, await io.run_task(key, asyncio.sleep, 0, 2)]

    run = await app.run(job, force_replay=True)

    assert run.output == [1, 2]


async def test_coroutine_of_io_that_is_never_awaited_does_nothing(app):
    async def job(payload, io, ctx):
        forgotten = io.run_task("forgotten", lambda: app.done.append("wrong"))
        forgotten.close()
        return "end"

    assert (await app.run(job)).output == "end"
    assert app.done == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks come with Python 3.12")
async def test_eager_task_factory(app):
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - not in 3.11, nor in its types

    async def job(payload, io, ctx):
        async def branch(n):
            first = await io.run_task(["first", n], asyncio.sleep, 0, n)
            await io.wait(["pause", n], 600)
            return first + await io.run_task(["second", n], asyncio.sleep, 0, n)

        return await asyncio.gather(*(branch(n) for n in range(3)))

    run = await app.run(job)

    assert run.output == [0, 2, 4]


def test_uvloop(tmp_path):
    uvloop = pytest.importorskip("uvloop")
    from perdure import Client, event_trigger

    client = Client(id="app")

    @client.job(id="job", trigger=event_trigger(name="job"))
    async def job(payload, io, ctx):
        async def branch(n):
            await io.wait(["pause", n], 0.2)
            return await io.run_task(["task", n], asyncio.sleep, 0.01, n)

        return await asyncio.gather(*(branch(n) for n in range(3)))

    async def main():
        async with client.embedded(f"sqlite:///{tmp_path}/jobs.db", linger=0.05):
            event = await client.send_event("job")
            return await client.wait_for_run(event.runs[0].id, timeout=20)

    assert uvloop.run(main()).output == [0, 1, 2]
