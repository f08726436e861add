"""What a yield (a shutdown, `io.yield_`) holds back comes in the next execution, and can still be cancelled there."""

import asyncio

from perdure import Retry, TaskError


async def test_completion_that_was_not_told_yet_can_be_cancelled(app):
    async def job(payload, io, ctx):
        async def second():
            await io.run_task("second", asyncio.sleep, 0.4)
            app.done.append("went on")
            await io.wait("long", 86_400)

        other = asyncio.create_task(second())
        await asyncio.gather(io.run_task("first", asyncio.sleep, 0.3), io.yield_("here"))
        other.cancel()
        try:
            await other
        except asyncio.CancelledError:
            return "cancelled"
        return "not cancelled"

    run = await app.run(job, within=3 * 86_400)

    assert run.output == "cancelled"
    assert app.done == []


async def test_cancellation_that_a_body_absorbed_is_absorbed_on_replay(app):
    async def stubborn():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "stayed"

    async def job(payload, io, ctx):
        body = asyncio.create_task(io.run_task("body", stubborn))
        await io.run_task("before", asyncio.sleep, 1)
        body.cancel()
        seen = await body
        await io.wait("pause", 600)
        return seen

    assert (await app.run(job)).output == "stayed"


async def test_timeout_that_fired_fires_into_a_yield_on_replay(app):
    async def nested(io):
        try:
            async with io.timeout("limit", 1):
                await asyncio.sleep(5_000)
        except TimeoutError:
            await io.wait("pause", 10)

    async def job(payload, io, ctx):
        async def yields():
            await io.yield_("here")
            raise ValueError

        async def retried():
            try:
                await io.run_task("yields", yields, retry=Retry(attempts=2, min_delay=3, jitter=False))
            except TaskError:
                app.done.append("failed")

        await asyncio.gather(io.run_task("nested", nested, io), retried())

    async with app.embedded():
        app.define(job)
        started = await app.start("job")
        run = await app.end_of(started, within=60)

    assert run.status.label == "Completed"


async def test_outcome_passed_on_through_gatherings_is_not_slept_over(app):
    async def job(payload, io, ctx):
        async def deep():
            gathered = io.run_task("first", asyncio.sleep, 1)
            for _ in range(8):
                gathered = asyncio.gather(gathered)
            await gathered
            await io.run_task("then", lambda: app.done.append(app.clock.now()))

        await asyncio.gather(deep(), io.wait("hour", 3_600))

    began = app.clock.now()
    await app.run(job)

    assert app.done[0] - began < 60_000
