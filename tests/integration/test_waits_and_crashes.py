"""Runs that wait for others, whatever dies in between; and resolutions that come at the worst moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import msgspec
import pytest

from perdure import Retry, RunStatus, TaskError, TaskStatus, event_trigger, invoke_trigger
from perdure.engine.journal import EngineSource
from perdure.engine.store import ResolveTask
from perdure.schema.execution import EventRecord, Suspended
from perdure.testing.journal_contract import close_journal
from perdure.testing.store_contract.factories import make_task

from .commit_faults import run_with_each_commit_broken

both = pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])


def define_family(app, sync=False):
    """A parent that waits for one run, for three and for an event which one of them sends; a child that counts itself."""

    async def child(payload, io, ctx):
        await io.run_task("count", lambda: app.done.append((ctx.run.id, payload)))
        if payload == "c":
            await io.send_event("send", "news", {"from": ctx.event.context})
        return payload

    job = app.define(child, trigger=invoke_trigger())

    async def parent_async(payload, io, ctx):
        one = await io.invoke_and_wait("one", job, "a")
        many = await io.batch_invoke_and_wait("many", job, ["b", "c", "d"], context=ctx.run.id)
        news = await io.wait_for_event(
            "news", "news", filter={"from": [ctx.run.id]}, since=timedelta(hours=1), timeout=100
        )
        return [one.output, [result.output for result in many], news.payload["from"] == ctx.run.id]

    def parent_sync(payload, io, ctx):
        one = io.invoke_and_wait("one", job, "a")
        many = io.batch_invoke_and_wait("many", job, ["b", "c", "d"], context=ctx.run.id)
        news = io.wait_for_event(
            "news", "news", filter={"from": [ctx.run.id]}, since=timedelta(hours=1), timeout=100
        )
        return [one.output, [result.output for result in many], news.payload["from"] == ctx.run.id]

    app.define(parent_sync if sync else parent_async, id="parent", trigger=event_trigger(name="parent"))


@both
async def test_each_commit_broken(app, sync):
    define_family(app, sync)

    async for run in run_with_each_commit_broken(app, "parent", commits=40):
        assert run.output == ["a", ["b", "c", "d"], True]
        children = [task for task in run.tasks if task.name == "invoke child"]
        assert len(children) == 3

    # Whatever broke, no child was made twice; a body that a crash cut off before its record may have run twice.
    for _, payload in set(app.done):
        assert payload in "abcd"
    per_parent = Counter(payload for _, payload in set(app.done))
    assert len(set(per_parent.values())) == 1


@both
async def test_forced_replay(app, sync):
    define_family(app, sync)

    async with app.embedded(force_replay=True):
        run = await app.end_of(await app.start("parent"))

    assert run.output == ["a", ["b", "c", "d"], True]
    assert len(app.done) == 4


async def test_batches_of_any_size(app):
    async def child(payload, io, ctx):
        return payload * 2

    job = app.define(child, trigger=invoke_trigger())
    sizes = [0, 1, 26, 1000, 2345]

    async def parent(payload, io, ctx):
        found = []
        for n in sizes:
            results = await job.batch_invoke_and_wait(list(range(n)), key=["batch", n])
            found.append([result.output for result in results] == [2 * i for i in range(n)])
        await io.wait("pause", 60)
        return found

    run = await app.run(parent)

    assert run.output == [True] * len(sizes)
    assert run.executions <= 2 + 2 * len(sizes)


async def test_parent_of_many_slow_children_is_executed_a_few_times_only(app):
    async def child(payload, io, ctx):
        await io.wait("pause", 1 + payload / 10)
        return payload

    job = app.define(child, trigger=invoke_trigger())

    async def parent(payload, io, ctx):
        return len(await job.batch_invoke_and_wait(list(range(300)), key="batch"))

    run = await app.run(parent)

    assert run.output == 300
    assert run.executions <= 3


async def test_replays_of_a_parent_with_many_branches_are_coalesced(app):
    async def child(payload, io, ctx):
        await io.wait("pause", 1 + payload / 100)
        return payload

    job = app.define(child, trigger=invoke_trigger())

    async def parent(payload, io, ctx):
        results = await asyncio.gather(*(job.invoke_and_wait(n, key=["child", n]) for n in range(200)))
        return sum(result.output for result in results)

    run = await app.run(parent)

    assert run.output == sum(range(200))
    assert run.executions <= 60


async def test_time_of_a_batch_is_over(app):
    """What is still open then is over for the run, too: the ends of those children don't wake it."""

    async def child(payload, io, ctx):
        await io.wait("pause", payload)
        return payload

    job = app.define(child, trigger=invoke_trigger())

    async def parent(payload, io, ctx):
        try:
            await job.batch_invoke_and_wait([1, 2, *range(100, 150)], key="batch", timeout=60)
        except TaskError as error:
            app.done.append((error.matches(TimeoutError), error.error_message))
        await io.wait("longer", 600)
        return "end"

    run = await app.run(parent)

    assert run.output == "end"
    assert app.done[0][0] is True
    assert "50 runs of job 'child'" in app.done[0][1]
    assert run.executions <= 5
    states = Counter(task.status for task in run.tasks if task.name == "invoke child")
    assert states == {TaskStatus.COMPLETED: 2, TaskStatus.CANCELED: 50}


async def test_interrupted_batch(app):
    async def child(payload, io, ctx):
        await io.wait("pause", 10)

    job = app.define(child, trigger=invoke_trigger())

    async def parent(payload, io, ctx):
        try:
            async with asyncio.timeout(2):
                await job.batch_invoke_and_wait([1, 2], key="batch")
        except TimeoutError:
            app.done.append("interrupted")
        await io.wait("longer", 60)
        return "end"

    run = await app.run(parent)

    assert run.output == "end"
    assert run.executions <= 3
    assert {task.status for task in run.tasks if task.key != "longer"} == {TaskStatus.CANCELED}


