"""Events and the runs they cause, and what entering the ready queue takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from perdure.engine.store import Ingested, IngestEvent, NewRun, RunRow
from perdure.errors import InternalError
from perdure.schema.execution import EventRecord
from perdure.schema.runs import RunStatus
from perdure.store.waves import in_waves

from . import rows
from .events import record_matches
from .rows import Statements, encode

_decode_known = msgspec.json.Decoder(list[tuple[str, int | None]]).decode


def ingest_events(db: Statements, ingests: list[tuple[int, IngestEvent]]) -> list[tuple[int, Ingested]]:
    """See IngestEvent; of two changes for one id in a batch the first one counts, as if it had come before."""
    fresh: dict[str, tuple[int, IngestEvent]] = {}
    for n, change in ingests:
        fresh.setdefault(change.event.id, (n, change))
    found, has_waiters = db.fetch_row("find_events", ids=encode(list(fresh)))
    for known, _ in _decode_known(found):
        del fresh[known]
    stored: dict[str, list[RunRow]] = {}
    delivered: dict[str, EventRecord] = {}
    if fresh:
        delivered, stored = _insert(db, [change for _, change in fresh.values()], bool(has_waiters))
    first = {n for n, _ in fresh.values()}
    repeated = [change for n, change in ingests if n not in first]
    repeats = _repeats(db, repeated) if repeated else {}
    return [
        (
            n,
            Ingested(
                event=delivered.get(change.event.id, change.event),
                runs=stored.get(change.event.id, []),
                duplicate=False,
            ),
        )
        if n in first
        else (n, repeats[change.event.id])
        for n, change in ingests
    ]


def _insert(
    db: Statements, changes: list[IngestEvent], has_waiters: bool
) -> tuple[dict[str, EventRecord], dict[str, list[RunRow]]]:
    """The events that somebody waits for, as they are stored; the runs of each event."""
    db.execute_rows("insert_events", [rows.event_row(c.event, c.created_at) for c in changes])
    if accounts := {c.event.account_id: c.created_at for c in changes if c.event.account_id is not None}:
        db.execute("insert_accounts", accounts=encode(list(accounts.items())))
    delivered: dict[str, EventRecord] = {}
    if has_waiters and (awaited := set(record_matches(db, [c.event.id for c in changes]))):
        delivered = {c.event.id: _delivered(c) for c in changes if c.event.id in awaited}
    runs = [(run, delivered.get(c.event.id, c.event)) for c in changes for run in c.runs]
    return delivered, insert_runs(db, runs, are_fresh=True)


def _delivered(change: IngestEvent) -> EventRecord:
    """An event that somebody waits for, as it is stored."""
    event = change.event
    return event if event.delivered_at is not None else replace(event, delivered_at=change.created_at)


def insert_runs(
    db: Statements, runs: Sequence[tuple[NewRun, EventRecord]], *, are_fresh: bool = False
) -> dict[str, list[RunRow]]:
    """Create runs of events that are stored, exactly so if they `are_fresh`; those created, by event id."""
    if not runs:
        return {}
    if any(run.status not in (RunStatus.PENDING, RunStatus.QUEUED) for run, _ in runs):
        raise InternalError("a new run is either pending or queued")
    known = db.known
    numbers = known.numbers
    if unknown := list({run.job_id for run, _ in runs if run.job_id not in numbers}):
        numbers.update(rows.decode_counts(db.fetch("last_numbers", jobs=encode(unknown))))
    last: dict[str, int] = {}
    stored: dict[str, list[RunRow]] = {}
    made: list[RunRow] = []
    queued: list[str] = []
    lanes: dict[tuple[str, str], None] = {}
    for run, event in runs:
        number = last[run.job_id] = numbers[run.job_id] = numbers.get(run.job_id, 0) + 1
        row = rows.new_run(run, event, number)
        made.append(row)
        stored.setdefault(event.id, []).append(row)
        if run.status is RunStatus.QUEUED:
            queued.append(run.id)
            lanes[run.queue, run.queue_key] = None
            if are_fresh:
                known.fresh.remember(run, event, number)
    db.execute_rows("insert_runs", [rows.new_run_row(row) for row in made])
    db.execute("keep_numbers", numbers=encode(last))
    if tags := [(tag, row.id) for row in made for tag in row.tags]:
        db.execute("insert_tags", tags=encode(tags))
    if queued:
        db.execute("enter_ready", ids=encode(queued))
        db.execute("make_lanes", lanes=encode(list(lanes)))
    return stored


def enter_ready(db: Statements, ids: Iterable[str]) -> None:
    """Put runs into the ready queue, by what their rows say; their lanes are made as needed."""
    listed = list(ids)
    if listed:
        encoded = encode(listed)
        db.execute("enter_ready", ids=encoded)
        db.execute("enter_lanes", ids=encoded)


def _repeats(db: Statements, changes: list[IngestEvent]) -> dict[str, Ingested]:
    """Events that were known, edited if that is asked for and not too late."""
    edits = [change for change in changes if change.edit_before is not None]
    for wave in in_waves(edits, lambda change: change.event.id):
        db.execute("edit_events", edits=encode(list(map(rows.edit_row, wave))))
    ids = encode(list(dict.fromkeys(c.event.id for c in changes)))
    events = rows.decode_events(db.fetch("events_by_id", ids=ids))
    found = {event.id: Ingested(event=event, runs=[], duplicate=True) for event in events}
    for run in rows.decode_runs(db.fetch("runs_by_event", ids=ids)):
        found[run.event_id].runs.append(run)
    return found
