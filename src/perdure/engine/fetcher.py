"""Requests that the platform makes for runs, over HTTP: the port, its adapter on httpx2, and one step of an operation.

What follows from a response is decided in `perdure.engine.core.fetching`; when it is due again and where that is kept
is the caller's business.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from perdure._version import __version__
from perdure.clock import Clock, Random
from perdure.limits import DEFAULT_LIMITS
from perdure.schema.operations import FetchOperation

from .core.fetching import (
    Again,
    Attempt,
    Finished,
    Happened,
    HttpRequest,
    HttpResponse,
    Refused,
    RequestTimedOut,
    Unreachable,
    expired,
    next_step,
    request_of,
)

if TYPE_CHECKING:
    import httpx2


class HttpTimeoutError(Exception):
    """There was no whole response within `HttpRequest.timeout_ms`."""


class HttpTransportError(Exception):
    """There was no response, for a reason that may pass; the text says it without naming the URL."""


class HttpRefusedError(Exception):
    """This request can't be made, or its response can't be taken: trying again is pointless."""


class HttpClient(Protocol):
    """What the engine needs of HTTP. Any number of `send` may be under way at once, on one event loop."""

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Send a request, follow redirects, read the response to its end. Any status is a response.

        Raises:
            HttpTimeoutError: it took longer than `request.timeout_ms`, all in all.
            HttpTransportError: no response came.
            HttpRefusedError: it is not a request that can be sent, or what came back is not taken.
        """
        ...

    async def close(self) -> None:
        """Close all connections; whatever is under way fails. Closing again does nothing."""
        ...


class Performed(Struct, frozen=True, kw_only=True):
    """One request of an operation.

    Attributes:
        step: what follows.
        request, response: what was sent and what came; None where nothing was. A poll shows each response as a row
            (`perdure.engine.core.fetching.poll_attempt`). The request holds secrets: it is not to be shown or logged.
        duration_ms: how long it took (a successful fetch counts towards its run's time, Protocol).
    """

    step: Finished | Again
    request: HttpRequest | None = None
    response: HttpResponse | None = None
    duration_ms: int = 0


async def perform(
    operation: FetchOperation, attempt: Attempt, client: HttpClient, clock: Clock, random: Random
) -> Performed:
    """Make one request of an operation and say what follows. It never raises what a request can cause."""
    began_at = clock.now()
    if (over := expired(operation, attempt, began_at)) is not None:
        return Performed(step=over)
    request = request_of(operation)
    happened = await _send(client, request)
    now = clock.now()
    return Performed(
        step=next_step(operation, attempt, happened, now, random.random()),
        request=request,
        response=happened if isinstance(happened, HttpResponse) else None,
        duration_ms=now - began_at,
    )


async def _send(client: HttpClient, request: HttpRequest) -> Happened:
    try:
        return await client.send(request)
    except HttpTimeoutError:
        return RequestTimedOut(after_ms=request.timeout_ms)
    except HttpTransportError as exc:
        return Unreachable(problem=str(exc))
    except HttpRefusedError as exc:
        return Refused(problem=str(exc))


