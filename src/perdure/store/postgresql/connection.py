"""A PostgreSQL database: its connections, transactions, and what becomes of a COMMIT that nobody answered.

One connection writes, one transaction after the other; a few read. Connections are opened when they are needed and again
when they were lost; a node lives on while its database restarts or another server takes over.

A transaction begins with a row in `batches` under a number of its own. If the connection is lost before the COMMIT was sent,
nothing was written. If it is lost in the COMMIT, that row tells: the same row is inserted once more, by itself. PostgreSQL
lets this wait for the old transaction, if it is still there. If the row then exists, the transaction was committed; if not,
it never can be any more. Until somebody can be asked, the caller waits: an outcome is never guessed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self, TypeVar

from perdure.clock import Clock, Random, SystemClock, system_random
from perdure.errors import StoreBrokenError, UnavailableError, UsageError

from .driver import connect
from .failures import is_conflict, is_lost, sqlstate, translated
from .migrating import migrate
from .settings import DURABLE, GUARDS, PLANNER, Settings, set_local, set_session

T = TypeVar("T")
CommitHook = Callable[[str], None]
Work = Callable[[Any], Awaitable[T]]

_log = logging.getLogger("perdure.store")

CONFLICTS_MAX = 10
"""How often a transaction is repeated that was in another's way, before UnavailableError."""

ASK_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0)
"""Pauses between attempts to find out what became of a COMMIT; the last one repeats."""

BATCHES_KEPT = 500
"""Rows in `batches` after which a node deletes those that nobody can ask for any more."""

_CLOSE_SECONDS = 5.0


