"""Jobs whose run function is a plain `def`: the same `io`, without `await`, in a thread."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest

from perdure import Retry, RunStatus, TaskError, TaskStatus, current_task
from perdure.clock import to_datetime

RETRY = Retry(attempts=3, factor=1, min_delay=600, max_delay=600, jitter=False)


async def test_sync_job_runs_in_a_thread_of_its_own(app):
    def job(payload, io, ctx):
        return threading.current_thread() is not threading.main_thread()

    assert (await app.run(job)).output is True


async def test_completed_tasks_are_not_run_again(app):
    def job(payload, io, ctx):
        app.done.append("execution")
        value = io.run_task("once", lambda: app.done.append("body") or {"a": (1, 2)})
        io.wait("pause", 3600)
        return value

    run = await app.run(job)

    assert run.output == {"a": (1, 2)}
    assert app.done == ["execution", "body", "execution"]


async def test_tasks_nest(app):
    def job(payload, io, ctx):
        def parent():
            app.done.append("parent")
            first = io.run_task("first", lambda: 1)
            io.wait("pause", 600)
            return first + io.run_task("second", lambda: 2)

        return io.run_task("parent", parent)

    run = await app.run(job)

    assert run.output == 3
    assert app.done == ["parent", "parent"]


async def test_wait_takes_as_long_as_said(app):
    def job(payload, io, ctx):
        start = io.now("start")
        io.wait("pause", timedelta(days=1))
        return io.now("end") - start

    run = await app.run(job, within=timedelta(days=2))

    assert timedelta(days=1) <= run.output < timedelta(days=1, seconds=5)


async def test_wait_never_lingers_in_the_thread(app):
    def job(payload, io, ctx):
        io.wait("pause", 0.5)
        return ctx.run.execution

    assert (await app.run(job, linger=10)).output == 2


async def test_waiting_runs_hold_no_threads(app):
    def job(payload, io, ctx):
        io.wait("pause", 3600)
        return "end"

    app.define(job)
    async with app.embedded(threads=2):
        started = [await app.start("job") for _ in range(10)]
        runs = [await app.end_of(run_id) for run_id in started]

    assert [run.output for run in runs] == ["end"] * 10


async def test_body_that_swallows_the_signal_changes_nothing(app):
    def job(payload, io, ctx):
        def body():
            try:
                io.wait("pause", 600)
            except BaseException:
                app.done.append("swallowed")
            return "result"

        start = io.now("start")
        result = io.run_task("body", body)
        return [result, io.now("end") - start]

    run = await app.run(job)

    result, took = run.output
    assert result == "result"
    assert took >= timedelta(seconds=600)
    assert run.tasks[1].status is TaskStatus.COMPLETED


async def test_run_function_that_swallows_the_signal_changes_nothing(app):
    def job(payload, io, ctx):
        try:
            io.wait("pause", 600)
        except BaseException:
            return "wrong"
        return "right"

    assert (await app.run(job)).output == "right"


async def test_run_function_that_raises_in_place_of_the_signal_changes_nothing(app):
    def job(payload, io, ctx):
        try:
            io.wait("pause", 600)
        finally:
            if len(app.done) < 1:
                app.done.append("x")
                raise ValueError("wrong")
        return "right"

    assert (await app.run(job)).output == "right"


async def test_durable_clean_up_runs_once(app):
    def job(payload, io, ctx):
        try:
            io.wait("pause", 600)
        finally:
            io.run_task("clean up", lambda: app.done.append("cleaned up"))

    await app.run(job)

    assert app.done == ["cleaned up"]


async def test_failed_task_raises_the_same_on_replay(app):
    def fails():
        raise ValueError("x")

    def job(payload, io, ctx):
        try:
            io.run_task("task", fails)
        except TaskError as error:
            app.done.append((error.key, error.error_name, error.stack, error.matches(ValueError)))
        io.wait("pause", 600)

    await app.run(job)

    assert len(app.done) == 2
    assert app.done[0] == app.done[1]


async def test_retries_with_their_delay(app):
    def job(payload, io, ctx):
        def body():
            app.done.append(to_datetime(app.clock.now()))
            if current_task().attempts < 3:
                raise OSError
            return current_task().attempts

        return io.run_task("task", body, retry=RETRY)

    run = await app.run(job)

    assert run.output == 3
    assert app.done[1] - app.done[0] == pytest.approx(timedelta(seconds=600), abs=timedelta(seconds=3))


async def test_task_with_a_time_out(app):
    release = threading.Event()

    def job(payload, io, ctx):
        try:
            io.run_task("slow", release.wait, 20, timeout=0.05)
        except TaskError as error:
            return error.matches(TimeoutError)

    run = await app.run(job)
    release.set()

    assert run.output is True


async def test_durable_time_out_is_refused_with_the_way_out(app):
    def job(payload, io, ctx):
        with io.timeout("limit", 5):
            pass

    run = await app.run(job)

    assert run.error.name == "UsageError"
    assert "timeout=" in run.error.message


async def test_async_body_is_refused(app):
    async def body():
        pass

    def job(payload, io, ctx):
        io.run_task("task", body)

    run = await app.run(job)

    assert run.error.name == "UsageError"
    assert "async def" in run.error.message


async def test_parallel_runs_side_by_side_and_keeps_the_order(app):
    barrier = threading.Barrier(3)

    def job(payload, io, ctx):
        def work(item, index):
            barrier.wait(10)
            return [item, index]

        return io.parallel("all", ["a", "b", "c"], work)

    assert (await app.run(job)).output == [["a", 0], ["b", 1], ["c", 2]]


async def test_parallel_with_waits_in_some_branches(app):
    def job(payload, io, ctx):
        def work(item, index):
            before = io.run_task("before", lambda: app.done.append(item) or item)
            if item % 2:
                io.wait("pause", 600 * item)
            return [before, io.run_task("after", lambda: item)]

        return io.parallel("all", [0, 1, 2, 3], work)

    run = await app.run(job)

    assert run.output == [[n, n] for n in range(4)]
    assert sorted(app.done) == [0, 1, 2, 3]


async def test_parallel_with_failures_and_waits(app):
    def job(payload, io, ctx):
        def work(item, index):
            if item == "fails":
                raise ValueError(index)
            io.wait("pause", 600)
            return item

        try:
            io.parallel("all", ["waits", "fails", "waits too"], work)
        except TaskError as error:
            return error.error_message

    run = await app.run(job)

    assert run.output == "1"


async def test_nested_parallel(app):
    def job(payload, io, ctx):
        def inner(item, index):
            io.wait("pause", 60)
            return item * 10

        def outer(item, index):
            return sum(io.parallel("inner", range(item), inner))

        return io.parallel("outer", [1, 2, 3], outer)

    assert (await app.run(job)).output == [0, 10, 30]


async def test_more_items_than_threads(app):
    def job(payload, io, ctx):
        return io.parallel("all", range(100), lambda item, index: item)

    assert (await app.run(job)).output == list(range(100))


async def test_yield_and_observations(app):
    def job(payload, io, ctx):
        seen = [io.now("now"), io.uuid("uuid"), io.random("random")]
        app.done.append(seen)
        io.yield_("here")
        return ctx.run.execution

    run = await app.run(job)

    assert run.output == 2
    assert app.done[0] == app.done[1]


async def test_io_in_a_thread_started_by_hand_is_refused(app):
    def job(payload, io, ctx):
        def foreign():
            try:
                io.run_task("task", lambda: None)
            except BaseException as error:
                app.done.append(type(error).__name__)

        thread = threading.Thread(target=foreign)
        thread.start()
        thread.join()

    await app.run(job)

    assert app.done == ["UsageError"]


async def test_cancelled_sync_run_ends_at_its_next_io_call(app):
    release = threading.Event()

    def job(payload, io, ctx):
        app.done.append("began")
        release.wait(20)
        io.run_task("next", lambda: app.done.append("wrong"))

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.reached(lambda: app.done)
        run = await app.client.cancel_run(started)
        release.set()

    assert run.status is RunStatus.CANCELLED
    assert app.done == ["began"]


async def test_uncaught_error_fails_the_run(app):
    def job(payload, io, ctx):
        raise ValueError("x")

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert (run.error.name, run.error.message) == ("ValueError", "x")


@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt(), GeneratorExit()], ids=repr)
async def test_exits_in_the_run_function_fail_the_run_only(app, error):
    def job(payload, io, ctx):
        raise error

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert run.error.name == type(error).__name__


async def test_sync_job_survives_a_crash(app):
    def job(payload, io, ctx):
        io.run_task("before", lambda: app.done.append("before"))
        io.wait("pause", 600)
        io.run_task("after", lambda: app.done.append("after"))
        return "end"

    app.define(job)
    async with app.embedded() as process:
        started = await app.start("job")
        await app.client.drain()
        await process.crash()
    async with app.embedded():
        run = await app.end_of(started)

    assert run.output == "end"
    assert app.done == ["before", "after"]


async def test_result_is_the_same_when_every_task_is_replayed(app):
    def job(payload, io, ctx):
        def work(item, index):
            return io.run_task("inner", lambda: item) + io.run_task("other", lambda: 10 * item)

        return [io.parallel("all", [1, 2, 3], work), io.run_task("last", lambda: "last")]

    assert (await app.run(job, force_replay=True)).output == [[11, 22, 33], "last"]


async def test_many_sync_runs_side_by_side(app):
    def job(payload, io, ctx):
        return io.run_task("task", lambda: payload)

    app.define(job)
    async with app.embedded(threads=4):
        started = await asyncio.gather(*(app.start("job", n) for n in range(40)))
        outputs = [(await app.end_of(run_id)).output for run_id in started]

    assert outputs == list(range(40))
