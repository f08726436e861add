"""What the adapter's reading methods ask, statement by statement, and how the answers are decoded. One snapshot each."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from perdure.engine.store import (
    AccountRow,
    Match,
    OperationRow,
    QueuePlace,
    QueueRow,
    RunFilter,
    RunRow,
    ScheduleRow,
    StatusRow,
    WaiterRow,
)
from perdure.schema.execution import EventRecord
from perdure.schema.runs import RunStatus

from .rows import Statements, decode_events, decode_output, decode_runs, decode_strings, encode

# --- runs ----------------------------------------------------------------------------------------------------------------


def list_runs(db: Statements, sql: str, filter: RunFilter) -> list[RunRow]:
    """`sql`: the query list_runs, to which the conditions are added."""
    (found,) = db.fetch_text(
        sql.replace("/* conditions */", _conditions(filter)),
        job_id=filter.job_id,
        job_version=filter.job_version,
        event_id=filter.event_id,
        statuses=encode(filter.statuses),
        tags=encode(list(set(filter.tags))),
        account_id=filter.account_id,
        parent_run_id=filter.parent_run_id,
        queue=filter.queue,
        is_test=filter.is_test,
        created_from=filter.created_from,
        created_until=filter.created_until,
        before=filter.before,
        limit=filter.limit,
    )
    return decode_runs(found)


def _conditions(filter: RunFilter) -> str:
    """The list page's conditions, of fixed fragments with bound values."""
    # Hints (unlikely, ids as a set): else SQLite prefers to walk all runs, which are in the order asked for.
    one, some = len(filter.statuses) == 1, len(filter.statuses) > 1
    is_common = RunStatus.COMPLETED in filter.statuses  # most runs: walking is best, the page is soon full
    # The index by status doesn't have runs that execute: these are found by their leases.
    is_executing = RunStatus.EXECUTING in filter.statuses
    fragments = {
        "and unlikely(runs.job_id = :job_id)": filter.job_id is not None,
        "and runs.job_version = :job_version": filter.job_version is not None,
        "and runs.id in (select id from runs where env = :env and event_id = :event_id)": filter.event_id
        is not None,
        "and runs.id in (select id from runs where env = :env and parent_run_id = :parent_run_id)": (
            filter.parent_run_id is not None
        ),
        """and runs.id in (
            select run_id from run_tags where env = :env and tag in (select value from json_each(:tags))
            group by run_id having count(*) = json_array_length(:tags)
        )""": bool(filter.tags),
        "and unlikely(runs.status = json_extract(:statuses, '$[0]'))": one,
        "and runs.status <> 'EXECUTING'": one and not is_executing,
        "and runs.id in (select run_id from leases where env = :env)": one and is_executing,
        "and runs.status in (select value from json_each(:statuses))": some and (is_common or is_executing),
        """and runs.id in (
            select id from runs
            where env = :env and status in (select value from json_each(:statuses)) and status <> 'EXECUTING'
        )""": some and not is_common and not is_executing,
        """and runs.id in (
            select id from runs
            where env = :env and status in (select value from json_each(:statuses)) and status <> 'EXECUTING'
            union all
            select run_id from leases where env = :env
        )""": some and not is_common and is_executing,
        "and unlikely(runs.account_id = :account_id)": filter.account_id is not None,
        "and runs.queue = :queue": filter.queue is not None,
        "and runs.is_test = :is_test": filter.is_test is not None,
        "and runs.created_at >= :created_from": filter.created_from is not None,
        "and runs.created_at < :created_until": filter.created_until is not None,
        "and runs.is_internal = 0": not filter.internal,
        "and runs.id < :before": filter.before is not None,
    }
    return " ".join(fragment for fragment, wanted in fragments.items() if wanted)


def ended_runs(db: Statements, before: int, statuses: Sequence[RunStatus], limit: int) -> list[str]:
    found = db.fetch("ended_runs", before=before, statuses=encode(list(statuses)), limit=limit)
    return decode_strings(found)


# --- events and schedules ------------------------------------------------------------------------------------------------

_decode_schedule = msgspec.json.Decoder(ScheduleRow).decode
_decode_schedules = msgspec.json.Decoder(list[ScheduleRow]).decode
_decode_account = msgspec.json.Decoder(AccountRow).decode


