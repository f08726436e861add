"""Events that come later than they were sent, those of schedules, and those that may wake waiters: delayed.sql."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from perdure.engine.store import (
    Applied,
    CancelEvent,
    DeliverEvent,
    IngestEvent,
    NewRun,
    PutSchedule,
    Refused,
    Result,
    TickSchedule,
)
from perdure.schema.execution import EventRecord

from .rows import Statements, decode_counts, decode_strings, encode

Found: TypeAlias = list[tuple[int, Result]]
InsertRuns: TypeAlias = Callable[[Statements, list[tuple[NewRun, EventRecord]]], object]
Ingest: TypeAlias = Callable[[Statements, list[tuple[int, IngestEvent]]], object]

_decode_due = msgspec.json.Decoder(list[tuple[int | None, EventRecord]]).decode


def deliver_events(db: Statements, changes: list[tuple[int, DeliverEvent]], insert_runs: InsertRuns) -> Found:
    """`insert_runs` writes new runs of events, with all that belongs to them."""
    if not changes:
        return []
    due, events = _due_events(db, [change.event_id for _, change in changes])
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
    db.execute(
        "deliver_events",
        deliveries=encode([(change.event_id, change.at, bool(change.runs)) for change in delivered]),
    )
    if runs := [(run, events[change.event_id]) for change in delivered for run in change.runs]:
        insert_runs(db, runs)
    record_matches(db, [change.event_id for change in delivered])
    return found


def cancel_events(db: Statements, changes: list[tuple[int, CancelEvent]]) -> Found:
    if not changes:
        return []
    due, _ = _due_events(db, [change.event_id for _, change in changes])
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
        db.execute("cancel_events", cancellations=encode(cancelled))
    return found


def record_matches(db: Statements, event_ids: Sequence[str]) -> list[str]:
    """Have those of these events that have arrived, and have waiters of their name, compared with them (`Store.matches`).

    To be called once the events are written. They then count as delivered, whether or not they caused runs. Returns
    which they are.
    """
    if not event_ids:
        return []
    awaited = db.fetch("awaited_events", ids=encode(list(event_ids)))
    ids = decode_strings(awaited)
    if ids:
        db.execute("insert_matches", ids=awaited)
        db.execute("deliver_matches", ids=awaited)
    return ids


def _due_events(db: Statements, ids: list[str]) -> tuple[dict[str, int | None], dict[str, EventRecord]]:
    """When the undelivered ones are due (None for others), and the events themselves."""
    found = _decode_due(db.fetch("due_of_events", ids=encode(ids)))
    return {event.id: due_at for due_at, event in found}, {event.id: event for _, event in found}


# --- schedules -----------------------------------------------------------------------------------------------------------


def put_schedules(db: Statements, changes: list[tuple[int, PutSchedule]]) -> Found:
    if changes:
        schedules = {change.schedule.id: change.schedule for _, change in changes}
        rows = [
            (
                schedule.id,
                schedule.dispatcher,
                schedule.key,
                schedule.schedule,
                schedule.catch_up,
                schedule.metadata,
                schedule.account_id,
                schedule.is_active,
                schedule.next_at,
                schedule.last_at,
                schedule.created_at,
            )
            for schedule in schedules.values()
        ]
        db.execute("put_schedules", schedules=encode(rows))
    return [(n, Applied()) for n, _ in changes]


def tick_schedules(db: Statements, changes: list[tuple[int, TickSchedule]], ingest: Ingest) -> Found:
    """`ingest` carries out IngestEvent changes; it leaves known events alone."""
    if not changes:
        return []
    ids = list({change.id for _, change in changes})
    next_ticks = decode_counts(db.fetch("next_ticks", ids=encode(ids)))
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
        db.execute("tick_schedules", ticks=encode(list(ticks.values())))
        ingest(db, ingests)
    return found
