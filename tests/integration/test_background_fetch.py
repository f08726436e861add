"""`io.background_fetch`, `..._response` and `background_poll`: requests that the engine makes while the run waits.

The HTTP client is a fake one here (what a real one does is in test_fetcher.py); the last test goes over loopback.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from perdure import (
    Backoff,
    FetchResponse,
    FromHeaders,
    Limits,
    Retry,
    RunStatus,
    TaskError,
    TaskStatus,
    redact_string,
)
from perdure.cli.render import RunTree
from perdure.engine.core.fetching import HttpRequest, HttpResponse
from perdure.engine.fetcher import HttpRefusedError, HttpTimeoutError, HttpTransportError

URL = "https://api.example.com/things?page=1"
SECRET = "sk-very-secret"


class Server:
    """Answers by path, in its turn; the last answer is repeated. An answer may be an exception, or take its time.

    Attributes:
        requests: as they came, with the instant (seconds of loop time).
        most: how many requests were under way at once.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.requests: list[tuple[float, HttpRequest]] = []
        self.delay: float = 0.0
        self.under_way = 0
        self.most = 0
        self.finished = 0

    def answer(self, path: str, *answers: Any) -> None:
        self.answers[path] = list(answers)

    async def send(self, request: HttpRequest) -> HttpResponse:
        self.requests.append((asyncio.get_running_loop().time(), request))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self.delay)
            path = request.url.partition("?")[0].removeprefix("https://api.example.com")
            answers = self.answers[path]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Exception):
                raise answer
            self.finished += 1
            if isinstance(answer, HttpResponse):
                return answer
            return answer(request)
        finally:
            self.under_way -= 1

    async def close(self) -> None:
        raise AssertionError("who made it closes it")

    @property
    def times(self) -> list[float]:
        """Seconds between the first request and each."""
        return [round(at - self.requests[0][0], 1) for at, _ in self.requests]


def says(body: Any, status: int = 200, **headers: str) -> HttpResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status=status, headers=named, body=json.dumps(body).encode())


@pytest.fixture
def server() -> Server:
    return Server()


# --- what comes out --------------------------------------------------------------------------------------------------------


async def test_fetch_returns_the_json_of_the_response(app, server):
    server.answer("/things", says({"id": 7}))

    async def job(payload, io, ctx):
        return await io.background_fetch("get", URL, method="POST", headers={"x-a": "1"}, json={"q": [1, 2]})

    run = await app.run(job, http=server)

    assert run.output == {"id": 7}
    ((_, request),) = server.requests
    assert (request.method, request.url, json.loads(request.body)) == ("POST", URL, {"q": [1, 2]})
    assert request.headers == {"x-a": "1", "content-type": "application/json"}


async def test_run_holds_no_slot_while_the_server_takes_its_time(app, server):
    server.answer("/things", says(1))
    server.delay = 100

    async def job(payload, io, ctx):
        return await io.background_fetch("get", URL)

    app.define(job)
    async with app.embedded(http=server):
        started = await app.start("job")
        await app.reached(lambda: server.under_way)
        await asyncio.sleep(1)

        run = await app.look(started)

        assert run.status is RunStatus.WAITING
        assert run.tasks[0].status is TaskStatus.WAITING
        assert (await app.end_of(started)).output == 1


async def test_drain_waits_for_calls_that_are_under_way(app, server):
    server.answer("/things", says(1))
    server.delay = 100

    async def job(payload, io, ctx):
        return await io.background_fetch("get", URL)

    app.define(job)
    async with app.embedded(http=server):
        started = await app.start("job")
        await app.client.drain()

        assert (await app.look(started)).status is RunStatus.COMPLETED


async def test_body_that_is_no_json_is_none(app, server):
    server.answer("/things", HttpResponse(status=200, body=b"<html>"))

    async def job(payload, io, ctx):
        return await io.background_fetch("get", URL)

    assert (await app.run(job, http=server)).output is None


async def test_whole_response(app, server):
    server.answer("/things", says({"id": 7}, 201, x_request="r1"))

    async def job(payload, io, ctx):
        response = await io.background_fetch_response("get", URL)
        assert response == FetchResponse(status=201, headers={"x-request": "r1"}, data={"id": 7})
        await io.wait("pause", 60)
        return response.status

    assert (await app.run(job, http=server)).output == 201


