"""Events that come later than they were sent, those of schedules, and those that may wake waiters: delayed.sql."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import msgspec
from msgspec.structs import asdict

from perdure.engine.store import (
    Applied,
    CancelEvent,
    DeliverEvent,
    IngestEvent,
    NewRun,
    PutSchedule,
    Refused,
    TickSchedule,
)
from perdure.schema.execution import EventRecord

from .rows import Found, columns, decode_counts, decode_strings, encode
from .statements import Statements

InsertRuns: TypeAlias = Callable[[Statements, list[tuple[NewRun, EventRecord]]], Awaitable[object]]
Ingest: TypeAlias = Callable[[Statements, list[tuple[int, IngestEvent]]], Awaitable[object]]

decode_due = msgspec.json.Decoder(list[tuple[int | None, EventRecord]]).decode


async def deliver_events(
    db: Statements, changes: list[tuple[int, DeliverEvent]], insert_runs: InsertRuns
) -> Found:
    """`insert_runs` writes new runs of events, with all that belongs to them."""
    due, events = await _due_events(db, [change.event_id for _, change in changes])
    delivered: list[DeliverEvent] = []
    found: Found = []
    for n, change in changes:
        if due.get(change.event_id) != change.due_at:
            found.append((n, Refused(run=None)))
            continue
        due[change.event_id] = None
        delivered.append(change)
        found.append((n, Applied()))
    if not delivered:
        return found
    deliveries = [{"id": one.event_id, "at": one.at, "has_runs": bool(one.runs)} for one in delivered]
    await db.execute("deliver_events", deliveries=encode(deliveries))
    if runs := [(run, events[change.event_id]) for change in delivered for run in change.runs]:
        await insert_runs(db, runs)
    await record_matches(db, [change.event_id for change in delivered])
    return found


async def cancel_events(db: Statements, changes: list[tuple[int, CancelEvent]]) -> Found:
    due, _ = await _due_events(db, [change.event_id for _, change in changes])
    cancelled: list[tuple[str, int]] = []
    found: Found = []
    for n, change in changes:
        if due.get(change.event_id) is None:
            found.append((n, Refused(run=None)))
            continue
        due[change.event_id] = None
        cancelled.append((change.event_id, change.at))
        found.append((n, Applied()))
    if cancelled:
        ids, ats = columns(cancelled, 2)
        await db.execute("cancel_events", ids=ids, ats=ats)
    return found


async def record_matches(db: Statements, event_ids: Sequence[str]) -> list[str]:
    """Have those of these events that have arrived, and have waiters of their name, compared with them (`Store.matches`).

    To be called once the events are written. They then count as delivered, whether or not they caused runs. Returns
    which they are.
    """
    if not event_ids:
        return []
    ids = decode_strings(await db.fetch("awaited_events", ids=list(event_ids)))
    if ids:
        await db.execute("insert_matches", ids=ids)
    return ids


async def _due_events(db: Statements, ids: list[str]) -> tuple[dict[str, int | None], dict[str, EventRecord]]:
    """When the undelivered ones are due (None for others), and the events themselves: those that are locked."""
    found = decode_due(await db.fetch("due_of_events", ids=sorted(db.batch.events.intersection(ids))))
    return {event.id: due_at for due_at, event in found}, {event.id: event for _, event in found}


# --- schedules -----------------------------------------------------------------------------------------------------------


async def put_schedules(db: Statements, changes: list[tuple[int, PutSchedule]]) -> Found:
    schedules = {change.schedule.id: change.schedule for _, change in changes}
    await db.execute("put_schedules", schedules=encode([asdict(row) for row in schedules.values()]))
    return [(n, Applied()) for n, _ in changes]


async def tick_schedules(db: Statements, changes: list[tuple[int, TickSchedule]], ingest: Ingest) -> Found:
    """`ingest` carries out IngestEvent changes; it leaves known events alone."""
    ids = list({change.id for _, change in changes})
    next_ticks = decode_counts(await db.fetch("next_ticks", ids=ids))
    ticks: dict[str, tuple[str, int, int]] = {}
    ingests: list[tuple[int, IngestEvent]] = []
    found: Found = []
    for n, change in changes:
        if next_ticks.get(change.id) != change.expected:
            found.append((n, Refused(run=None)))
            continue
        next_ticks[change.id] = change.next_at
        ticks[change.id] = (change.id, change.expected, change.next_at)
        ingests.append((n, IngestEvent(event=change.event, runs=change.runs, created_at=change.at)))
        found.append((n, Applied()))
    if ticks:
        names, lasts, nexts = columns(ticks.values(), 3)
        await db.execute("tick_schedules", ids=names, lasts=lasts, nexts=nexts)
        await ingest(db, ingests)
    return found
