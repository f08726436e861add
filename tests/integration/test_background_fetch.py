"""`io.background_fetch` and `background_fetch_response`: requests that the engine makes while the run waits.

The HTTP client is a fake one here (what a real one does is in test_fetcher.py); the last test goes over loopback.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from pydantic import BaseModel

from perdure import (
    FetchResponse,
    RunStatus,
    TaskError,
    TaskStatus,
    redact_string,
)
from perdure.cli.render import RunTree
from perdure.engine.core.fetching import HttpResponse

from .fake_server import SECRET, URL, says

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
