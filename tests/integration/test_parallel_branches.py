"""Several branches at once: gather, task groups, queues, and one order in all executions."""

from __future__ import annotations

import asyncio

import pytest

from perdure import RunStatus, TaskError, TaskStatus


async def test_gather_runs_bodies_side_by_side(app):
    async def job(payload, io, ctx):
        await asyncio.gather(*(io.run_task(["sleep", n], asyncio.sleep, 10) for n in range(10)))

    run = await app.run(job)

    assert run.status is RunStatus.COMPLETED
    assert run.execution_duration.total_seconds() < 12


async def test_wait_in_one_branch_does_not_cancel_a_body_in_another(app):
    async def job(payload, io, ctx):
        await asyncio.gather(io.wait("pause", 3600), io.run_task("body", body, app, 30))

    run = await app.run(job)

    assert run.status is RunStatus.COMPLETED
    assert app.done == ["began", "ended"]


async def test_wait_in_a_task_group_does_not_cancel_a_siblings_body(app):
    async def job(payload, io, ctx):
        async with asyncio.TaskGroup() as group:
            group.create_task(io.wait("pause", 3600))
            group.create_task(io.run_task("body", body, app, 30))

    run = await app.run(job)

    assert run.status is RunStatus.COMPLETED
    assert app.done == ["began", "ended"]


async def test_wait_in_a_body_does_not_cancel_a_siblings_body(app):
    async def job(payload, io, ctx):
        async def waits():
            await io.wait("pause", 3600)
            return "waited"

        async with asyncio.TaskGroup() as group:
            first = group.create_task(io.run_task("waits", waits))
            group.create_task(io.run_task("body", body, app, 30))
        return first.result()

    run = await app.run(job)

    assert run.output == "waited"
    assert app.done == ["began", "ended"]


async def test_failing_sibling_in_a_task_group_interrupts_the_others(app):
    async def job(payload, io, ctx):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(io.run_task("fails", fail_after, 1))
                group.create_task(io.run_task("body", body, app, 3600))
                group.create_task(io.wait("pause", 7200))
        except* TaskError as errors:
            app.done.append([error.error_name for error in errors.exceptions if isinstance(error, TaskError)])
        await io.wait("after", 600)
        return "end"

    run = await app.run(job)

    assert run.output == "end"
    assert app.done == ["began", ["ValueError"], ["ValueError"]]
    assert {task.key: task.status for task in run.tasks if task.key in ("body", "pause")} == {
        "body": TaskStatus.CANCELED,
        "pause": TaskStatus.CANCELED,
    }


async def test_failing_branch_of_a_gather_leaves_the_others_to_the_end_of_the_run(app):
    async def job(payload, io, ctx):
        await asyncio.gather(io.run_task("fails", fail_after, 1), io.wait("pause", 7200))

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert run.error.name == "ValueError"
    assert run.tasks[1].status is TaskStatus.CANCELED


async def test_error_in_one_branch_while_another_waits_is_raised_at_once(app):
    async def job(payload, io, ctx):
        start = await io.now("start")
        try:
            await asyncio.gather(io.run_task("fails", fail_after, 1), io.wait("pause", 5000))
        except TaskError:
            return (await io.now("end") - start).total_seconds()

    assert (await app.run(job)).output < 10


async def test_completions_are_replayed_in_their_order(app):
    async def job(payload, io, ctx):
        order = []

        async def branch(n, seconds):
            await io.run_task(["task", n], asyncio.sleep, seconds)
            order.append(n)

        await asyncio.gather(*(branch(n, seconds) for n, seconds in enumerate([5, 1, 4, 2, 3])))
        app.done.append(order)
        await io.wait("pause", 3600)
        return order

    run = await app.run(job)

    assert run.output == [1, 3, 4, 2, 0]
    assert app.done == [run.output, run.output]


async def test_order_of_completions_decides_alike_with_replay_forced(app):
    async def job(payload, io, ctx):
        order = []

        async def branch(name):
            for n in range(3):
                await io.run_task([name, n], asyncio.sleep, {"a": 3, "b": 2, "c": 1}[name])
                order.append(name)

        await asyncio.gather(branch("a"), branch("b"), branch("c"))
        app.done.append("".join(order))
        return "".join(order)

    run = await app.run(job, force_replay=True)

    longest = run.output
    assert sorted(longest) == sorted("abc" * 3)
    assert all(longest == seen for seen in app.done)


async def test_branches_speak_through_a_queue(app):
    async def job(payload, io, ctx):
        queue = asyncio.Queue()

        async def producer():
            for n in range(3):
                await io.wait(["produce", n], 600)
                await queue.put(n)
            await queue.put(None)

        async def consumer():
            taken = []
            while (item := await queue.get()) is not None:
                taken.append(await io.run_task(["consume", item], asyncio.sleep, 0, item * 10))
            return taken

        return (await asyncio.gather(producer(), consumer()))[1]

    run = await app.run(job)

    assert run.output == [0, 10, 20]