class PooledHttpClient:
    """`HttpClient` on httpx2, loaded with the first request. Connections are kept and shared; cookies are not kept.

    Proxies and certificates are the environment's (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE ...).

    Args:
        body_bytes_max: a response's body may have so many bytes, decompressed.
        connections_max: open at once; further requests wait for one, which counts towards their time-out.
        redirects_max: followed for one request. None leads from https to http or to anything else, and none takes secret
            headers to another origin.
    """

    def __init__(
        self,
        *,
        body_bytes_max: int = DEFAULT_LIMITS.output_bytes_max,
        connections_max: int = 100,
        redirects_max: int = 20,
    ) -> None:
        self._body_bytes_max = body_bytes_max
        self._connections_max = connections_max
        self._redirects_max = redirects_max
        self._client: httpx2.AsyncClient | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def send(self, request: HttpRequest) -> HttpResponse:
        client = await self._open()
        try:
            async with asyncio.timeout(request.timeout_ms / 1_000):
                return await self._exchange(client, request)
        except TimeoutError as exc:  # none but this one: those of sockets are transport errors by now
            raise HttpTimeoutError(f"no whole response within {request.timeout_ms} ms") from exc

    async def close(self) -> None:
        self._closed = True
        async with self._opening:
            client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _open(self) -> httpx2.AsyncClient:
        async with self._opening:
            if self._closed:
                raise HttpTransportError("the HTTP client is closed")
            if self._client is None:
                # Importing it and reading the certificates takes longer than a turn of the loop may.
                self._client = await asyncio.to_thread(_make_client, self._connections_max)
            return self._client

    async def _exchange(self, client: httpx2.AsyncClient, request: HttpRequest) -> HttpResponse:
        import httpx2

        try:
            sent = client.build_request(
                request.method, request.url, headers=request.headers, content=request.body
            )
            if sent.url.scheme not in ("http", "https") or not sent.url.host:
                raise HttpRefusedError("the URL is none of http or https with a host")
            return await self._follow(client, sent, request.secret_headers)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, ValueError) as exc:
            # What is wrong with a header may be quoted, escaped beyond recognition: no such text where there are secrets.
            said = "a header or the URL is malformed" if request.secret_headers else exc
            raise HttpRefusedError(f"the request can't be sent: {said}") from exc
        except httpx2.DecodingError as exc:
            raise HttpRefusedError(f"the response's body is not encoded as it says: {exc}") from exc
        except (httpx2.TransportError, OSError) as exc:
            raise HttpTransportError(_worded(exc)) from exc

    async def _follow(
        self, client: httpx2.AsyncClient, request: httpx2.Request, secret_headers: frozenset[str]
    ) -> HttpResponse:
        for _ in range(self._redirects_max + 1):
            response = await client.send(request, stream=True)
            try:
                if response.next_request is None:
                    return HttpResponse(
                        status=response.status_code,
                        headers=_headers(response),
                        body=await self._read(response),
                    )
            finally:
                await response.aclose()
            request = _redirected(request, response.next_request, secret_headers)
        raise HttpRefusedError(f"there were more than {self._redirects_max} redirects")

    async def _read(self, response: httpx2.Response) -> bytes:
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size > self._body_bytes_max:
                raise HttpRefusedError(
                    f"the response's body has more than the {self._body_bytes_max:,} bytes allowed; "
                    "ask for less of it, or fetch it in a task and store it elsewhere"
                )
            chunks.append(chunk)
        return b"".join(chunks)


def _make_client(connections_max: int) -> httpx2.AsyncClient:
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    import httpx2

    return httpx2.AsyncClient(
        headers={"user-agent": f"perdure/{__version__}"},
        # One client serves the runs of everybody: a cookie that one of them gets must not go out with another's request.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        limits=httpx2.Limits(max_connections=connections_max, max_keepalive_connections=connections_max // 2),
        # One deadline stands around the whole exchange; httpx2's are for single reads and writes.
        timeout=None,
    )


def _redirected(
    request: httpx2.Request, following: httpx2.Request, secret_headers: frozenset[str]
) -> httpx2.Request:
    source, target = request.url, following.url
    if target.scheme not in ("http", "https") or (source.scheme == "https" and target.scheme != "https"):
        raise HttpRefusedError(
            f"the response redirects from {source.scheme} to {target.scheme}, which is not followed"
        )
    if not _is_same_party(source, target):
        for name in secret_headers:
            following.headers.pop(name, None)
    return following


def _is_same_party(source: httpx2.URL, target: httpx2.URL) -> bool:
    if source.host != target.host:
        return False
    # A port is None where it is the scheme's own: that is the usual step from http to https.
    return source.port == target.port and (source.scheme == target.scheme or source.port is None)


def _headers(response: httpx2.Response) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in response.headers.multi_items():
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined


def _worded(error: Exception) -> str:
    # The text of a cut connection is often empty; the class always says something.
    kind = type(error).__name__
    return f"{kind}: {error}" if str(error) else kind
