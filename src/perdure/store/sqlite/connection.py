"""A SQLite database: its connections, the threads they live on, transactions, and what its errors mean.

One connection writes, on a thread of its own; another reads, on another, so a read never waits for a commit (WAL). A
database in memory has one connection for both. With `inline` there are no threads: calls run in the caller, which is
what a deterministic simulation needs.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from perdure.clock import Clock, SystemClock
from perdure.errors import ConfigurationError, StoreBrokenError, UnavailableError, UsageError
from perdure.store.migrate import Migration, load_migrations, pending_migrations

from .known import Known
from .lane import Lane
from .lock import FileLock
from .watch import FileWatch

T = TypeVar("T")
CommitHook = Callable[[str], None]

# Nothing was written and nothing is wrong with the batch: the caller may repeat it.
_UNAVAILABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_PROTOCOL,
}

# What is read can't be trusted any more, and what is written might be lost.
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_ASIDE_TIMEOUT_SECONDS = 5.0  # how long such a read waits for a lock inside of SQLite


def _code(error: BaseException) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


@dataclass(frozen=True, slots=True)
class Alone(Generic[T]):
    """A statement that does all of a transaction's work, and what that comes to."""

    sql: str
    parameters: dict[str, object]
    value: T


class Database:
    """An open database, shared by the stores of its environments. Closed when the last of them is.

    `on_commit` is called with "before" and "after" around every COMMIT; what it raises counts as raised by the COMMIT.
    """

    def __init__(
        self,
        path: str,
        writer: sqlite3.Connection | None,
        reader: sqlite3.Connection,
        lock: FileLock | None,
        *,
        inline: bool,
    ) -> None:
        self.on_commit: CommitHook | None = None
        self._path = path
        self._file = str(Path(path).absolute())  # wherever the process goes later
        self._inline = inline
        self._writer = writer
        self._reader = reader
        self._lock = lock
        self._watch = FileWatch(path) if lock is not None else None
        self._pid = os.getpid()
        self._users = 1
        self._broken: str | None = None
        self._known: dict[str, Known] = {}
        self._read_lane = Lane("perdure-sqlite-read", inline=inline)
        self._write_lane = (
            self._read_lane if writer is reader else Lane("perdure-sqlite-write", inline=inline)
        )

    @classmethod
    async def open(
        cls,
        path: str,
        *,
        read_only: bool = False,
        inline: bool = False,
        lock_wait_seconds: float = 10.0,
        busy_timeout_seconds: float = 5.0,
        clock: Clock | None = None,
    ) -> Database:
        """Open, and migrate, the database at `path`, which this process then owns; `read_only` does neither.

        Raises:
            StoreInUseError: another process owns the file.
            SchemaOutdatedError: its schema is newer than this release, or older and `read_only`.
            ConfigurationError: it can't be opened, or isn't a SQLite database.
        """
        clock = clock or SystemClock()
        in_memory = path == ":memory:"
        try:
            lock = (
                None
                if in_memory or read_only
                else await FileLock.acquire(path, wait_seconds=lock_wait_seconds, clock=clock)
            )
        except OSError as error:
            folder = Path(path).absolute().parent  # noqa: ASYNC240 - nothing runs yet
            why = error if folder.is_dir() else f"there is no folder {folder}; make it first"
            raise ConfigurationError(f"can't open the SQLite database {path}: {why}") from error
        with ExitStack() as undo:
            if lock is not None:
                undo.callback(lock.release)
            try:
                if read_only:
                    reader = _connect_read_only(path, busy_timeout_seconds, undo)
                    _check_schema(reader, path)
                    database = cls(path, None, reader, None, inline=inline)
                else:
                    writer = _connect_writer(path, busy_timeout_seconds, undo)
                    _migrate(writer, path, clock)
                    reader = writer if in_memory else _connect_reader(path, busy_timeout_seconds, undo)
                    database = cls(path, writer, reader, lock, inline=inline)
            except sqlite3.Error as error:
                raise ConfigurationError(f"can't open the SQLite database {path}: {error}") from error
            undo.pop_all()
            return database

    def known(self, environment: str) -> Known:
        """What `write` knows of an environment: the same for all stores of it."""
        return self._known.setdefault(environment, Known())

    def share(self) -> Database:
        """The same database for one more store."""
        self._users += 1
        return self

    async def write(
        self,
        work: Callable[[sqlite3.Connection], T],
        alone: Callable[[sqlite3.Connection], Alone[T] | None] | None = None,
    ) -> T:
        """Run `work` in one durable transaction; if it raises, nothing is written. Errors as the Store port says.

        If `alone` knows of one statement that does the same, that is executed instead, without BEGIN and COMMIT: SQLite
        makes a transaction of it by itself.
        """
        self._check()
        writer = self._writer
        if writer is None:
            raise UsageError("this SQLite database was opened for reading only")
        return await self._write_lane.run_for_writer(lambda: self._transact(writer, work, alone))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on one snapshot, beside any write."""
        self._check()
        return await self._read_lane.run(lambda: self._snapshot(self._reader, work))

    async def read_aside(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As `read`, on a connection and a thread of its own: however long it takes, nobody waits for it.

        (A database in memory has no other connection.) What is written meanwhile makes the WAL grow.
        """
        self._check()
        if self._writer is self._reader:
            return await self.read(work)
        return (
            self._snapshot_aside(work)
            if self._inline
            else await asyncio.to_thread(self._snapshot_aside, work)
        )

    async def close(self) -> None:
        """Give up one use, once what was submitted is done; the last closes the file and lets go of its lock."""
        self._check()
        self._users -= 1
        lanes = dict.fromkeys([self._write_lane, self._read_lane])
        if self._users != 0:
            for lane in lanes:
                await lane.run(lambda: None)
            return
        for lane in lanes:
            await lane.stop()
        try:
            self._reader.close()
            if self._writer:
                self._writer.close()  # the last to close writes the WAL back
        finally:
            if self._lock:
                self._lock.release()

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise UsageError("a SQLite database can't be used in a forked child: open it there")

    def _check_broken(self) -> None:
        if self._broken is not None:
            raise StoreBrokenError(self._broken)
        if self._watch is not None and (path := self._watch.missing()) is not None:
            raise self._break(
                f"the file {path} was deleted or replaced while the SQLite database {self._path} was open: what is written "
                "goes nowhere. Let nothing but its engine touch the files of a database; put them back and reopen it"
            )

    def _break(self, reason: str) -> StoreBrokenError:
        """Finish this database: every call from now on fails with `reason`."""
        self._broken = reason
        return StoreBrokenError(reason)

    def _translated(self, error: BaseException) -> BaseException:
        code = _code(error)
        if code in _CORRUPT:
            return self._break(
                f"the SQLite database {self._path} is damaged ({error}): something else has written to it, or the disk "
                "fails. Look with `pragma integrity_check`, restore a copy if need be, and reopen it"
            )
        if code in _UNAVAILABLE:
            return UnavailableError(
                f"the SQLite database can't be used now ({error}); nothing was written, repeat later"
            )
        return error

    def _transact(
        self,
        writer: sqlite3.Connection,
        work: Callable[[sqlite3.Connection], T],
        alone: Callable[[sqlite3.Connection], Alone[T] | None] | None,
    ) -> T:
        self._check_broken()
        if alone is not None and (statement := alone(writer)) is not None:
            self._commit(writer, statement.sql, statement.parameters)
            return statement.value
        try:
            writer.execute("begin immediate")
            value = work(writer)
        except BaseException as error:
            self._rollback(writer)
            raise self._translated(error) from error
        self._commit(writer, "commit", {})
        return value

    def _commit(self, writer: sqlite3.Connection, sql: str, parameters: dict[str, object]) -> None:
        """Execute the statement which makes durable what there is to be, the last one or the only one."""
        try:
            if self.on_commit:
                self.on_commit("before")
            writer.execute(sql, parameters)
            if self.on_commit:
                self.on_commit("after")
        except BaseException as error:
            if _code(error) == sqlite3.SQLITE_IOERR:
                raise self._break(
                    f"a COMMIT to {self._path} failed ({error}), its outcome is unknown: reopen the SQLite database"
                ) from error
            self._rollback(writer)
            raise self._translated(error) from error

    def _rollback(self, writer: sqlite3.Connection) -> None:
        for known in self._known.values():
            known.forget()
        if not writer.in_transaction:  # SQLite has rolled back by itself, or the commit is done
            return
        try:
            writer.execute("rollback")
        except sqlite3.Error as error:
            raise self._break(
                f"a ROLLBACK in {self._path} failed ({error}): reopen the SQLite database"
            ) from error

    def _snapshot(self, reader: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        self._check_broken()
        try:
            reader.execute("begin")
            try:
                return work(reader)
            finally:
                reader.execute("commit")
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _snapshot_aside(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._check_broken()
        with ExitStack() as undo:
            try:
                reader = _connect_read_only(self._file, _ASIDE_TIMEOUT_SECONDS, undo)
                reader.execute("begin")  # closing ends it; a COMMIT would fail where `work` has found damage
                return work(reader)
            except sqlite3.Error as error:
                raise self._translated(error) from error


def _connect(target: str, timeout: float, undo: ExitStack, *, uri: bool = False) -> sqlite3.Connection:
    """A connection, which `undo` closes unless it is told otherwise."""
    connection = sqlite3.connect(
        target,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        uri=uri,
    )
    undo.callback(connection.close)
    connection.execute("pragma temp_store = memory")
    connection.execute("pragma cache_size = -65536")
    return connection


def _connect_writer(path: str, timeout: float, undo: ExitStack) -> sqlite3.Connection:
    connection = _connect(path, timeout, undo)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    connection.execute("pragma journal_size_limit = 67108864")
    return connection


def _connect_reader(path: str, timeout: float, undo: ExitStack) -> sqlite3.Connection:
    connection = _connect(path, timeout, undo)
    connection.execute("pragma query_only = on")
    return connection


def _connect_read_only(path: str, timeout: float, undo: ExitStack) -> sqlite3.Connection:
    return _connect(f"{Path(path).absolute().as_uri()}?mode=ro", timeout, undo, uri=True)


def _migrations() -> list[Migration]:
    return load_migrations("perdure.store.sqlite")


def _schema_version(connection: sqlite3.Connection) -> int:
    known = connection.execute("select 1 from sqlite_schema where name = 'schema_migrations'").fetchone()
    if known is None:
        return 0
    return connection.execute("select coalesce(max(version), 0) from schema_migrations").fetchone()[0]


def _check_schema(connection: sqlite3.Connection, path: str) -> None:
    pending_migrations(_schema_version(connection), _migrations(), where=path, may_migrate=False)


def _migrate(connection: sqlite3.Connection, path: str, clock: Clock) -> None:
    """Apply what is pending, each migration in one transaction; the version is read again under SQLite's write lock."""
    migrations = _migrations()
    while pending_migrations(_schema_version(connection), migrations, where=path, may_migrate=True):
        connection.execute("begin immediate")
        try:
            version = _schema_version(connection)
            for migration in pending_migrations(version, migrations, where=path, may_migrate=True)[:1]:
                for statement in _statements(migration.sql):
                    connection.execute(statement)
                connection.execute(
                    "insert into schema_migrations (version, name, applied_at) values (?, ?, ?)",
                    (migration.version, migration.name, clock.now()),
                )
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise


def _statements(script: str) -> list[str]:
    """The statements of a script (which `executescript` would run outside of our transaction)."""
    found: list[str] = []
    lines: list[str] = []
    for line in script.splitlines():
        lines.append(line)
        if ";" in line and sqlite3.complete_statement("\n".join(lines)):
            found.append("\n".join(lines).strip())
            lines = []
    return found
