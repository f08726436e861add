"""Cancelling, running again and continuing runs."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from perdure import ConflictError, NotFoundError, RunStatus, TaskError, TaskStatus

# --- cancel ----------------------------------------------------------------------------------------------------------------


async def test_cancelled_while_queued_never_starts(app):
    async def holds(payload, io, ctx):
        await io.run_task("hold", asyncio.sleep, 600)

    async def job(payload, io, ctx):
        app.done.append("started")

    app.define(holds)
    app.define(job)
    async with app.embedded(max_executions=1):
        held = await app.start("holds")
        await asyncio.sleep(1)
        started = await app.start("job")
        assert (await app.look(started)).status is RunStatus.QUEUED
        run = await app.client.cancel_run(started)
        await app.end_of(held)
        await app.client.drain()

    assert run.status is RunStatus.CANCELLED
    assert app.done == []


async def test_cancelled_while_waiting_never_goes_on(app):
    async def job(payload, io, ctx):
        await io.wait("pause", 600)
        app.done.append("went on")

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
        run = await app.client.cancel_run(started)
        await asyncio.sleep(3600)
        later = await app.look(started)

    assert run.status is later.status is RunStatus.CANCELLED
    assert later.tasks[0].status is TaskStatus.CANCELED
    assert app.done == []


async def test_nothing_is_recorded_after_a_cancellation(app):
    async def job(payload, io, ctx):
        try:
            await io.run_task("body", stubborn, app)
        except BaseException as error:
            app.done.append(type(error).__name__)
        await io.run_task("after", lambda: app.done.append("wrong"))

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.reached(lambda: app.done)
        await app.client.cancel_run(started)
        await asyncio.sleep(60)
        run = await app.look(started)

    assert run.status is RunStatus.CANCELLED
    assert "wrong" not in app.done
    assert [task.key for task in run.tasks] in ([], ["body"])
    assert all(task.status is TaskStatus.CANCELED for task in run.tasks)


async def stubborn(app):
    app.done.append("began")
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        return "result that is too late"


async def test_cancelled_run_frees_its_slot(app):
    async def job(payload, io, ctx):
        await io.run_task("hold", asyncio.sleep, payload)

    app.define(job)
    async with app.embedded(max_executions=1):
        first, second = await app.start("job", 100_000), await app.start("job", 1)
        await asyncio.sleep(1)
        await app.client.cancel_run(first)
        run = await app.end_of(second, within=60)

    assert run.status is RunStatus.COMPLETED


async def test_cancelling_wakes_who_waits_for_the_run(app):
    async def job(payload, io, ctx):
        await io.wait("pause", timedelta(days=300))

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        waiting = asyncio.create_task(app.client.wait_for_run(started))
        await asyncio.sleep(1)
        await app.client.cancel_run(started)

        assert (await asyncio.wait_for(waiting, 5)).status is RunStatus.CANCELLED


@pytest.mark.parametrize("action", ["cancel_run", "rerun", "continue_run", "wait_for_run"])
async def test_unknown_run_is_not_found(app, action):
    async with app.embedded():
        with pytest.raises(NotFoundError, match="run_nowhere"):
            await getattr(app.client, action)("run_nowhere")


async def test_cancelling_a_finished_run_is_a_conflict(app):
    async def job(payload, io, ctx):
        return None

    app.define(job)
    async with app.embedded():
        run = await app.end_of(await app.start("job"))
        with pytest.raises(ConflictError, match=r"COMPLETED|Completed"):
            await app.client.cancel_run(run.id)


async def test_cancelling_twice_is_no_error(app):
    async def job(payload, io, ctx):
        await io.wait("pause", 600)

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
        first = await app.client.cancel_run(started)
        try:
            second = await app.client.cancel_run(started)
        except ConflictError:
            second = await app.look(started)

    assert first.status is second.status is RunStatus.CANCELLED


async def test_many_cancellations_race_with_the_end(app):
    async def job(payload, io, ctx):
        await io.run_task("body", asyncio.sleep, 1)

    app.define(job)
    async with app.embedded():
        started = [await app.start("job") for _ in range(50)]

        async def cancel(n):
            await asyncio.sleep(0.98 + n / 1000)
            try:
                return (await app.client.cancel_run(started[n])).status
            except ConflictError:
                return RunStatus.COMPLETED

        told = await asyncio.gather(*(cancel(n) for n in range(50)))
        await asyncio.sleep(10)
        statuses = [(await app.look(run_id)).status for run_id in started]

    assert told == statuses


# --- rerun -----------------------------------------------------------------------------------------------------------------


async def test_rerun_is_a_new_run_with_the_same_payload_and_context(app):
    async def job(payload, io, ctx):
        await io.run_task("body", lambda: app.done.append([payload, ctx.event.context]))

    app.define(job)
    async with app.embedded():
        event = await app.client.send_event("job", {"n": 1}, context={"c": 2})
        first = await app.end_of(event.runs[0].id)
        again = await app.end_of((await app.client.rerun(first.id)).id)

    assert again.id != first.id
    assert again.event_id != first.event_id
    assert again.payload == first.payload
    assert app.done == [[{"n": 1}, {"c": 2}]] * 2


async def test_rerun_of_a_run_under_way_is_a_conflict(app):
    async def job(payload, io, ctx):
        await io.wait("pause", 600)

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        with pytest.raises(ConflictError):
            await app.client.rerun(started)


async def test_rerun_starts_only_that_job(app):
    from perdure import event_trigger

    async def one(payload, io, ctx):
        app.done.append("one")

    async def two(payload, io, ctx):
        app.done.append("two")

    app.define(one, trigger=event_trigger(name="both"))
    app.define(two, trigger=event_trigger(name="both"))
    async with app.embedded():
        event = await app.client.send_event("both")
        for run in event.runs:
            await app.end_of(run.id)
        first = next(run for run in event.runs if run.job_id == "one")
        await app.end_of((await app.client.rerun(first.id)).id)
        await app.client.drain()

    assert sorted(app.done) == ["one", "one", "two"]


# --- continue --------------------------------------------------------------------------------------------------------------


async def test_continue_resets_the_failed_task_and_keeps_the_completed_ones(app):
    broken = [True]

    async def job(payload, io, ctx):
        first = await io.run_task("kept", lambda: app.done.append("kept") or "kept")
        return [first, await io.run_task("repaired", fails_while, broken)]

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        failed = await app.end_of(started)
        broken.clear()
        await app.client.continue_run(started)
        run = await app.end_of(started)

    assert failed.status is RunStatus.FAILED
    assert run.id == failed.id
    assert run.output == ["kept", "repaired"]
    assert run.error is None
    assert app.done == ["kept"]


async def test_continue_resets_parents_of_the_failed_task_but_not_its_completed_siblings(app):
    broken = [True]

    async def job(payload, io, ctx):
        async def parent():
            await io.run_task("sibling", lambda: app.done.append("sibling"))
            return await io.run_task("child", fails_while, broken)

        return await io.run_task("parent", parent)

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.end_of(started)
        broken.clear()
        await app.client.continue_run(started)
        run = await app.end_of(started)

    assert run.output == "repaired"
    assert app.done == ["sibling"]


async def test_continue_keeps_failures_that_the_code_had_handled(app):
    broken = [True]

    async def job(payload, io, ctx):
        with suppress(TaskError):
            await io.run_task("handled", lambda: app.done.append("handled") or 1 / 0)
        return await io.run_task("repaired", fails_while, broken)

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.end_of(started)
        broken.clear()
        await app.client.continue_run(started)
        run = await app.end_of(started)

    assert run.output == "repaired"
    assert app.done == ["handled"]


async def test_continue_runs_what_the_failure_interrupted(app):
    broken = [True]

    async def job(payload, io, ctx):
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(io.run_task("slow", asyncio.sleep, 30, "slow"))
            repaired = group.create_task(io.run_task("repaired", fails_while, broken))
        return [slow.result(), repaired.result()]

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        failed = await app.end_of(started)
        broken.clear()
        await app.client.continue_run(started)
        run = await app.end_of(started)

    assert failed.status is RunStatus.FAILED
    assert run.output == ["slow", "repaired"]


async def test_continue_runs_what_was_open_when_the_run_failed(app):
    broken = [True]

    async def job(payload, io, ctx):
        return await asyncio.gather(
            io.run_task("repaired", fails_while, broken),
            io.run_task("slow", asyncio.sleep, 30, "slow"),
            io.wait("pause", 600),
        )

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.end_of(started)
        broken.clear()
        await app.client.continue_run(started)
        run = await app.end_of(started)

    assert run.output == ["repaired", "slow", None]


async def test_continue_keeps_what_was_interrupted_before_the_failure(app):
    broken = [True]

    async def job(payload, io, ctx):
        loser = asyncio.create_task(io.run_task("loser", stubborn_less, app))
        await io.run_task("winner", asyncio.sleep, 1)
        loser.cancel()
        await asyncio.gather(loser, return_exceptions=True)
        return await io.run_task("repaired", fails_while, broken)

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.end_of(started)
        broken.clear()
        await app.client.continue_run(started)
        run = await app.end_of(started)

    assert run.output == "repaired"
    assert app.done == ["loser began"]


async def stubborn_less(app):
    app.done.append("loser began")
    await asyncio.sleep(3600)


async def test_continue_after_an_error_outside_tasks(app):
    broken = [True]

    async def job(payload, io, ctx):
        await io.run_task("kept", lambda: app.done.append("kept"))
        return await fails_while(broken)

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.end_of(started)
        broken.clear()
        await app.client.continue_run(started)
        run = await app.end_of(started)

    assert run.output == "repaired"
    assert app.done == ["kept"]


async def test_continue_gives_the_failed_task_all_its_attempts_again(app):
    from perdure import Retry

    async def job(payload, io, ctx):
        async def body():
            app.done.append("try")
            raise ValueError

        await io.run_task("task", body, retry=Retry(attempts=3, min_delay=60, jitter=False))

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.end_of(started)
        await app.client.continue_run(started)
        await app.end_of(started)

    assert app.done == ["try"] * 6


async def test_continue_a_cancelled_run(app):
    async def job(payload, io, ctx):
        await io.run_task("kept", lambda: app.done.append("kept"))
        await io.wait("pause", 600)
        return "end"

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
        await app.client.cancel_run(started)
        await app.client.continue_run(started)
        run = await app.end_of(started)

    assert run.output == "end"
    assert app.done == ["kept"]


async def test_continue_in_another_process(app):
    async def job(payload, io, ctx):
        await io.run_task("kept", lambda: app.done.append("kept"))
        raise ValueError

    async def repaired(payload, io, ctx):
        await io.run_task("kept", lambda: app.done.append("kept"))
        return "repaired"

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.end_of(started)
    release = app.deployed()
    release.define(repaired, id="job")
    async with release.embedded():
        await release.client.continue_run(started)
        run = await release.end_of(started)

    assert run.output == "repaired"
    assert app.done == ["kept"]


@pytest.mark.parametrize("status", ["completed", "waiting"])
async def test_what_cannot_be_continued_is_a_conflict(app, status):
    async def job(payload, io, ctx):
        if status == "waiting":
            await io.wait("pause", 600)

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
        with pytest.raises(ConflictError):
            await app.client.continue_run(started)


async def test_continue_after_a_stored_output_stopped_fitting_its_model(app):
    import pydantic

    class Old(pydantic.BaseModel):
        name: str

    class New(pydantic.BaseModel):
        name: int

    async def job(payload, io, ctx):
        page = await io.run_task("the page", lambda: Old(name="text"), output=Old)
        await io.wait("pause", 600)
        return page.name

    async def broken_release(payload, io, ctx):
        page = await io.run_task("the page", lambda: New(name=1), output=New)
        await io.wait("pause", 600)
        return page.name

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
    release = app.deployed()
    release.define(broken_release, id="job")
    async with release.embedded():
        failed = await release.end_of(started)
    fixed = app.deployed()
    fixed.define(job)
    async with fixed.embedded():
        await fixed.client.continue_run(started)
        run = await fixed.end_of(started)

    assert failed.status is RunStatus.FAILED
    assert "the page" in failed.error.message
    assert run.output == "text"


async def fails_while(broken):
    await asyncio.sleep(0.1)
    if broken:
        raise ValueError("broken")
    return "repaired"
