"""A full disk pauses, it loses nothing: callers are told, and runs go on when there is room."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from perdure import RunStatus, UnavailableError


class Disk:
    """What the commits of a store meet: raises SQLite's error while it is `full`."""

    def __init__(self):
        self.full = False

    def on_commit(self, moment):
        if self.full and moment == "before":
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            error.sqlite_errorname = "SQLITE_FULL"
            raise error


async def test_sending_while_the_disk_is_full_is_unavailable(app):
    disk = Disk()
    async with app.embedded(on_commit=disk.on_commit):
        disk.full = True
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(app.client.send_event("x", id="only"), 600)
        assert await app.client.get_event("only") is None
        disk.full = False
        await asyncio.sleep(60)

        event = await app.client.send_event("x", id="only")

        assert (await app.client.get_event("only")).id == event.id


async def test_runs_go_on_when_there_is_room_again(app):
    disk = Disk()

    async def job(payload, io, ctx):
        for n in range(5):
            await io.run_task(["step", n], step, n)
        return "end"

    async def step(n):
        app.done.append(n)
        await asyncio.sleep(1)
        if n == 2:
            disk.full = True

    app.define(job)
    async with app.embedded(on_commit=disk.on_commit):
        started = await app.start("job")
        await app.reached(lambda: disk.full)
        await asyncio.sleep(300)
        disk.full = False
        run = await app.end_of(started)

    assert run.status is RunStatus.COMPLETED
    assert run.output == "end"


async def test_tasks_recorded_before_the_disk_was_full_are_not_repeated(app):
    disk = Disk()

    async def job(payload, io, ctx):
        for n in range(3):
            await io.run_task(["step", n], lambda n=n: app.done.append(n))
        disk.full = len(app.done) == 3
        await io.run_task("last", lambda: app.done.append("last"))
        return "end"

    app.define(job)
    async with app.embedded(on_commit=disk.on_commit):
        started = await app.start("job")
        await app.reached(lambda: disk.full)
        await asyncio.sleep(300)
        disk.full = False
        run = await app.end_of(started)

    assert run.output == "end"
    assert app.done[:3] == [0, 1, 2]
    assert app.done.count(0) == app.done.count(1) == app.done.count(2) == 1


async def test_nothing_is_claimed_while_the_disk_is_full(app):
    disk = Disk()

    async def job(payload, io, ctx):
        await io.wait("pause", 600)
        app.done.append(disk.full)

    app.define(job)
    async with app.embedded(on_commit=disk.on_commit):
        started = await app.start("job")
        await app.client.drain()
        disk.full = True
        await asyncio.sleep(3600)
        waiting = await app.look(started)
        disk.full = False
        await app.end_of(started)

    assert waiting.status in (RunStatus.WAITING, RunStatus.QUEUED)
    assert app.done == [False]


async def test_leaving_while_the_disk_is_full_ends(app):
    disk = Disk()

    async def job(payload, io, ctx):
        await io.run_task("hold", asyncio.sleep, 3600)
        return "end"

    app.define(job)
    async with app.embedded(on_commit=disk.on_commit, grace=1):
        started = await app.start("job")
        await asyncio.sleep(5)
        disk.full = True
    disk.full = False
    async with app.embedded(on_commit=disk.on_commit):
        run = await app.end_of(started)

    assert run.output == "end"


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_event_sent_from_a_run_waits_until_there_is_room_again(app, kind):
    """Found by simulation seeds 108 and 372 on their first day: the run failed with UnavailableError."""
    disk = Disk()

    def fill():
        disk.full = not app.done
        app.done.append("filled")

    async def job(payload, io, ctx):
        fill()
        return (await io.send_event("tell", "told", {"n": 1})).id

    def sync_job(payload, io, ctx):
        fill()
        return io.send_event("tell", "told", {"n": 1}).id

    app.define(job if kind == "async" else sync_job, id="job")
    async with app.embedded(on_commit=disk.on_commit):
        started = await app.start("job")
        await app.reached(lambda: disk.full)
        await asyncio.sleep(
            300 if kind == "async" else 0.7
        )  # a thread that waits for the store keeps time from jumping
        disk.full = False
        run = await app.end_of(started)

        assert run.status is RunStatus.COMPLETED
        assert await app.client.get_event(run.output) is not None
