"""What can't be meant is refused where it is given, by an error that says so, and changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import IO, Client, Context, Retention, RunStatus, cron_trigger, event_trigger
from perdure.errors import PerdureError, UsageError

from .conftest import App

LONE_SURROGATE = "\ud800"

CALLS_BY_ID = [
    "get_run",
    "why_not_running",
    "wait_for_run",
    "cancel_run",
    "rerun",
    "continue_run",
    "get_run_statuses",
    "get_event",
    "cancel_event",
    "cancel_runs_for_event",
    "cancel_runs_for_job",
    "get_account",
    "pause_queue",
    "resume_queue",
]


async def wait_a_day(payload: Any, io: IO, ctx: Context) -> None:
    await io.wait("a day", 86_400)


async def fail(payload: Any, io: IO, ctx: Context) -> None:
    raise ValueError("no")


@pytest.mark.parametrize("id", [None, "", 5, LONE_SURROGATE, "a\0b"], ids=repr)
@pytest.mark.parametrize("call", CALLS_BY_ID)
async def test_an_id_that_nothing_can_have_is_refused(app: App, call: str, id: Any) -> None:
    job = app.define(wait_a_day)

    async with app.embedded():
        run_id = await app.start(job)
        with pytest.raises(UsageError):
            await getattr(app.client, call)(id)

        assert not (await app.look(run_id)).status.is_terminal


@pytest.mark.parametrize(
    "selection",
    [
        pytest.param({"status": ""}, id="no status"),
        pytest.param({"status": 5}, id="a number for a status"),
        pytest.param({"status": [None]}, id="None for a status"),
        pytest.param({"tags": 5}, id="a number for tags"),
        pytest.param({"tags": [["a"]]}, id="a list for a tag"),
        pytest.param({"tags": LONE_SURROGATE}, id="a lone surrogate in a tag"),
        pytest.param({"queue": LONE_SURROGATE}, id="a lone surrogate in a queue"),
        pytest.param({"event_id": 5}, id="a number for an event"),
        pytest.param({"is_test": "no"}, id="a text for is_test"),
    ],
)
async def test_a_selection_of_runs_that_cannot_be_meant_is_refused(app: App, selection: Any) -> None:
    job = app.define(wait_a_day)

    async with app.embedded():
        run_id = await app.start(job)
        with pytest.raises(UsageError):
            await app.client.get_runs(job.id, **selection)
        with pytest.raises(UsageError):
            await app.client.cancel_runs(job.id, **selection)

        assert not (await app.look(run_id)).status.is_terminal


async def test_none_selects_as_if_it_was_not_given(app: App) -> None:
    job = app.define(wait_a_day)

    async with app.embedded():
        run_id = await app.start(job)
        nothing: Any = None
        [run] = await app.client.get_runs(job.id, status=nothing, tags=nothing)

    assert run.id == run_id


async def test_a_page_of_too_many_runs_is_refused(app: App) -> None:
    async with app.embedded():
        with pytest.raises(UsageError, match="limit must be a whole number"):
            await app.client.get_runs(limit=10**30)


async def test_what_is_named_in_a_retention_with_none_is_kept_for_ever(app: App) -> None:
    failing, waiting = app.define(fail), app.define(wait_a_day)

    async with app.embedded(retention={"default": 3600, "failed": None}):
        failed, cancelled = await app.start(failing), await app.start(waiting)
        await app.end_of(failed)
        await app.client.cancel_run(cancelled)
        await asyncio.sleep(86_400)
        pruned = await app.client.prune(Retention(default=1, failed=None))

        assert (await app.look(failed)).status is RunStatus.FAILED
        assert await app.client.get_run(cancelled) is None
        assert pruned.runs == 0


@pytest.mark.parametrize("names", [None, 5, ["a", None], [["a"]], ["a", ""], []], ids=repr)
async def test_a_wait_for_what_is_no_name_is_refused(app: App, names: Any) -> None:
    async def wait(payload: Any, io: IO, ctx: Context) -> str:
        with pytest.raises(UsageError, match=r"names? the event"):
            await io.wait_for_event("event", names)
        return "went on"

    run = await app.run(wait)

    assert (run.output, run.tasks) == ("went on", [])


@pytest.mark.parametrize("events", [None, "ab", ["a"], [None]], ids=repr)
async def test_only_events_can_be_sent(app: App, events: Any) -> None:
    async with app.embedded():
        with pytest.raises(UsageError, match=r"client\.event"):
            await app.client.send_events(events)


@pytest.mark.parametrize("tags", [[["a"]], [{}], [None]], ids=repr)
async def test_a_tag_that_is_no_text_is_refused(app: App, tags: Any) -> None:
    async with app.embedded():
        with pytest.raises(UsageError, match="a tag is a string"):
            await app.client.send_event("anything", tags=tags)


@pytest.mark.parametrize(
    "options",
    [
        {"id": LONE_SURROGATE},
        {"id": None},
        {"id": 5},
        {"name": 5},
        {"version": 1},
        {"trigger": "every day"},
        {"retry": 3},
        {"enabled": "no"},
        {"concurrency_limit": 10**30},
    ],
    ids=repr,
)
def test_a_job_with_an_option_that_means_nothing_is_refused(options: Any) -> None:
    client = Client(id="app")

    with pytest.raises(UsageError):
        client.define_job(**{"id": "job", "run": wait_a_day, **options})

    assert not client.jobs


@pytest.mark.parametrize("name", [None, 5, ["a", None], LONE_SURROGATE, ["a", LONE_SURROGATE]], ids=repr)
def test_a_trigger_for_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(UsageError):
        event_trigger(name)


@pytest.mark.parametrize(
    "arguments",
    [{"cron": None}, {"cron": 5}, {"timezone": None}, {"timezone": 5}, {"timezone": ""}],
    ids=repr,
)
def test_a_schedule_that_is_no_text_is_refused(arguments: Any) -> None:
    with pytest.raises(UsageError):
        cron_trigger(**{"cron": "* * * * *", **arguments})


@pytest.mark.parametrize(
    "setting",
    [
        {"concurrency_limit": 10**30},
        {"max_executions": 10**30},
        {"linger": float("nan")},
        {"linger": -1},
        {"foreign_await_limit": "long"},
        {"lease_seconds": 0},
        {"lease_seconds": float("nan")},
        {"lease_seconds": 1e300},
    ],
    ids=repr,
)
def test_a_setting_that_means_nothing_is_refused(setting: Any) -> None:
    with pytest.raises(UsageError):
        Client(id="app").embedded(":memory:", **setting)


async def test_a_url_with_a_lone_surrogate_is_refused(app: App) -> None:
    async def ask(payload: Any, io: IO, ctx: Context) -> str:
        with pytest.raises(UsageError, match="no absolute URL"):
            await io.background_fetch("ask", f"http://localhost/{LONE_SURROGATE}")
        return "went on"

    assert (await app.run(ask)).output == "went on"


@pytest.mark.parametrize("path", [None, "", "a\0b"], ids=repr)
async def test_a_backup_needs_a_path(app: App, path: Any) -> None:
    async with app.embedded():
        with pytest.raises(PerdureError):
            await app.client.backup(path)


@pytest.mark.parametrize("payloads", [None, 5, "ab", {"a": 1}], ids=repr)
async def test_a_batch_of_what_is_no_list_is_refused(app: App, payloads: Any) -> None:
    child = app.define(fail)

    async def parent(payload: Any, io: IO, ctx: Context) -> str:
        with pytest.raises(UsageError, match="a list of payloads"):
            await child.batch_invoke_and_wait(payloads, key="method")
        with pytest.raises(UsageError, match="a list of payloads"):
            await io.batch_invoke_and_wait("io", child, payloads)
        return "went on"

    assert (await app.run(parent)).output == "went on"


async def test_none_is_no_job_to_invoke(app: App) -> None:
    nothing: Any = None

    async def parent(payload: Any, io: IO, ctx: Context) -> str:
        with pytest.raises(UsageError, match="can be invoked here"):
            await io.invoke_and_wait("nothing", nothing, {})
        return "went on"

    assert (await app.run(parent)).output == "went on"
    async with app.embedded():
        with pytest.raises(UsageError, match="takes a job"):
            await app.client.invoke(nothing, {})


@pytest.mark.parametrize("sync", [False, True])
async def test_what_is_no_event_or_key_is_refused_in_runs(app: App, sync: bool) -> None:
    nothing: Any = None

    async def run(payload: Any, io: IO, ctx: Context) -> str:
        with pytest.raises(UsageError, match=r"client\.event"):
            await io.send_events("events", nothing)
        with pytest.raises(UsageError, match="a key is a string"):
            await io.create_status(nothing, "A status without a key")
        return "went on"

    def sync_run(payload: Any, io: Any, ctx: Context) -> str:
        with pytest.raises(UsageError, match=r"client\.event"):
            io.send_events("events", nothing)
        with pytest.raises(UsageError, match="a key is a string"):
            io.create_status(nothing, "A status without a key")
        return "went on"

    assert (await app.run(sync_run if sync else run)).output == "went on"
