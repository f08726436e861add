"""Engine, executor and store in one process: the composition root of `client.embedded(...)`."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Self, TypedDict

from perdure.clock import Clock, Random, SystemClock, system_random
from perdure.durations import to_ms
from perdure.embedded_platform import EmbeddedPlatform, ages_of, job_spec
from perdure.engine.engine import Engine
from perdure.engine.fetcher import HttpClient
from perdure.engine.journal import EngineSource
from perdure.engine.store import Store
from perdure.errors import ConfigurationError, StoreBrokenError, UsageError
from perdure.ids import Ids
from perdure.schema.retention import Retention
from perdure.sdk.client import Client
from perdure.sdk.client.upkeep import as_retention
from perdure.sdk.context import EnvironmentContext
from perdure.sdk.runner import Runner
from perdure.sdk.settings import ExecutionSettings
from perdure.store.sqlite.store import SqliteStore

_log = logging.getLogger("perdure.embedded")

ENVIRONMENT = EnvironmentContext(id="dev", slug="dev", type="DEVELOPMENT")


class EmbeddedSettings(TypedDict, total=False):
    """The settings of `client.embedded(url, ...)`; what they mean: see Embedded."""

    max_executions: int
    threads: int
    grace: timedelta | float
    linger: float
    foreign_await_limit: float
    force_replay: bool
    lease_seconds: float
    concurrency_limit: int | None
    retention: Retention | Mapping[str, timedelta | float] | None
    http: HttpClient | None
    clock: Clock | None
    random: Random | None
    on_commit: Callable[[str], None] | None
    watch_loop: bool | None
    inline: bool
    open_store: Callable[[], Awaitable[Store]] | None
    owner: str | None
    divided_from: int | None


class Embedded:
    """`async with client.embedded("sqlite:///jobs.db") as embedded:` — runs execute in the running event loop.

    Entering takes up what a process that died left behind. Leaving claims no more, lets task bodies that run finish
    within `grace`, puts their runs down and closes the file; they go on when it is opened again.

    Args:
        client: whose jobs are executed.
        url: "sqlite:///relative.db", "sqlite:////absolute/path.db" or ":memory:"; "postgresql://user@host/database", which any
            number of processes may use at once; else PERDURE_DATABASE_URL.
        max_executions: how many runs execute at once.
        threads: threads for task bodies that are plain `def`.
        grace: how long leaving waits for bodies, timedelta or seconds.
        linger: a run whose next wake-up is at most this many seconds away stays in memory.
        foreign_await_limit: seconds that an await outside a task may keep a waiting run in memory.
        force_replay: execute every run again after each of its tasks, to test that it replays well.
        lease_seconds: how long a run may be without news from its execution.
        concurrency_limit: how many executions there may be in all; None for any number. Unlike `max_executions` it counts
            those of cancelled runs until their code has ended, and is meant for the environment, not for this process.
        retention: how long what has ended is kept, see `Retention`; or the same as a dict. None keeps everything.
        http: makes the requests of background fetches and polls; None for a client of its own.
        clock, random, on_commit, watch_loop, inline: for tests: injected time and chance; a hook around every commit;
            whether to watch for a blocked loop; whether the store uses no threads.
        open_store, owner, divided_from: for simulations: opens the store instead of `url`; the name in leases; see Writer.

    Raises (on entering):
        ConfigurationError: no url, or one of a kind that isn't supported.
        StoreInUseError: another process owns the file.
        SchemaOutdatedError: the file was written by a newer perdure.
    """

    def __init__(
        self,
        client: Client,
        url: str | None = None,
        *,
        max_executions: int = 200,
        threads: int = 32,
        grace: timedelta | float = 10,
        linger: float = 1.0,
        foreign_await_limit: float = 60.0,
        force_replay: bool = False,
        lease_seconds: float = 30.0,
        concurrency_limit: int | None = None,
        retention: Retention | Mapping[str, timedelta | float] | None = None,
        http: HttpClient | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        on_commit: Callable[[str], None] | None = None,
        watch_loop: bool | None = None,
        inline: bool = False,
        open_store: Callable[[], Awaitable[Store]] | None = None,
        owner: str | None = None,
        divided_from: int | None = None,
    ) -> None:
        whole_numbers = {
            "max_executions": max_executions,
            "threads": threads,
            "concurrency_limit": 1 if concurrency_limit is None else concurrency_limit,
        }
        for name, value in whole_numbers.items():
            given: Any = value
            if type(given) is not int or not 1 <= given < 2**31:
                raise UsageError(
                    f"embedded: {name} must be a whole number from 1 to 2,147,483,647, not {given!r}"
                )
        for name, seconds in (("linger", linger), ("foreign_await_limit", foreign_await_limit)):
            to_ms(seconds, f"embedded: {name}")
        if to_ms(lease_seconds, "embedded: lease_seconds") == 0:
            raise UsageError("embedded: lease_seconds must be more than 0")
        self._client = client
        self._url = url or os.environ.get("PERDURE_DATABASE_URL") or ""
        self._is_shared = is_postgresql(self._url)
        self._path = self._url if self._is_shared else sqlite_path(self._url)
        self._clock = clock or SystemClock()
        self._random = random or system_random()
        self._http = http
        self._max_executions = max_executions
        self._threads = threads
        self._grace = to_ms(grace, "embedded: grace") / 1000
        self._lease_seconds = lease_seconds
        self._concurrency_limit = concurrency_limit
        self._retention = ages_of(as_retention(retention), "embedded: retention")
        self._on_commit = on_commit
        self._watch_loop = clock is None if watch_loop is None else watch_loop
        self._inline = inline
        self._open_store = open_store or (self._open_postgresql if self._is_shared else self._open_sqlite)
        self._divided_from = divided_from
        self._owner = owner or f"{socket.gethostname()}:{os.getpid()}"
        if (
            self._is_shared and owner is None
        ):  # else a container's next process would renew the leases of its last one
            self._owner += f":{self._random.getrandbits(32):08x}"
        self._settings = ExecutionSettings(
            linger=linger,
            foreign_await_limit=foreign_await_limit,
            force_replay=force_replay,
            limits=client.limits,
        )
        self._engine: Engine | None = None
        self._crashed = False

    async def __aenter__(self) -> Self:
        client = self._client
        store = await self._open_store()
        try:
            self._store = store
            ids = Ids(self._clock, self._random)
            self._engine = engine = Engine(
                store,
                self._clock,
                ids,
                owner=self._owner,
                random=self._random,
                lease_seconds=self._lease_seconds,
                claim_bytes_max=client.limits.claim_bytes_max,
                jobs=[job_spec(job) for job in client.all_jobs()],
                exclusive=not self._is_shared,
                http=self._http,
                output_bytes_max=client.limits.output_bytes_max,
                on_broken=self._broken,
                environment_limit=self._concurrency_limit,
                retention=self._retention,
                divided_from=self._divided_from,
            )
            self._runner = Runner(
                client,
                EngineSource(engine),
                clock=self._clock,
                random=self._random,
                environment=ENVIRONMENT,
                settings=self._settings,
                max_executions=self._max_executions,
                threads=self._threads,
                watch_loop=self._watch_loop,
            )
            client.connect(
                EmbeddedPlatform(engine, max_executions=self._max_executions),
                clock=self._clock,
                random=self._random,
            )
        except BaseException:
            await store.close()
            raise
        try:
            self._runner.start()
            await engine.start()
        except BaseException:
            await self._leave(0)
            raise
        return self

    async def _open_sqlite(self) -> Store:
        return await SqliteStore.open(
            self._path, ENVIRONMENT.id, clock=self._clock, on_commit=self._on_commit, inline=self._inline
        )

    async def _open_postgresql(self) -> Store:
        from perdure.store.postgresql import PostgresqlStore

        return await PostgresqlStore.open(
            self._url, ENVIRONMENT.id, clock=self._clock, random=self._random, on_commit=self._on_commit
        )

    async def __aexit__(self, *exc_info: object) -> None:
        if self._engine is not None:
            await asyncio.shield(self._leave(self._grace))

    async def _leave(self, grace: float) -> None:
        engine, self._engine = self._engine, None
        assert engine is not None
        try:
            await self._runner.stop(grace)
            await engine.stop()
        finally:
            self._client.connect(None)
            await self._store.close()

    async def drain(self) -> None:
        """As `client.drain`."""
        await self._client.drain()

    async def crash(self) -> None:
        """Stop as a dying process would: what isn't committed is lost, nothing is put down or told (for tests)."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        self._runner.crash()
        self._crashed = True
        engine.writer.break_off(StoreBrokenError("the engine was told to crash"))
        await engine.stop()
        self._client.connect(None)
        await self._store.close()

    def _broken(self, error: BaseException) -> None:
        if self._crashed:
            return
        where = "postgresql://..." if self._is_shared else self._path
        _log.critical("the store at %s is broken and the engine has stopped: %s", where, error)


