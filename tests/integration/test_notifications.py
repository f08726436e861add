"""Handlers that are told how runs ended."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from typing import Any

import pytest

from perdure import Retry, RunNotification, RunStatus, UsageError, event_trigger

from .commit_faults import run_with_each_commit_broken

S = RunStatus


async def succeeds(payload, io, ctx):
    await io.create_status("s", "Done", state="success")
    await io.run_task("work", lambda: None)
    return {"out": payload}


async def fails(payload, io, ctx):
    await io.run_task("burn", burn)


async def burn():
    raise ValueError("it burns")


async def waits(payload, io, ctx):
    await io.wait("long", timedelta(days=300))


async def holds(payload, io, ctx):
    await io.run_task("hold", asyncio.sleep, 10_000)


class Told(list[RunNotification]):
    """A handler that keeps what it is told."""

    def __call__(self, notification: RunNotification) -> None:
        self.append(notification)


async def test_success_is_told_with_all_that_is_known(app):
    told, not_told = Told(), Told()
    app.define(succeeds, on_success=told, on_failure=not_told, version="2.0.0")
    async with app.embedded():
        event = await app.client.send_event("succeeds", 7, context={"by": "me"}, is_test=True)
        run = await app.end_of(event.runs[0].id)
        await app.client.drain()
        statuses = await app.client.get_run_statuses(run.id)

    [notification] = told
    assert notification.id == run.id
    assert notification.ok
    assert notification.status is S.COMPLETED
    assert notification.statuses == statuses
    assert [status.label for status in statuses] == ["Done"]
    assert notification.output == {"out": 7}
    assert notification.error is notification.task is notification.account is None
    assert notification.started_at == run.started_at
    assert notification.completed_at == notification.updated_at == run.completed_at
    assert notification.is_test
    assert notification.executions == run.executions == 1
    assert notification.execution_duration == run.execution_duration
    assert notification.invocation.id == event.id
    assert notification.invocation.payload == 7
    assert notification.invocation.context == {"by": "me"}
    assert notification.invocation.timestamp == event.timestamp
    assert (notification.job.id, notification.job.version) == ("succeeds", "2.0.0")
    assert notification.environment.type == "DEVELOPMENT"
    assert not not_told


async def test_notification_has_the_account(app):
    told = Told()
    app.define(succeeds, on_success=told)
    app.define(waits, on_failure=told)
    async with app.embedded():
        await app.client.put_account("user_1", {"plan": "gold"})
        await app.client.send_event("succeeds", account_id="user_1")
        event = await app.client.send_event("waits", account_id="user_1")
        await app.client.drain()
        await app.client.cancel_run(event.runs[0].id)
        await app.client.drain()

    assert [(each.account.id, each.account.metadata) for each in told if each.account] == [
        ("user_1", {"plan": "gold"})
    ] * 2


async def test_failure_is_told_with_error_and_task(app):
    told, not_told = Told(), Told()
    app.define(fails, on_success=not_told, on_failure=told)
    async with app.embedded():
        run = await app.end_of(await app.start("fails"))
        await app.client.drain()

    [notification] = told
    assert not notification.ok
    assert notification.status is S.FAILED
    assert notification.output is None
    assert notification.error == run.error
    assert notification.task == next(task for task in run.tasks if task.key == "burn")
    assert run.error.message == "it burns"
    assert not not_told


@pytest.mark.parametrize(
    "status",
    [S.COMPLETED, S.FAILED, S.CANCELLED, S.TIMED_OUT, S.INVALID_PAYLOAD],
    ids=lambda status: status.name,
)
async def test_every_end_is_told_to_the_right_handler(app, status):
    success, failure, all_success, all_failure = Told(), Told(), Told(), Told()
    run = {S.COMPLETED: succeeds, S.FAILED: fails, S.CANCELLED: waits, S.TIMED_OUT: holds}.get(
        status, succeeds
    )
    app.define(
        run,
        trigger=event_trigger(name=run.__name__, schema=int),
        max_duration=10,
        on_success=success,
        on_failure=failure,
    )
    app.client.on("run_succeeded", all_success)
    app.client.on("run_failed", all_failure)
    async with app.embedded():
        started = await app.start(run.__name__, "x" if status is S.INVALID_PAYLOAD else 1)
        if status is S.CANCELLED:
            await app.client.drain()
            await app.client.cancel_run(started)
        ended = await app.end_of(started)
        await app.client.drain()

    told = [success, all_success] if status is S.COMPLETED else [failure, all_failure]
    assert ended.status is status
    for handler in (success, failure, all_success, all_failure):
        assert [(each.id, each.status) for each in handler] == (
            [(started, status)] if any(handler is one for one in told) else []
        )
    assert told[0][0].error == ended.error


async def test_cancelled_while_executing_and_while_queued(app):
    told = Told()
    app.define(holds, on_failure=told)
    async with app.embedded(max_executions=1):
        executing, queued = await app.start("holds"), await app.start("holds")
        await asyncio.sleep(1)
        await app.client.cancel_run(queued)
        await app.client.cancel_run(executing)
        await app.client.drain()

    assert sorted(each.id for each in told) == sorted([executing, queued])
    assert {each.status for each in told} == {S.CANCELLED}


async def test_poisoned_run_is_told(app):
    told = Told()
    app.define(holds, on_failure=told)
    for _ in range(5):
        async with app.embedded() as process:
            await app.client.send_event("holds", id="one")
            await asyncio.sleep(60)  # longer than it is kept back after any crash
            await process.crash()
    async with app.embedded():
        event = await app.client.send_event("holds", id="one")
        run = await app.end_of(event.runs[0].id)
        await app.client.drain()

    assert run.error.name == "Poisoned"
    assert [(each.id, each.error) for each in told] == [(run.id, run.error)]


async def test_run_that_is_retried_is_told_once(app):
    told = Told()
    app.define(fails, retry=Retry(attempts=3), on_failure=told)
    async with app.embedded():
        run = await app.end_of(await app.start("fails"))
        await app.client.drain()

    assert run.executions == 3
    assert [each.executions for each in told] == [3]


async def test_continued_run_that_fails_again_is_told_again(app):
    told = Told()
    app.define(fails, on_failure=told)
    app.define(waits, on_failure=told)
    async with app.embedded():
        failed = await app.end_of(await app.start("fails"))
        await app.client.drain()
        await app.client.continue_run(failed.id)
        await app.end_of(failed.id)
        await app.client.drain()

        cancelled = await app.start("waits")
        for _ in range(2):
            await app.client.cancel_run(cancelled)
            await asyncio.sleep(1)
            await app.client.continue_run(cancelled)
        await app.client.drain()

    assert [each.id for each in told] == [failed.id] * 2 + [cancelled] * 2


async def test_async_handler_may_use_the_client_and_decorators(app):
    heard = []

    async def hears(payload, io, ctx):
        heard.append(payload)

    @app.client.on("run_failed")
    async def alert(notification: RunNotification) -> str:
        await app.client.send_event("hears", {"failed": notification.id})
        return "ignored"

    app.define(hears)
    app.define(fails)
    async with app.embedded():
        run = await app.end_of(await app.start("fails"))
        await app.client.drain()

    assert heard == [{"failed": run.id}]
    assert alert.__name__ == "alert"


async def test_handler_that_raises_is_called_again_and_doesnt_hurt_the_run(app):
    calls = []

    async def flaky(notification):
        calls.append(notification.id)
        if len(calls) < 4:
            raise OSError("no connection")

    app.define(succeeds, on_success=flaky)
    async with app.embedded():
        run = await app.end_of(await app.start("succeeds"))
        await asyncio.sleep(3600)

        assert calls == [run.id] * 4
        assert (await app.look(run.id)).status is S.COMPLETED
        await asyncio.sleep(10_000)
        assert len(calls) == 4


async def test_handler_that_always_raises_is_given_up(app):
    calls = []

    def broken(notification):
        calls.append(notification.id)
        raise ValueError("never")

    app.define(succeeds, on_success=broken)
    async with app.embedded():
        run = await app.end_of(await app.start("succeeds"))
        await asyncio.sleep(timedelta(hours=26).total_seconds())

        assert len(calls) == 13
        assert (await app.look(run.id)).status is S.COMPLETED
        assert [each.id for each in await app.client.get_runs()] == [run.id]


async def test_notification_is_delivered_after_a_restart_by_the_next_release(app):
    def unreachable(notification):
        raise OSError

    app.define(succeeds, on_success=unreachable)
    async with app.embedded():
        run = await app.end_of(await app.start("succeeds"))
        await asyncio.sleep(1)

    told = Told()
    release = app.deployed()
    release.define(succeeds, on_success=told)
    async with release.embedded():
        await asyncio.sleep(timedelta(hours=3).total_seconds())

    assert [each.id for each in told] == [run.id]


async def test_handlers_of_the_client_are_found_by_their_names_in_the_next_release(app):
    told = []

    def make(works):
        def report(notification):
            if not works:
                raise OSError
            told.append(notification.id)

        return report

    app.define(succeeds)
    app.client.on("run_succeeded", make(works=False))
    async with app.embedded():
        run = await app.end_of(await app.start("succeeds"))
        await asyncio.sleep(1)
    release = app.deployed()
    release.define(succeeds)
    release.client.on("run_succeeded", make(works=True))
    async with release.embedded():
        await asyncio.sleep(timedelta(hours=3).total_seconds())

    assert told == [run.id]


async def test_what_a_continued_run_failed_with_is_still_told(app):
    told = Told()
    broken = True

    def handler(notification):
        if broken:
            raise OSError
        told(notification)

    async def job(payload, io, ctx):
        if broken:
            raise ValueError("first")
        await io.wait("long", timedelta(days=100))

    app.define(job, on_failure=handler)
    async with app.embedded():
        run = await app.end_of(await app.start("job"))
        await asyncio.sleep(1)
        broken = False
        await app.client.continue_run(run.id)
        await asyncio.sleep(timedelta(hours=3).total_seconds())

        assert (await app.look(run.id)).status is S.WAITING

    [notification] = told
    assert notification.status is S.FAILED
    assert notification.error == run.error
    assert notification.completed_at == run.completed_at


async def test_end_and_notification_are_recorded_together(app):
    told = Told()
    app.define(succeeds, on_success=told)
    ended: list[str] = []
    async for run in run_with_each_commit_broken(app, "succeeds"):
        ended.append(run.id)
        await app.client.drain()
        assert set(ended) == {each.id for each in told}
    assert len(ended) > 6


async def test_handler_defined_on_a_connected_client(app):
    early, late = Told(), Told()
    app.define(succeeds)
    async with app.embedded():
        app.client.on("run_succeeded", early)
        app.define(fails, on_failure=late)
        first = await app.end_of(await app.start("succeeds"))
        second = await app.end_of(await app.start("fails"))
        await app.client.drain()

    assert [each.id for each in early] == [first.id]
    assert [each.id for each in late] == [second.id]


async def test_handlers_of_one_name_are_all_called(app):
    told = []
    for n in range(3):

        def same(notification, n=n):
            told.append(n)

        app.client.on("run_succeeded", same)
    app.define(succeeds)
    async with app.embedded():
        await app.end_of(await app.start("succeeds"))
        await app.client.drain()

    assert sorted(told) == [0, 1, 2]


async def test_notification_of_a_sync_run(app):
    def job(payload, io, ctx):
        io.run_task("a", lambda: 1)
        return "out"

    told = Told()
    app.define(job, on_success=told)
    async with app.embedded():
        await app.end_of(await app.start("job"))
        await app.client.drain()

    assert [each.output for each in told] == ["out"]


async def test_internal_runs_are_hidden_and_notify_nobody(app):
    told = Told()
    app.define(succeeds)
    app.client.on("run_succeeded", told)
    app.client.on("run_failed", told)
    async with app.embedded():
        run = await app.end_of(await app.start("succeeds"))
        await app.client.drain()
        listed = await app.client.get_runs()

    assert [each.id for each in listed] == [run.id]
    assert len(told) == 1
    with sqlite3.connect(app.url.removeprefix("sqlite:///")) as database:
        assert database.execute("select count(*) from runs where is_internal").fetchone() == (1,)


async def test_handler_of_every_shape_is_called(app):
    calls = []

    class Object:
        async def method(self, notification):
            calls.append("method")

        async def __call__(self, notification):
            calls.append("object")

    def returns_awaitable(notification):
        async def inner():
            calls.append("awaitable")

        return inner()

    for handler in (
        Object().method,
        Object(),
        returns_awaitable,
        lambda notification: calls.append("lambda"),
    ):
        app.client.on("run_succeeded", handler)
    app.define(succeeds)
    async with app.embedded():
        await app.end_of(await app.start("succeeds"))
        await app.client.drain()

    assert sorted(calls) == ["awaitable", "lambda", "method", "object"]


@pytest.mark.parametrize("handler", [3, lambda: None, lambda a, b: None], ids=["number", "none", "two"])
def test_what_is_no_handler_is_refused(app, handler: Any):
    with pytest.raises(UsageError, match="handler"):
        app.client.on("run_failed", handler)
    with pytest.raises(UsageError, match="on_failure of job 'fails'"):
        app.define(fails, on_failure=handler)
    assert not app.client.jobs


def test_unknown_end_and_reserved_id_are_refused(app):
    with pytest.raises(UsageError, match="run_succeeded and run_failed"):
        app.client.on("runSucceeeded", print)
    with pytest.raises(UsageError, match="perdure's own"):
        app.define(succeeds, id="perdure:mine")
