"""Jobs, their triggers and schemas, and what becomes of runs whose job changes or goes away."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TypedDict

import msgspec
import pydantic
import pytest

from perdure import (
    Client,
    ConflictError,
    Example,
    InvalidPayloadError,
    Retry,
    RunStatus,
    UsageError,
    event_trigger,
    invoke_trigger,
)


class Model(pydantic.BaseModel):
    url: pydantic.HttpUrl
    n: int = 3


@dataclass
class Data:
    url: str
    n: int = 3


class Struct(msgspec.Struct):
    url: str
    n: int = 3


class Dict(TypedDict):
    url: str
    n: int


@pytest.mark.parametrize("schema", [Model, Data, Struct, Dict], ids=lambda schema: schema.__name__)
async def test_payload_arrives_as_the_schemas_type(app, schema):
    async def job(payload, io, ctx):
        app.done.append(payload)
        return payload["n"] if schema is Dict else payload.n

    run = await app.run(
        job,
        {"url": "https://example.com/", "n": 5},
        options={"trigger": event_trigger(name="job", schema=schema)},
    )

    assert run.output == 5
    assert type(app.done[0]) is (dict if schema is Dict else schema)


@pytest.mark.parametrize("schema", [Model, Data, Struct, Dict], ids=lambda schema: schema.__name__)
@pytest.mark.parametrize(
    "payload", [{}, {"url": 3, "n": 5}, {"url": "https://x", "n": "five"}, None, [1]], ids=str
)
async def test_payload_that_does_not_fit_ends_the_run_as_invalid_payload(app, schema, payload):
    async def job(payload, io, ctx):
        app.done.append("started")

    run = await app.run(job, payload, options={"trigger": event_trigger(name="job", schema=schema)})

    assert run.status is RunStatus.INVALID_PAYLOAD
    assert run.error.message
    assert app.done == []


async def test_invalid_payload_lists_every_issue_with_its_path(app):
    async def job(payload, io, ctx):
        pass

    run = await app.run(
        job, {"url": "no url", "n": "five"}, options={"trigger": event_trigger(name="job", schema=Model)}
    )

    assert "url" in run.error.message
    assert "n" in run.error.message


async def test_payload_without_schema_is_the_json_as_sent(app):
    async def job(payload, io, ctx):
        return payload

    sent = {"a": [1, 2.5, None, True, {"b": "\u2603"}]}

    assert (await app.run(job, sent)).output == sent


async def test_context_tells_about_run_job_event_and_environment(app):
    async def job(payload, io, ctx):
        app.done.append(ctx)

    run = await app.run(job, options={"version": "2.0.1"})

    ctx = app.done[0]
    assert ctx.run.id == run.id
    assert ctx.run.execution == 1
    assert ctx.run.is_retry is False
    assert (ctx.job.id, ctx.job.version) == ("job", "2.0.1")
    assert (ctx.event.id, ctx.event.name) == (run.event_id, "job")
    assert ctx.environment.type == "DEVELOPMENT"


async def test_context_is_the_same_in_every_execution_but_for_its_number(app):
    async def job(payload, io, ctx):
        app.done.append(ctx)
        await io.wait("pause", 600)

    await app.run(job)

    first, second = app.done
    assert (first.run.execution, second.run.execution) == (1, 2)
    assert first.run.started_at == second.run.started_at
    assert first.event == second.event


async def test_job_given_an_id_only():
    client = Client(id="app")

    @client.job(id="hello")
    async def hello(payload, io, ctx):
        return "hello"

    assert (hello.name, hello.version) == ("hello", "1.0.0")
    async with client.embedded(":memory:"):
        run = await client.wait_for_run((await hello.invoke(None)).id)

    assert run.output == "hello"


async def test_run_function_stays_usable_in_unit_tests():
    client = Client(id="app")

    @client.job(id="hello")
    async def hello(payload, io, ctx):
        return [payload, io, ctx]

    assert await hello.fn("payload", "io", "ctx") == ["payload", "io", "ctx"]


async def test_two_jobs_of_one_id_are_refused(app):
    async def job(payload, io, ctx):
        pass

    app.define(job)
    with pytest.raises(ConflictError, match="'job'"):
        app.define(job)


@pytest.mark.parametrize("version", ["1", "1.0", "v1.0.0", "1.0.0-rc1", "", "1.0.0\n"])
async def test_version_must_be_three_numbers(app, version):
    async def job(payload, io, ctx):
        pass

    with pytest.raises(UsageError, match="version"):
        app.define(job, version=version)


@pytest.mark.parametrize(
    "run", [lambda: None, lambda payload: None, "no function", None], ids=["none", "one", "text", "None"]
)
async def test_run_function_must_take_three_arguments(app, run):
    with pytest.raises(UsageError):
        app.client.define_job(id="job", run=run)


async def test_example_must_fit_the_schema():
    with pytest.raises(UsageError, match="bad"):
        event_trigger(name="x", schema=Model, examples=[Example(id="bad", name="Bad", payload={})])


async def test_event_starts_every_job_it_triggers(app):
    async def one(payload, io, ctx):
        pass

    async def two(payload, io, ctx):
        pass

    async def other(payload, io, ctx):
        pass

    app.define(one, trigger=event_trigger(name="both"))
    app.define(two, trigger=event_trigger(name=["x", "both"]))
    app.define(other)
    async with app.embedded():
        event = await app.client.send_event("both")

    assert {run.job_id for run in event.runs} == {"one", "two"}


async def test_trigger_selects_by_source(app):
    async def job(payload, io, ctx):
        pass

    app.define(job, trigger=event_trigger(name="x", source="shop"))
    async with app.embedded():
        assert (await app.client.send_event("x")).runs == []
        assert len((await app.client.send_event("x", source="shop")).runs) == 1


async def test_disabled_job_starts_no_new_runs_but_finishes_old_ones(app):
    async def job(payload, io, ctx):
        await io.wait("pause", 600)
        return "end"

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
    release = app.deployed()
    release.define(job, enabled=False)
    async with release.embedded():
        event = await release.client.send_event("job")
        run = await release.end_of(started)

    assert event.runs == []
    assert run.output == "end"


async def test_run_whose_job_is_gone_is_pending_with_the_reason(app):
    async def job(payload, io, ctx):
        await io.wait("pause", 600)
        return "end"

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
    without = app.deployed()
    async with without.embedded():
        await asyncio.sleep(1200)
        run = await without.look(started)

    assert run.status is RunStatus.PENDING
    assert "'job'" in run.reason


async def test_run_whose_job_was_gone_goes_on_when_it_is_defined_again(app):
    async def job(payload, io, ctx):
        await io.run_task("before", lambda: app.done.append("before"))
        await io.wait("pause", 600)
        return "end"

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
    without = app.deployed()
    async with without.embedded():
        await asyncio.sleep(1200)
    again = app.deployed()
    again.define(job)
    async with again.embedded():
        run = await again.end_of(started)

    assert run.output == "end"
    assert run.reason is None
    assert app.done == ["before"]


async def test_jobs_of_higher_priority_go_first(app):
    async def holds(payload, io, ctx):
        await io.run_task("hold", asyncio.sleep, 10)

    async def low(payload, io, ctx):
        app.done.append("low")

    async def high(payload, io, ctx):
        app.done.append("high")

    app.define(holds)
    app.define(low)
    app.define(high, priority=5)
    async with app.embedded(max_executions=1):
        await app.start("holds")
        await asyncio.sleep(1)
        for name in ("low", "low", "high", "high"):
            await app.start(name)
        await app.client.drain()

    assert app.done == ["high", "high", "low", "low"]


async def test_at_most_max_executions_at_once(app):
    now = [0, 0]

    async def job(payload, io, ctx):
        now[0] += 1
        now[1] = max(now)
        await io.run_task("hold", asyncio.sleep, 1)
        now[0] -= 1

    app.define(job)
    async with app.embedded(max_executions=3):
        for _ in range(10):
            await app.start("job")
        await app.client.drain()

    assert now == [0, 3]


async def test_max_duration_ends_a_run_as_timed_out(app):
    async def job(payload, io, ctx):
        try:
            await io.run_task("slow", asyncio.sleep, 5000)
        finally:
            app.done.append("unwound")

    run = await app.run(job, options={"max_duration": timedelta(seconds=100)})

    assert run.status is RunStatus.TIMED_OUT
    assert run.execution_duration == pytest.approx(timedelta(seconds=100), abs=timedelta(seconds=2))
    assert app.done == ["unwound"]


async def test_max_duration_excludes_waits(app):
    async def job(payload, io, ctx):
        for n in range(5):
            await io.run_task(["work", n], asyncio.sleep, 10)
            await io.wait(["pause", n], 1000)
        return "end"

    run = await app.run(job, options={"max_duration": 60})

    assert run.output == "end"


async def test_max_duration_sums_over_executions(app):
    async def job(payload, io, ctx):
        for n in range(50):
            await io.run_task(["work", n], asyncio.sleep, 10)
            await io.wait(["pause", n], 100)

    run = await app.run(job, options={"max_duration": 95}, within=100_000)

    assert run.status is RunStatus.TIMED_OUT
    assert len([task for task in run.tasks if task.status.name == "COMPLETED" and "work" in task.key]) == 9


async def test_invalid_payload_is_not_retried(app):
    async def job(payload, io, ctx):
        pass

    trigger = event_trigger(name="job", schema=Model)
    run = await app.run(job, {}, options={"trigger": trigger, "retry": Retry(attempts=5)})

    assert run.status is RunStatus.INVALID_PAYLOAD
    assert run.executions <= 1


async def test_invoked_payload_is_checked_at_once(app):
    async def job(payload, io, ctx):
        pass

    defined = app.define(job, trigger=invoke_trigger(schema=Model))
    async with app.embedded():
        with pytest.raises(InvalidPayloadError) as raised:
            await defined.invoke({"url": 3})

    assert raised.value.issues[0]["path"] == ["url"]


async def test_stored_output_of_a_run_has_its_annotated_type_as_json(app):
    async def job(payload, io, ctx) -> Model:
        return Model.model_validate({"url": "https://example.com"})

    run = await app.run(job)

    assert run.output == {"url": "https://example.com/", "n": 3}
