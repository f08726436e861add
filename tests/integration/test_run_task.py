"""`io.run_task`: what is remembered, under which key, and what a task knows and shows."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pydantic
import pytest

from perdure import Retry, RunStatus, TaskError, TaskStatus, current_task, task

RETRY = Retry(attempts=3, min_delay=60, jitter=False)


async def test_completed_task_is_not_run_again(app):
    def body():
        app.done.append("body")
        return "output"

    async def job(payload, io, ctx):
        app.done.append("execution")
        first = await io.run_task("once", body)
        await io.wait("pause", 3600)
        return first

    run = await app.run(job)

    assert run.output == "output"
    assert app.done.count("body") == 1
    assert app.done.count("execution") == 2


async def test_code_outside_tasks_runs_in_every_execution(app):
    async def job(payload, io, ctx):
        app.done.append(ctx.run.execution)
        for number in range(3):
            await io.wait(["pause", number], 60)

    run = await app.run(job)

    assert app.done == [1, 2, 3, 4]
    assert run.executions == 4


async def test_arguments_are_passed_to_the_body(app):
    async def add(a, b):
        return a + b

    async def job(payload, io, ctx):
        return await io.run_task("add", add, 1, 2)

    assert (await app.run(job)).output == 3


async def test_keyword_arguments_go_through_a_partial(app):
    async def power(base, *, exponent):
        return base**exponent

    async def job(payload, io, ctx):
        return await io.run_task("power", functools.partial(power, exponent=3), 2)

    assert (await app.run(job)).output == 8


async def test_coroutine_instead_of_function_says_how_to_write_it(app):
    async def fetch(url):
        return url

    async def job(payload, io, ctx):
        await io.run_task("fetch", fetch("url"))

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert run.error.name == "UsageError"
    assert 'io.run_task("key", fetch, arg1, arg2)' in run.error.message


async def test_unknown_option_is_refused_by_name(app):
    async def job(payload, io, ctx):
        await io.run_task("task", lambda: None, retries=3)

    run = await app.run(job)

    assert run.error.name == "UsageError"
    assert "'retries'" in run.error.message


@pytest.mark.parametrize("depth", [2, 5, 12])
async def test_tasks_nest_to_any_depth(app, depth):
    async def job(payload, io, ctx):
        async def level(number):
            if number == depth:
                await io.wait("at the bottom", 3600)
                return [number]
            return [number, *await io.run_task("next", level, number + 1)]

        return await io.run_task("next", level, 1)

    run = await app.run(job)

    assert run.output == list(range(1, depth + 1))
    by_id = {task.id: task for task in run.tasks}
    tasks = [task for task in run.tasks if task.key == "next"]
    assert len(tasks) == depth
    assert [by_id[task.parent_id].key for task in tasks if task.parent_id] == ["next"] * (depth - 1)


async def test_parent_body_is_repeated_but_its_completed_children_are_not(app):
    async def job(payload, io, ctx):
        async def child(name):
            app.done.append(name)

        async def parent():
            app.done.append("parent")
            await io.run_task("child", child, "before the wait")
            await io.wait("pause", 3600)
            await io.run_task("child 2", child, "after the wait")

        await io.run_task("parent", parent)

    run = await app.run(job)

    assert run.status is RunStatus.COMPLETED
    assert app.done == ["parent", "before the wait", "parent", "after the wait"]
    assert [task.attempts for task in run.tasks if task.key == "parent"] == [1]


async def test_key_is_scoped_to_its_parent(app):
    async def job(payload, io, ctx):
        async def parent(name):
            return await io.run_task("same", lambda: name)

        same = await io.run_task("same", lambda: "top")
        return [same, await io.run_task("a", parent, "in a"), await io.run_task("b", parent, "in b")]

    assert (await app.run(job, force_replay=True)).output == ["top", "in a", "in b"]


async def test_key_may_be_a_list_of_json_parts(app):
    async def job(payload, io, ctx):
        return [
            await io.run_task(["fetch", number, {"page": None}], lambda n=number: n) for number in range(3)
        ]

    run = await app.run(job, force_replay=True)

    assert run.output == [0, 1, 2]
    assert run.tasks[1].key == '["fetch", 1, {"page": null}]'


@pytest.mark.parametrize("key", ["", [], 3, None, [object()], [float("nan")], "nul\x00", "\ud800"])
async def test_impossible_key_is_refused(app, key):
    async def job(payload, io, ctx):
        await io.run_task(key, lambda: None)

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert run.error.name in ("UsageError", "SerializationError", "LimitExceededError")


async def test_key_used_twice_shows_both_places(app):
    async def job(payload, io, ctx):
        await io.run_task("twice", lambda: 1)
        await io.run_task("twice", lambda: 2)

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert run.error.name == "DuplicateKeyError"
    first, second = job.__code__.co_firstlineno + 1, job.__code__.co_firstlineno + 2
    assert f"{__file__}:{first} in job" in run.error.message
    assert f"{__file__}:{second} in job" in run.error.message


async def test_key_used_twice_is_refused_on_replay_too(app):
    async def job(payload, io, ctx):
        await io.run_task("twice", lambda: 1)
        await io.wait("pause", 60)
        await io.run_task("twice", lambda: 2)

    run = await app.run(job)

    assert run.error.name == "DuplicateKeyError"


async def test_key_is_shared_by_all_kinds_of_operations(app):
    async def job(payload, io, ctx):
        await io.run_task("key", lambda: 1)
        await io.wait("key", 1)

    assert (await app.run(job)).error.name == "DuplicateKeyError"


async def test_idempotency_key_is_the_same_in_every_attempt(app):
    async def job(payload, io, ctx):
        async def body():
            me = current_task()
            app.done.append((me.id, me.idempotency_key, me.attempts))
            if me.attempts < 3:
                raise OSError

        await io.run_task("task", body, retry=RETRY)

    run = await app.run(job)

    ids, keys, attempts = zip(*app.done, strict=True)
    assert attempts == (1, 2, 3)
    assert set(ids) == {run.tasks[0].id}
    assert set(keys) == {run.tasks[0].idempotency_key}
    assert len(keys[0]) == 64


async def test_idempotency_key_differs_between_runs(app):
    async def job(payload, io, ctx):
        return await io.run_task("task", lambda: current_task().idempotency_key)

    app.define(job)
    async with app.embedded():
        runs = [await app.end_of(await app.start("job")) for _ in range(2)]

    assert runs[0].output != runs[1].output


async def test_current_task_outside_a_task_is_refused(app):
    async def job(payload, io, ctx):
        current_task()

    assert (await app.run(job)).error.name == "UsageError"


async def test_policy_at_the_function_applies(app):
    @task(retry=RETRY, name="Fetch a page", icon="globe")
    async def fetch():
        app.done.append("try")
        if len(app.done) < 3:
            raise OSError
        return "page"

    async def job(payload, io, ctx):
        return await io.run_task("fetch", fetch)

    run = await app.run(job)

    assert run.output == "page"
    assert run.tasks[0].name == "Fetch a page"
    assert run.tasks[0].icon == "globe"


async def test_call_overrides_the_policy_at_the_function(app):
    @task(retry=RETRY, name="Fetch a page")
    async def fetch():
        return "page"

    async def job(payload, io, ctx):
        return await io.run_task("fetch", fetch, name="Fetch it again")

    assert (await app.run(job)).tasks[0].name == "Fetch it again"


async def test_decorated_function_can_be_called_as_it_is():
    @task(retry=RETRY)
    async def fetch():
        return "page"

    assert await fetch() == "page"


async def test_display_options_are_stored(app):
    shown = {
        "description": "what it does",
        "icon": "star",
        "params": {"card": {"number": "4111", "owner": "me"}},
        "properties": [{"label": "Status", "text": "200"}],
        "style": {"style": "minimal"},
    }

    async def job(payload, io, ctx):
        await io.run_task("task", lambda: None, name="Name", **shown)

    stored = (await app.run(job)).tasks[0]

    assert stored.name == "Name"
    assert {name: getattr(stored, name) for name in shown} == shown


async def test_redacted_paths_are_blanked_where_shown_but_not_for_the_run(app):
    async def job(payload, io, ctx):
        card = await io.run_task(
            "card", lambda: {"number": "4111", "owner": "me"}, params={"number": "4111"}, redact=["number"]
        )
        await io.wait("pause", 60)
        return card["number"]

    run = await app.run(job)

    assert run.output == "4111"
    assert "4111" not in str(run.tasks[0])
    assert run.tasks[0].output["owner"] == "me"


async def test_task_is_shown_with_times_and_attempts(app):
    async def job(payload, io, ctx):
        await io.run_task("task", asyncio.sleep, 5)

    shown = (await app.run(job)).tasks[0]

    assert shown.status is TaskStatus.COMPLETED
    assert shown.attempts == 1
    assert shown.completed_at - shown.started_at == timedelta(seconds=5)


async def test_plain_function_runs_in_a_thread_with_the_callers_context(app):
    variable = contextvars.ContextVar("variable", default="unset")

    def body():
        import threading

        return [variable.get(), threading.current_thread() is not threading.main_thread()]

    async def job(payload, io, ctx):
        variable.set("set by the run")
        return await io.run_task("task", body)

    assert (await app.run(job)).output == ["set by the run", True]


async def test_body_sees_the_callers_context_variables(app):
    variable = contextvars.ContextVar("variable", default="unset")

    async def body():
        return variable.get()

    async def job(payload, io, ctx):
        variable.set("set by the run")
        return await io.run_task("task", body)

    assert (await app.run(job, force_replay=True)).output == "set by the run"


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int


class Page(pydantic.BaseModel):
    url: str
    seen: datetime


VALUES = [
    None,
    True,
    0,
    -(2**53),
    1.5,
    "text \u2603",
    [],
    {},
    [1, [2, {"a": None}]],
    (1, (2, 3)),
    {1, 2},
    frozenset({"a"}),
    b"\x00\xff",
    datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=UTC),
    date(2024, 2, 29),
    time(1, 2, 3),
    timedelta(days=3, microseconds=1),
    UUID(int=5),
    Decimal("1.10"),
    {"nested": (Decimal("0.1"), [b"bytes", {date(2024, 1, 1)}])},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
async def test_plain_output_has_the_same_value_and_type_on_first_run_and_on_replay(app, value):
    seen = []

    async def job(payload, io, ctx):
        seen.append(await io.run_task("task", lambda: value))
        await io.wait("pause", 60)

    await app.run(job)

    first, replayed = seen
    assert first == replayed == value
    assert type(first) is type(replayed) is type(value)


@pytest.mark.parametrize(
    "annotation, value",
    [
        pytest.param(Point, Point(1, 2), id="dataclass"),
        pytest.param(Page, Page(url="u", seen=datetime(2024, 1, 1, tzinfo=UTC)), id="pydantic"),
        pytest.param(list[Point], [Point(1, 2), Point(3, 4)], id="list of dataclasses"),
        pytest.param(Page | None, None, id="optional"),
        pytest.param(Colour, Colour.RED, id="enum"),
    ],
)
async def test_annotated_output_has_the_same_value_and_type_on_first_run_and_on_replay(
    app, annotation, value
):
    seen = []

    async def job(payload, io, ctx):
        seen.append(await io.run_task("task", lambda: value, output=annotation))
        await io.wait("pause", 60)

    run = await app.run(job)

    assert run.status is RunStatus.COMPLETED, run.error
    assert seen == [value, value]
    assert type(seen[0]) is type(seen[1]) is type(value)


async def test_first_run_gets_a_copy_as_a_replay_does(app):
    kept = {"list": [1]}

    async def job(payload, io, ctx):
        got = await io.run_task("task", lambda: kept)
        kept["list"].append(2)
        return got

    assert (await app.run(job)).output == {"list": [1]}


async def test_model_without_annotation_fails_the_first_run_and_names_key_and_fix(app):
    async def job(payload, io, ctx):
        await io.run_task("point", lambda: Point(1, 2))

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert "'point'" in run.error.message
    assert "output=" in run.error.message


@pytest.mark.parametrize(
    "value, path",
    [
        pytest.param({"a": [1, object()]}, "a", id="object in a list in a dict"),
        pytest.param({"a": {1: 2}}, "a", id="key that is no string"),
        pytest.param([float("nan")], "0", id="NaN"),
        pytest.param({"big": 2**64}, "big", id="int past 64 bits"),
        pytest.param({"text": "\ud800"}, "text", id="lone surrogate"),
    ],
)
async def test_output_that_cannot_be_stored_names_key_and_path(app, value, path):
    async def job(payload, io, ctx):
        try:
            await io.run_task("bad output", lambda: value)
        except TaskError as error:
            return [error.error_name, error.error_message]

    name, message = (await app.run(job, force_replay=True)).output

    assert name == "SerializationError"
    assert "bad output" in message
    assert path in message


async def test_bad_output_of_one_run_does_not_disturb_others(app):
    async def bad(payload, io, ctx):
        await io.run_task("task", lambda: {"text": "\ud800"})

    async def good(payload, io, ctx):
        return await io.run_task("task", lambda: "fine")

    app.define(bad)
    app.define(good)
    async with app.embedded():
        started = await asyncio.gather(*(app.start(name) for name in ["good", "bad"] * 10))
        runs = [await app.end_of(run_id) for run_id in started]

    assert [run.status for run in runs] == [RunStatus.COMPLETED, RunStatus.FAILED] * 10


async def test_run_output_that_cannot_be_stored_fails_the_run_and_names_the_path(app):
    async def job(payload, io, ctx):
        return {"result": [object()]}

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert run.error.name == "SerializationError"
    assert "result" in run.error.message


async def test_observations_are_the_same_on_replay(app):
    async def job(payload, io, ctx):
        seen = [await io.now("now"), await io.uuid("uuid"), await io.random("random")]
        app.done.append(seen)
        await io.wait("pause", 3600)
        return seen

    run = await app.run(job)

    first, replayed = app.done
    assert first == replayed == run.output
    assert first[0].tzinfo is not None
    assert first[1].version == 4


async def test_random_keeps_within_its_bounds(app):
    async def job(payload, io, ctx):
        return [await io.random(["dice", n], min=1, max=6, round=True) for n in range(100)]

    numbers = (await app.run(job)).output

    assert set(numbers) <= {1, 2, 3, 4, 5, 6}
    assert len(set(numbers)) > 3


async def test_random_with_bounds_the_wrong_way_round_is_refused(app):
    async def job(payload, io, ctx):
        await io.random("r", min=2, max=1)

    assert (await app.run(job)).error.name == "UsageError"


async def test_yield_goes_on_at_once_in_a_new_execution(app):
    async def job(payload, io, ctx):
        app.done.append(ctx.run.execution)
        await io.yield_("here")
        return ctx.run.execution

    run = await app.run(job)

    assert run.output == 2
    assert app.done == [1, 2]


async def test_try_gives_an_error_to_the_handler(app):
    async def job(payload, io, ctx):
        async def fails():
            await io.wait("pause", 60)
            await io.run_task("fails", raise_value_error)

        return await io.try_(fails, lambda error: error.error_name)

    assert (await app.run(job)).output == "ValueError"


def raise_value_error() -> Any:
    raise ValueError


async def test_result_is_the_same_when_every_task_is_replayed(app):
    async def job(payload, io, ctx):
        async def double(n):
            app.done.append(n)
            return 2 * n

        async def parent(n):
            return await io.run_task("inner", double, n) + await io.run_task("other", double, 10 * n)

        return [await io.run_task(["parent", n], parent, n) for n in range(3)]

    run = await app.run(job, force_replay=True)

    assert run.output == [0, 22, 44]
    assert sorted(app.done) == [0, 0, 1, 2, 10, 20]
    assert run.executions > 6
