"""Tags and metadata that a run gives itself."""

from __future__ import annotations

import pytest

from perdure import Limits, RunStatus
from perdure.engine.store import RunFilter


async def stored(app, run_id):
    """The run as the engine has it."""
    row = await app.client.platform._engine.store.get_run(run_id)
    return list(row.tags), row.metadata


@pytest.mark.parametrize("force_replay", [False, True], ids=["straight", "replayed"])
async def test_run_tags_itself(app, force_replay):
    async def job(payload, io, ctx):
        await io.add_tags("first", "a", "b")
        await io.wait("pause", 60)
        await io.add_tags("second", "b", "c")
        await io.set_metadata("m1", {"a": 1, "b": {"c": 2}})
        await io.set_metadata("m2", {"b": None, "d": [3]})

    app.define(job)
    async with app.embedded(force_replay=force_replay):
        run = await app.end_of(await app.start("job"))
        tags, metadata = await stored(app, run.id)
        found = await app.client.platform._engine.store.list_runs(RunFilter(tags=("a", "c")))

    assert tags == ["a", "b", "c"]
    assert metadata == '{"a":1,"b":null,"d":[3]}'
    assert [row.id for row in found] == [run.id]
    assert [task.name for task in run.tasks if "pause" not in task.key] == [
        "Add tags",
        "Add tags",
        "Set metadata",
        "Set metadata",
    ]


async def test_sync_run_tags_itself(app):
    def job(payload, io, ctx):
        io.add_tags("t", "x")
        io.set_metadata("m", {"a": 1})

    app.define(job)
    async with app.embedded():
        run = await app.end_of(await app.start("job"))
        assert await stored(app, run.id) == (["x"], '{"a":1}')

    assert run.status is RunStatus.COMPLETED


@pytest.mark.parametrize(
    "tags, said",
    [
        pytest.param((), "needs tags", id="none"),
        pytest.param(("",), "a string with something in it", id="empty"),
        pytest.param((3,), "a string with something in it", id="number"),
        pytest.param(("x" * 129,), "limits.tag_chars_max", id="long"),
        pytest.param(tuple(map(str, range(51))), "limits.tags_per_run_max", id="many"),
    ],
)
async def test_what_are_no_tags_is_refused(app, tags, said):
    async def job(payload, io, ctx):
        await io.add_tags("t", *tags)

    run = await app.run(job)

    assert run.error.name in ("UsageError", "LimitExceededError")
    assert said in run.error.message


async def test_limit_of_tags_holds_over_several_calls_and_executions(app):
    async def job(payload, io, ctx):
        for n in range(6):
            await io.add_tags(["t", n], *(f"{n}:{i}" for i in range(10)))
            await io.wait(["pause", n], 60)

    app.define(job)
    async with app.embedded():
        run = await app.end_of(await app.start("job"))
        tags, _ = await stored(app, run.id)

    assert run.status is RunStatus.FAILED
    assert "limits.tags_per_run_max" in run.error.message
    assert len(tags) == 50


async def test_limit_of_metadata_holds_over_several_calls(app):
    async def job(payload, io, ctx):
        for n in range(4):
            await io.set_metadata(["m", n], {str(n): "x" * 40})
            await io.set_metadata(["again", n], {str(n): "y" * 40})

    app.define(job)
    app.client.limits = Limits(metadata_bytes_max=100)
    async with app.embedded():
        run = await app.end_of(await app.start("job"))
        _, metadata = await stored(app, run.id)

    assert "limits.metadata_bytes_max" in run.error.message
    assert metadata == '{"0":"' + "y" * 40 + '","1":"' + "y" * 40 + '"}'


@pytest.mark.parametrize("metadata", [None, [1], "text"])
async def test_metadata_is_an_object(app, metadata):
    async def job(payload, io, ctx):
        await io.set_metadata("m", metadata)

    run = await app.run(job)

    assert run.error.name == "UsageError"
    assert "needs a dict" in run.error.message
