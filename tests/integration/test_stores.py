"""Values under keys: `io.store` in runs, `client.store` outside."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from perdure import LimitExceededError, Limits, NotFoundError, RunStatus, SerializationError, UsageError

from .commit_faults import run_with_each_commit_broken

VALUES: list[Any] = [
    None,
    False,
    0,
    1.5,
    "text",
    [1, {"a": None}],
    (1, (2, 3)),
    {1, 2},
    b"bytes",
    datetime(2030, 1, 1, tzinfo=UTC),
    date(2030, 1, 1),
    timedelta(days=1),
    Decimal("1.10"),
    UUID(int=7),
    {"inside": (datetime(2030, 1, 1, tzinfo=UTC), {3})},
]


@pytest.mark.parametrize("force_replay", [False, True], ids=["straight", "replayed"])
async def test_values_keep_their_types(app, force_replay):
    async def job(payload, io, ctx):
        for n, value in enumerate(VALUES):
            assert await io.store.run.set(["set", n], f"k{n}", value) == value
        await io.wait("pause", 60)
        return [(await io.store.run.get(["get", n], f"k{n}"),) for n in range(len(VALUES))]

    app.define(job)
    async with app.embedded(force_replay=force_replay):
        run = await app.end_of(await app.start("job"))
        outside = [await app.client.store.run(run.id).get(f"k{n}") for n in range(len(VALUES))]

    assert run.output == [(value,) for value in VALUES]
    assert outside == VALUES
    assert [type(value) for value in outside] == [type(value) for value in VALUES]


async def test_stores_are_apart(app):
    async def job(payload, io, ctx):
        for store, value in ((io.store.env, "env"), (io.store.job, "job"), (io.store.run, "run")):
            await store.set(value, "key", value)
        return [
            await store.get(f"get {n}", "key")
            for n, store in enumerate((io.store.env, io.store.job, io.store.run))
        ]

    async def reads(payload, io, ctx):
        return [
            await store.get(f"get {n}", "key")
            for n, store in enumerate((io.store.env, io.store.job, io.store.run))
        ]

    app.define(job)
    app.define(reads)
    async with app.embedded():
        first = await app.end_of(await app.start("job"))
        other = await app.end_of(await app.start("reads"))
        store = app.client.store
        seen = [
            await where.get("key")
            for where in (
                store.env,
                store.job("job"),
                store.job("reads"),
                store.run(first.id),
                store.run(other.id),
            )
        ]

    assert first.output == ["env", "job", "run"]
    assert other.output == ["env", None, None]
    assert seen == ["env", "job", None, "run", None]


async def test_has_and_delete_and_default(app):
    async def job(payload, io, ctx):
        env = io.store.env
        return [
            await env.has("1", "k"),
            await env.get("2", "k", "default"),
            await env.delete("3", "k"),
            await env.set("4", "k", None),
            await env.has("5", "k"),
            await env.get("6", "k", "default"),
            await env.delete("7", "k"),
            await env.has("8", "k"),
        ]

    run = await app.run(job)

    assert run.output == [False, "default", False, None, True, None, True, False]


async def test_what_was_read_stays_read(app):
    async def job(payload, io, ctx):
        before = await io.store.env.get("before", "rate", 0)
        there = await io.store.env.has("there", "rate")
        await io.wait("an hour", 3600)
        return [before, there, await io.store.env.get("after", "rate", 0)]

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
        await app.client.store.env.set("rate", 5)
        run = await app.end_of(started)

    assert run.output == [0, False, 5]


async def test_value_is_set_once_however_often_the_run_is_executed(app):
    async def job(payload, io, ctx):
        await io.store.env.set("set", "k", "from the run")
        await io.wait("an hour", 3600)
        await io.store.env.delete("delete", "other")
        await io.wait("another", 3600)

    app.define(job)
    async with app.embedded(force_replay=True):
        started = await app.start("job")
        await app.client.drain()
        await app.client.store.env.set("k", "from outside")
        await asyncio.sleep(3700)
        await app.client.store.env.set("other", 1)
        await app.end_of(started)

        assert await app.client.store.env.get("k") == "from outside"
        assert await app.client.store.env.get("other") == 1


async def test_value_and_its_task_are_recorded_together(app):
    """Whatever is cut off by a crash: a counter that every step reads and raises counts each step once."""

    async def job(payload, io, ctx):
        for n in range(4):
            count = await io.store.job.get(["get", n], "count", 0)
            await io.store.job.set(["set", n], "count", count + 1)
            await io.store.job.delete(["delete", n], f"k{n}")

    app.define(job)
    total = 0
    async for run in run_with_each_commit_broken(app, "job"):
        total += 4
        assert run.status is RunStatus.COMPLETED
        assert await app.client.store.job("job").get("count") == total
    assert total > 80


async def test_store_in_a_sync_run(app):
    def job(payload, io, ctx):
        env = io.store.env
        seen = [env.get("1", "k", "none"), env.set("2", "k", (1, 2)), env.has("3", "k")]
        io.wait("pause", 60)
        return [
            *seen,
            env.get("4", "k"),
            env.delete("5", "k"),
            env.delete("6", "k"),
            io.store.run.has("7", "k"),
        ]

    run = await app.run(job)

    assert run.output == ["none", (1, 2), True, (1, 2), True, False, False]


async def test_store_in_the_body_of_a_task(app):
    async def job(payload, io, ctx):
        async def body():
            await io.store.run.set("set", "k", 1)
            await app.client.store.env.set("outside", 2)
            return await io.store.run.get("get", "k")

        return await io.run_task("body", body)

    app.define(job)
    async with app.embedded():
        run = await app.end_of(await app.start("job"))
        assert await app.client.store.env.get("outside") == 2

    assert run.output == 1


async def test_calls_are_tasks(app):
    async def job(payload, io, ctx):
        await io.store.env.set("s", "k", 1)
        await io.store.env.get("g", "k")

    run = await app.run(job)

    assert [(task.key, task.name, task.output) for task in run.tasks] == [
        ("s", "Set value", 1),
        ("g", "Get value", 1),
    ]


async def test_client_store(app):
    async with app.embedded():
        env = app.client.store.env
        assert await env.get("k") is None
        assert await env.get("k", "default") == "default"
        assert await env.set("k", (1, 2)) == (1, 2)
        assert await env.has("k")
        assert await env.get("k") == (1, 2)
        assert await env.delete("k")
        assert not await env.delete("k")
        assert not await env.has("k")
        with pytest.raises(NotFoundError):
            await app.client.store.run("run_x").set("k", 1)


@pytest.mark.real_time
def test_client_store_without_await(app):
    with app.client.sync.embedded(app.url):
        store = app.client.sync.store

        assert store.env.set("k", {1}) == {1}
        assert store.env.get("k") == {1}
        assert store.job("j").get("k", 0) == 0
        assert store.env.delete("k") is True
        assert app.client.sync.store.env.has("k") is False


@pytest.mark.parametrize("call", ["get", "set", "has", "delete"])
async def test_client_store_is_refused_in_a_run_function(app, call):
    async def job(payload, io, ctx):
        await getattr(app.client.store.env, call)("k", *([1] if call == "set" else []))

    run = await app.run(job)

    assert run.error.name == "UsageError"
    assert "io.store" in run.error.message


@dataclass
class Point:
    x: int


async def test_what_cant_be_stored_is_refused(app):
    async def model(payload, io, ctx):
        await io.store.env.set("set", "k", {"at": Point(1)})

    async def large(payload, io, ctx):
        await io.store.env.set("set", "k", "x" * 300_000)

    app.define(model)
    app.define(large)
    async with app.embedded():
        for name, error, said in (
            ("model", SerializationError, "dataclasses.asdict"),
            ("large", LimitExceededError, "limits.value_bytes_max"),
        ):
            run = await app.end_of(await app.start(name))
            assert run.error.name == error.__name__
            assert said in run.error.message
        with pytest.raises(SerializationError, match=r"the value at \$\.at is a Point"):
            await app.client.store.env.set("k", {"at": Point(1)})
        with pytest.raises(LimitExceededError, match="262,144"):
            await app.client.store.env.set("k", "x" * 300_000)
        for key in ("", "a\0b", 3):
            with pytest.raises(UsageError):
                await app.client.store.env.set(key, 1)
        assert not await app.client.store.env.has("k")


async def test_limit_can_be_raised(app):
    app.client.limits = Limits(value_bytes_max=400_000)
    async with app.embedded():
        await app.client.store.env.set("k", "x" * 300_000)
        assert len(await app.client.store.env.get("k")) == 300_000


async def test_values_of_runs_side_by_side(app):
    async def job(payload, io, ctx):
        await asyncio.gather(*(io.store.run.set(["set", n], str(n), n) for n in range(30)))
        return sum(await asyncio.gather(*(io.store.run.get(["get", n], str(n)) for n in range(30))))

    app.define(job)
    async with app.embedded():
        started = [await app.start("job") for _ in range(5)]
        outputs = [(await app.end_of(run_id)).output for run_id in started]

    assert outputs == [sum(range(30))] * 5
