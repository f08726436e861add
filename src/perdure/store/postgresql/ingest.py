"""Events and the runs they cause."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from perdure.engine.store import Ingested, IngestEvent, NewRun, RunRow
from perdure.errors import InternalError
from perdure.schema.execution import EventRecord
from perdure.schema.runs import RunStatus
from perdure.store.waves import in_waves

from . import rows
from .events import decode_due, record_matches
from .failures import OvertakenError
from .rows import encode
from .statements import Held, Statements

_CREATABLE = (RunStatus.PENDING, RunStatus.QUEUED)


async def ingest_events(db: Statements, ingests: list[tuple[int, IngestEvent]]) -> list[tuple[int, Ingested]]:
    """See IngestEvent; of two changes for one id in a batch the first one counts, as if it had come before."""
    fresh: dict[str, tuple[int, IngestEvent]] = {}
    for n, change in ingests:
        fresh.setdefault(change.event.id, (n, change))
    stored: dict[str, list[RunRow]] = {}
    inserted = await db.fetch(
        "insert_events", events=encode([rows.event_row(c.event, c.created_at) for _, c in fresh.values()])
    )
    new = set(rows.decode_strings(inserted))
    if len(new) != len(fresh):
        fresh = {event_id: pair for event_id, pair in fresh.items() if event_id in new}
    awaited: list[str] = []
    db.batch.events |= new
    if fresh:
        awaited, stored = await _complete(db, [change for _, change in fresh.values()])
    first = {n for n, _ in fresh.values()}
    repeated = [change for n, change in ingests if n not in first]
    repeats = await _repeats(db, repeated) if repeated else {}
    delivered = {event_id: _delivered(fresh[event_id][1]) for event_id in awaited}
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


def _delivered(change: IngestEvent) -> EventRecord:
    """An event that somebody waits for, as it is stored."""
    event = change.event
    return event if event.delivered_at is not None else replace(event, delivered_at=change.created_at)


async def _complete(db: Statements, changes: list[IngestEvent]) -> tuple[list[str], dict[str, list[RunRow]]]:
    """What belongs to events that were inserted. Which of them somebody waits for; the runs of each."""
    if accounts := {c.event.account_id: c.created_at for c in changes if c.event.account_id is not None}:
        made = [{"id": account, "created_at": at} for account, at in accounts.items()]
        await db.execute("insert_accounts", accounts=encode(made))
    awaited = await record_matches(db, [c.event.id for c in changes])
    return awaited, await insert_runs(db, [(run, c.event) for c in changes for run in c.runs])


async def insert_runs(db: Statements, runs: Sequence[tuple[NewRun, EventRecord]]) -> dict[str, list[RunRow]]:
    """Create runs of events that are stored; those created, by event id."""
    if not runs:
        return {}
    stored: dict[str, list[RunRow]] = {}
    made: list[RunRow] = []
    batch = db.batch
    for run, event in runs:
        if run.status not in _CREATABLE:
            raise InternalError("a new run is either pending or queued")
        row = rows.new_run(run, event, batch.next_number(run.job_id))
        made.append(row)
        stored.setdefault(event.id, []).append(row)
        batch.runs[row.id] = Held(row.status, 0, 0)
        if row.status is RunStatus.QUEUED:
            batch.lanes.add((row.queue, row.queue_key))
    await db.execute(
        "insert_runs", runs=encode([rows.new_run_row(row) for row in made]), queued=RunStatus.QUEUED.value
    )
    await insert_tags(db, [(tag, row.id) for row in made for tag in row.tags])
    return stored


async def insert_tags(db: Statements, tags: Sequence[tuple[str, str]]) -> None:
    """(tag, run id), ..."""
    if tags:
        names, runs = rows.columns(sorted(set(tags)), 2)
        await db.execute("insert_tags", tags=names, runs=runs)


async def _repeats(db: Statements, changes: list[IngestEvent]) -> dict[str, Ingested]:
    """Events that were known, edited if that is asked for and not too late."""
    edits = [change for change in changes if change.edit_before is not None]
    editable = {change.event.id for change in edits}
    locked = [change for change in edits if change.event.id in db.batch.events]
    for wave in in_waves(locked, lambda change: change.event.id):
        await db.execute("edit_events", edits=encode(list(map(rows.edit_row, wave))))
    ids = list(dict.fromkeys(c.event.id for c in changes))
    events = decode_due(await db.fetch("due_of_events", ids=ids))
    if len(events) < len(ids):
        raise OvertakenError("an event that was known has just been deleted")
    for due_at, event in events:
        if due_at is not None and event.id in editable and event.id not in db.batch.events:
            raise OvertakenError("an event that may be edited has just been stored")
    found = {event.id: Ingested(event=event, runs=[], duplicate=True) for _, event in events}
    for run in rows.decode_runs(await db.fetch("runs_by_event", ids=ids)):
        found[run.event_id].runs.append(run)
    return found
