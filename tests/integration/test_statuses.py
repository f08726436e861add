"""Statuses: what a run shows of how far it has come."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure import Limits, NotFoundError, RunStatus, UsageError

from .commit_faults import run_with_each_commit_broken


@pytest.mark.parametrize("force_replay", [False, True], ids=["straight", "replayed"])
async def test_status_is_created_and_updated_with_its_history(app, force_replay):
    async def job(payload, io, ctx):
        status = await io.create_status("upload", "Uploading", state="loading", data={"done": 0})
        await io.wait("a while", 60)
        await status.update("half", data={"done": 5})
        await io.wait("another", 60)
        await status.update("end", label="Uploaded", state="success")

    app.define(job)
    async with app.embedded(force_replay=force_replay):
        run = await app.end_of(await app.start("job"))
        [status] = await app.client.get_run_statuses(run.id)

    assert run.status is RunStatus.COMPLETED
    assert (status.key, status.label, status.state, status.data) == (
        "upload",
        "Uploaded",
        "success",
        {"done": 5},
    )
    assert [(old.label, old.state, old.data) for old in status.history] == [
        ("Uploading", "loading", {"done": 0}),
        ("Uploading", "loading", {"done": 5}),
    ]
    assert status.created_at == status.history[0].at < status.history[1].at < status.updated_at
    assert status.updated_at - status.created_at >= timedelta(seconds=120)


async def test_status_is_there_while_the_run_goes_on(app):
    async def job(payload, io, ctx):
        await io.create_status("a", "First")
        await io.wait("moment", 0.01)
        await io.create_status(["b", 2], "Second", state="failure")
        await io.wait("long", 3600)

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
        statuses = await app.client.get_run_statuses(started)

    assert [(status.key, status.label, status.state, status.data) for status in statuses] == [
        ("a", "First", None, None),
        ('["b", 2]', "Second", "failure", None),
    ]


async def test_creating_and_updating_are_tasks(app):
    async def job(payload, io, ctx):
        status = await io.create_status("s", "Label", state="loading")
        await status.update("u", state="success")

    run = await app.run(job)

    assert [(task.key, task.name, task.attempts) for task in run.tasks] == [
        ("s", "Create status", 1),
        ("u", "Update status", 1),
    ]
    assert run.tasks[0].params == {"key": "s", "label": "Label", "state": "loading"}


async def test_status_and_its_task_are_recorded_together(app):
    """A crash leaves both or neither: what a replay does again had no effect, what had one isn't done again."""

    async def job(payload, io, ctx):
        status = await io.create_status("s", "0")
        for n in range(5):
            await status.update(["step", n], label=str(n + 1))

    app.define(job)
    async for run in run_with_each_commit_broken(app, "job"):
        [status] = await app.client.get_run_statuses(run.id)
        assert run.status is RunStatus.COMPLETED
        assert status.label == "5"
        assert [old.label for old in status.history] == ["0", "1", "2", "3", "4"]


async def test_status_of_a_sync_run(app):
    def job(payload, io, ctx):
        status = io.create_status("s", "Begun", state="loading")
        io.wait("pause", 60)
        status.update("u", label="Done", state="success", data={"rows": 3})

    app.define(job)
    async with app.embedded():
        run = await app.end_of(await app.start("job"))
        [status] = await app.client.get_run_statuses(run.id)

    assert (status.label, status.state, status.data) == ("Done", "success", {"rows": 3})
    assert [old.label for old in status.history] == ["Begun"]


async def test_statuses_side_by_side(app):
    async def job(payload, io, ctx):
        async def one(n):
            status = await io.create_status(f"s{n}", "begun")
            await status.update(f"u{n}", label="done")

        await asyncio.gather(*map(one, range(20)))

    app.define(job)
    async with app.embedded():
        run = await app.end_of(await app.start("job"))
        statuses = await app.client.get_run_statuses(run.id)

    assert sorted(status.key for status in statuses) == sorted(f"s{n}" for n in range(20))
    assert {(status.label, len(status.history)) for status in statuses} == {("done", 1)}


async def test_status_is_updated_from_outside(app):
    async def job(payload, io, ctx):
        await io.create_status("s", "From inside", state="loading")

    app.define(job)
    async with app.embedded():
        run = await app.end_of(await app.start("job"))
        changed = await app.client.update_status(run.id, "s", state="failure", data={"why": "x"})
        await asyncio.sleep(0.01)
        created = await app.client.update_status(run.id, "new")
        statuses = await app.client.get_run_statuses(run.id)

    assert (changed.label, changed.state, changed.data) == ("From inside", "failure", {"why": "x"})
    assert (created.key, created.label, created.state) == ("new", "new", None)
    assert statuses == [changed, created]


@pytest.mark.parametrize(
    "given, error",
    [
        pytest.param({"state": "done"}, "loading, success, failure", id="state"),
        pytest.param({"data": [1]}, "must be a dict", id="data"),
        pytest.param({"label": 3}, "must be a string", id="label"),
    ],
)
async def test_what_is_no_status_is_refused(app, given, error):
    async def job(payload, io, ctx):
        await io.create_status("s", **{"label": "x", **given})

    app.define(job)
    async with app.embedded():
        run = await app.end_of(await app.start("job"))
        with pytest.raises(UsageError, match=error):
            await app.client.update_status(run.id, "s", **given)

        assert await app.client.get_run_statuses(run.id) == []
    assert run.status is RunStatus.FAILED
    assert run.error.name == "UsageError"
    assert error in run.error.message


async def test_data_has_a_limit(app):
    async def job(payload, io, ctx):
        await io.create_status("s", "x", data={"text": "x" * 200})

    run = await app.run(job, limits=Limits(value_bytes_max=100))

    assert run.error.name == "LimitExceededError"
    assert "limits.value_bytes_max" in run.error.message


async def test_statuses_of_an_unknown_run(app):
    async with app.embedded():
        with pytest.raises(NotFoundError):
            await app.client.get_run_statuses("run_x")
        with pytest.raises(NotFoundError):
            await app.client.update_status("run_x", "s")


async def test_run_without_statuses(app):
    async def job(payload: Any, io, ctx):
        pass

    app.define(job)
    async with app.embedded():
        run = await app.end_of(await app.start("job"))
        assert await app.client.get_run_statuses(run.id) == []


async def test_client_refuses_to_update_a_status_in_a_run_function(app):
    async def job(payload, io, ctx):
        await app.client.update_status(ctx.run.id, "s", label="again and again")

    run = await app.run(job)

    assert run.error.name == "UsageError"
    assert "io.create_status" in run.error.message