class Database:
    """An open database, shared by the stores of its environments. Closed when the last of them is.

    Attributes:
        on_commit: called with "before" and "after" around every COMMIT; what it raises counts as raised by the COMMIT.
        deadlocks: how many transactions had to be repeated because they and others waited for each other.
    """

    def __init__(self, settings: Settings, node: str) -> None:
        self.on_commit: CommitHook | None = None
        self.deadlocks = 0
        self._settings = settings
        self._node = node
        self._users = 1
        self._pid = os.getpid()
        self._closing = False
        self._number = 0
        self._kept_from = 0
        self._writer: Any = None
        self._writing = asyncio.Lock()
        self._readers: list[Any] = []
        self._reading = asyncio.Semaphore(settings.readers_max)
        guards = set_local(GUARDS)
        self._begin_write = f"begin;{guards}"
        if settings.pooled:
            self._begin_write += set_local(PLANNER) + DURABLE.format(local="true")

    @classmethod
    async def open(
        cls, settings: Settings, *, clock: Clock | None = None, random: Random | None = None
    ) -> Self:
        """Migrate and open a database.

        Raises:
            SchemaOutdatedError: its schema is newer than this release.
            ConfigurationError: it can't be reached or used; asyncpg isn't installed.
        """
        clock, random = clock or SystemClock(), random or system_random()
        await migrate(settings, clock)
        return cls(settings, f"{clock.now():015d}-{random.getrandbits(64):016x}")

    def share(self) -> Self:
        """The same database for one more store."""
        self._users += 1
        return self

    async def write(self, work: Work[T]) -> T:
        """Run `work` in one durable transaction; if it raises, nothing is written. Errors as the Store port says.

        `work` is run again if the transaction was in another's way. Cancelling the wait doesn't cancel the transaction.
        """
        self._check()
        writing = asyncio.ensure_future(self._write(work))
        writing.add_done_callback(_look_at_error)
        return await asyncio.shield(writing)

    async def _write(self, work: Work[T]) -> T:
        async with self._writing:
            conflicts = 0
            while True:
                fresh = self._writer is None or self._writer.is_closed()
                try:
                    return await self._transact(work)
                except _Lost as error:
                    if fresh:
                        raise translated(error.why) from error.why
                    # The connection had died while it was idle: what was asked on it never began.
                except _Conflict as error:
                    conflicts += 1
                    self.deadlocks += sqlstate(error.why) == "40P01"
                    _log.debug("a transaction is repeated: %s", error)
                    if conflicts == CONFLICTS_MAX:
                        raise translated(error.why) from error.why

    async def read(self, work: Work[T], *, snapshot: bool = False) -> T:
        """Run `work` beside any write; with `snapshot` all its statements see the database as of one moment."""
        self._check()
        async with self._reading:
            while True:
                reader, fresh = await self._reader()
                try:
                    return await self._look(reader, work, snapshot=snapshot or self._settings.pooled)
                except BaseException as error:
                    if is_lost(error) and not fresh:
                        continue  # it had died while it was idle
                    if is_conflict(error):
                        continue  # a migration has outdated a statement; asyncpg has forgotten it
                    raise translated(error) from error

    async def close(self) -> None:
        """Give up one use, once what was submitted is done; the last closes the connections."""
        self._check()
        self._users -= 1
        if self._users == 0:
            self._closing = True
        async with self._writing:
            if self._users != 0:
                return
            writer, self._writer = self._writer, None
            if writer is not None and not writer.is_closed():
                with suppress(Exception):
                    await writer.execute(f"delete from perdure.batches where node = '{self._node}'")  # noqa: S608
            readers, self._readers = self._readers, []
            for connection in [writer, *readers]:
                if connection is not None:
                    await _close(connection)

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise UsageError("a PostgreSQL database can't be used in a forked child: open it there")

    # --- writing --------------------------------------------------------------------------------------------------------

    async def _transact(self, work: Work[T]) -> T:
        writer = await self._connected_writer()
        self._number += 1
        number = self._number
        began = False
        try:
            await writer.execute(self._beginning(number))
            began = True
            value = await work(writer)
        except BaseException as error:
            await self._roll_back(writer)
            if is_conflict(error):
                raise _Conflict(error) from error
            if is_lost(error) and not began:
                raise _Lost(error) from error
            raise translated(error) from error
        await self._commit(writer, number)
        return value

    def _beginning(self, number: int) -> str:
        """One text, and so one message: it has no parameters, all that is in it is ours."""
        sql = self._begin_write + self._marking(number)
        if number - self._kept_from > BATCHES_KEPT:
            of_node = f"node = '{self._node}' and number >= {self._kept_from} and number < {number}"
            sql += f";delete from perdure.batches where {of_node}"  # noqa: S608 - see above
        return sql

    def _marking(self, number: int) -> str:
        return f"insert into perdure.batches (node, number) values ('{self._node}', {number})"  # noqa: S608

    async def _commit(self, writer: Any, number: int) -> None:
        try:
            if self.on_commit:
                self.on_commit("before")
            await writer.execute("commit")
            if self.on_commit:
                self.on_commit("after")
        except Exception as error:
            if not is_lost(error):
                await self._roll_back(writer)
                raise translated(error) from error
            self._drop_writer()
            if not await self._was_committed(number):
                raise translated(error) from error
        except BaseException:
            self._drop_writer()
            raise
        if number - self._kept_from > BATCHES_KEPT:
            self._kept_from = number

    async def _was_committed(self, number: int) -> bool:
        """What became of a COMMIT that wasn't answered. Asks until somebody answers."""
        attempt = 0
        while True:
            try:
                writer = await self._connected_writer()
                told = await writer.execute(f"{self._marking(number)} on conflict (node, number) do nothing")
                return told == "INSERT 0 0"
            except Exception as error:
                self._drop_writer()
                if not isinstance(translated(error), UnavailableError):
                    raise self._unknown(error) from error
                if self._closing:
                    raise self._unknown(error) from error
                if attempt in (0, 60, 600):
                    _log.warning(
                        "the connection to %s was lost in a COMMIT; asking what became of it: %s",
                        self._settings.shown,
                        error,
                    )
            await asyncio.sleep(ASK_SECONDS[min(attempt, len(ASK_SECONDS) - 1)])
            attempt += 1

    def _unknown(self, error: BaseException) -> StoreBrokenError:
        return StoreBrokenError(
            f"the connection to {self._settings.shown} was lost in a COMMIT, and what became of it can't be found out "
            f"({error}): reopen the database"
        )

    async def _connected_writer(self) -> Any:
        if self._writer is None or self._writer.is_closed():
            self._writer = None
            self._writer = await self._connect(PLANNER)
        return self._writer

    async def _roll_back(self, writer: Any) -> None:
        """So that the connection can be used again; or without it, if it can't."""
        if writer.is_closed():
            self._drop_writer()
            return
        try:
            await writer.execute("rollback", timeout=_CLOSE_SECONDS)
        except BaseException:  # noqa: BLE001 - the first error counts; a dropped connection rolls back as well
            self._drop_writer()

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.terminate()

    # --- reading --------------------------------------------------------------------------------------------------------

    async def _reader(self) -> tuple[Any, bool]:
        """A connection, and whether it is new."""
        while self._readers:
            reader = self._readers.pop()
            if not reader.is_closed():
                return reader, False
        return await self._connect({}), True

    async def _look(self, reader: Any, work: Work[T], *, snapshot: bool) -> T:
        """Run `work` on a reader, which is then put back, or dropped if something went wrong."""
        try:
            if snapshot:
                await reader.execute("begin isolation level repeatable read, read only")
            value = await work(reader)
            if snapshot:
                await reader.execute("commit")
        except BaseException:
            reader.terminate()
            raise
        if self._closing:
            await _close(reader)
        else:
            self._readers.append(reader)
        return value

    async def _connect(self, session: dict[str, str]) -> Any:
        connecting = asyncio.ensure_future(connect(self._settings))
        try:
            connection = await asyncio.shield(connecting)
            if session and not self._settings.pooled:
                await connection.execute(set_session(session) + DURABLE.format(local="false"))
        except asyncio.CancelledError:
            connecting.add_done_callback(_terminate)  # asyncpg would leave its socket open
            raise
        except Exception as error:
            raise translated(error) from error
        return connection


class _Conflict(Exception):  # noqa: N818 - control flow
    """The transaction was in another's way, and rolled back."""

    def __init__(self, why: BaseException) -> None:
        super().__init__(why)
        self.why = why


class _Lost(Exception):  # noqa: N818 - control flow
    """The connection was lost before the transaction began."""

    def __init__(self, why: BaseException) -> None:
        super().__init__(why)
        self.why = why


def _look_at_error(writing: asyncio.Future[Any]) -> None:
    """Whoever waited for it may have been cancelled: then nobody else does, and asyncio complains."""
    if not writing.cancelled():
        writing.exception()


def _terminate(connecting: asyncio.Future[Any]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().terminate()


async def _close(connection: Any) -> None:
    try:
        await connection.close(timeout=_CLOSE_SECONDS)
    except Exception:  # noqa: BLE001 - it is gone either way
        connection.terminate()