class Thing(BaseModel):
    id: int


@pytest.mark.parametrize("force_replay", [False, True])
async def test_output_has_the_type_that_was_asked_for(app, server, force_replay):
    server.answer("/things", says({"id": 7}))

    async def job(payload, io, ctx):
        plain = await io.background_fetch("get", URL, output=Thing)
        whole = await io.background_fetch_response("whole", URL, output=Thing)
        found = await io.background_poll("poll", URL, output=Thing)
        await io.run_task("task", lambda: None)
        return plain.id + whole.data.id + found.id

    assert (await app.run(job, http=server, force_replay=force_replay)).output == 21


async def test_response_that_does_not_fit_fails_the_task(app, server):
    server.answer("/things", says({"id": "seven"}))

    async def job(payload, io, ctx):
        try:
            await io.background_fetch("get", URL, output=Thing)
        except TaskError as error:
            await io.wait("pause", 60)  # so that it is raised by a replay, too
            return error.error_name

    assert (await app.run(job, http=server)).output == "SerializationError"
    assert len(server.requests) == 1


async def test_replays_send_nothing(app, server):
    server.answer("/things", says(1), says(2))

    async def job(payload, io, ctx):
        first = await io.background_fetch("get", URL)
        await io.wait("pause", 60)
        return first, ctx.run.execution

    output = (await app.run(job, http=server)).output

    assert output[0] == 1
    assert output[1] > 1
    assert len(server.requests) == 1


async def test_branches_wait_side_by_side(app, server):
    server.answer("/things", says(1))
    server.delay = 60

    async def job(payload, io, ctx):
        return await asyncio.gather(*(io.background_fetch(["get", n], URL) for n in range(5)))

    started_at = asyncio.get_running_loop().time()
    assert (await app.run(job, http=server)).output == [1] * 5
    assert asyncio.get_running_loop().time() - started_at < 65
    assert server.most == 5


async def test_calls_under_way_are_bounded_and_none_is_made_twice(app, server):
    server.answer("/things", says(1))
    server.delay = 10

    async def job(payload, io, ctx):
        return sum(await asyncio.gather(*(io.background_fetch(["get", n], URL) for n in range(120))))

    assert (await app.run(job, http=server)).output == 120
    assert server.most == 50
    assert len(server.requests) == 120


async def test_first_of_two_to_answer_counts_and_replays_so(app, server):
    server.answer("/slow", says("slow"))
    server.answer("/fast", says("fast"))

    async def job(payload, io, ctx):
        order = []

        async def ask(path):
            order.append(await io.background_fetch(path, f"https://api.example.com{path}"))

        async def slow():
            await io.wait("first", 30)
            await ask("/slow")

        await asyncio.gather(slow(), ask("/fast"))
        await io.wait("pause", 60)
        return order

    assert (await app.run(job, http=server, force_replay=True)).output == ["fast", "slow"]


async def test_response_may_come_before_the_run_is_put_down(app, server):
    server.answer("/things", says(1))

    async def job(payload, io, ctx):
        return await io.background_fetch("get", URL), ctx.run.execution

    assert (await app.run(job, http=server)).output == (1, 1)


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


# --- sync runs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force_replay", [False, True])
async def test_sync_run(app, server, force_replay):
    server.answer("/things", says({"id": 7}), says({"id": 8}), says({"id": 0}), says({"id": 9}))
    server.delay = 30

    def job(payload, io, ctx):
        plain = io.background_fetch("get", URL, output=Thing)
        whole = io.background_fetch_response("whole", URL, output=Thing)
        found = io.background_poll("poll", URL, response_filter={"body": {"id": [9]}})
        return plain.id, whole.status, whole.data.id, found

    run = await app.run(job, http=server, force_replay=force_replay)

    assert run.output == (7, 200, 8, {"id": 9})
    assert len(server.requests) == 4