@pytest.mark.parametrize("primitive", ["event", "lock", "semaphore", "condition", "barrier"])
async def test_branch_waiting_for_a_sibling_does_not_keep_the_run_in_memory(app, primitive):
    async def job(payload, io, ctx):
        waiter = WAITERS[primitive]()

        async def waits():
            await waiter.until()
            return "told"

        async def tells():
            await io.wait("pause", 3600)
            await waiter.tell()

        if primitive in ("lock", "semaphore"):
            await waiter.take()
        return (await asyncio.gather(waits(), tells()))[0]

    run = await app.run(job)

    assert run.output == "told"
    assert run.executions == 2
    assert run.execution_duration.total_seconds() < 5


class ByEvent:
    def __init__(self):
        self.event = asyncio.Event()

    async def until(self):
        await self.event.wait()

    async def tell(self):
        self.event.set()


class ByLock:
    make = asyncio.Lock

    def __init__(self):
        self.lock = self.make()

    async def take(self):
        await self.lock.acquire()

    async def until(self):
        await self.lock.acquire()

    async def tell(self):
        self.lock.release()


class BySemaphore(ByLock):
    make = asyncio.Semaphore


class ByCondition:
    def __init__(self):
        self.condition = asyncio.Condition()

    async def until(self):
        async with self.condition:
            await self.condition.wait()

    async def tell(self):
        async with self.condition:
            self.condition.notify_all()


class ByBarrier:
    def __init__(self):
        self.barrier = asyncio.Barrier(2)

    async def until(self):
        await self.barrier.wait()

    tell = until


WAITERS = {
    "event": ByEvent,
    "lock": ByLock,
    "semaphore": BySemaphore,
    "condition": ByCondition,
    "barrier": ByBarrier,
}


async def test_future_that_a_sibling_resolves_is_resolved(app):
    async def job(payload, io, ctx):
        future = asyncio.get_running_loop().create_future()

        async def tells():
            await io.wait("pause", 3600)
            future.set_result("told")

        telling = asyncio.create_task(tells())
        return await future, await telling

    run = await app.run(job)

    assert run.output == ("told", None)


async def test_shield_around_a_wait(app):
    async def job(payload, io, ctx):
        await asyncio.shield(io.wait("pause", 3600))
        return "waited"

    assert (await app.run(job)).output == "waited"


async def test_wait_for_branch_started_in_another_branch(app):
    async def job(payload, io, ctx):
        async def inner():
            await io.wait("inner", 3600)
            return "inner"

        async def outer():
            return await asyncio.create_task(asyncio.wait_for(inner(), None))

        return await asyncio.create_task(outer())

    assert (await app.run(job)).output == "inner"


async def test_parallel_gives_outputs_in_order_of_items(app):
    async def job(payload, io, ctx):
        async def work(item, index):
            await asyncio.sleep(10 - item)
            return [item, index]

        return await io.parallel("all", [3, 1, 2], work)

    assert (await app.run(job, force_replay=True)).output == [[3, 0], [1, 1], [2, 2]]


async def test_parallel_with_waits_in_the_items(app):
    async def job(payload, io, ctx):
        async def work(item, index):
            await io.wait("pause", item * 600)
            return item

        return await io.parallel("all", [3, 1, 2], work)

    run = await app.run(job)

    assert run.output == [3, 1, 2]


async def test_parallel_settles_all_before_it_raises_the_first_failure_in_order(app):
    async def job(payload, io, ctx):
        async def work(item, index):
            await asyncio.sleep(item)
            app.done.append(index)
            raise ValueError(index)

        try:
            await io.parallel("all", [3, 1, 2], work)
        except TaskError as error:
            return error.error_message

    run = await app.run(job)

    assert run.output == "0"
    assert app.done == [1, 2, 0]


async def test_parallel_of_nothing(app):
    async def job(payload, io, ctx):
        return await io.parallel("all", [], lambda item, index: item)

    assert (await app.run(job)).output == []


async def test_many_branches(app):
    async def job(payload, io, ctx):
        async def branch(n):
            value = await io.run_task(["first", n], asyncio.sleep, n % 7 / 10, n)
            await io.wait(["pause", n], 600 + n)
            return value + await io.run_task(["second", n], asyncio.sleep, 0, n)

        return sum(await asyncio.gather(*(branch(n) for n in range(100))))

    run = await app.run(job)

    assert run.output == 2 * sum(range(100))
    assert all(task.attempts <= 1 for task in run.tasks)


async def test_async_generator_in_a_branch(app):
    async def job(payload, io, ctx):
        async def pages():
            for n in range(3):
                yield await io.run_task(["page", n], asyncio.sleep, 0, n)
                await io.wait(["pause", n], 600)

        return [page async for page in pages()]

    assert (await app.run(job)).output == [0, 1, 2]


async def body(app, seconds):
    app.done.append("began")
    await asyncio.sleep(seconds)
    app.done.append("ended")


async def fail_after(seconds):
    await asyncio.sleep(seconds)
    raise ValueError("failed")
