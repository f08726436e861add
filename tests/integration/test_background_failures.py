"""Background requests that fail: what counts as a failure, other tries, and what crashes and cancellations leave of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from perdure import (
    Backoff,
    FromHeaders,
    Limits,
    Retry,
    RunStatus,
    TaskError,
    TaskStatus,
)
from perdure.engine.fetcher import HttpRefusedError, HttpTimeoutError, HttpTransportError

from .fake_server import URL, says

# --- failures and other tries ------------------------------------------------------------------------------------------------


async def failure_of(
    app, server, *, within: timedelta | float = timedelta(hours=2), **options: Any
) -> TaskError:
    """The error that the fetch raises, the same on its first execution and on a replay."""
    errors: list[TaskError] = []

    async def job(payload, io, ctx):
        try:
            await io.background_fetch("get", URL, **options)
        except TaskError as error:
            errors.append(error)
            await io.wait("pause", 60)

    run = await app.run(job, http=server, within=within)
    assert run.status is RunStatus.COMPLETED, run.error
    first, *others = errors
    for again in others:
        assert (again.error_name, again.error_message) == (first.error_name, first.error_message)
    return first


async def test_bad_status_fails_the_task_with_what_the_server_says(app, server):
    server.answer("/things", says({"message": "no such thing"}, 404))

    error = await failure_of(app, server)

    assert error.error_name == "FetchStatusError"
    assert "404" in error.error_message
    assert "no such thing" in error.error_message
    assert len(server.requests) == 1


async def test_failed_task_shows_what_was_answered(app, server):
    server.answer("/things", says({"message": "no"}, 404))

    async def job(payload, io, ctx):
        await io.background_fetch("get", URL)

    run = await app.run(job, http=server)

    assert run.status is RunStatus.FAILED
    assert run.tasks[0].output == {"message": "no"}


@pytest.mark.parametrize("pattern", ["all", "503", "5xx", "50x", "500-599", "401,503"])
async def test_backoff_by_pattern(app, server, pattern):
    server.answer("/things", says(None, 503), says(None, 503), says("at last"))
    retry = {pattern: Retry(attempts=5, min_delay=10, factor=2, jitter=False)}

    async def job(payload, io, ctx):
        return await io.background_fetch("get", URL, retry=retry)

    assert (await app.run(job, http=server)).output == "at last"
    assert server.times == pytest.approx([0, 10, 20], abs=0.5)


async def test_backoff_ends_after_its_attempts(app, server):
    server.answer("/things", says(None, 503))

    error = await failure_of(app, server, retry=Retry(attempts=3, min_delay=10, factor=2, jitter=False))

    assert "3 of 3" in error.error_message
    assert len(server.requests) == 3


async def test_waiting_run_shows_what_failed_and_when_it_goes_on(app, server):
    server.answer("/things", says(None, 503), HttpTransportError("ConnectError: refused"), says("at last"))

    async def job(payload, io, ctx):
        rules = Retry(attempts=5, min_delay=50, factor=1, jitter=False)
        return await io.background_fetch("get", URL, retry=rules), await io.run_task("after", lambda: 1)

    app.define(job)
    async with app.embedded(http=server, force_replay=True):
        started = await app.start("job")
        await app.reached(lambda: server.requests)
        await asyncio.sleep(1)

        [reason] = await app.client.why_not_running(started)
        assert "get" in str(reason)
        run = await app.end_of(started)

    fetch, first, second, after = run.tasks
    assert {first.parent_id, second.parent_id} == {fetch.id}
    assert [first.status, second.status] == [TaskStatus.ERRORED] * 2
    assert first.error.message == "Fetch failed with status 503"
    assert "could not reach api.example.com" in second.error.message
    assert (fetch.status, after.status) == (TaskStatus.COMPLETED, TaskStatus.COMPLETED)


async def test_status_that_no_pattern_fits_is_final(app, server):
    server.answer("/things", says(None, 403))

    await failure_of(app, server, retry={"5xx": Retry(), "404": Retry()})

    assert len(server.requests) == 1


async def test_backoff_by_what_the_body_says(app, server):
    server.answer("/things", says({"code": "slow_down"}, 403), says({"code": "forbidden"}, 403))

    error = await failure_of(app, server, retry={"403": Backoff(Retry(), {"code": ["slow_down"]})})

    assert "forbidden" in error.error_message
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "format, header",
    [
        ("unix_timestamp", lambda app: str(app.clock.now() // 1000 + 300)),
        ("unix_timestamp_in_ms", lambda app: str(app.clock.now() + 300_000)),
        ("iso_8601_duration_openai_variant", lambda app: "5m"),
        ("iso_8601", lambda app: "2030-01-01T00:05:00Z"),
    ],
)
async def test_reset_told_by_a_header(app, server, format, header: Callable[[Any], str]):
    server.answer("/things", lambda _: says(None, 429, x_reset=header(app)), says("at last"))

    async def job(payload, io, ctx):
        rules = {"429": FromHeaders(reset_header="x-reset", reset_format=format)}
        return await io.background_fetch("get", URL, retry=rules)

    assert (await app.run(job, http=server)).output == "at last"
    assert server.times == pytest.approx([0, 300], abs=1.5)


async def test_host_that_can_not_be_reached_gets_three_attempts(app, server):
    server.answer("/things", HttpTransportError("ConnectError: no route"))

    error = await failure_of(app, server)

    assert error.matches(ConnectionError)
    assert "api.example.com" in error.error_message
    assert len(server.requests) == 3


async def test_timeout_is_final_unless_said_otherwise(app, server):
    server.answer("/things", HttpTimeoutError("late"), says("never asked"))

    error = await failure_of(app, server, timeout=20)

    assert error.matches(TimeoutError)
    assert error.error_message == "Fetch timed out after 20000ms"
    assert server.requests[0][1].timeout_ms == 20_000


async def test_timeout_with_another_try(app, server):
    server.answer("/things", HttpTimeoutError("late"), says("at last"))

    async def job(payload, io, ctx):
        return await io.background_fetch(
            "get", URL, timeout_retry=Retry(attempts=2, min_delay=30, jitter=False)
        )

    assert (await app.run(job, http=server)).output == "at last"
    assert server.times == pytest.approx([0, 30], abs=0.5)


async def test_request_that_can_not_be_made_fails_at_once(app, server):
    server.answer("/things", HttpRefusedError("the response's body is too large"))

    error = await failure_of(app, server, retry=Retry())

    assert error.error_name == "FetchRefusedError"
    assert len(server.requests) == 1


async def test_client_that_breaks_fails_the_task_and_not_the_engine(app, server, caplog):
    server.answer("/things", RuntimeError("a bug in the client"))

    error = await failure_of(app, server)

    assert "RuntimeError" in error.error_message
    assert "a bug in the client" in caplog.text


async def test_answer_over_the_limit_fails_the_task(app, server):
    server.answer("/things", says("x" * 2_000))

    async def job(payload, io, ctx):
        await io.background_fetch("get", URL)

    run = await app.run(job, http=server, limits=Limits(output_bytes_max=1_000))

    assert run.error.name == "LimitExceededError"
    assert "limits.output_bytes_max" in run.error.message


async def test_request_over_the_limit_is_refused_before_it_is_stored(app, server):
    async def job(payload, io, ctx):
        await io.background_fetch("get", URL, method="POST", body="x" * 2_000)

    run = await app.run(job, http=server, limits=Limits(params_bytes_max=1_000))

    assert run.error.name == "LimitExceededError"
    assert "limits.params_bytes_max" in run.error.message
    assert run.tasks == []


async def test_mistake_in_an_option_fails_the_run_and_says_where(app, server):
    async def job(payload, io, ctx):
        await io.background_fetch("get", "/relative")

    run = await app.run(job, http=server)

    assert run.error.name == "UsageError"
    assert "io.background_fetch('get')" in run.error.message


async def test_unknown_option_is_refused(app, server):
    async def job(payload, io, ctx):
        await io.background_fetch("get", URL, retries=3)

    run = await app.run(job, http=server)

    assert run.error.name == "UsageError"
    assert "'retries'" in run.error.message


async def test_duplicate_key_is_refused(app, server):
    server.answer("/things", says(1))

    async def job(payload, io, ctx):
        await io.background_fetch("get", URL)
        await io.background_fetch("get", URL)

    assert (await app.run(job, http=server)).error.name == "DuplicateKeyError"


# --- crashes, cancellation, interruption ---------------------------------------------------------------------------------------


async def test_call_cut_off_by_a_crash_is_made_again(app, server):
    server.answer("/things", says("answer"))
    server.delay = 100

    async def job(payload, io, ctx):
        return await io.background_fetch("get", URL)

    app.define(job)
    async with app.embedded(http=server) as process:
        started = await app.start("job")
        await app.reached(lambda: server.under_way)
        await asyncio.sleep(1)
        await process.crash()
    assert server.under_way == 0

    async with app.embedded(http=server):
        assert (await app.end_of(started)).output == "answer"
    assert len(server.requests) == 2


async def test_tries_survive_a_restart(app, server):
    server.answer("/things", says(None, 503))

    async def job(payload, io, ctx):
        await io.background_fetch("get", URL, retry=Retry(attempts=4, min_delay=50, factor=1, jitter=False))

    app.define(job)
    started = None
    for _ in range(3):
        async with app.embedded(http=server) as process:
            started = started or await app.start("job")
            seen = len(server.requests)
            await app.reached(lambda seen=seen: len(server.requests) > seen)
            await asyncio.sleep(1)
            await process.crash()
        await asyncio.sleep(50)
    async with app.embedded(http=server):
        run = await app.end_of(started)

    assert "4 of 4" in run.error.message
    assert len(server.requests) == 4


async def test_poll_goes_on_after_a_restart_within_its_time(app, server):
    server.answer("/things", says("busy"))

    async def job(payload, io, ctx):
        await io.background_poll("poll", URL, interval=60, timeout=300, response_filter={"body": {"x": [1]}})

    app.define(job)
    async with app.embedded(http=server):
        started = await app.start("job")
        await app.reached(lambda: server.requests)
        await asyncio.sleep(1)
    await asyncio.sleep(200)
    async with app.embedded(http=server):
        run = await app.end_of(started)

    assert run.error.message == "Task timed out after 300 seconds"
    assert server.times == pytest.approx([0, 201, 261, 300], abs=1)


async def test_leaving_drops_calls_and_the_next_process_makes_them(app, server):
    server.answer("/things", says("answer"))
    server.delay = 50

    async def job(payload, io, ctx):
        return await io.background_fetch("get", URL)

    app.define(job)
    async with app.embedded(http=server):
        started = await app.start("job")
        await app.reached(lambda: server.under_way)
    assert server.under_way == 0

    async with app.embedded(http=server):
        assert (await app.end_of(started)).output == "answer"


async def test_cancelled_run_drops_its_call(app, server):
    server.answer("/things", says(1))
    server.delay = 100

    async def job(payload, io, ctx):
        await io.background_fetch("get", URL)

    app.define(job)
    async with app.embedded(http=server):
        started = await app.start("job")
        await app.reached(lambda: server.under_way)
        await asyncio.sleep(1)

        await app.client.cancel_run(started)
        await asyncio.sleep(0.1)

        assert server.under_way == 0
        await asyncio.sleep(200)
        run = await app.look(started)
        assert run.status is RunStatus.CANCELLED
        assert run.tasks[0].status is TaskStatus.CANCELED
        assert server.finished == 0
        assert len(server.requests) == 1


async def test_continued_run_calls_anew(app, server):
    server.answer("/things", says({"message": "no"}, 404), says("yes"))

    async def job(payload, io, ctx):
        return await io.background_fetch("get", URL)

    app.define(job)
    async with app.embedded(http=server):
        started = await app.start("job")
        assert (await app.end_of(started)).status is RunStatus.FAILED

        await app.client.continue_run(started)

        assert (await app.end_of(started)).output == "yes"


async def test_cancelled_run_that_is_continued_calls_anew(app, server):
    server.answer("/things", says("yes"))
    server.delay = 100

    async def job(payload, io, ctx):
        return await io.background_fetch("get", URL)

    app.define(job)
    async with app.embedded(http=server):
        started = await app.start("job")
        await app.reached(lambda: server.under_way)
        await app.client.cancel_run(started)

        await app.client.continue_run(started)

        assert (await app.end_of(started)).output == "yes"
        assert len(server.requests) == 2


@pytest.mark.parametrize("force_replay", [False, True])
async def test_fetch_interrupted_by_a_timeout_of_asyncio(app, server, force_replay):
    server.answer("/things", says("too late"))
    server.delay = 100

    async def job(payload, io, ctx):
        try:
            async with asyncio.timeout(5):
                await io.background_fetch("get", URL, retry=Retry())
        except TimeoutError:
            await io.wait("pause", 300)
            return "gave up"

    run = await app.run(job, http=server, force_replay=force_replay)

    assert run.output == "gave up"
    assert run.tasks[0].status is TaskStatus.CANCELED
    assert len(server.requests) == 1


async def test_poll_that_was_given_up_is_made_no_more(app, server):
    server.answer("/things", says("busy"))

    async def job(payload, io, ctx):
        async with io.timeout("enough", 65):
            await io.background_poll("poll", URL, interval=20, response_filter={"body": {"x": [1]}})

    app.define(job)
    async with app.embedded(http=server):
        started = await app.start("job")
        assert (await app.end_of(started)).status is RunStatus.FAILED
        await asyncio.sleep(300)

    assert server.times == pytest.approx([0, 20, 40, 60], abs=0.5)


async def test_retried_task_calls_afresh_and_drops_the_call_it_gave_up(app, server):
    server.answer("/things", lambda _: says(len(server.requests)))
    server.delay = 50

    async def job(payload, io, ctx):
        async def body():
            if not server.requests:
                async with asyncio.timeout(5):
                    return await io.background_fetch("get", URL)
            return await io.background_fetch("get", URL)

        return await io.run_task("outer", body, retry=Retry(attempts=2, min_delay=10, jitter=False))

    run = await app.run(job, http=server)

    assert run.output == 2
    assert server.times == pytest.approx([0, 15], abs=0.5)
    assert server.most == 1 or server.finished == 1


async def test_fetch_inside_the_body_of_a_task(app, server):
    server.answer("/things", says(3))
    server.delay = 30

    async def job(payload, io, ctx):
        async def body():
            return 1 + await io.background_fetch("get", URL)

        return await io.run_task("outer", body)

    assert (await app.run(job, http=server)).output == 4


async def test_yielding_execution_asks_for_nothing_twice(app, server):
    server.answer("/things", says(1))
    server.delay = 10

    async def job(payload, io, ctx):
        async def ask():
            return await io.background_fetch("get", URL)

        async def leave():
            await io.yield_("leave")
            return 2

        return await asyncio.gather(ask(), leave())

    assert (await app.run(job, http=server)).output == [1, 2]
    assert len(server.requests) == 1


async def test_crash_at_any_commit_loses_nothing(app, server):
    server.answer("/things", says(None, 503), says("busy"), says({"x": 1}))

    async def job(payload, io, ctx):
        rules = Retry(attempts=9, min_delay=10, factor=1, jitter=False)
        return await io.background_fetch("get", URL, retry=rules), await io.background_poll(
            "poll", URL, response_filter={"body": {"x": [1]}}
        )

    app.define(job)
    started: str | None = None
    for crash_at in range(1, 40):
        commits = 0

        def on_commit(moment: str) -> None:
            nonlocal commits
            commits += 1

        async with app.embedded(http=server, on_commit=on_commit) as process:
            if started is None:
                started = await app.start("job")
            ended = asyncio.ensure_future(app.client.wait_for_run(started))
            for _ in range(200_000):
                if ended.done() or commits >= crash_at:
                    break
                await asyncio.sleep(0.01)
            if ended.done():
                run = await app.look(started)
                break
            ended.cancel()
            await process.crash()
    else:
        raise AssertionError("the run did not end")

    assert run.output in (("busy", {"x": 1}), ({"x": 1}, {"x": 1}))