def is_postgresql(url: str) -> bool:
    """Whether a database URL names a PostgreSQL database."""
    return url.startswith(("postgresql://", "postgres://"))


def sqlite_path(url: str | None) -> str:
    """The path in a database URL.

    Raises:
        ConfigurationError: there is none, or it isn't SQLite's.
    """
    if not url:
        raise ConfigurationError(
            'embedded needs a database: client.embedded("sqlite:///jobs.db"), client.embedded(":memory:"), '
            "or PERDURE_DATABASE_URL"
        )
    if url in {":memory:", "sqlite://"}:
        return ":memory:"
    scheme, separator, path = url.partition("://")
    if not separator:
        raise ConfigurationError(f'{url!r} is no database URL: for a SQLite file write "sqlite:///{url}"')
    if scheme in ("postgresql", "postgres"):
        raise ConfigurationError(
            "this needs a SQLite file, sqlite:///jobs.db; PostgreSQL is for client.embedded so far"
        )
    if scheme != "sqlite" or not path.startswith("/") or path == "/":
        shown = url if "@" not in url else f"{scheme}://..."
        raise ConfigurationError(
            f"{shown!r} is no database URL that perdure knows: sqlite:///relative.db, sqlite:////absolute/path.db"
        )
    path = path[1:]
    return ":memory:" if path == ":memory:" else path
