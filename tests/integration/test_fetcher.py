"""The HTTP adapter against a real server on loopback, and one step of an operation through it."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from perdure.clock import SystemClock
from perdure.engine.core.fetching import Again, Attempt, Finished, HttpRequest
from perdure.engine.fetcher import (
    HttpRefusedError,
    HttpTimeoutError,
    HttpTransportError,
    Performed,
    PooledHttpClient,
    _redirected,
    perform,
)
from perdure.schema.operations import FetchOperation, parse_operation
from perdure.sdk.fetch import fetch_operation, poll_operation, redact_string
from perdure.sdk.retry import Retry


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


pytestmark = pytest.mark.real_time  # real sockets: what is on its way in them, virtual time doesn't know of

Answer = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A server that keeps what it receives and answers by path."""

    answers: dict[str, Answer] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while request := await self._read(reader):
                self.received.append(request)
                await self.answers[request.path.partition("?")[0]](request, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Received | None:
        line = await reader.readline()
        if not line:
            return None
        method, path, _ = line.decode().split(" ")
        headers: dict[str, str] = {}
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Received(method, path, headers, body)


@asynccontextmanager
async def listening(answers: dict[str, Answer] | None = None) -> AsyncIterator[Server]:
    server = Server(answers or {})
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


def answer(body: bytes = b"", status: int = 200, *headers: str) -> Answer:
    async def write(_: Received, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)

    return write


async def silence(_: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def hang_up(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def endless(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        await writer.drain()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
async def client() -> AsyncIterator[PooledHttpClient]:
    client = PooledHttpClient(body_bytes_max=100_000)
    yield client
    await client.close()


def request(url: str, *, method: str = "GET", body: bytes | None = None, **more: object) -> HttpRequest:
    timeout_ms = more.get("timeout_ms", 30_000)
    headers = more.get("headers", {})
    assert isinstance(timeout_ms, int)
    assert isinstance(headers, dict)
    return HttpRequest(method=method, url=url, headers=headers, body=body, timeout_ms=timeout_ms)


# --- requests and responses ---------------------------------------------------------------------------------------------


async def test_request_arrives_as_it_was_given(client: PooledHttpClient):
    async with listening({"/a": answer(b"{}")}) as server:
        await client.send(
            request(
                f"{server.url}/a?q=1",
                method="PUT",
                body=b"text",
                headers={"X-Own": "1", "Content-Type": "x/y"},
            )
        )

        [got] = server.received
    assert (got.method, got.path, got.body) == ("PUT", "/a?q=1", b"text")
    assert got.headers["x-own"] == "1"
    assert got.headers["content-type"] == "x/y"
    assert got.headers["user-agent"].startswith("perdure/")


async def test_response_has_status_headers_and_body(client: PooledHttpClient):
    async with listening({"/": answer(b"hello", 418, "X-A: 1", "x-a: 2", "X-B: b")}) as server:
        response = await client.send(request(f"{server.url}/"))

    assert (response.status, response.body) == (418, b"hello")
    assert response.headers["x-a"] == "1, 2"
    assert response.headers["x-b"] == "b"


async def test_compressed_bodies_are_read(client: PooledHttpClient):
    packed = gzip.compress(b'{"a": 1}')
    async with listening({"/": answer(packed, 200, "content-encoding: gzip")}) as server:
        response = await client.send(request(f"{server.url}/"))

    assert response.body == b'{"a": 1}'


async def test_connections_are_used_again(client: PooledHttpClient):
    async with listening({"/": answer(b"1")}) as server:
        for _ in range(5):
            await client.send(request(f"{server.url}/"))

    assert (len(server.received), server.connections) == (5, 1)


async def test_requests_run_side_by_side(client: PooledHttpClient):
    both = asyncio.Barrier(2)

    async def meet(got: Received, writer: asyncio.StreamWriter) -> None:
        await both.wait()
        await answer(b"1")(got, writer)

    async with listening({"/": meet}) as server:
        responses = await asyncio.gather(*(client.send(request(f"{server.url}/")) for _ in range(2)))

    assert [response.body for response in responses] == [b"1", b"1"]


async def test_cookies_of_one_request_do_not_go_out_with_another(client: PooledHttpClient):
    async with listening({"/": answer(b"", 200, "set-cookie: session=1; path=/")}) as server:
        await client.send(request(f"{server.url}/"))
        await client.send(request(f"{server.url}/"))
        await client.send(request(f"{server.url}/", headers={"cookie": "own=1"}))

    assert [got.headers.get("cookie") for got in server.received] == [None, None, "own=1"]


async def test_body_that_is_not_compressed_as_it_says_is_refused(client: PooledHttpClient):
    async with listening({"/": answer(b"plain", 200, "content-encoding: gzip")}) as server:
        with pytest.raises(HttpRefusedError, match="not encoded"):
            await client.send(request(f"{server.url}/"))


# --- limits -------------------------------------------------------------------------------------------------------------


async def test_body_at_the_limit_is_taken_and_one_beyond_refused(client: PooledHttpClient):
    answers = {"/at": answer(b"x" * 100_000), "/beyond": answer(b"x" * 100_001)}
    async with listening(answers) as server:
        assert len((await client.send(request(f"{server.url}/at"))).body) == 100_000

        with pytest.raises(HttpRefusedError, match="100,000 bytes"):
            await client.send(request(f"{server.url}/beyond"))


@pytest.mark.parametrize(
    "respond",
    [
        pytest.param(endless, id="endless"),
        pytest.param(answer(gzip.compress(b"0" * 50_000_000), 200, "content-encoding: gzip"), id="gzip bomb"),
    ],
)
async def test_reading_stops_at_the_limit(client: PooledHttpClient, respond: Answer):
    async with listening({"/": respond}) as server:
        with pytest.raises(HttpRefusedError, match="100,000 bytes"):
            await client.send(request(f"{server.url}/"))


async def trickle(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("respond", [silence, trickle], ids=["silence", "always a little more"])
async def test_timeout_is_for_the_whole_response(client: PooledHttpClient, respond: Answer):
    async with listening({"/": respond}) as server:
        with pytest.raises(HttpTimeoutError, match="200 ms"):
            await client.send(request(f"{server.url}/", timeout_ms=200))


async def test_client_works_on_after_a_timeout(client: PooledHttpClient):
    async with listening({"/slow": silence, "/": answer(b"1")}) as server:
        with pytest.raises(HttpTimeoutError):
            await client.send(request(f"{server.url}/slow", timeout_ms=50))

        assert (await client.send(request(f"{server.url}/"))).body == b"1"


# --- no response --------------------------------------------------------------------------------------------------------


async def test_refused_connection_is_a_transport_error(client: PooledHttpClient):
    async with listening() as server:
        url = server.url

    with pytest.raises(HttpTransportError, match="ConnectError"):
        await client.send(request(url))


async def test_unknown_host_is_a_transport_error(client: PooledHttpClient):
    with pytest.raises(HttpTransportError, match="ConnectError"):
        await client.send(request("http://no-such-host.invalid/"))


async def test_cut_connection_is_a_transport_error(client: PooledHttpClient):
    async with listening({"/": hang_up}) as server:
        with pytest.raises(HttpTransportError, match="RemoteProtocolError"):
            await client.send(request(f"{server.url}/"))


async def test_server_that_does_not_speak_tls_is_a_transport_error(client: PooledHttpClient):
    async with listening({"/": answer()}) as server:
        with pytest.raises(HttpTransportError):
            await client.send(request(f"https://127.0.0.1:{server.port}/"))


@pytest.mark.parametrize(
    "url",
    ["ftp://example.com/", "/relative", "https://", "http://[::1", "file:///etc/passwd", ""],
)
async def test_what_is_no_http_url_is_refused(client: PooledHttpClient, url: str):
    with pytest.raises(HttpRefusedError):
        await client.send(request(url))


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"a": "b\r\nc: d"}},
        {"headers": {"a b": "c"}},
        {"headers": {"a": "é"}},
        {"method": "GET IT"},
    ],
    ids=str,
)
async def test_what_is_no_http_request_is_refused(client: PooledHttpClient, options: dict[str, Any]):
    async with listening({"/": answer()}) as server:
        with pytest.raises(HttpRefusedError):
            await client.send(request(f"{server.url}/", **options))

        assert server.received == []


# --- redirects ----------------------------------------------------------------------------------------------------------


async def test_malformed_secret_is_not_quoted(client: PooledHttpClient):
    async with listening({"/": answer()}) as server:
        malformed = HttpRequest(
            method="GET",
            url=f"{server.url}/",
            headers={"x-key": "s3cret\nx"},
            timeout_ms=30_000,
            secret_headers=frozenset({"x-key"}),
        )

        with pytest.raises(HttpRefusedError) as refused:
            await client.send(malformed)

    assert "s3cret" not in str(refused.value)
    assert "malformed" in str(refused.value)


async def test_redirects_are_followed(client: PooledHttpClient):
    answers = {
        "/": answer(b"", 302, "location: /next"),
        "/next": answer(b"", 307, "location: /last?a=1"),
        "/last": answer(b"there"),
    }
    async with listening(answers) as server:
        response = await client.send(request(f"{server.url}/", method="POST", body=b"x"))

    assert response.body == b"there"
    assert [(got.method, got.path) for got in server.received] == [
        ("POST", "/"),
        ("GET", "/next"),
        ("GET", "/last?a=1"),
    ]


async def test_redirect_that_keeps_the_method_keeps_the_body(client: PooledHttpClient):
    async with listening({"/": answer(b"", 307, "location: /next"), "/next": answer(b"")}) as server:
        await client.send(request(f"{server.url}/", method="POST", body=b"x"))

    assert [(got.method, got.body) for got in server.received] == [("POST", b"x"), ("POST", b"x")]


async def test_circle_of_redirects_is_refused(client: PooledHttpClient):
    async with listening({"/": answer(b"", 302, "location: /")}) as server:
        with pytest.raises(HttpRefusedError, match="20 redirects"):
            await client.send(request(f"{server.url}/"))

    assert len(server.received) == 21


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/", "file:///etc/passwd"])
async def test_redirects_to_other_schemes_are_refused(client: PooledHttpClient, target: str):
    async with listening({"/": answer(b"", 302, f"location: {target}")}) as server:
        with pytest.raises(HttpRefusedError, match="not followed"):
            await client.send(request(f"{server.url}/"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["another port", "another host"])
async def test_secret_headers_do_not_follow_to_another_origin(client: PooledHttpClient, host: str):
    async with listening({"/there": answer(b"")}) as other:
        there = f"http://{host}:{other.port}/there"
        answers = {
            "/": answer(b"", 307, "location: /again"),
            "/again": answer(b"", 307, f"location: {there}"),
        }
        async with listening(answers) as server:
            await client.send(
                HttpRequest(
                    method="GET",
                    url=f"{server.url}/",
                    headers={"X-Api-Key": "sk-1", "X-Plain": "1"},
                    timeout_ms=30_000,
                    secret_headers=frozenset({"x-api-key"}),
                )
            )

    assert [got.headers.get("x-api-key") for got in server.received] == ["sk-1", "sk-1"]
    assert [(got.headers.get("x-api-key"), got.headers["x-plain"]) for got in other.received] == [(None, "1")]


@pytest.mark.parametrize(
    "source, target, keeps",
    [
        ("https://a.example/x", "https://a.example/y", True),
        ("http://a.example/", "https://a.example/", True),
        ("http://a.example:8080/", "https://a.example:8080/", False),
        ("https://a.example/", "https://b.example/", False),
        ("https://a.example/", "https://sub.a.example/", False),
        ("https://a.example/", "https://a.example:8443/", False),
    ],
)
def test_where_secret_headers_may_follow(source: str, target: str, keeps: bool):
    following = httpx2.Request("GET", target, headers={"x-key": "sk-1"})

    sent = _redirected(httpx2.Request("GET", source), following, frozenset({"x-key"}))

    assert ("x-key" in sent.headers) is keeps


def test_redirect_from_https_to_http_is_refused():
    plain = httpx2.Request("GET", "http://a.example/")

    with pytest.raises(HttpRefusedError, match="https to http"):
        _redirected(httpx2.Request("GET", "https://a.example/"), plain, frozenset())


# --- the client's life --------------------------------------------------------------------------------------------------


async def test_closing_closes_connections_and_ends_the_client():
    client = PooledHttpClient()
    hung_up = asyncio.Event()

    async def note(got: Received, writer: asyncio.StreamWriter) -> None:
        await answer(b"1")(got, writer)
        asyncio.create_task(note_end(writer)).add_done_callback(lambda _: hung_up.set())

    async def note_end(writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with listening({"/": note}) as server:
        await client.send(request(f"{server.url}/"))
        await client.close()
        await client.close()
        await asyncio.wait_for(hung_up.wait(), 10)

        with pytest.raises(HttpTransportError, match="closed"):
            await client.send(request(f"{server.url}/"))


async def test_client_that_was_never_used_closes():
    await PooledHttpClient().close()


# --- one step of an operation -------------------------------------------------------------------------------------------


async def perform_now(operation: FetchOperation, client: PooledHttpClient, number: int = 1) -> Performed:
    clock = SystemClock()
    attempt = Attempt(number=number, began_at=clock.now())
    return await perform(operation, attempt, client, clock, random.Random(1))


async def test_fetch_from_arguments_to_output(client: PooledHttpClient):
    async with listening({"/v1": answer(b'{"id": 7}', 201)}) as server:
        operation = fetch_operation(
            f"{server.url}/v1",
            method="POST",
            headers={"authorization": redact_string("Bearer {}", "sk-1")},
            json={"name": "é"},
        )
        done = await perform_now(parse_operation(operation.kind, operation.params_json()), client)

    [got] = server.received
    assert got.headers["authorization"] == "Bearer sk-1"
    assert json.loads(got.body) == {"name": "é"}
    assert isinstance(done.step, Finished)
    assert (done.step.output, done.step.error) == ('{"id":7}', None)
    assert done.response is not None
    assert done.response.status == 201
    assert done.duration_ms >= 0


async def test_every_kind_of_failure_becomes_a_step(client: PooledHttpClient):
    answers = {"/busy": answer(b"", 503), "/cut": hang_up, "/long": answer(b"x" * 200_000), "/slow": silence}
    async with listening(answers) as server:

        def to(path: str) -> FetchOperation:
            return fetch_operation(f"{server.url}{path}", retry=Retry(attempts=2), timeout=1)

        busy, cut, long, slow = await asyncio.gather(
            *(perform_now(to(path), client) for path in ("/busy", "/cut", "/long", "/slow"))
        )
        end = await perform_now(to("/cut"), client, number=2)

    for again in (busy, cut, slow):
        assert isinstance(again.step, Again)
        assert again.step.attempt.number == 2
    assert isinstance(slow.step, Again)
    assert slow.step.reason == "Fetch timed out after 1000ms"
    assert isinstance(long.step, Finished)
    assert long.step.error is not None
    assert long.step.error.name == "FetchRefusedError"
    assert isinstance(end.step, Finished)
    assert end.step.error is not None
    assert "2 attempts" in end.step.error.message


async def test_poll_whose_time_is_over_sends_nothing(client: PooledHttpClient):
    async with listening({"/": answer(b"1")}) as server:
        operation = poll_operation(f"{server.url}/", timeout=30)
        done = await perform(operation, Attempt(began_at=0), client, SystemClock(), random.Random(1))

    assert server.received == []
    assert isinstance(done.step, Finished)
    assert done.step.error is not None
    assert done.step.error.name == "PollTimeoutError"
    assert (done.request, done.response) == (None, None)


async def test_poll_shows_what_it_saw(client: PooledHttpClient):
    async with listening({"/": answer(b'{"state": "busy"}')}) as server:
        operation = poll_operation(f"{server.url}/", response_filter={"body": {"state": ["done"]}})
        done = await perform_now(operation, client)

    assert isinstance(done.step, Again)
    assert done.response is not None
    assert done.response.body == b'{"state": "busy"}'
