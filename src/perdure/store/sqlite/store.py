"""The Store port on SQLite. See connection.py for threads and errors, batch.py for changes, sql/ for the statements."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

from perdure.clock import Clock
from perdure.engine.store import (
    AccountRow,
    Change,
    LeaseRow,
    Match,
    OperationRow,
    QueuePlace,
    QueueRow,
    Result,
    RunFilter,
    RunRow,
    ScheduleRow,
    StatusRow,
    WaiterRow,
)
from perdure.errors import NotFoundError, UnavailableError
from perdure.schema.execution import EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import RunStatus, TaskStatus
from perdure.store.queries import load_queries

from . import reads, rows
from .alone import record_alone
from .backup import copy_database
from .batch import apply_changes, fetch_tasks
from .check import find_faults
from .connection import CommitHook, Database
from .rows import Statements, encode

T = TypeVar("T")


@cache
def queries() -> dict[str, str]:
    """The adapter's statements by name."""
    return load_queries("perdure.store.sqlite")


class SqliteStore:
    """One environment of a SQLite database; `open` it. The contract is engine.store.Store's.

    Example: `store = await SqliteStore.open("jobs.db")`; `":memory:"` is gone when the store is closed.
    """

    def __init__(self, database: Database, environment: str) -> None:
        self._database = database
        self._environment = environment
        self._known = database.known(environment)
        self._is_open = True

    @classmethod
    async def open(
        cls,
        path: str,
        environment: str = "dev",
        *,
        read_only: bool = False,
        inline: bool = False,
        lock_wait_seconds: float = 10.0,
        busy_timeout_seconds: float = 5.0,
        clock: Clock | None = None,
        on_commit: CommitHook | None = None,
    ) -> SqliteStore:
        """Own, migrate and open the database at `path`.

        Args:
            path: the file, or ":memory:".
            environment: whose rows it sees.
            read_only: look at it beside its owner (the CLI): no lock, no migration, `apply` raises UsageError.
            inline: no threads, every call runs in the caller (deterministic simulation).
            lock_wait_seconds: how long a former owner may take to let go.
            busy_timeout_seconds: how long to wait for a lock inside of SQLite (a backup, a shell) before UnavailableError.
            clock: for the dates of migrations and of ownership.
            on_commit: for tests: called with "before" and "after" around every COMMIT; what it raises counts as raised
                by the COMMIT.

        Raises:
            StoreInUseError, SchemaOutdatedError, ConfigurationError: see Database.open.
        """
        database = await Database.open(
            path,
            read_only=read_only,
            inline=inline,
            lock_wait_seconds=lock_wait_seconds,
            busy_timeout_seconds=busy_timeout_seconds,
            clock=clock,
        )
        database.on_commit = on_commit
        return cls(database, environment)

    def for_environment(self, environment: str) -> SqliteStore:
        """A store for another environment of the same open database; each is closed by itself."""
        self._check_open()
        return SqliteStore(self._database.share(), environment)

    async def apply(self, changes: Sequence[Change]) -> list[Result]:
        self._check_open()
        return await self._database.write(
            lambda connection: apply_changes(self._statements(connection), changes),
            lambda connection: record_alone(self._statements(connection), changes),
        )

    async def get_run(self, run_id: str) -> RunRow | None:
        found = await self._find("get_run", id=run_id)
        return rows.decode_run(found) if found else None

    async def list_runs(self, filter: RunFilter) -> list[RunRow]:
        return await self._read(lambda db: reads.list_runs(db, queries()["list_runs"], filter))

    async def get_event(self, event_id: str) -> EventRecord | None:
        found = await self._find("get_event", id=event_id)
        return rows.decode_event(found) if found else None

    async def get_tasks(self, run_id: str) -> list[TaskRecord]:
        found = await self._read(lambda db: fetch_tasks(db, encode([run_id])))
        return [task for _, task in found]

    async def get_logs(self, run_id: str) -> list[LogRecord]:
        return rows.decode_logs(await self._fetch("logs_by_run", run_id=run_id))

    async def get_output(self, run_id: str, task_id: str) -> tuple[str | None, str | None]:
        found = await self._find("get_output", run_id=run_id, id=task_id)
        if found is None:
            raise NotFoundError(kind="task", id=task_id)
        return rows.decode_output(found)

    async def due_runs(self, now: int, limit: int) -> list[RunRow]:
        return rows.decode_runs(
            await self._fetch("due_runs", now=now, limit=limit, status=RunStatus.WAITING.value)
        )

    async def next_due(self) -> int | None:
        return await self._read(lambda db: db.fetch("next_due"))

    async def leases(self, *, expired_at: int | None, limit: int) -> list[LeaseRow]:
        found = await self._fetch(
            "leases", expired_at=expired_at, limit=limit, running=TaskStatus.RUNNING.value
        )
        return rows.decode_leases(found)

    async def count_by_status(self, *, active_only: bool = False) -> dict[RunStatus, int]:
        if active_only:
            return await self._read(
                lambda db: {
                    RunStatus.QUEUED: db.fetch("count_ready"),
                    RunStatus.EXECUTING: db.fetch("count_all_leases"),
                }
            )
        counts = rows.decode_counts(await self._fetch("count_by_status"))
        return {status: counts.get(status.value, 0) for status in RunStatus}

    # --- events and schedules -------------------------------------------------------------------------------------------

    async def due_events(self, now: int, limit: int) -> list[EventRecord]:
        return await self._read(lambda db: reads.due_events(db, now, limit))

    async def next_event_due(self) -> int | None:
        return await self._read(lambda db: db.fetch("next_event_due"))

    async def list_events(
        self, *, name: str | None = None, before: str | None = None, limit: int = 50
    ) -> list[EventRecord]:
        return await self._read(lambda db: reads.list_events(db, name, before, limit))

    async def due_schedules(self, now: int, limit: int) -> list[ScheduleRow]:
        return await self._read(lambda db: reads.due_schedules(db, now, limit))

    async def next_tick(self) -> int | None:
        return await self._read(lambda db: db.fetch("next_tick"))

    async def get_schedule(self, id: str) -> ScheduleRow | None:
        return await self._read(lambda db: reads.get_schedule(db, id))

    async def list_schedules(self, *, dispatcher: str | None = None) -> list[ScheduleRow]:
        return await self._read(lambda db: reads.list_schedules(db, dispatcher))

    async def get_account(self, id: str) -> AccountRow | None:
        return await self._read(lambda db: reads.get_account(db, id))

    # --- waits for others -----------------------------------------------------------------------------------------------

    async def waiter_names(self) -> list[str]:
        return await self._read(reads.waiter_names)

    async def unchecked_waiters(self, limit: int) -> list[WaiterRow]:
        return await self._read(lambda db: reads.unchecked_waiters(db, limit))

    async def events_since(
        self, name: str, since: int, *, after: str | None, limit: int
    ) -> list[EventRecord]:
        return await self._read(lambda db: reads.events_since(db, name, since, after, limit))

    async def matches(self, limit: int) -> list[Match]:
        return await self._read(lambda db: reads.matches(db, limit))

    async def due_operations(self, now: int, limit: int) -> list[OperationRow]:
        return await self._read(lambda db: reads.due_operations(db, now, limit))

    async def next_operation_due(self, after: int = -1) -> int | None:
        return await self._read(lambda db: db.fetch("next_operation_due", after=after))

    async def waiters_of(self, run_id: str) -> list[WaiterRow]:
        return await self._read(lambda db: reads.waiters_of(db, run_id))

    async def operations_of(self, run_id: str) -> list[OperationRow]:
        return await self._read(lambda db: reads.operations_of(db, run_id))

    # --- state ----------------------------------------------------------------------------------------------------------

    async def get_statuses(self, run_id: str) -> list[StatusRow]:
        return await self._read(lambda db: reads.get_statuses(db, run_id))

    async def get_value(self, scope: str, key: str) -> tuple[str, str | None] | None:
        return await self._read(lambda db: reads.get_value(db, scope, key))

    async def list_queues(self) -> list[QueueRow]:
        return await self._read(reads.list_queues)

    async def place_in_queue(self, run_id: str) -> QueuePlace | None:
        return await self._read(lambda db: reads.place_in_queue(db, run_id))

    async def ended_runs(self, *, before: int, statuses: Sequence[RunStatus], limit: int) -> list[str]:
        return await self._read(lambda db: reads.ended_runs(db, before, statuses, limit))

    async def childless_events(self, *, before: int, limit: int) -> list[str]:
        return await self._read(lambda db: reads.childless_events(db, before, limit))

    # --- the database itself --------------------------------------------------------------------------------------------

    async def backup(self, path: str) -> None:
        self._check_open()
        await self._database.read_aside(lambda connection: copy_database(connection, path))

    async def check(self) -> list[str]:
        self._check_open()
        return await self._database.read_aside(
            lambda connection: find_faults(connection, self._statements(connection))
        )

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            await self._database.close()

    def _check_open(self) -> None:
        if not self._is_open:
            raise UnavailableError("the store is closed; nothing was written")

    def _statements(self, connection: sqlite3.Connection) -> Statements:
        return Statements(connection, queries(), self._environment, self._known)

    async def _read(self, work: Callable[[Statements], T]) -> T:
        self._check_open()
        return await self._database.read(lambda connection: work(self._statements(connection)))

    async def _find(self, name: str, **parameters: object) -> str | None:
        return await self._read(lambda db: db.fetch(name, **parameters))

    async def _fetch(self, name: str, **parameters: object) -> str:
        return await self._read(lambda db: db.fetch(name, **parameters))
