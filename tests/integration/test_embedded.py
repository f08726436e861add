"""`client.embedded(...)`: starting, stopping, dying; who may use a file."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest

from perdure import (
    Client,
    ConfigurationError,
    ConflictError,
    RunStatus,
    StoreInUseError,
    TaskStatus,
    UsageError,
    event_trigger,
)


async def test_leaving_lets_bodies_finish_within_the_grace_period(app):
    async def job(payload, io, ctx):
        await io.run_task("body", slow, app, 5)
        await io.run_task("next", slow, app, 1)

    app.define(job)
    async with app.embedded(grace=10):
        await app.start("job")
        await app.reached(lambda: app.done)
    after_leaving = list(app.done)
    async with app.embedded():
        await app.client.drain()

    assert after_leaving == ["began", "ended"]
    assert app.done == ["began", "ended"] * 2


async def test_leaving_takes_no_longer_than_the_bodies(app):
    async def job(payload, io, ctx):
        await io.run_task("body", slow, app, 5)

    app.define(job)
    async with app.embedded(grace=1000):
        await app.start("job")
        await app.reached(lambda: app.done)
        before = app.clock.now()
    assert app.clock.now() - before < 10_000


async def test_bodies_are_cut_after_the_grace_period_and_run_again(app):
    async def job(payload, io, ctx):
        return await io.run_task("body", slow, app, 500)

    app.define(job)
    async with app.embedded(grace=10):
        started = await app.start("job")
        await app.reached(lambda: app.done)
        before = app.clock.now()
    took = app.clock.now() - before
    async with app.embedded():
        run = await app.end_of(started)

    assert 10_000 <= took < 20_000
    assert app.done == ["began", "began", "ended"]
    assert run.status is RunStatus.COMPLETED
    assert run.tasks[0].attempts == 1


async def test_leaving_claims_nothing_more(app):
    async def job(payload, io, ctx):
        await io.run_task(["body", payload], slow, app, 5)

    app.define(job)
    async with app.embedded(max_executions=1):
        started = [await app.start("job", n) for n in range(3)]
        await app.reached(lambda: app.done)
    assert app.done == ["began", "ended"]
    async with app.embedded():
        runs = [await app.end_of(run_id) for run_id in started]

    assert all(run.status is RunStatus.COMPLETED for run in runs)
    assert app.done.count("began") == 3


async def test_leaving_unwinds_code_between_tasks(app):
    async def job(payload, io, ctx):
        try:
            await asyncio.sleep(3600 if len(app.done) == 0 else 0)
        finally:
            app.done.append("unwound")
        return "end"

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await asyncio.sleep(1)
    assert app.done == ["unwound"]
    async with app.embedded():
        run = await app.end_of(started)

    assert run.output == "end"


async def test_what_a_killed_process_left_executing_is_taken_up_at_once(app):
    async def job(payload, io, ctx):
        await io.run_task("first", slow, app, 1)
        await io.run_task("second", slow, app, 100)

    app.define(job)
    async with app.embedded() as process:
        started = await app.start("job")
        await app.reached(lambda: len(app.done) == 3)
        await asyncio.sleep(1)
        await process.crash()
    before = app.clock.now()
    async with app.embedded():
        await app.reached(lambda: len(app.done) == 4)
        took = app.clock.now() - before
        await app.end_of(started)

    assert took < 2_000
    assert app.done == ["began", "ended", "began", "began", "ended"]


async def test_acknowledged_event_survives_a_crash_right_after(app):
    async def job(payload, io, ctx):
        return "end"

    app.define(job)
    async with app.embedded() as process:
        started = await app.start("job")
        await process.crash()
    async with app.embedded():
        run = await app.end_of(started)

    assert run.output == "end"


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("nth", range(1, 12))
async def test_crash_at_a_commit_neither_loses_nor_repeats(app, moment, nth):
    dying = asyncio.Event()
    commits = 0
    acknowledged = []

    def on_commit(at):
        nonlocal commits
        commits += at == "before"
        if (at == moment and commits == nth) or dying.is_set():
            dying.set()
            raise Died

    async def job(payload, io, ctx):
        for n in range(2):
            await io.run_task(["before", n], note, app, f"before {n}")
        await io.wait("pause", 60)
        return await io.run_task("after", note, app, "after")

    async def live(process):
        event = await app.client.send_event("job", id="event")
        acknowledged.append(event.runs[0].id)
        await app.client.wait_for_run(event.runs[0].id)

    app.define(job)
    try:
        async with app.embedded(on_commit=on_commit) as process:
            living = asyncio.create_task(live(process))
            ending = asyncio.create_task(dying.wait())
            await asyncio.wait({living, ending}, return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            if dying.is_set():
                await process.crash()
            await asyncio.gather(living, return_exceptions=True)
    except Exception:
        assert dying.is_set()
    recorded = []
    async with app.embedded():
        recorded = [entry for run_id in acknowledged for entry in completed_keys(await app.look(run_id))]
        bodies_before = list(app.done)
        event = await app.client.send_event("job", id="event")
        run = await app.end_of(event.runs[0].id)

    assert run.status is RunStatus.COMPLETED
    assert [run.id] == (acknowledged or [run.id])
    repeated = app.done[len(bodies_before) :]
    assert not set(repeated) & set(recorded)


class Died(Exception):
    pass


def completed_keys(run):
    names = {'["before", 0]': "before 0", '["before", 1]': "before 1", "after": "after"}
    return [names[t.key] for t in run.tasks if t.status is TaskStatus.COMPLETED and t.key in names]


async def note(app, what):
    app.done.append(what)


async def test_drain_waits_for_queued_and_executing_runs(app):
    async def job(payload, io, ctx):
        await io.run_task("body", slow, app, 10)

    app.define(job)
    async with app.embedded(max_executions=1):
        for _ in range(3):
            await app.start("job")
        await app.client.drain()

        assert app.done.count("ended") == 3


async def test_drain_of_an_idle_engine_returns_at_once(app):
    async with app.embedded():
        await app.client.drain()


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client: client.send_event("x"), id="send_event"),
        pytest.param(lambda client: client.get_run("run_x"), id="get_run"),
        pytest.param(lambda client: client.get_runs(), id="get_runs"),
        pytest.param(lambda client: client.get_event("x"), id="get_event"),
        pytest.param(lambda client: client.cancel_run("run_x"), id="cancel_run"),
        pytest.param(lambda client: client.rerun("run_x"), id="rerun"),
        pytest.param(lambda client: client.continue_run("run_x"), id="continue_run"),
        pytest.param(lambda client: client.wait_for_run("run_x"), id="wait_for_run"),
        pytest.param(lambda client: client.drain(), id="drain"),
        pytest.param(lambda client: client.send_events([]), id="send_events"),
    ],
)
async def test_calls_outside_embedded_name_both_ways_to_connect(call):
    with pytest.raises(ConfigurationError) as raised:
        await call(Client(id="app"))

    assert "client.embedded(" in str(raised.value)
    assert "api_url" in str(raised.value)
    assert "PERDURE_API_KEY" in str(raised.value)


async def test_calls_after_leaving_are_refused(app):
    async with app.embedded():
        pass

    with pytest.raises(ConfigurationError):
        await app.client.send_event("x")


async def test_entering_twice_is_refused(app, tmp_path):
    async with app.embedded():
        with pytest.raises(ConflictError):
            async with app.client.embedded(f"sqlite:///{tmp_path}/other.db"):
                pass
        await app.client.drain()


async def test_client_can_be_entered_again(app):
    for _ in range(3):
        async with app.embedded():
            await app.client.send_event("nobody")


async def test_memory_is_forgotten():
    client = Client(id="app")
    async with client.embedded(":memory:"):
        event = await client.send_event("x")
    async with client.embedded(":memory:"):
        assert await client.get_event(event.id) is None


@pytest.mark.parametrize("url", [None, "jobs.db", "mysql://x", "sqlite:jobs.db", "sqlite:///"], ids=str)
async def test_unusable_url_is_refused_with_the_right_form(url, monkeypatch):
    monkeypatch.delenv("PERDURE_DATABASE_URL", raising=False)

    with pytest.raises(ConfigurationError, match="sqlite:///"):
        async with Client(id="app").embedded(url):
            pass


async def test_url_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PERDURE_DATABASE_URL", f"sqlite:///{tmp_path}/env.db")

    async with Client(id="app").embedded():
        pass

    assert (tmp_path / "env.db").exists()


async def test_password_in_an_unusable_url_is_not_shown():
    with pytest.raises(ConfigurationError) as raised:
        async with Client(id="app").embedded("mysql://me:secret@host/db"):
            pass

    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("settings", [{"max_executions": 0}, {"threads": 0}, {"grace": -1}], ids=str)
async def test_impossible_setting_is_refused(settings):
    with pytest.raises((UsageError, ConfigurationError)):
        Client(id="app").embedded(":memory:", **settings)


@pytest.mark.slow
@pytest.mark.real_time
async def test_second_engine_on_a_file_names_the_owner_and_the_ways_out(app):
    second = app.deployed()
    async with app.embedded():
        with pytest.raises(StoreInUseError) as raised:
            async with second.embedded():
                pass

    assert str(os.getpid()) in str(raised.value)
    assert "PostgreSQL" in str(raised.value)
    assert "perdure server" in str(raised.value)


@pytest.mark.real_time
async def test_file_can_be_opened_once_the_owner_has_left(app):
    second = app.deployed()
    left = asyncio.Event()

    async def first():
        async with app.embedded():
            await left.wait()

    owner = asyncio.create_task(first())
    await asyncio.sleep(0)
    opening = asyncio.create_task(second.embedded().__aenter__())
    left.set()
    await owner
    embedded = await opening
    await embedded.__aexit__(None, None, None)


def test_import_needs_neither_engine_nor_store():
    unwanted = ("perdure.engine", "perdure.store", "sqlite3", "rich", "typer", "pydantic")
    program = f"import sys, perdure; print([m for m in sys.modules if m.startswith({unwanted})])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert ended.stdout.strip() == "[]"


async def slow(app, seconds):
    app.done.append("began")
    await asyncio.sleep(seconds)
    app.done.append("ended")


@pytest.mark.real_time
async def test_run_that_reads_while_it_waits_is_not_disturbed():
    """What reads of the store await is looked at by the executor, to see whether the run can be put down."""
    client = Client(id="reader")
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))

    async def reads(run_id: str) -> None:
        for _ in range(50):
            await client.get_run(run_id)

    @client.job(id="job", trigger=event_trigger(name="go"))
    async def job(payload, io, ctx):
        await asyncio.gather(io.wait("a while", 0.1), reads(ctx.run.id))
        return "read"

    async with client.embedded(":memory:"):
        event = await client.send_event("go")
        run = await client.wait_for_run(event.runs[0].id, timeout=30)

    assert (run.output, problems) == ("read", [])
