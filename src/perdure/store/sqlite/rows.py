"""Between the port's values and JSON: a batch goes to SQLite as one JSON text, and answers come back as one.

sqlite3 lets go of the GIL around every step of a statement, and to get it back from a busy event loop takes up to 5 ms.
So it is the number of statements and rows that costs, not what is in them.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from perdure.engine.store import IngestEvent, LeaseRow, MoveRun, NewRun, ResolveTask, Result, RunRow
from perdure.schema.execution import Claim, EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import ErrorInfo, RunStatus

from .bound import ROWS_MAX, bound_query, flattened
from .known import Known

Row = tuple[Any, ...]
"""What JSON can say; what is rarely there in a `rest` of its own, as JSON text.

Where rows are bound (`Statements.execute_rows`), text and integers only: no enums, no booleans.
"""
Found = list[tuple[int, Result]]
"""Results of changes, by their place in the batch."""

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_encode = msgspec.json.Encoder().encode

decode_run = msgspec.json.Decoder(RunRow).decode
decode_runs = msgspec.json.Decoder(list[RunRow]).decode
decode_event = msgspec.json.Decoder(EventRecord).decode
decode_events = msgspec.json.Decoder(list[EventRecord]).decode
decode_claims = msgspec.json.Decoder(list[Claim]).decode
decode_tasks = msgspec.json.Decoder(list[tuple[str, TaskRecord]]).decode
decode_logs = msgspec.json.Decoder(list[LogRecord]).decode
decode_leases = msgspec.json.Decoder(list[LeaseRow]).decode
decode_strings = msgspec.json.Decoder(list[str]).decode
decode_pairs = msgspec.json.Decoder(list[tuple[str, str]]).decode
decode_output = msgspec.json.Decoder(tuple[str | None, str | None]).decode
decode_fences = msgspec.json.Decoder(list[tuple[str, int]]).decode
decode_states = msgspec.json.Decoder(list[tuple[str, RunStatus, int, int]]).decode
decode_counts = msgspec.json.Decoder(dict[str, int]).decode


def encode(rows: object) -> str:
    """The JSON of a batch. Raises ValueError for text with a NUL character, which SQLite's JSON would cut off there."""
    return _checked(rows).decode()


def _checked(values: object) -> bytes:
    text = _encode(values)
    if b"\\u0000" in text and _NUL.search(text):
        raise ValueError("text that is to be stored holds a NUL character")
    return text


def _json_text(value: ErrorInfo | list[str] | None) -> str | None:
    """A value for a JSON column: as text, in which a NUL is escaped."""
    return None if value is None else _encode(value).decode()


def event_row(event: EventRecord, created_at: int) -> Row:
    if (
        event.context
        is event.account_id
        is event.source_context
        is event.deliver_at
        is event.run_options
        is None
        and not event.is_test
    ):
        rest = None
    else:
        delayed = event.deliver_at is not None and event.deliver_at > created_at
        rest = encode(
            (
                event.context,
                event.is_test,
                event.account_id,
                event.source_context,
                event.deliver_at,
                event.deliver_at if delayed else None,
                event.run_options,
                max(created_at, event.deliver_at or 0),
            )
        )
    return (
        event.id,
        event.name,
        event.payload,
        event.source,
        event.timestamp,
        created_at,
        event.delivered_at,
        rest,
    )


def edit_row(change: IngestEvent) -> Row:
    event = change.event
    due_at = change.created_at if event.deliver_at is None else event.deliver_at
    return (
        event.id,
        None if event.payload == "null" else event.payload,
        event.context,
        due_at,
        change.edit_before,
    )


def new_run_row(run: RunRow) -> Row:
    if (
        run.reason is run.account_id is run.parent_run_id is run.parent_task_id is run.metadata is None
        and not (run.is_test or run.queue_key or run.tags or run.is_internal)
    ):
        rest = None
    else:
        rest = encode(
            (
                run.reason,
                run.is_test,
                run.queue_key,
                run.account_id,
                run.parent_run_id,
                run.parent_task_id,
                _json_text(run.tags),
                run.metadata,
                run.is_internal,
            )
        )
    return (
        run.id,
        run.job_id,
        run.job_version,
        run.event_id,
        run.status._value_,
        run.priority,
        run.created_at,
        run.number,
        run.queue,
        rest,
    )


