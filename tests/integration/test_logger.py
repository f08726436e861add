"""`io.logger`: lines in the log of a run, once each."""

# It isn't the logger of `logging`.
# ruff: noqa: G004, G010, PLE1205

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure import Retry, RunStatus, current_task


async def test_lines_are_in_their_order_with_data_and_time(app):
    async def job(payload, io, ctx):
        io.logger.info("first", {"n": 1})
        await io.run_task("sleep", asyncio.sleep, 5)
        io.logger.warn("second")

    run = await app.run(job)

    assert [(line.level, line.message, line.data) for line in run.logs] == [
        ("INFO", "first", {"n": 1}),
        ("WARN", "second", None),
    ]
    assert run.logs[1].at - run.logs[0].at == timedelta(seconds=5)


async def test_lines_are_not_repeated_by_replays(app):
    async def job(payload, io, ctx):
        for n in range(3):
            io.logger.info(f"line {n}")
            await io.run_task(["task", n], lambda: None)
            await io.wait(["pause", n], 600)

    run = await app.run(job, force_replay=True)

    assert [line.message for line in run.logs] == ["line 0", "line 1", "line 2"]


async def test_identical_lines_are_two_lines(app):
    async def job(payload, io, ctx):
        io.logger.info("same")
        io.logger.info("same")
        await io.wait("pause", 600)
        io.logger.info("same")

    run = await app.run(job)

    assert [line.message for line in run.logs] == ["same"] * 3


async def test_awaiting_a_line_works_too(app):
    async def job(payload, io, ctx):
        await io.logger.info("line")

    assert [line.message for line in (await app.run(job)).logs] == ["line"]


async def test_line_in_a_body_belongs_to_its_task(app):
    async def job(payload, io, ctx):
        async def body():
            io.logger.info("inside")

        await io.run_task("task", body)
        io.logger.info("outside")

    run = await app.run(job)

    assert [line.task_id for line in run.logs] == [run.tasks[0].id, None]


async def test_every_attempt_of_a_task_has_its_lines(app):
    async def job(payload, io, ctx):
        async def body():
            io.logger.info("trying")
            if current_task().attempts < 3:
                raise OSError

        await io.run_task("task", body, retry=Retry(attempts=3, min_delay=60, jitter=False))

    assert [line.message for line in (await app.run(job)).logs] == ["trying"] * 3


@pytest.mark.parametrize(
    "level, written",
    [
        ("log", ["LOG"]),
        ("error", ["LOG", "ERROR"]),
        ("warn", ["LOG", "ERROR", "WARN"]),
        ("info", ["LOG", "ERROR", "WARN", "INFO"]),
        ("debug", ["LOG", "ERROR", "WARN", "INFO", "DEBUG"]),
    ],
)
async def test_level_of_the_job_filters(app, level, written):
    async def job(payload, io, ctx):
        for name in ("log", "error", "warn", "info", "debug"):
            getattr(io.logger, name)("line")

    run = await app.run(job, options={"log_level": level})

    assert [line.level for line in run.logs] == written


async def test_lines_of_a_failed_run_are_kept(app):
    async def job(payload, io, ctx):
        io.logger.info("before")
        raise ValueError

    assert [line.message for line in (await app.run(job)).logs] == ["before"]


async def test_lines_of_a_body_under_way_can_be_seen(app):
    async def job(payload, io, ctx):
        async def body():
            io.logger.info("working")
            await asyncio.sleep(600)

        await io.run_task("task", body)

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await asyncio.sleep(10)
        run = await app.look(started)
        await app.end_of(started)

    assert run.status is RunStatus.EXECUTING
    assert [line.message for line in run.logs] == ["working"]


async def test_exception_as_data(app):
    async def job(payload, io, ctx):
        io.logger.error("failed", ValueError("x"))

    assert (await app.run(job)).logs[0].data == {"name": "ValueError", "message": "x"}


async def test_lines_from_a_plain_body_in_a_thread(app):
    async def job(payload, io, ctx):
        await io.run_task("task", lambda: io.logger.info("from the thread") and None)

    assert [line.message for line in (await app.run(job)).logs] == ["from the thread"]


async def test_many_lines(app):
    async def job(payload, io, ctx):
        for n in range(2_000):
            io.logger.info("line", n)

    run = await app.run(job)

    assert [line.data for line in run.logs] == list(range(2_000))
