"""The threads of sync runs and of plain `def` bodies: time-outs, code that is left behind, shutdown."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from datetime import timedelta

import pytest

from perdure import Retry, RunStatus, TaskStatus
from perdure.sdk.threads import DaemonThreads


@pytest.mark.real_time
async def test_time_out_counts_from_when_the_body_starts(app):
    def job(payload, io, ctx):
        def body():
            time.sleep(0.3)
            app.done.append(payload)

        io.run_task("task", body, timeout=2)

    app.define(job)
    async with app.embedded(threads=1):
        started = [await app.start("job", number) for number in range(8)]
        runs = [await app.end_of(run_id) for run_id in started]

    assert {run.status for run in runs} == {RunStatus.COMPLETED}
    assert sorted(app.done) == list(range(8))


async def test_body_that_was_left_behind_has_no_io_any_more(app):
    release, seen = threading.Event(), threading.Event()

    def job(payload, io, ctx):
        def inner():
            release.wait(20)
            return "late"

        def body():
            try:
                io.run_task("inner", inner)
            except BaseException as error:
                app.done.append(type(error).__name__)
            try:
                io.run_task("next", lambda: app.done.append("wrong"))
            except BaseException as error:
                app.done.append(type(error).__name__)
            seen.set()

        try:
            io.run_task("outer", body, timeout=0.05)
        except Exception:
            release.set()
            seen.wait(20)
        return io.run_task("after", lambda: "after")

    run = await app.run(job)

    assert run.output == "after"
    assert app.done == ["Signal", "Signal"]
    assert [(task.key, task.status) for task in run.tasks] == [
        ("outer", TaskStatus.ERRORED),
        ("inner", TaskStatus.CANCELED),
        ("after", TaskStatus.COMPLETED),
    ]


async def test_attempt_after_a_time_out_does_anew_what_was_left_behind(app):
    release = threading.Event()

    def job(payload, io, ctx):
        def inner():
            app.done.append("inner")
            if len(app.done) == 1:
                release.wait(20)
            return "done"

        return io.run_task(
            "outer", lambda: io.run_task("inner", inner), timeout=0.05, retry=Retry(attempts=2, min_delay=60)
        )

    run = await app.run(job)
    release.set()

    assert run.output == "done"
    assert app.done == ["inner", "inner"]


async def test_time_out_is_a_deadline_for_waits_too(app):
    def job(payload, io, ctx):
        io.run_task("outer", lambda: io.wait("pause", 3600), timeout=5)

    run = await app.run(job)

    assert run.error.name == "TimeoutError"
    assert timedelta(seconds=5) <= run.completed_at - run.created_at < timedelta(seconds=10)
    assert [task.status for task in run.tasks] == [TaskStatus.ERRORED, TaskStatus.CANCELED]


async def test_time_out_of_an_outer_body_wakes_waits_of_parallel_branches(app):
    def job(payload, io, ctx):
        def work(item, index):
            io.wait("pause", item)

        io.run_task("outer", lambda: io.parallel("all", [3600, 7200], work), timeout=5)

    run = await app.run(job)

    assert run.error.name == "TimeoutError"
    assert run.completed_at - run.created_at < timedelta(seconds=10)


async def test_wait_within_its_time_out_goes_on(app):
    def job(payload, io, ctx):
        def body():
            io.wait("pause", 60)
            return "in time"

        return io.run_task("outer", body, timeout=120)

    assert (await app.run(job)).output == "in time"


async def test_each_attempt_has_its_own_deadline_for_a_wait(app):
    def job(payload, io, ctx):
        def body():
            app.done.append(ctx.run.execution)
            io.wait("pause", 20 if len(app.done) == 1 else 2)
            return len(app.done)

        return io.run_task("outer", body, timeout=5, retry=Retry(attempts=2, min_delay=60, max_delay=60))

    run = await app.run(job)

    assert run.output == 3
    assert run.completed_at - run.created_at < timedelta(seconds=100)


async def test_time_out_survives_a_crash(app):
    def job(payload, io, ctx):
        def body():
            app.done.append("body")
            io.wait("pause", 3600)

        io.run_task("outer", body, timeout=600)

    app.define(job)
    async with app.embedded() as process:
        started = await app.start("job")
        await app.reached(lambda: app.done)
        await asyncio.sleep(1)
        await process.crash()
    await asyncio.sleep(1000)
    async with app.embedded():
        run = await app.end_of(started, within=60)

    assert run.error.name == "TimeoutError"
    assert app.done == ["body"]


async def test_unwinding_branch_does_not_decide_its_outcome(app):
    def job(payload, io, ctx):
        def handler(error, task):
            app.done.append("asked")

        def work(item, index):
            if index == 1:
                return io.run_task("other", lambda: "other")

            def body():
                try:
                    io.wait("pause", 60)
                except BaseException as error:
                    raise RuntimeError("clean-up went wrong") from error
                return "waited"

            return io.run_task("body", body, on_error=handler, retry=Retry(attempts=3))

        return io.parallel("all", [0, 1], work)

    run = await app.run(job)

    assert run.output == ["waited", "other"]
    assert app.done == []


async def test_unwinding_body_with_a_time_out_does_not_decide_its_outcome(app):
    def job(payload, io, ctx):
        def body():
            try:
                io.wait("pause", 60)
            except BaseException as error:
                raise RuntimeError("clean-up went wrong") from error
            return "waited"

        return io.run_task("body", body, timeout=3600)

    assert (await app.run(job)).output == "waited"


@pytest.mark.real_time
async def test_stuck_threads_take_no_slots(app):
    release = threading.Event()

    def stuck(payload, io, ctx):
        release.wait(60)

    def quick(payload, io, ctx):
        return "quick"

    app.define(stuck, max_duration=0.2)
    app.define(quick)
    async with app.embedded(max_executions=2) as process:
        for _ in range(2):
            await app.start("stuck")
        await asyncio.sleep(0.5)
        await app.reached(lambda: not process._runner._executions)
        run = await app.end_of(await app.start("quick"), within=5)
        release.set()

    assert run.output == "quick"


@pytest.mark.real_time
async def test_end_in_the_middle_of_a_write_makes_no_noise_on_the_loop(app):
    noise = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))

    def job(payload, io, ctx):
        for number in range(100_000):
            io.run_task([number], lambda: None)

    app.define(job, max_duration=0.2)
    async with app.embedded():
        started = [await app.start("job") for _ in range(8)]
        runs = [await app.end_of(run_id) for run_id in started]

    assert {run.status for run in runs} == {RunStatus.TIMED_OUT}
    assert noise == []


PROGRAM = """
    import asyncio, time
    from perdure import Client, invoke_trigger

    client = Client(id="app")

    @client.job(id="async", trigger=invoke_trigger())
    async def asynchronous(payload, io, ctx):
        await io.run_task("stuck in a thread", time.sleep, 60)

    @client.job(id="sync", trigger=invoke_trigger())
    def synchronous(payload, io, ctx):
        io.parallel("all", [1, 2], lambda item, index: time.sleep(60))

    async def main():
        async with client.embedded(":memory:", grace=0.1):
            await asynchronous.invoke({})
            await synchronous.invoke({})
            await asyncio.sleep(0.5)

    asyncio.run(main())
    print("ended")
