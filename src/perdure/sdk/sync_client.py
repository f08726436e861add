"""`client.sync`: the client without `await`, one proxy over an event loop in a background thread."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Self, Unpack
from weakref import WeakKeyDictionary

from perdure.errors import UsageError

if TYPE_CHECKING:
    from perdure.embedded import EmbeddedSettings
    from perdure.schema.runs import Run

    from .client import Client, ClientStore, ClientStores, RunSelection


class _BackgroundLoop:
    """An event loop in a daemon thread, started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def run(self, coroutine: Coroutine[Any, Any, Any], what: str) -> Any:
        """The result of `coroutine`, run there while this thread waits. Raises UsageError inside a running loop."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(coroutine, self._get()).result()
        coroutine.close()
        raise UsageError(
            f"client.sync.{what} would block the running event loop: use `await client.{what}(...)` here"
        )

    def _get(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():  # threads don't survive a fork
                self._pid = os.getpid()
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="perdure-sync", daemon=True).start()
            return self._loop


_background = _BackgroundLoop()


class SyncClient:
    """Every method of `Client`, blocking. `with client.sync.embedded("sqlite:///jobs.db"):` runs the engine behind it.

    Raises UsageError when called inside a running event loop.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def embedded(self, url: str | None = None, **settings: Unpack[EmbeddedSettings]) -> SyncEmbedded:
        """As `Client.embedded`, as a plain context manager."""
        return SyncEmbedded(self._client.embedded(url, **settings))

    @property
    def store(self) -> SyncStores:
        """As `Client.store`."""
        return SyncStores(self._client.store)

    def iter_runs(self, job_id: str | None = None, **selection: Unpack[RunSelection]) -> Iterator[Run]:
        """As `Client.iter_runs`, for a plain `for`."""
        runs = self._client.iter_runs(job_id, **selection)
        while True:
            run = _background.run(_next(runs), "iter_runs")
            if run is None:
                return
            yield run

    def __getattr__(self, name: str) -> Any:
        return _blocking(self._client, name, name)


async def _next(runs: AsyncGenerator[Run]) -> Run | None:
    return await anext(runs, None)


def _blocking(owner: Any, name: str, shown: str) -> Any:
    """An attribute of `owner`; a method that has to be awaited as one that blocks."""
    method = getattr(owner, name)
    if not inspect.iscoroutinefunction(method):
        return method

    def call(*args: Any, **options: Any) -> Any:
        return _background.run(method(*args, **options), shown)

    return call


class SyncStores:
    """`client.sync.store`; as `Client.store`."""

    def __init__(self, stores: ClientStores) -> None:
        self._stores = stores
        self.env = SyncStore(stores.env, "store.env")

    def job(self, job_id: str) -> SyncStore:
        """The values of a job."""
        return SyncStore(self._stores.job(job_id), "store.job(...)")

    def run(self, run_id: str) -> SyncStore:
        """The values of a run."""
        return SyncStore(self._stores.run(run_id), "store.run(...)")


class SyncStore:
    """`get`, `set`, `has` and `delete` of a store, blocking."""

    def __init__(self, store: ClientStore, shown: str) -> None:
        self._store = store
        self._shown = shown

    def __getattr__(self, name: str) -> Any:
        return _blocking(self._store, name, f"{self._shown}.{name}")


class SyncEmbedded:
    """An embedded engine that lives in the background loop."""

    def __init__(self, embedded: AbstractAsyncContextManager[Any]) -> None:
        self._embedded = embedded

    def __enter__(self) -> Self:
        _background.run(self._enter(), "embedded")
        return self

    def __exit__(self, *_: object) -> None:
        _background.run(self._leave(), "embedded")

    async def _enter(self) -> None:
        await self._embedded.__aenter__()

    async def _leave(self) -> None:
        await self._embedded.__aexit__(None, None, None)


_clients: WeakKeyDictionary[Client, SyncClient] = WeakKeyDictionary()


def sync_client_of(client: Client) -> SyncClient:
    """The one sync face of a client."""
    return _clients.setdefault(client, SyncClient(client))
