"""The Store port on PostgreSQL. See connection.py for transactions, batch.py for changes, sql/ for the statements."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from perdure.clock import Clock, Random
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
from perdure.errors import ConfigurationError, NotFoundError, UnavailableError
from perdure.schema.execution import PLATFORM_ROW, EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import RunStatus, TaskStatus

from . import reads, rows
from .batch import apply_changes
from .check import find_faults
from .connection import CommitHook, Database
from .settings import parse_url
from .statements import Batch, Known, Statements
from .tasks import BYTES_MAX, read_tasks

T = TypeVar("T")

GATE_SECONDS = 10.0
"""How long the writers of events may take that a new waiter has to wait for."""

_GATE_PAUSE_SECONDS = 0.005


class PostgresqlStore:
    """One environment of a PostgreSQL database; `open` it. The contract is engine.store.Store's.

    Example: `store = await PostgresqlStore.open("postgresql://perdure@db.example/app")`
    """

    def __init__(self, database: Database, environment: str) -> None:
        self._database = database
        self._environment = environment
        self._known = Known()
        self._is_open = True

    @classmethod
    async def open(
        cls,
        url: str,
        environment: str = "dev",
        *,
        clock: Clock | None = None,
        random: Random | None = None,
        on_commit: CommitHook | None = None,
    ) -> PostgresqlStore:
        """Migrate and open the database at `url`, which any number of processes may use.

        Args:
            url: as libpq's and asyncpg's, several hosts included; and `?pooler=transaction`, `?readers=3` (settings.py).
            environment: whose rows it sees.
            clock: for the dates of migrations.
            random: makes the name of this node.
            on_commit: for tests: called with "before" and "after" around every COMMIT; what it raises counts as raised
                by the COMMIT.

        Raises:
            SchemaOutdatedError, ConfigurationError: see Database.open.
        """
        database = await Database.open(parse_url(url), clock=clock, random=random)
        database.on_commit = on_commit
        return cls(database, environment)

    def for_environment(self, environment: str) -> PostgresqlStore:
        """A store for another environment of the same open database; each is closed by itself."""
        self._check_open()
        return PostgresqlStore(self._database.share(), environment)

    async def apply(self, changes: Sequence[Change]) -> list[Result]:
        self._check_open()
        if not changes:
            return []

        async def work(connection: Any) -> tuple[list[Result], Batch]:
            db = self._statements(connection)
            return await apply_changes(db, changes), db.batch

        results, batch = await self._database.write(work)
        self._known.learn(batch)
        return results

    async def get_run(self, run_id: str) -> RunRow | None:
        found = await self._fetch("get_run", id=run_id)
        return rows.decode_run(found) if found else None

    async def list_runs(self, filter: RunFilter) -> list[RunRow]:
        return await self._read(lambda db: reads.list_runs(db, filter))

    async def get_event(self, event_id: str) -> EventRecord | None:
        found = await self._fetch("get_event", id=event_id)
        return rows.decode_event(found) if found else None

    async def get_tasks(self, run_id: str) -> list[TaskRecord]:
        found = await self._read(
            lambda db: read_tasks(db, [run_id], bytes_max=BYTES_MAX, opened_min=PLATFORM_ROW)
        )
        return [task for _, task in found]

    async def get_logs(self, run_id: str) -> list[LogRecord]:
        return rows.decode_logs(await self._fetch("logs_by_run", run_id=run_id))

    async def get_output(self, run_id: str, task_id: str) -> tuple[str | None, str | None]:
        found = await self._fetch("get_output", run_id=run_id, id=task_id)
        if found is None:
            raise NotFoundError(kind="task", id=task_id)
        return rows.decode_output(found)

    async def due_runs(self, now: int, limit: int) -> list[RunRow]:
        found = await self._fetch("due_runs", now=now, limit=limit, status=RunStatus.WAITING.value)
        return rows.decode_runs(found)

    async def next_due(self) -> int | None:
        return await self._fetch("next_due")

    async def leases(self, *, expired_at: int | None, limit: int) -> list[LeaseRow]:
        found = await self._fetch(
            "leases", expired_at=expired_at, limit=limit, running=TaskStatus.RUNNING.value
        )
        return rows.decode_leases(found)

    async def count_by_status(self, *, active_only: bool = False) -> dict[RunStatus, int]:
        if active_only:
            return {
                RunStatus.QUEUED: await self._fetch("count_ready"),
                RunStatus.EXECUTING: await self._fetch("count_all_leases"),
            }
        found = await self._fetch(
            "count_by_status", queued=RunStatus.QUEUED.value, executing=RunStatus.EXECUTING.value
        )
        counts = rows.decode_counts(found)
        return {status: counts.get(status.value, 0) for status in RunStatus}

    # --- events and schedules -------------------------------------------------------------------------------------------

    async def due_events(self, now: int, limit: int) -> list[EventRecord]:
        return rows.decode_events(await self._fetch("due_events", now=now, limit=limit))

    async def next_event_due(self) -> int | None:
        return await self._fetch("next_event_due")

    async def list_events(
        self, *, name: str | None = None, before: str | None = None, limit: int = 50
    ) -> list[EventRecord]:
        if name is None:
            return rows.decode_events(await self._fetch("list_events", before=before, limit=limit))
        found = await self._fetch("list_events_by_name", event_name=name, before=before, limit=limit)
        return rows.decode_events(found)

    async def due_schedules(self, now: int, limit: int) -> list[ScheduleRow]:
        return reads.decode_schedules(await self._fetch("due_schedules", now=now, limit=limit))

    async def next_tick(self) -> int | None:
        return await self._fetch("next_tick")

    async def get_schedule(self, id: str) -> ScheduleRow | None:
        return await self._read(lambda db: reads.get_schedule(db, id))

    async def list_schedules(self, *, dispatcher: str | None = None) -> list[ScheduleRow]:
        return reads.decode_schedules(await self._fetch("list_schedules", dispatcher=dispatcher))

    async def get_account(self, id: str) -> AccountRow | None:
        return await self._read(lambda db: reads.get_account(db, id))

    # --- waits for others -----------------------------------------------------------------------------------------------

    async def waiter_names(self) -> list[str]:
        return rows.decode_strings(await self._fetch("waiter_names"))

    async def unchecked_waiters(self, limit: int) -> list[WaiterRow]:
        """See waiting.sql: what was being written when these waiters were can be seen once this returns."""
        found = reads.decode_waiters(await self._fetch("unchecked_waiters", limit=limit))
        if found:
            await self._pass_gate()
        return found

    async def events_since(
        self, name: str, since: int, *, after: str | None, limit: int
    ) -> list[EventRecord]:
        found = await self._fetch("events_since", event_name=name, since=since, after=after, limit=limit)
        return rows.decode_events(found)

    async def matches(self, limit: int) -> list[Match]:
        return reads.decode_matches(await self._fetch("matches", limit=limit))

    async def due_operations(self, now: int, limit: int) -> list[OperationRow]:
        return reads.decode_operations(await self._fetch("due_operations", now=now, limit=limit))

    async def next_operation_due(self, after: int = -1) -> int | None:
        return await self._fetch("next_operation_due", after=after)

    async def waiters_of(self, run_id: str) -> list[WaiterRow]:
        return reads.decode_waiters(await self._fetch("waiters_by_run", run_id=run_id))

    async def operations_of(self, run_id: str) -> list[OperationRow]:
        return reads.decode_operations(await self._fetch("operations_by_run", run_id=run_id))

    # --- state ----------------------------------------------------------------------------------------------------------

    async def get_statuses(self, run_id: str) -> list[StatusRow]:
        return reads.decode_statuses(await self._fetch("statuses_by_run", run_id=run_id))

    async def get_value(self, scope: str, key: str) -> tuple[str, str | None] | None:
        return await self._read(lambda db: reads.get_value(db, scope, key))

    async def list_queues(self) -> list[QueueRow]:
        return reads.decode_queues(await self._fetch("list_queues", id=None))

    async def place_in_queue(self, run_id: str) -> QueuePlace | None:
        return await self._read(lambda db: reads.place_in_queue(db, run_id), snapshot=True)

    async def ended_runs(self, *, before: int, statuses: Sequence[RunStatus], limit: int) -> list[str]:
        listed = [status.value for status in statuses]
        return rows.decode_strings(
            await self._fetch("ended_runs", before=before, statuses=listed, limit=limit)
        )

    async def childless_events(self, *, before: int, limit: int) -> list[str]:
        return rows.decode_strings(await self._fetch("childless_events", before=before, limit=limit))

    # --- the database itself --------------------------------------------------------------------------------------------

    async def backup(self, path: str) -> None:
        raise ConfigurationError(
            "a PostgreSQL database is copied with its own tools (pg_dump --schema=perdure, pg_basebackup), "
            f"not to {path}"
        )

    async def check(self) -> list[str]:
        return await self._read(find_faults, snapshot=True)

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            await self._database.close()

    def _check_open(self) -> None:
        if not self._is_open:
            raise UnavailableError("the store is closed; nothing was written")

    def _statements(self, connection: Any) -> Statements:
        return Statements(connection, self._environment, self._known)

    async def _read(self, work: Callable[[Statements], Awaitable[T]], *, snapshot: bool = False) -> T:
        self._check_open()
        return await self._database.read(
            lambda connection: work(self._statements(connection)), snapshot=snapshot
        )

    async def _fetch(self, name: str, **parameters: object) -> Any:
        return await self._read(lambda db: db.fetch(name, **parameters))

    async def _pass_gate(self) -> None:
        """Wait until the transactions are over that are writing events just now."""
        holders = set(rows.decode_strings(await self._fetch("gate_holders")))
        for _ in range(int(GATE_SECONDS / _GATE_PAUSE_SECONDS)):
            if not holders:
                return
            await asyncio.sleep(_GATE_PAUSE_SECONDS)
            holders &= set(rows.decode_strings(await self._fetch("gate_holders")))
        raise UnavailableError(f"events have been in the writing for {GATE_SECONDS} seconds; repeat later")
