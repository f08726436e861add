"""When a run may be put down: not while a body, a foreign await or somebody else's queue may still move."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest

from perdure import RunStatus


async def test_body_is_never_put_down_in_the_middle(app):
    async def job(payload, io, ctx):
        async def body():
            app.done.append("began")
            await asyncio.sleep(1800)
            app.done.append("ended")

        await asyncio.gather(io.run_task("body", body), io.wait("pause", 60))

    run = await app.run(job)

    assert run.status is RunStatus.COMPLETED
    assert app.done == ["began", "ended"]


@pytest.mark.parametrize("primitive", ["queue", "lock", "event", "future"])
async def test_body_waiting_for_somebody_outside_the_run_is_not_put_down(app, primitive):
    answer = {}

    async def job(payload, io, ctx):
        async def body():
            app.done.append("began")
            match primitive:
                case "queue":
                    result = await answer["queue"].get()
                case "lock":
                    async with answer["lock"]:
                        result = "answer"
                case "event":
                    await answer["event"].wait()
                    result = "answer"
                case _:
                    result = await answer["future"]
            app.done.append("ended")
            return result

        results = await asyncio.gather(io.run_task("body", body), io.wait("pause", 60))
        return results[0]

    app.define(job)
    async with app.embedded():
        answer["queue"], answer["lock"], answer["event"] = asyncio.Queue(), asyncio.Lock(), asyncio.Event()
        answer["future"] = asyncio.get_running_loop().create_future()
        await answer["lock"].acquire()
        started = await app.start("job")
        await app.reached(lambda: app.done)
        await asyncio.sleep(1200)
        answer["queue"].put_nowait("answer")
        answer["lock"].release()
        answer["event"].set()
        answer["future"].set_result("answer")
        run = await app.end_of(started)

    assert run.output == "answer"
    assert app.done == ["began", "ended"]


async def test_foreign_await_outside_tasks_keeps_the_run_in_memory(app):
    answer = asyncio.Event()

    async def job(payload, io, ctx):
        async def foreign():
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
            await somebody_elses(answer)
            app.done.append(ctx.run.execution)

        await asyncio.gather(foreign(), io.wait("pause", 3600))

    app.define(job)
    async with app.embedded(foreign_await_limit=60):
        started = await app.start("job")
        await asyncio.sleep(30)
        answer.set()
        await app.end_of(started)

    assert app.done[0] == 1


async def test_foreign_await_keeps_a_run_no_longer_than_the_limit(app):
    answer = asyncio.Event()

    async def job(payload, io, ctx):
        await asyncio.gather(somebody_elses(answer), io.wait("pause", 3600))
        return "end"

    app.define(job)
    async with app.embedded(foreign_await_limit=60):
        started = await app.start("job")
        await asyncio.sleep(30)
        before = await app.look(started)
        await asyncio.sleep(60)
        after = await app.look(started)
        answer.set()
        run = await app.end_of(started)

    assert before.status is RunStatus.EXECUTING
    assert after.status is RunStatus.WAITING
    assert run.output == "end"


async def test_run_put_down_over_a_foreign_await_has_a_warning_in_its_log(app, caplog):
    answer = asyncio.Event()

    async def job(payload, io, ctx):
        await asyncio.gather(somebody_elses(answer), io.wait("pause", 3600))

    app.define(job)
    with caplog.at_level(logging.WARNING, "perdure"):
        async with app.embedded(foreign_await_limit=60):
            started = await app.start("job")
            await asyncio.sleep(100)
            answer.set()
            run = await app.end_of(started)

    warnings = [line for line in run.logs if line.level == "WARN"]
    assert len(warnings) == 1
    assert "io.run_task" in warnings[0].message
    assert __file__ in warnings[0].message


async def test_foreign_await_without_anything_parked_is_never_cut(app):
    answer = asyncio.Event()

    async def job(payload, io, ctx):
        await somebody_elses(answer)
        return ctx.run.execution

    app.define(job)
    async with app.embedded(foreign_await_limit=60):
        started = await app.start("job")
        await asyncio.sleep(1000)
        answer.set()
        run = await app.end_of(started)

    assert run.output == 1


async def test_thread_of_a_body_is_waited_for(app):
    import threading

    release = threading.Event()

    async def job(payload, io, ctx):
        def body():
            app.done.append("began")
            release.wait(10)
            app.done.append("ended")

        await asyncio.gather(io.run_task("body", body), io.wait("pause", 60))

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.reached(lambda: app.done)
        release.set()
        await app.end_of(started)

    assert app.done == ["began", "ended"]


async def test_pool_made_lazily_in_a_body_survives_the_body_and_the_run(app):
    class Pool:
        """As database drivers do: a queue of connections and a background task, made at the first use."""

        def __init__(self):
            self.requests = asyncio.Queue()
            self.served = 0
            self.task = asyncio.create_task(self.serve())

        async def serve(self):
            while True:
                answer = await self.requests.get()
                await asyncio.sleep(1)
                self.served += 1
                answer.set_result(self.served)

        async def ask(self):
            answer = asyncio.get_running_loop().create_future()
            await self.requests.put(answer)
            return await answer

    pools = []

    async def job(payload, io, ctx):
        async def body():
            if not pools:
                pools.append(Pool())
            return await pools[0].ask()

        first = await io.run_task("first", body)
        await io.wait("pause", 600)
        return [first, await io.run_task("second", body)]

    app.define(job)
    async with app.embedded():
        outputs = [(await app.end_of(await app.start("job"))).output for _ in range(2)]
        assert not pools[0].task.done()
    pools[0].task.cancel()

    assert outputs == [[1, 2], [3, 4]]


async def test_background_task_left_by_a_body_does_not_keep_a_waiting_run_in_memory(app):
    left = []

    async def job(payload, io, ctx):
        async def body():
            left.append(asyncio.create_task(asyncio.Event().wait()))

        await io.run_task("body", body)
        await io.wait("pause", 3600)
        return ctx.run.execution

    run = await app.run(job)
    for task in left:
        task.cancel()

    assert run.output == 2
    assert run.execution_duration < timedelta(seconds=5)


async def test_io_used_by_a_background_task_after_its_body_ended_has_no_effect(app):
    left = []

    async def job(payload, io, ctx):
        async def late():
            await asyncio.sleep(1)
            try:
                await io.run_task("late", lambda: app.done.append("wrong"))
            except BaseException as signal:
                app.done.append(type(signal).__name__)

        async def body():
            left.append(asyncio.create_task(late()))

        await io.run_task("body", body)
        await io.run_task("other", asyncio.sleep, 5)

    run = await app.run(job)

    assert run.status is RunStatus.COMPLETED
    assert app.done == ["Signal"]


async def test_timer_armed_by_the_run_keeps_it_in_memory(app):
    async def job(payload, io, ctx):
        told = asyncio.Event()
        asyncio.get_running_loop().call_later(20, told.set)

        async def waits():
            await told.wait()
            app.done.append(ctx.run.execution)

        await asyncio.gather(waits(), io.wait("pause", 3600))

    await app.run(job)

    assert app.done[0] == 1


async def test_branch_woken_late_by_done_callbacks_is_not_overlooked(app):
    async def job(payload, io, ctx):
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        inner = loop.create_future()
        inner.add_done_callback(lambda _: loop.call_soon(lambda: loop.call_soon(future.set_result, None)))

        async def waits():
            await future
            await io.run_task("told", lambda: app.done.append(ctx.run.execution))

        async def tells():
            await io.run_task("first", asyncio.sleep, 0)
            inner.set_result(None)
            await io.wait("pause", 3600)

        await asyncio.gather(waits(), tells())

    await app.run(job)

    assert app.done == [1]


async def test_task_factory_of_the_application_is_kept(app):
    made = []

    def factory(loop, coro, **options):
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)

    async def job(payload, io, ctx):
        async def branch():
            await io.wait("pause", 3600)

        await asyncio.gather(branch(), branch_2(io))
        return "end"

    async def branch_2(io):
        await io.wait("pause 2", 60)

    run = await app.run(job)

    assert run.output == "end"
    assert made
    assert loop.get_task_factory() is factory


async def somebody_elses(event):
    """Wait for something that perdure can't see into."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    async def feed():
        await event.wait()
        if not future.done():
            future.set_result(None)

    import contextvars

    feeder = loop.create_task(feed(), context=contextvars.Context())
    try:
        await future
    finally:
        feeder.cancel()