async def test_sync_run_catches_what_fails(app, server):
    server.answer("/things", says({"message": "no"}, 404))

    def job(payload, io, ctx):
        try:
            io.background_fetch("get", URL)
        except TaskError as error:
            io.wait("pause", 60)
            return error.error_name

    assert (await app.run(job, http=server)).output == "FetchStatusError"


async def test_sync_branches_wait_side_by_side(app, server):
    server.answer("/things", says(1))
    server.delay = 60

    def job(payload, io, ctx):
        return io.parallel("all", range(5), lambda item, _: io.background_fetch(["get", item], URL) + item)

    assert (await app.run(job, http=server)).output == [1, 2, 3, 4, 5]
    assert len(server.requests) == 5
    assert server.most == 5


async def test_sync_run_survives_a_crash(app, server):
    server.answer("/things", says("answer"))
    server.delay = 50

    def job(payload, io, ctx):
        return io.background_fetch("get", URL)

    app.define(job)
    async with app.embedded(http=server) as process:
        started = await app.start("job")
        await app.reached(lambda: server.under_way)
        await process.crash()
    async with app.embedded(http=server):
        assert (await app.end_of(started)).output == "answer"


# --- secrets -----------------------------------------------------------------------------------------------------------------


async def test_secrets_reach_the_server_and_nobody_else(app, server, caplog):
    caplog.set_level(logging.DEBUG)
    echo = says({"message": f"bad key {SECRET}", SECRET: [SECRET]}, 401, x_echo=SECRET)
    server.answer("/things", echo)
    headers = {"authorization": redact_string("Bearer {}", SECRET)}

    async def job(payload, io, ctx):
        with_poll = io.background_poll(
            "poll", URL, headers=headers, response_filter={"status": [200]}, timeout=30
        )
        results = await asyncio.gather(
            io.background_fetch("get", URL, headers=headers), with_poll, return_exceptions=True
        )
        raise results[0]

    run = await app.run(job, http=server)

    assert server.requests[0][1].headers["authorization"] == f"Bearer {SECRET}"
    assert run.tasks[0].params["requestInit"]["headers"] == {"authorization": "Bearer ********"}
    assert "bad key ********" in run.error.message
    assert len([task for task in run.tasks if task.name == "poll attempt"]) >= 3
    assert SECRET not in repr(run)
    assert SECRET not in drawn(run)
    assert SECRET not in caplog.text


async def test_secrets_stay_out_of_what_a_broken_client_says(app, server, caplog):
    server.answer("/things", RuntimeError(f"header b'Bearer {SECRET}' is no good"))

    async def job(payload, io, ctx):
        await io.background_fetch("get", URL, headers={"authorization": redact_string("Bearer {}", SECRET)})

    run = await app.run(job, http=server)

    assert run.status is RunStatus.FAILED
    assert SECRET not in repr(run) + caplog.text


async def test_value_of_a_task_is_what_the_server_said(app, server):
    server.answer("/things", says({"token": SECRET}))

    async def job(payload, io, ctx):
        answer = await io.background_fetch(
            "get", URL, headers={"authorization": redact_string("Bearer {}", SECRET)}
        )
        return answer == {"token": SECRET}

    assert (await app.run(job, http=server)).output is True


async def test_long_bodies_are_shown_in_part(app, server):
    server.answer("/things", says(1))

    async def job(payload, io, ctx):
        await io.background_fetch("get", URL, method="POST", body="x" * 100_000)

    run = await app.run(job, http=server)

    assert len(server.requests[0][1].body) == 100_000
    assert len(run.tasks[0].params["requestInit"]["body"]) < 11_000


def drawn(run: Any) -> str:
    from io import StringIO

    from rich.console import Console

    text = StringIO()
    Console(file=text, width=200).print(RunTree(run, stacks=True))
    return text.getvalue()


# --- for real ----------------------------------------------------------------------------------------------------------------


@pytest.mark.real_time
async def test_over_loopback(app):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b'{"path": "%s"}' % head.split()[1]
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body)
        )
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]

    async def job(payload, io, ctx):
        return await io.background_fetch("get", f"http://127.0.0.1:{port}/a/b")

    async with listener:
        assert (await app.run(job)).output == {"path": "/a/b"}
