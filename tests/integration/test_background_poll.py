"""`io.background_poll`: a request made until its response fits."""

from __future__ import annotations

import pytest

from perdure import (
    Retry,
    TaskError,
    TaskStatus,
)
from perdure.engine.fetcher import HttpTimeoutError, HttpTransportError

from .fake_server import URL, says

# --- polls ---------------------------------------------------------------------------------------------------------------


async def test_poll_until_the_response_fits(app, server):
    server.answer("/things", says({"state": "busy"}), says({"state": "busy"}, 202), says({"state": "ready"}))

    async def job(payload, io, ctx):
        return await io.background_poll(
            "poll", URL, interval=20, response_filter={"status": [200], "body": {"state": ["ready"]}}
        )

    run = await app.run(job, http=server)

    assert run.output == {"state": "ready"}
    assert server.times == pytest.approx([0, 20, 40], abs=0.5)


async def test_poll_shows_its_attempts_below_the_task(app, server):
    server.answer("/things", says({"state": "busy"}), says({"state": "ready"}, x_a="1"))

    async def job(payload, io, ctx):
        before = await io.run_task("before", lambda: 1)
        await io.background_poll("poll", URL, response_filter={"body": {"state": ["ready"]}})
        await io.run_task("after", lambda: before)

    run = await app.run(job, http=server, force_replay=True)

    assert [task.name for task in run.tasks] == [
        "before",
        "poll api.example.com/things",
        "poll attempt",
        "poll attempt",
        "after",
    ]
    _, poll, first, second, _ = run.tasks
    assert first.parent_id == second.parent_id == poll.id
    assert second.params == {"status": 200, "headers": {"x-a": "1"}, "body": {"state": "ready"}}
    assert second.description == f"GET {URL} 200"
    assert {first.status, second.status} == {TaskStatus.COMPLETED}


async def test_poll_ends_when_its_time_is_over(app, server):
    server.answer("/things", says({"state": "busy"}))
    caught: list[TaskError] = []

    async def job(payload, io, ctx):
        try:
            await io.background_poll(
                "poll", URL, interval=20, timeout=90, response_filter={"body": {"state": ["ready"]}}
            )
        except TaskError as error:
            caught.append(error)

    await app.run(job, http=server)

    assert caught[0].matches(TimeoutError)
    assert caught[0].error_message == "Task timed out after 90 seconds"
    assert server.times == pytest.approx([0, 20, 40, 60, 80, 90], abs=0.5)


async def test_poll_forgives_a_host_that_is_away_for_a_while(app, server):
    away = HttpTransportError("ConnectError: refused")
    server.answer("/things", away, away, says("busy"), away, away, says("busy"), says("ready"))

    async def job(payload, io, ctx):
        return await io.background_poll("poll", URL, response_filter={"body": {"x": [1]}}, timeout=600)

    # Not in a row: each response that merely doesn't fit starts the count of failures anew.
    server.answers["/things"][-1] = says({"x": 1})
    assert (await app.run(job, http=server)).output == {"x": 1}
    assert len(server.requests) == 7


async def test_poll_whose_host_stays_away_fails(app, server):
    server.answer("/things", HttpTransportError("ConnectError: refused"))

    async def job(payload, io, ctx):
        await io.background_poll("poll", URL)

    run = await app.run(job, http=server)

    assert run.error.name == "FetchConnectionError"
    assert len(server.requests) == 3


async def test_poll_request_timeout_with_another_try(app, server):
    server.answer("/things", HttpTimeoutError("late"), says("ready"))

    async def job(payload, io, ctx):
        return await io.background_poll(
            "poll",
            URL,
            request_timeout=3,
            request_timeout_retry=Retry(attempts=2, min_delay=15, jitter=False),
        )

    assert (await app.run(job, http=server)).output == "ready"
    assert server.requests[0][1].timeout_ms == 3_000
    assert server.times == pytest.approx([0, 15], abs=0.5)
