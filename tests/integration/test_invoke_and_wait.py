"""Runs that start others and wait for them: `invoke`, `invoke_and_wait`, `batch_invoke_and_wait`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from pydantic import BaseModel

from perdure import (
    Integration,
    NotFoundError,
    PerdureError,
    Run,
    RunFailedError,
    RunResult,
    RunStatus,
    TaskError,
    TaskStatus,
    UsageError,
    invoke_trigger,
)


class Order(BaseModel):
    id: int
    price: Decimal


@dataclass
class Receipt:
    order: int
    at: datetime


def child_of(app, fn, **options):
    """A job that is only invoked."""
    return app.define(fn, trigger=invoke_trigger(), **options)


async def test_output_comes_back_with_its_types(app):
    async def charge(payload: Order, io, ctx) -> Receipt:
        return Receipt(payload.id, datetime(2030, 1, 1, tzinfo=UTC))

    charge_job = app.define(charge, trigger=invoke_trigger(schema=Order))

    async def parent(payload, io, ctx):
        result = await charge_job.invoke_and_wait(Order(id=7, price=Decimal("1.50")), key="charge")
        app.done.append(result)
        return result.unwrap().order

    run = await app.run(parent)

    assert run.output == 7
    assert [(result.ok, result.status, result.output, result.error) for result in app.done] == [
        (True, RunStatus.COMPLETED, Receipt(7, datetime(2030, 1, 1, tzinfo=UTC)), None)
    ]


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize("seconds", [0, 0.02, 30], ids=["at once", "soon", "later"])
@pytest.mark.parametrize("replays", [False, True], ids=["", "replayed"])
async def test_children_may_take_any_time(app, sync, seconds, replays):
    async def child(payload, io, ctx):
        app.done.append(payload)
        if seconds:
            await io.wait("pause", seconds)
        return (payload, ctx.event.context)

    job = child_of(app, child)

    async def parent_async(payload, io, ctx):
        first = await io.invoke_and_wait("first", job, 1, context={"a": 1})
        second = await io.invoke_and_wait(["second", 2], job, 2)
        return [first.id, first.output, second.output]

    def parent_sync(payload, io, ctx):
        first = io.invoke_and_wait("first", job, 1, context={"a": 1})
        second = io.invoke_and_wait(["second", 2], job, 2)
        return [first.id, first.output, second.output]

    run = await app.run(parent_sync if sync else parent_async, force_replay=replays)

    assert run.status is RunStatus.COMPLETED
    assert run.output[1:] == [(1, {"a": 1}), (2, None)]
    assert app.done[0] == 1
    assert set(app.done) == {1, 2}


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_invoke_starts_one_run_and_returns_it(app, sync):
    async def child(payload, io, ctx):
        app.done.append((payload, ctx.event.context))

    job = child_of(app, child)

    async def parent_async(payload, io, ctx):
        one = await job.invoke("a", key="one", context=1)
        two = await io.invoke("two", job, "b")
        await io.wait("pause", 60)
        return [type(one) is Run, one.job_id, one.id != two.id]

    def parent_sync(payload, io, ctx):
        one = io.invoke("one", job, "a", context=1)
        two = io.invoke("two", job, "b")
        io.wait("pause", 60)
        return [type(one) is Run, one.job_id, one.id != two.id]

    run = await app.run(parent_sync if sync else parent_async)

    assert run.output == [True, "child", True]
    assert sorted(app.done, key=str) == [("a", 1), ("b", None)]


class TestMisuse:
    async def test_key_is_required_inside_a_run(self, app):
        async def child(payload, io, ctx):
            pass

        job = child_of(app, child)

        async def parent(payload, io, ctx):
            await job.invoke(1)

        run = await app.run(parent)

        assert run.status is RunStatus.FAILED
        assert "needs a key" in run.error.message

    async def test_waiting_needs_a_run(self, app):
        async def child(payload, io, ctx):
            pass

        job = child_of(app, child)

        async with app.embedded():
            for call in (job.invoke_and_wait, job.batch_invoke_and_wait):
                with pytest.raises(UsageError, match=r"client\.wait_for_run"):
                    call([], key="k")
            with pytest.raises(UsageError, match="key is a string"):
                job.invoke(1, key=["a", 1])

    async def test_sync_runs_are_told_what_to_write(self, app):
        async def child(payload, io, ctx):
            pass

        job = child_of(app, child)

        def parent(payload, io, ctx):
            job.invoke_and_wait(1, key="k")

        run = await app.run(parent)

        assert run.error.name == "UsageError"
        assert "io.invoke_and_wait(key, job, payload)" in run.error.message

    async def test_job_of_another_client_is_refused(self, app):
        async def child(payload, io, ctx):
            pass

        stranger = child_of(app.deployed(), child)

        async def parent(payload, io, ctx):
            await io.invoke_and_wait("k", stranger, 1)

        run = await app.run(parent)

        assert run.error.name == "UsageError"

    @pytest.mark.parametrize("way", ["invoke", "invoke_and_wait", "batch_invoke_and_wait"])
    @pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
    async def test_payload_is_checked_before(self, app, way, sync):
        async def child(payload, io, ctx):
            app.done.append(payload)

        job = app.define(child, trigger=invoke_trigger(schema=Order))
        bad = [{"id": 1, "price": "1"}, {"id": "no"}] if way.startswith("batch") else {"id": "no"}

        async def parent_async(payload, io, ctx):
            try:
                await getattr(io, way)("k", job, bad)
            except TaskError as error:
                return error.matches("InvalidPayloadError")

        def parent_sync(payload, io, ctx):
            try:
                getattr(io, way)("k", job, bad)
            except TaskError as error:
                return error.matches("InvalidPayloadError")

        run = await app.run(parent_sync if sync else parent_async)

        assert run.output is True
        assert app.done == []

    async def test_payload_that_was_accepted_is_not_checked_again(self, app):
        async def child(payload, io, ctx):
            return payload

        async def parent(payload, io, ctx):
            result = await io.invoke_and_wait("k", app_now.client.jobs["child"], {"id": 1})
            await io.wait("pause", 60)
            return result.output

        app_now = app
        child_of(app, child)
        job = app.define(parent)
        async with app.embedded():
            run_id = await app.start(job)
            await app.reached(lambda: True)
            await app.client.drain()

        app_now = later = app.deployed()
        later.define(child, trigger=invoke_trigger(schema=Order))
        later.define(parent)
        async with later.embedded():
            assert (await later.end_of(run_id)).output == {"id": 1}


async def ends_completed(payload, io, ctx):
    return "done"


async def ends_failed(payload, io, ctx):
    raise ValueError("on purpose")


async def ends_late(payload, io, ctx):
    await io.wait("pause", 100)


async def ends_busy(payload, io, ctx):
    await asyncio.sleep(1000)


class TestEveryEnd:
    """Whichever way a child ends, its parent goes on and learns of it."""

    async def parent_of(self, app, child, **options):
        job = child_of(app, child, id="child", **options)

        async def parent(payload, io, ctx):
            result = await job.invoke_and_wait(payload, key="child")
            app.done.append(result)
            return result.unwrap()

        return app.define(parent)

    async def test_completed(self, app):
        parent = await self.parent_of(app, ends_completed)
        async with app.embedded():
            assert (await app.end_of(await app.start(parent))).output == "done"

    async def test_failed(self, app):
        parent = await self.parent_of(app, ends_failed)
        async with app.embedded():
            run = await app.end_of(await app.start(parent))

        (result,) = app.done
        assert (result.ok, result.status, result.output) == (False, RunStatus.FAILED, None)
        assert (result.error.name, result.error.message) == ("ValueError", "on purpose")
        assert run.status is RunStatus.FAILED
        assert run.error.name == "RunFailedError"
        assert result.id in run.error.message
        assert "Failed: ValueError: on purpose" in run.error.message

    @pytest.mark.parametrize("child", [ends_late, ends_busy])
    async def test_cancelled(self, app, child):
        parent = await self.parent_of(app, child)
        async with app.embedded():
            run_id = await app.start(parent)
            await asyncio.sleep(1)
            (child_run,) = await app.client.get_runs("child")
            assert not child_run.status.is_terminal
            await app.client.cancel_run(child_run.id)
            run = await app.end_of(run_id, within=60)

        (result,) = app.done
        assert (result.id, result.status, result.ok) == (child_run.id, RunStatus.CANCELLED, False)
        assert "Cancelled" in run.error.message

    async def test_cancelled_before_it_began(self, app):
        parent = await self.parent_of(app, ends_completed)
        async with app.embedded(max_executions=1):
            blocker = app.define(ends_busy)
            run_id = await app.start(parent)
            await asyncio.sleep(0)
            blocking = await app.start(blocker)
            runs = []
            while not runs:
                await asyncio.sleep(0)
                runs = await app.client.get_runs("child")
            if not runs[0].status.is_terminal:
                await app.client.cancel_run(runs[0].id)
            await app.client.cancel_run(blocking)
            await app.end_of(run_id, within=60)

        assert app.done[0].status in {RunStatus.CANCELLED, RunStatus.COMPLETED}

    async def test_timed_out(self, app):
        parent = await self.parent_of(app, ends_busy, max_duration=5)
        async with app.embedded():
            await app.end_of(await app.start(parent), within=60)

        (result,) = app.done
        assert (result.status, result.error.name) == (RunStatus.TIMED_OUT, "TimedOut")

    async def test_invalid_payload(self, app):
        """The schema has changed since the run was made."""
        parent = await self.parent_of(app, ends_late)
        async with app.embedded():
            run_id = await app.start(parent, {"id": "no"})
            await asyncio.sleep(1)
        later = app.deployed()
        job = later.define(ends_completed, id="child", trigger=invoke_trigger(schema=Order))

        async def parent(payload, io, ctx):
            app.done.append(await job.invoke_and_wait(payload, key="child"))

        later.define(parent)
        async with later.embedded():
            await later.end_of(run_id, within=1000)

        assert [result.status for result in app.done] == [RunStatus.INVALID_PAYLOAD]

    async def test_unresolved_auth(self, app):
        """The one end of another kind: it is decided before the run function is called."""

        class Mail(Integration):
            def for_run(self, io, key, auth):
                return self

        app.client.define_auth_resolver("mail", lambda ctx, integration: None)
        parent = await self.parent_of(app, ends_completed, integrations={"mail": Mail("mail")})
        async with app.embedded():
            await app.end_of(await app.start(parent), within=60)

        (result,) = app.done
        assert (result.ok, result.status) == (False, RunStatus.UNRESOLVED_AUTH)
        assert "mail" in result.error.message

    async def test_poisoned(self, app):
        parent = await self.parent_of(app, ends_busy)
        run_id = ""
        for _ in range(5):
            async with app.embedded() as embedded:
                run_id = run_id or await app.start(parent)
                await self.until_executing(app)
                await embedded.crash()
        async with app.embedded():
            await app.end_of(run_id, within=timedelta(hours=1))

        (result,) = app.done
        assert (result.status, result.error.name) == (RunStatus.FAILED, "Poisoned")

    async def until_executing(self, app):
        for _ in range(100_000):
            runs = await app.client.get_runs("child")
            if runs and runs[0].status is RunStatus.EXECUTING:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the child was never executed")


class TestTimeOut:
    @pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
    async def test_task_fails_and_child_goes_on(self, app, sync):
        async def child(payload, io, ctx):
            await io.wait("pause", 100)
            app.done.append("child")

        job = child_of(app, child)

        async def parent_async(payload, io, ctx):
            try:
                await io.invoke_and_wait("k", job, 1, timeout=60)
            except TaskError as error:
                app.done.append(error.matches(TimeoutError))
            await io.wait("longer", 100)

        def parent_sync(payload, io, ctx):
            try:
                io.invoke_and_wait("k", job, 1, timeout=60)
            except TaskError as error:
                app.done.append(error.matches(TimeoutError))
            io.wait("longer", 100)

        run = await app.run(parent_sync if sync else parent_async)

        assert app.done == [True, "child", True]
        assert run.status is RunStatus.COMPLETED
        assert run.execution_duration < timedelta(seconds=2)

    async def test_child_that_is_in_time_is_no_failure(self, app):
        async def child(payload, io, ctx):
            await io.wait("pause", 50)
            return "in time"

        job = child_of(app, child)

        async def parent(payload, io, ctx):
            return (await job.invoke_and_wait(1, key="k", timeout=60)).output

        assert (await app.run(parent)).output == "in time"


async def test_many_waits_of_all_kinds_side_by_side(app):
    async def child(payload, io, ctx):
        await io.wait("pause", payload % 7)
        return payload

    job = child_of(app, child)

    async def parent(payload, io, ctx):
        async def one(n):
            match n % 4:
                case 0:
                    return (await job.invoke_and_wait(n, key=["child", n])).unwrap()
                case 1:
                    await io.wait(["wait", n], n % 5)
                    return n
                case 2:
                    return (await io.wait_for_event(["event", n], "ping", filter={"n": [n]})).payload["n"]
                case _:
                    batch = await job.batch_invoke_and_wait([n, n], key=["batch", n])
                    return batch[0].unwrap()

        return await asyncio.gather(*map(one, range(52)))

    parent_job = app.define(parent)
    async with app.embedded():
        run_id = await app.start(parent_job)
        await asyncio.sleep(3)
        for n in range(2, 52, 4):
            await app.client.send_event("ping", {"n": n})
            await asyncio.sleep(0.3)
        run = await app.end_of(run_id, within=60)

    assert run.output == list(range(52))


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_wait_inside_the_body_of_a_task(app, sync):
    async def child(payload, io, ctx):
        await io.wait("pause", 60)
        return payload

    job = child_of(app, child)

    async def parent_async(payload, io, ctx):
        async def body():
            app.done.append("body")
            return (await job.invoke_and_wait(5, key="k")).unwrap()

        return await io.run_task("outer", body)

    def parent_sync(payload, io, ctx):
        def body():
            app.done.append("body")
            return io.invoke_and_wait("k", job, 5).unwrap()

        return io.run_task("outer", body)

    run = await app.run(parent_sync if sync else parent_async)

    assert run.output == 5
    assert len(await_runs := app.done) == 2, await_runs


async def test_sync_parallel_waits(app):
    async def child(payload, io, ctx):
        await io.wait("pause", payload)
        return payload

    job = child_of(app, child)

    def parent(payload, io, ctx):
        return io.parallel("all", [3, 1, 2], lambda n, _: io.invoke_and_wait(["child", n], job, n).unwrap())

    run = await app.run(parent)

    assert run.output == [3, 1, 2]
    assert run.executions <= 6


async def test_branch_of_a_sync_run_whose_child_ended_before_the_others_settled(app):
    """The child ends while another branch still works: the run goes on at once, it waits for nothing."""

    async def child(payload, io, ctx):
        return payload

    job = child_of(app, child)
    began = asyncio.Event()

    async def slow():
        began.set()
        await asyncio.sleep(0.3)
        return "slow"

    def parent(payload, io, ctx):
        def branch(n, _):
            if n:
                return io.invoke_and_wait("child", job, "fast").unwrap()
            return io.run_task("slow", lambda: slow())

        return io.parallel("all", [0, 1], branch)

    run = await app.run(parent, within=60)

    assert run.output == ["slow", "fast"]


async def test_interrupted_wait_ignores_what_comes_later(app):
    async def child(payload, io, ctx):
        await io.wait("pause", 10)
        app.done.append("child")
        return payload

    job = child_of(app, child)

    async def parent(payload, io, ctx):
        try:
            async with asyncio.timeout(2):
                await job.invoke_and_wait(1, key="k")
        except TimeoutError:
            app.done.append("interrupted")
        await io.wait("longer", 60)
        return "end"

    run = await app.run(parent)

    assert run.output == "end"
    assert app.done.count("child") == 1
    assert app.done[0] == "interrupted"
    (task,) = [task for task in run.tasks if task.key == "k"]
    assert task.status is TaskStatus.CANCELED


async def test_cancelling_the_parent_leaves_its_children_alone(app):
    async def child(payload, io, ctx):
        await io.wait("pause", 10)
        app.done.append("child")

    job = child_of(app, child)

    async def parent(payload, io, ctx):
        await job.batch_invoke_and_wait([1, 2], key="k")

    parent_job = app.define(parent)
    async with app.embedded():
        run_id = await app.start(parent_job)
        await asyncio.sleep(1)
        await app.client.cancel_run(run_id)
        await asyncio.sleep(20)
        run = await app.look(run_id)
        await app.client.drain()

    assert run.status is RunStatus.CANCELLED
    assert app.done == ["child", "child"]


class TestContinuing:
    """A run that failed or was cancelled while it waited goes on with the same children where that makes sense."""

    async def test_children_that_are_alive_are_waited_for_again(self, app):
        async def child(payload, io, ctx):
            await io.run_task("begin", lambda: app.done.append("began"))
            await io.wait("pause", 100)
            return payload

        job = child_of(app, child)

        async def parent(payload, io, ctx):
            single, batch = await asyncio.gather(
                job.invoke_and_wait(1, key="one"), job.batch_invoke_and_wait([2, 3], key="two")
            )
            return [single.unwrap(), *(result.unwrap() for result in batch)]

        parent_job = app.define(parent)
        async with app.embedded():
            run_id = await app.start(parent_job)
            await asyncio.sleep(10)
            await app.client.cancel_run(run_id)
            await asyncio.sleep(10)
            await app.client.continue_run(run_id)
            run = await app.end_of(run_id, within=200)

        assert run.output == [1, 2, 3]
        assert app.done == ["began"] * 3

    async def test_children_that_completed_meanwhile_have_completed(self, app):
        async def child(payload, io, ctx):
            await io.wait("pause", 100)
            app.done.append(payload)
            return payload

        job = child_of(app, child)

        async def parent(payload, io, ctx):
            single, batch = await asyncio.gather(
                job.invoke_and_wait(1, key="one"), job.batch_invoke_and_wait([2, 3], key="two")
            )
            return [single.unwrap(), *(result.unwrap() for result in batch)]

        parent_job = app.define(parent)
        async with app.embedded():
            run_id = await app.start(parent_job)
            await asyncio.sleep(10)
            await app.client.cancel_run(run_id)
            await asyncio.sleep(200)
            await app.client.continue_run(run_id)
            run = await app.end_of(run_id, within=200)

        assert run.output == [1, 2, 3]
        assert sorted(app.done) == [1, 2, 3]

    async def test_children_that_ended_otherwise_are_started_again(self, app):
        async def child(payload, io, ctx):
            app.done.append(payload)
            if len(app.done) == 1:
                await io.wait("pause", timedelta(days=1))
            return payload

        job = child_of(app, child)

        async def parent(payload, io, ctx):
            return (await job.invoke_and_wait(1, key="one", timeout=60)).unwrap()

        parent_job = app.define(parent)
        async with app.embedded():
            run_id = await app.start(parent_job)
            run = await app.end_of(run_id)
            assert run.error.name == "TimeoutError"
            (child_run,) = await app.client.get_runs("child")
            await app.client.cancel_run(child_run.id)
            await app.client.continue_run(run_id)
            run = await app.end_of(run_id, within=200)

        assert run.output == 1
        assert app.done == [1, 1]

    @pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
    async def test_failure_of_a_child_is_repaired_by_starting_it_again(self, app, batch):
        async def child(payload, io, ctx):
            app.done.append(payload)
            if app.done == [1]:
                raise ValueError("the first time")
            return payload

        job = child_of(app, child)

        async def parent(payload, io, ctx):
            if not batch:
                return [(await job.invoke_and_wait(1, key="one")).unwrap()]
            results = await job.batch_invoke_and_wait([1, 2, 3], key="some")
            return [result.unwrap() for result in results]

        parent_job = app.define(parent)
        async with app.embedded():
            run_id = await app.start(parent_job)
            assert (await app.end_of(run_id)).status is RunStatus.FAILED
            await app.client.continue_run(run_id)
            run = await app.end_of(run_id, within=200)

        assert run.output == ([1, 2, 3] if batch else [1])
        assert sorted(app.done) == ([1, 1, 2, 3] if batch else [1, 1])


def test_result_without_output_says_what_happened():
    result = RunResult(id="run_1", ok=False, status=RunStatus.CANCELLED)

    with pytest.raises(RunFailedError, match=r"run_1.*Cancelled") as raised:
        result.unwrap()

    assert isinstance(raised.value, PerdureError)
    assert not isinstance(raised.value, NotFoundError)