"""


@pytest.mark.slow
def test_process_does_not_outlive_its_shutdown():
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert time.monotonic() - began < 30
    assert ended.stdout == "ended\n"
    assert "still running 'stuck in a thread' after the grace of 0.1 s" in ended.stderr
    assert "job async" in ended.stderr
    assert "exception" not in ended.stderr.lower()


class TestDaemonThreads:
    def test_returns_and_raises(self):
        with DaemonThreads(2, "test") as threads:
            good, bad = threads.submit(divmod, 7, 2), threads.submit(divmod, 7, 0)

        assert good.result() == (3, 1)
        with pytest.raises(ZeroDivisionError):
            bad.result()

    def test_runs_so_many_at_once_and_queues_the_rest(self):
        lock, running, most = threading.Lock(), [0], [0]

        def call():
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            time.sleep(0.01)
            with lock:
                running[0] -= 1

        with DaemonThreads(3, "test") as threads:
            futures = [threads.submit(call) for _ in range(20)]

        assert all(future.done() for future in futures)
        assert most == [3]

    def test_unbounded_lets_none_wait(self):
        barrier = threading.Barrier(50)
        with DaemonThreads(None, "test") as threads:
            futures = [threads.submit(barrier.wait, 20) for _ in range(50)]

        assert sorted(future.result() for future in futures) == list(range(50))

    def test_idle_threads_are_reused(self):
        with DaemonThreads(None, "test") as threads:
            names = set()
            for _ in range(5):
                names.add(threads.submit(lambda: threading.current_thread().name).result())
                time.sleep(0.05)

        assert len(names) == 1

    def test_shutdown_drops_what_queues_and_refuses_more(self):
        release = threading.Event()
        threads = DaemonThreads(1, "test")
        first, second = threads.submit(release.wait, 20), threads.submit(release.wait, 20)
        while not first.running():
            time.sleep(0.001)
        threads.shutdown(wait=False, cancel_futures=True)
        release.set()

        assert first.result(20) is True
        assert second.cancelled()
        with pytest.raises(RuntimeError):
            threads.submit(release.wait)

    def test_threads_are_daemons_and_end_with_it(self):
        with DaemonThreads(1, "test") as threads:
            thread = threads.submit(threading.current_thread).result()

        assert thread.daemon
        assert not thread.is_alive()