def new_run(run: NewRun, event: EventRecord, number: int) -> RunRow:
    """The run as it is once stored. (What most runs don't have is set afterwards: long calls cost four times as much.)"""
    row = RunRow(
        id=run.id,
        job_id=run.job_id,
        job_version=run.job_version,
        event_id=event.id,
        status=run.status,
        created_at=run.created_at,
        priority=run.priority,
        is_test=event.is_test,
        number=number,
        queue=run.queue,
        queue_key=run.queue_key,
        account_id=event.account_id,
        is_internal=run.is_internal,
    )
    if run.reason is not None:
        row.reason = run.reason
    if run.parent_run_id is not None:
        row.parent_run_id = run.parent_run_id
    if run.parent_task_id is not None:
        row.parent_task_id = run.parent_task_id
    if run.tags:
        row.tags = list(run.tags)
    if run.metadata is not None:
        row.metadata = run.metadata
    return row


def move_row(move: MoveRun) -> Row:
    if (
        move.completed_at is not None
        and move.types is move.error is move.reason is move.priority is move.failures is None
        and not (move.crashes or move.failed_tasks)
    ):
        rest = None
    else:
        queued = move.status is RunStatus.QUEUED
        rest = encode(
            (
                (move.at if move.ready_at is None else move.ready_at) if queued else None,
                move.wake_at,
                move.crashes,
                move.types,
                _json_text(move.error),
                move.reason,
                _json_text(move.failed_tasks),
                move.priority,
                move.failures,
                move.open_waits,
                move.resume_at,
            )
        )
    return (move.run_id, move.status, move.add_spent_ms, move.output, move.completed_at, rest)


def task_row(run_id: str, task: TaskRecord) -> Row:
    if (
        task.parent_id is task.interrupted is task.due_at is task.error is task.details is task.types is None
        and not task.absorbed
    ):
        rest = None
    else:
        rest = encode(
            (
                task.parent_id,
                task.interrupted,
                task.due_at,
                _json_text(task.error),
                task.details,
                task.types,
                task.absorbed,
            )
        )
    return (
        run_id,
        task.id,
        task.idempotency_key,
        task.key,
        task.name,
        task.status,
        task.position,
        task.opened,
        task.seq,
        task.attempts,
        task.started_at,
        task.completed_at,
        task.output,
        rest,
    )


def resolution_row(change: ResolveTask) -> Row:
    return (
        change.run_id,
        change.task_id,
        change.status,
        change.output,
        change.types,
        _json_text(change.error),
        change.at,
    )


def log_row(run_id: str, log: LogRecord) -> Row:
    return (run_id, log.id, log.level, log.message, log.at, log.data, log.task_id)


class Statements:
    """The named queries of one environment on one connection.

    Attributes:
        known: for the connection that writes.
    """

    def __init__(
        self, connection: sqlite3.Connection, queries: dict[str, str], env: str, known: Known
    ) -> None:
        self.known = known
        self._connection = connection
        self._queries = queries
        self._env = env

    def execute(self, name: str, **parameters: object) -> None:
        self._connection.execute(self._queries[name], {"env": self._env, **parameters})

    def prepared(self, name: str, **parameters: object) -> tuple[str, dict[str, object]]:
        """What `execute` would execute."""
        return self._queries[name], {"env": self._env, **parameters}

    def execute_rows(self, name: str, rows: Sequence[Row], **parameters: object) -> None:
        """`execute` for a query with `values /* rows */`: not at all without rows, else once for every ROWS_MAX of them.

        Raises ValueError as `encode` does.
        """
        given = {"env": self._env, **parameters}
        for start in range(0, len(rows), ROWS_MAX):
            part = rows[start : start + ROWS_MAX]
            count, values = flattened(part)
            _checked(values)
            query = bound_query(name, len(part[0]), count)
            values += [given[parameter] for parameter in query.parameters]
            self._connection.execute(query.sql, values)

    def execute_ids(self, name: str, ids: Iterable[str]) -> None:
        """`execute` for a set of runs, unless it is empty."""
        if listed := list(ids):
            self.execute(name, ids=encode(listed))

    def fetch(self, name: str, **parameters: object) -> Any:
        """The only column of the only row, None if there is no row."""
        row = self.fetch_row(name, **parameters)
        return row[0] if row else None

    def fetch_row(self, name: str, **parameters: object) -> Any:
        return self.fetch_text(self._queries[name], **parameters)

    def fetch_text(self, sql: str, **parameters: object) -> Any:
        """The only row of a query that was composed of named pieces."""
        cursor = self._connection.execute(sql, {"env": self._env, **parameters})
        row = cursor.fetchone()
        cursor.close()  # resets the statement, which would hold the snapshot
        return row
