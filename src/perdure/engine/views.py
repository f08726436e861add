"""What is stored, as people see it: records and rows become `schema.runs` values. Pure.

JSON is decoded by what the caller hands in, `perdure.sdk.values.view`: the map of types is the SDK's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias, cast

from perdure.clock import to_datetime
from perdure.engine.store import AccountRow, QueueRow, RunRow, ScheduleRow, StatusRow
from perdure.schedules import Cron, parse_schedule
from perdure.schema.execution import EventRecord, LogRecord, TaskRecord
from perdure.schema.queues import Queue
from perdure.schema.registrations import Registration
from perdure.schema.runs import Account, Event, EventRun, Log, Run, Task, TaskStatus
from perdure.schema.statuses import StatusRecord, StatusVersion

Decode: TypeAlias = Callable[[str, str | None], Any]
"""`decode(json, types)` → the value; `types` as in TaskRecord."""

REDACTED = "[REDACTED]"


def to_run(
    row: RunRow,
    *,
    decode: Decode,
    event: EventRecord | None = None,
    tasks: Sequence[TaskRecord] = (),
    logs: Sequence[LogRecord] = (),
) -> Run:
    """A run with what is known of it; without its event the payload is None. Tasks and logs keep the order given."""
    return Run(
        id=row.id,
        job_id=row.job_id,
        job_version=row.job_version,
        status=row.status,
        event_id=row.event_id,
        payload=None if event is None else decode(event.payload, None),
        output=_decoded(decode, row.output, row.types),
        error=row.error,
        reason=row.reason,
        is_test=row.is_test,
        number=row.number,
        priority=row.priority,
        queue=row.queue,
        concurrency_key=row.queue_key or None,
        account_id=row.account_id,
        tags=list(row.tags),
        metadata={} if row.metadata is None else decode(row.metadata, None),
        parent_run_id=row.parent_run_id,
        parent_task_id=row.parent_task_id,
        executions=row.execution,
        attempts=row.failures + 1,
        execution_duration=timedelta(milliseconds=row.spent_ms),
        created_at=to_datetime(row.created_at),
        started_at=_moment(row.started_at),
        completed_at=_moment(row.completed_at),
        wake_at=_moment(row.wake_at),
        tasks=[to_task(record, decode=decode) for record in tasks],
        logs=[to_log(record, decode=decode) for record in logs],
    )


def to_task(record: TaskRecord, *, decode: Decode) -> Task:
    """A task, with the members that its `redact` names blanked in output and params."""
    details: dict[str, Any] = decode(record.details, None) if record.details else {}
    paths: list[str] = details.get("redact") or []
    return Task(
        id=record.id,
        idempotency_key=record.idempotency_key,
        key=record.key,
        name=record.name,
        status=record.status,
        parent_id=record.parent_id,
        attempts=record.attempts,
        delay_until=_moment(record.due_at) if record.status is TaskStatus.WAITING else None,
        started_at=_moment(record.started_at),
        completed_at=_moment(record.completed_at),
        output=redact(_decoded(decode, record.output, record.types), paths),
        error=record.error,
        description=details.get("description"),
        icon=details.get("icon"),
        params=redact(details.get("params"), paths),
        properties=details.get("properties") or [],
        style=details.get("style"),
    )


def to_log(record: LogRecord, *, decode: Decode) -> Log:
    """A log line."""
    return Log(
        level=record.level,
        message=record.message,
        at=to_datetime(record.at),
        data=_decoded(decode, record.data, None),
        task_id=record.task_id,
    )


def to_event(record: EventRecord, *, decode: Decode, runs: Sequence[RunRow] = ()) -> Event:
    """An event with the runs that it caused."""
    return Event(
        id=record.id,
        name=record.name,
        payload=decode(record.payload, None),
        context=_decoded(decode, record.context, None),
        source=record.source,
        timestamp=to_datetime(record.timestamp),
        account_id=record.account_id,
        deliver_at=_moment(record.deliver_at),
        delivered_at=_moment(record.delivered_at),
        cancelled_at=_moment(record.cancelled_at),
        is_test=record.is_test,
        runs=[EventRun(id=row.id, job_id=row.job_id, status=row.status) for row in runs],
    )


def to_status(row: StatusRow, *, decode: Decode) -> StatusRecord:
    """A status of a run, with what it said before."""
    history: list[dict[str, Any]] = decode(row.history, None)
    return StatusRecord(
        key=row.key,
        label=row.label,
        state=cast("Any", row.state),
        data=_decoded(decode, row.data, None),
        history=[
            StatusVersion(
                label=version["label"],
                state=version["state"],
                data=version["data"],
                at=to_datetime(version["at"]),
            )
            for version in history
        ],
        created_at=to_datetime(row.created_at),
        updated_at=to_datetime(row.updated_at),
    )


def to_account(row: AccountRow, *, decode: Decode) -> Account:
    """A user of the application."""
    return Account(
        id=row.id,
        metadata={} if row.metadata is None else decode(row.metadata, None),
        created_at=to_datetime(row.created_at),
    )


def to_registration(row: ScheduleRow, *, decode: Decode) -> Registration:
    """A registration of a dynamic schedule."""
    schedule = parse_schedule(row.schedule)
    cron = schedule if isinstance(schedule, Cron) else None
    return Registration(
        key=row.key,
        cron=None if cron is None else cron.expression,
        timezone=None if cron is None else cron.timezone,
        interval=None if isinstance(schedule, Cron) else timedelta(seconds=schedule.seconds),
        metadata=_decoded(decode, row.metadata, None),
        account_id=row.account_id,
        catch_up=row.catch_up,
        next_at=_moment(row.next_at),
        last_at=_moment(row.last_at),
    )


def to_queue(row: QueueRow) -> Queue:
    """A queue as it is now."""
    return Queue(
        id=row.id,
        concurrency_limit=row.concurrency_limit,
        per_key=row.key_limit,
        paused_at=_moment(row.paused_at),
        queued=row.queued,
        executing=row.executing,
    )


def redact(value: Any, paths: Sequence[str]) -> Any:
    """A copy of `value` in which the members at dotted `paths` read "[REDACTED]" (Protocol, redaction and display).

    A path that leads nowhere changes nothing; the value given isn't touched.
    Example: `redact({"user": {"token": "s3cret"}}, ["user.token"])` → `{"user": {"token": "[REDACTED]"}}`
    """
    for path in paths:
        value = _blanked(value, path.split("."))
    return value


def _blanked(value: Any, parts: list[str]) -> Any:
    if not parts:
        return REDACTED
    if not isinstance(value, dict) or parts[0] not in value:
        return cast(Any, value)
    members = cast(dict[str, Any], value)
    return {**members, parts[0]: _blanked(members[parts[0]], parts[1:])}


def _decoded(decode: Decode, json: str | None, types: str | None) -> Any:
    return None if json is None else decode(json, types)


def _moment(instant: int | None) -> datetime | None:
    return None if instant is None else to_datetime(instant)