async def test_attempt_that_is_repeated_waits_for_the_same_children(app):
    async def child(payload, io, ctx):
        await io.run_task("count", lambda: app.done.append(payload))
        await io.wait("pause", 30)
        return payload

    job = app.define(child, trigger=invoke_trigger())

    async def parent(payload, io, ctx):
        async def body():
            one, many = await asyncio.gather(
                job.invoke_and_wait(0, key="one"), job.batch_invoke_and_wait([1, 2], key="many")
            )
            return [one.output, *(result.output for result in many)]

        return await io.run_task("body", body, timeout=20, retry=Retry(attempts=3, min_delay=1))

    run = await app.run(parent)

    assert run.output == [0, 1, 2]
    assert sorted(app.done) == [0, 1, 2]


async def test_yield_while_waiting(app):
    async def child(payload, io, ctx):
        await io.wait("pause", 5)
        return payload

    job = app.define(child, trigger=invoke_trigger())

    async def parent(payload, io, ctx):
        async def other():
            await io.wait("moment", 0.01)
            await io.yield_("leave")
            return 2

        results = await asyncio.gather(job.invoke_and_wait(1, key="one"), other())
        return [results[0].output, results[1]]

    run = await app.run(parent)

    assert run.output == [1, 2]


class TestWorstMoments:
    """A resolution and the suspension of the run that waits for it, in whichever order, in one transaction or in two."""

    @pytest.mark.parametrize("order", ["resolved first", "suspended first", "one after the other"])
    async def test_wake_up_is_never_lost(self, app, order):
        async def job(payload, io, ctx):
            pass

        app.define(job)
        async with app.embedded() as embedded:
            engine = embedded._engine
            embedded._runner._pulling.cancel()
            await asyncio.sleep(0)
            source = EngineSource(engine)
            run_id = await app.start("job")
            [(claim, journal)] = await source.claim(1)
            recorded = asyncio.get_running_loop().create_future()
            journal.record([make_task("t", status=TaskStatus.WAITING)], [], recorded.set_result)
            assert await recorded
            resolve = ResolveTask(
                run_id=run_id,
                task_id="t",
                status=TaskStatus.COMPLETED,
                at=engine.clock.now(),
                waiting=RunStatus.WAITING,
                queued=RunStatus.QUEUED,
                output="1",
            )
            suspended = Suspended(None, wakes=claim.wakes, open_waits=1)

            def suspend():
                return close_journal(journal, suspended)

            if order == "resolved first":
                futures = [engine.submit(resolve), suspend()]
                await asyncio.gather(*futures)
            elif order == "suspended first":
                futures = [suspend(), engine.submit(resolve)]
                await asyncio.gather(*futures)
            else:
                await engine.submit(resolve)
                await suspend()

            [(again, _)] = await asyncio.wait_for(source.claim(1), 5)
            assert (again.run_id, again.execution, again.wakes) == (run_id, 2, 1)
            (task,) = again.tasks
            assert (task.status, task.output, task.seq) == (TaskStatus.COMPLETED, "1", None)
            await embedded.crash()

    async def test_resolution_between_claim_and_execution_is_told(self, app, monkeypatch):
        """It is committed after the run was claimed, and before its execution began: nothing else would tell that."""

        class LateSource(EngineSource):
            async def claim(self, limit):
                claims = await super().claim(limit)
                for claim, _ in claims:
                    for task in claim.tasks:
                        if task.key == "news":
                            event = EventRecord(id="late", name="news", payload="1", timestamp=0)
                            await self._engine.submit(resolve(claim.run_id, task.id, event))
                return claims

        def resolve(run_id, task_id, event):
            return ResolveTask(
                run_id=run_id,
                task_id=task_id,
                status=TaskStatus.COMPLETED,
                at=app.clock.now(),
                waiting=RunStatus.WAITING,
                queued=RunStatus.QUEUED,
                output=msgspec.json.encode(event).decode(),
            )

        async def job(payload, io, ctx):
            async def news():
                event = await io.wait_for_event("news", "news", timeout=None)
                app.done.append((event.id, app.clock.now()))

            await asyncio.gather(news(), io.run_task("busy", asyncio.sleep, 3600))

        app.define(job)
        async with app.embedded() as embedded:
            run_id = await app.start("job")
            await asyncio.sleep(10)
            await embedded.crash()
        monkeypatch.setattr("perdure.embedded.EngineSource", LateSource)
        began = app.clock.now()
        async with app.embedded():
            run = await app.end_of(run_id)

        assert run.status is RunStatus.COMPLETED
        [(event_id, at)] = app.done
        assert event_id == "late"
        assert at - began < 5_000

    async def test_end_of_a_run_is_told_once(self, app):
        """A child that is continued ends twice; the second end changes nothing for who waited."""

        async def child(payload, io, ctx):
            app.done.append("child")
            raise ValueError("always")

        job = app.define(child, trigger=invoke_trigger())

        async def parent(payload, io, ctx):
            result = await job.invoke_and_wait(1, key="one")
            await io.wait("pause", 100)
            return result.status is RunStatus.FAILED

        app.define(parent)
        async with app.embedded():
            run_id = await app.start("parent")
            await asyncio.sleep(10)
            (child_run,) = await app.client.get_runs("child")
            await app.client.continue_run(child_run.id)
            run = await app.end_of(run_id)

        assert app.done == ["child", "child"]
        assert run.output is True
        assert run.executions <= 3