def due_events(db: Statements, now: int, limit: int) -> list[EventRecord]:
    return decode_events(db.fetch("due_events", now=now, limit=limit))


def list_events(db: Statements, name: str | None, before: str | None, limit: int) -> list[EventRecord]:
    if name is None:
        return decode_events(db.fetch("list_events", before=before, limit=limit))
    return decode_events(db.fetch("list_events_by_name", event_name=name, before=before, limit=limit))


def events_since(db: Statements, name: str, since: int, after: str | None, limit: int) -> list[EventRecord]:
    return decode_events(db.fetch("events_since", event_name=name, since=since, after=after, limit=limit))


def childless_events(db: Statements, before: int, limit: int) -> list[str]:
    return decode_strings(db.fetch("childless_events", before=before, limit=limit))


def due_schedules(db: Statements, now: int, limit: int) -> list[ScheduleRow]:
    return _decode_schedules(db.fetch("due_schedules", now=now, limit=limit))


def get_schedule(db: Statements, schedule_id: str) -> ScheduleRow | None:
    found = db.fetch("get_schedule", id=schedule_id)
    return _decode_schedule(found) if found else None


def list_schedules(db: Statements, dispatcher: str | None) -> list[ScheduleRow]:
    if dispatcher is None:
        return _decode_schedules(db.fetch("list_schedules"))
    return _decode_schedules(db.fetch("list_schedules_of", dispatcher=dispatcher))


def get_account(db: Statements, account_id: str) -> AccountRow | None:
    found = db.fetch("get_account", id=account_id)
    return _decode_account(found) if found else None


# --- waits for others ----------------------------------------------------------------------------------------------------

_decode_waiters = msgspec.json.Decoder(list[WaiterRow]).decode
_decode_matches = msgspec.json.Decoder(list[Match]).decode
_decode_operations = msgspec.json.Decoder(list[OperationRow]).decode


def waiter_names(db: Statements) -> list[str]:
    return decode_strings(db.fetch("waiter_names"))


def unchecked_waiters(db: Statements, limit: int) -> list[WaiterRow]:
    return _decode_waiters(db.fetch("unchecked_waiters", limit=limit))


def matches(db: Statements, limit: int) -> list[Match]:
    return _decode_matches(db.fetch("matches", limit=limit))


def due_operations(db: Statements, now: int, limit: int) -> list[OperationRow]:
    return _decode_operations(db.fetch("due_operations", now=now, limit=limit))


def waiters_of(db: Statements, run_id: str) -> list[WaiterRow]:
    return _decode_waiters(db.fetch("waiters_by_run", run_id=run_id))


def operations_of(db: Statements, run_id: str) -> list[OperationRow]:
    return _decode_operations(db.fetch("operations_by_run", run_id=run_id))


# --- state ---------------------------------------------------------------------------------------------------------------

_decode_statuses = msgspec.json.Decoder(list[StatusRow]).decode
_decode_queues = msgspec.json.Decoder(list[QueueRow]).decode
_decode_place = msgspec.json.Decoder(tuple[str, int, int, int]).decode


def get_statuses(db: Statements, run_id: str) -> list[StatusRow]:
    return _decode_statuses(db.fetch("statuses_by_run", run_id=run_id))


def get_value(db: Statements, scope: str, key: str) -> tuple[str, str | None] | None:
    found = db.fetch("get_value", scope=scope, key=key)
    if found is None:
        return None
    value, types = decode_output(found)
    assert value is not None
    return value, types


def list_queues(db: Statements) -> list[QueueRow]:
    return _decode_queues(db.fetch("queues_by_id", ids=db.fetch("queue_ids")))


def place_in_queue(db: Statements, run_id: str) -> QueuePlace | None:
    found = db.fetch("place_in_queue", id=run_id, status=RunStatus.QUEUED.value)
    if found is None:
        return None
    queue_id, ahead, executing_key, executing_all = _decode_place(found)
    (queue,) = _decode_queues(db.fetch("queues_by_id", ids=encode([queue_id])))
    return QueuePlace(
        queue=queue,
        ahead=ahead,
        executing_key=executing_key,
        executing_all=executing_all,
    )
