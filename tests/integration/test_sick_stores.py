"""Databases that turn read-only, damaged or away while the engine runs: nobody is told that something is safe that isn't."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path

import pytest

from perdure import RunStatus, UnavailableError
from perdure.store.sqlite import watch


class Sick:
    """What the commits of a store meet: SQLite's error of this name (without SQLITE_), or any other, while there is one."""

    def __init__(self):
        self.error: str | Exception | None = None
        self.left = -1

    def on_commit(self, moment):
        if self.error is None or moment != "before" or self.left == 0:
            return
        self.left -= 1
        if isinstance(self.error, Exception):
            raise self.error
        error = sqlite3.OperationalError(f"sick: {self.error}")
        error.sqlite_errorname = f"SQLITE_{self.error}"
        error.sqlite_errorcode = getattr(sqlite3, error.sqlite_errorname)
        raise error


@pytest.mark.parametrize("name", ["READONLY", "PERM", "AUTH", "CANTOPEN"])
async def test_runs_go_on_when_the_database_may_be_written_again(app, name):
    sick = Sick()

    async def job(payload, io, ctx):
        for n in range(3):
            await io.run_task(["step", n], step, n)
        return "end"

    async def step(n):
        app.done.append(n)
        await asyncio.sleep(1)
        if n == 1:
            sick.error = name

    app.define(job)
    async with app.embedded(on_commit=sick.on_commit):
        started = await app.start("job")
        await app.reached(lambda: sick.error)
        await asyncio.sleep(100)
        with pytest.raises(UnavailableError):
            await app.client.send_event("x")
        sick.error = None
        run = await app.end_of(started)

    assert run.output == "end"
    assert app.done == [0, 1, 2]


@pytest.mark.parametrize("name", ["CORRUPT", "NOTADB"])
async def test_damage_stops_the_engine_and_reopening_goes_on(app, name, caplog):
    sick = Sick()

    async def job(payload, io, ctx):
        await io.wait("pause", 100)
        return "end"

    app.define(job)
    async with app.embedded(on_commit=sick.on_commit):
        started = await app.start("job")
        await app.client.drain()
        waiting = asyncio.create_task(app.client.wait_for_run(started))
        sick.error = name
        for _ in range(2):
            with pytest.raises(UnavailableError, match="damaged"):
                await app.client.send_event("x")
        with pytest.raises(UnavailableError, match="damaged"):
            await waiting
    assert "jobs.db is damaged" in caplog.text
    async with app.embedded():
        run = await app.end_of(started)

    assert run.output == "end"


async def test_execution_whose_end_cannot_be_written_is_rescued(app):
    sick = Sick()

    async def job(payload, io, ctx):
        app.done.append(ctx.run.id)
        await asyncio.sleep(1)
        if len(app.done) == 2:
            sick.error = ValueError("a bug in the store")
        return "end"

    async def other(payload, io, ctx):  # keeps the leases of this process alive
        await asyncio.sleep(600)

    app.define(job)
    app.define(other)
    async with app.embedded(on_commit=sick.on_commit) as embedded:
        await app.start("other")
        await app.end_of(await app.start("job"))
        started = await app.start("job")
        await app.reached(lambda: sick.error)
        await asyncio.sleep(30)
        assert started not in embedded._engine.executing
        sick.error = None
        run = await app.end_of(started, within=60)

        assert run.status is RunStatus.COMPLETED
        assert app.done == [app.done[0], started, started]
        assert not embedded._engine.orphans


async def test_run_whose_end_cannot_be_written_fails_if_that_can(app):
    sick = Sick()

    async def job(payload, io, ctx):
        await asyncio.sleep(1)
        sick.error, sick.left = ValueError("no such outcome"), 1
        return "end"

    app.define(job)
    async with app.embedded(on_commit=sick.on_commit) as embedded:
        run = await app.end_of(await app.start("job"))

        assert run.status is RunStatus.FAILED
        assert "no such outcome" in run.error.message
        assert not embedded._engine.executing
        assert not embedded._engine.orphans


@pytest.mark.skipif(sys.platform == "win32", reason="open files can't be deleted there")
@pytest.mark.parametrize("busy", [True, False])
async def test_deleted_file_stops_the_engine(app, monkeypatch, caplog, busy):
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0)
    file = Path(app.url.removeprefix("sqlite:///"))
    async with app.embedded() as embedded:
        await app.client.send_event("x")
        file.rename(f"{file}.away")
        if not busy:
            await asyncio.sleep(60)
            assert not embedded._engine.is_running
        with pytest.raises(UnavailableError, match=r"jobs\.db was deleted or replaced"):
            await app.client.send_event("x", id="lost")

    assert "was deleted or replaced" in caplog.text


@pytest.mark.parametrize(
    "call",
    ["get_run", "get_runs", "get_event", "cancel_run", "continue_run", "rerun", "wait_for_run", "drain"],
)
async def test_clients_of_an_engine_whose_store_broke_are_told_that_it_is_unavailable(app, call):
    sick = Sick()

    async def job(payload, io, ctx):
        await io.wait("long", 1000)

    app.define(job)
    async with app.embedded(on_commit=sick.on_commit):
        event = await app.client.send_event("job")
        [run] = event.runs
        sick.error = "IOERR"
        with pytest.raises(UnavailableError):
            await app.client.send_event("job")

        arguments = {"get_runs": [], "drain": [], "get_event": [event.id]}.get(call, [run.id])
        with pytest.raises(UnavailableError, match="reopen"):
            await getattr(app.client, call)(*arguments)
