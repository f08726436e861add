"""Decisions about schedules: what is registered, when it fires, and what a tick is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from perdure.clock import Instant, to_datetime
from perdure.engine.store import PutSchedule, ScheduleRow, TickSchedule
from perdure.errors import UsageError
from perdure.schedules import next_tick, parse_schedule
from perdure.schema.execution import EventRecord

from .jobs import JobSpec, new_runs

SCHEDULED = "dev.trigger.scheduled"
"""Name of the events that ticks are (Protocol, schedules: deliver)."""


def job_dispatcher(job_id: str) -> str:
    return f"job:{job_id}"


def dynamic_dispatcher(id: str) -> str:
    return f"dynamic:{id}"


def plan_own(stored: Sequence[ScheduleRow], jobs: Iterable[JobSpec], now: int) -> list[PutSchedule]:
    """What is to be written so that exactly the schedules of these jobs fire.

    One that hasn't changed goes on from its last tick, also over a time in which nothing ran; one that has begins anew.
    Those of jobs that are gone, disabled or triggered otherwise rest.
    """
    known = {row.id: row for row in stored}
    changes: list[PutSchedule] = []
    for job in jobs:
        row = known.pop(job_dispatcher(job.id), None)
        if job.schedule is None or not job.enabled:
            if row is not None and row.is_active:
                changes.append(PutSchedule(schedule=_resting(row)))
            continue
        if row is None:
            row = ScheduleRow(
                id=job_dispatcher(job.id),
                dispatcher=job_dispatcher(job.id),
                key=job.id,
                schedule=job.schedule,
                created_at=now,
            )
        elif row.is_active and (row.schedule, row.catch_up) == (job.schedule, job.catch_up):
            continue
        changes.append(
            PutSchedule(schedule=activated(replace(row, schedule=job.schedule, catch_up=job.catch_up), now))
        )
    changes += [
        PutSchedule(schedule=_resting(row))
        for row in known.values()
        if row.is_active and row.dispatcher.startswith("job:")
    ]
    return changes


def activated(row: ScheduleRow, now: int) -> ScheduleRow:
    """A schedule that fires from now on."""
    schedule = parse_schedule(row.schedule)
    return replace(
        row, is_active=True, created_at=now, next_at=next_tick(schedule, Instant(now), Instant(now))
    )


def _resting(row: ScheduleRow) -> ScheduleRow:
    return replace(row, is_active=False, next_at=None)


def register(
    stored: ScheduleRow | None,
    id: str,
    key: str,
    schedule: str,
    now: int,
    *,
    metadata: str | None,
    account_id: str | None,
    catch_up: bool,
) -> ScheduleRow:
    """A registration of the dynamic schedule `id`. The same again changes nothing of when it fires."""
    if stored is not None and stored.is_active and (stored.schedule, stored.catch_up) == (schedule, catch_up):
        return replace(stored, metadata=metadata, account_id=account_id)
    row = stored or ScheduleRow(
        id=f"{dynamic_dispatcher(id)}:{key}",
        dispatcher=dynamic_dispatcher(id),
        key=key,
        schedule=schedule,
        created_at=now,
    )
    return activated(
        replace(row, schedule=schedule, metadata=metadata, account_id=account_id, catch_up=catch_up), now
    )


def unregister(row: ScheduleRow) -> ScheduleRow:
    """A registration that fires no more. It is kept, so that its last tick is known if it is registered again."""
    return _resting(row)


def tick(
    row: ScheduleRow, jobs: Iterable[JobSpec], now: int, ids: Iterator[str], failed: list[UsageError]
) -> TickSchedule:
    """A schedule fires: the event of its tick, a run for every job (see `new_runs`), and when it fires next.

    Ticks that were missed are skipped; with `catch_up` the next one is the one after this, and so on till now.
    """
    assert row.next_at is not None
    event = EventRecord(
        id=f"{row.id}:{row.next_at}",
        name=SCHEDULED,
        payload=_payload(row.next_at, row.last_at),
        timestamp=row.next_at,
        account_id=row.account_id,
        source_context=None
        if row.dispatcher.startswith("job:")
        else msgspec.json.encode(
            {"id": row.key, "metadata": msgspec.Raw((row.metadata or "null").encode())}
        ).decode(),
    )
    runs = new_runs(jobs, event, now, ids, failed)
    following = next_tick(
        parse_schedule(row.schedule), Instant(row.next_at), Instant(now), catch_up=row.catch_up
    )
    return TickSchedule(id=row.id, expected=row.next_at, next_at=following, at=now, event=event, runs=runs)


def _payload(ts: int, last: int | None) -> str:
    moments = {"ts": _iso(ts)} if last is None else {"ts": _iso(ts), "lastTimestamp": _iso(last)}
    return msgspec.json.encode(moments).decode()


def _iso(instant: int) -> str:
    """As JavaScript's Date has it: 2026-01-31T09:00:00.000Z."""
    return to_datetime(instant).strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant % 1000:03}Z"
