"""Cases that broke an earlier version: long chains of errors, thousands of branches, values shown before they were durable."""

import asyncio
import sys
from datetime import timedelta

import pytest

from perdure import RunStatus, TaskError


@pytest.mark.parametrize("where", ["run", "task"])
async def test_error_with_thousands_of_causes_fails_the_run(app, where):
    def poll():
        last = None
        for attempt in range(3_000):
            try:
                raise ConnectionError(attempt) from last
            except ConnectionError as error:
                last = error
        assert last is not None
        raise last

    async def job(payload, io, ctx):
        if where == "run":
            poll()
        await io.run_task("poll", poll)

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.error.name == "ConnectionError"


@pytest.mark.parametrize("how", ["from None", "after the handler"])
async def test_failed_task_is_reset_although_the_error_was_made_into_another(app, how):
    working = False

    def flaky():
        if not working:
            raise ValueError("down")
        return "up"

    async def job(payload, io, ctx):
        failed = False
        try:
            return await io.run_task("flaky", flaky)
        except TaskError:
            if how == "from None":
                raise RuntimeError("gave up") from None
            failed = True
        assert not failed, "gave up"
        return None

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        assert (await app.end_of(started)).status is RunStatus.FAILED
        working = True
        await app.client.continue_run(started)
        run = await app.end_of(started)

    assert run.output == "up"


async def test_thousands_of_branches_clean_up_when_the_run_is_put_down(app):
    async def job(payload, io, ctx):
        async def branch(n):
            try:
                await io.wait(["wait", n], 3600)
            finally:
                await io.run_task(["cleanup", n], lambda: n)

        await asyncio.gather(*(branch(n) for n in range(2_000)))

    before = len(asyncio.all_tasks())
    run = await app.run(job)

    assert run.status is RunStatus.COMPLETED
    assert len(asyncio.all_tasks()) <= before + 2
    assert sum(task.key.startswith('["cleanup"') for task in run.tasks) == 2_000


@pytest.mark.parametrize("kind", ["uuid", "now", "random"])
async def test_value_is_durable_before_a_body_may_show_it(app, kind):
    shown = []

    async def charge(value):
        shown.append(value)
        if len(shown) == 1:
            await asyncio.sleep(3600)

    async def job(payload, io, ctx):
        value = await getattr(io, kind)("value")
        await io.run_task("charge", charge, value)

    app.define(job)
    async with app.embedded() as embedded:
        started = await app.start("job")
        await app.reached(lambda: shown)
        await embedded.crash()
    async with app.embedded():
        await app.end_of(started)

    assert len(shown) == 2
    assert shown[0] == shown[1]


async def test_wait_beyond_the_calendar_is_refused(app):
    async def job(payload, io, ctx):
        await io.wait("for ever", timedelta.max)

    run = await app.run(job)

    assert run.error is not None
    assert run.error.name == "UsageError"


async def test_key_that_now_has_another_kind_of_operation_is_told(app):
    kinds = iter(["task", "wait"])

    async def job(payload, io, ctx):
        if next(kinds) == "task":
            await io.run_task("a", lambda: 1)
        else:
            await io.wait("a", 1)
        await io.wait("pause", 600)

    run = await app.run(job)

    assert run.error is not None
    assert run.error.name == "NonDeterminismError"
    assert "'a'" in run.error.message


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks come with Python 3.12")
async def test_eager_tasks_inside_a_body_are_put_down(app):
    asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - not in 3.11

    async def job(payload, io, ctx):
        async def body():
            return await asyncio.gather(*(io.run_task(["part", n], lambda n=n: n) for n in range(3)))

        return await io.run_task("whole", body)

    assert (await app.run(job, force_replay=True)).output == [0, 1, 2]


async def test_thousands_of_sleeping_bodies_take_their_turns(app):
    async def job(payload, io, ctx):
        async def body(n):
            await asyncio.sleep(n % 7)
            return n

        return sum(await asyncio.gather(*(io.run_task(["body", n], body, n) for n in range(1_000))))

    assert (await app.run(job)).output == 499_500
