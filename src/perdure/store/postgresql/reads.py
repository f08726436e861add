"""What the adapter's reading methods ask, and how the answers are decoded. A statement each: one snapshot."""

from __future__ import annotations

from functools import cache

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
from perdure.schema.runs import RunStatus
from perdure.store.queries import load_queries

from .rows import decode_output, decode_runs
from .statements import Query, Statements, number_parameters

decode_schedule = msgspec.json.Decoder(ScheduleRow).decode
decode_schedules = msgspec.json.Decoder(list[ScheduleRow]).decode
decode_account = msgspec.json.Decoder(AccountRow).decode
decode_waiters = msgspec.json.Decoder(list[WaiterRow]).decode
decode_matches = msgspec.json.Decoder(list[Match]).decode
decode_operations = msgspec.json.Decoder(list[OperationRow]).decode
decode_statuses = msgspec.json.Decoder(list[StatusRow]).decode
decode_queues = msgspec.json.Decoder(list[QueueRow]).decode
_decode_place = msgspec.json.Decoder(tuple[str, int, int, int]).decode

# --- lists of runs -------------------------------------------------------------------------------------------------------

_IN_STATUSES = """
and runs.status = any(:statuses::text[])
"""

_RARE_STATUSES = """
and runs.id in (
    select run_id from perdure.ended where env = :env and status = any(:statuses::text[])
    union all
    select run_id from perdure.idle where env = :env and status = any(:statuses::text[])
    union all
    select run_id from perdure.ready where env = :env and :queued::text = any(:statuses::text[])
    union all
    select run_id from perdure.leases where env = :env and :executing::text = any(:statuses::text[])
)
"""

_TAGS = """
and runs.id in (
    select run_id from perdure.run_tags where env = :env and tag = any(:tags::text[])
    group by run_id having count(*) = cardinality(:tags::text[])
)
"""


async def list_runs(db: Statements, filter: RunFilter) -> list[RunRow]:
    found = await db.fetch_composed(
        list_runs_query(_conditions(filter)),
        job_id=filter.job_id,
        job_version=filter.job_version,
        event_id=filter.event_id,
        statuses=[status.value for status in filter.statuses],
        tags=sorted(set(filter.tags)),
        account_id=filter.account_id,
        parent_run_id=filter.parent_run_id,
        queue=filter.queue,
        is_test=filter.is_test,
        created_from=filter.created_from,
        created_until=filter.created_until,
        before=filter.before,
        limit=filter.limit,
        queued=RunStatus.QUEUED.value,
        executing=RunStatus.EXECUTING.value,
    )
    return decode_runs(found)


@cache
def list_runs_query(conditions: tuple[str, ...]) -> Query:
    sql = load_queries("perdure.store.postgresql")["list_runs"]
    return number_parameters(sql.replace("/* conditions */", " ".join(conditions)))


def _conditions(filter: RunFilter) -> tuple[str, ...]:
    """The list page's conditions, of fixed fragments with bound values."""
    is_common = RunStatus.COMPLETED in filter.statuses  # most runs: walking is best, the page is soon full
    fragments = {
        "and runs.job_id = :job_id": filter.job_id is not None,
        "and runs.job_version = :job_version": filter.job_version is not None,
        "and runs.event_id = :event_id": filter.event_id is not None,
        "and runs.parent_run_id = :parent_run_id": filter.parent_run_id is not None,
        _TAGS: bool(filter.tags),
        _IN_STATUSES: bool(filter.statuses),
        _RARE_STATUSES: bool(filter.statuses) and not is_common,
        "and runs.account_id = :account_id": filter.account_id is not None,
        "and runs.queue = :queue": filter.queue is not None,
        "and runs.is_test = :is_test": filter.is_test is not None,
        "and runs.created_at >= :created_from": filter.created_from is not None,
        "and runs.created_at < :created_until": filter.created_until is not None,
        "and not runs.is_internal": not filter.internal,
        "and runs.id < :before": filter.before is not None,
    }
    return tuple(fragment for fragment, wanted in fragments.items() if wanted)


# --- single rows ---------------------------------------------------------------------------------------------------------


async def get_schedule(db: Statements, schedule_id: str) -> ScheduleRow | None:
    found = await db.fetch("get_schedule", id=schedule_id)
    return decode_schedule(found) if found else None


async def get_account(db: Statements, account_id: str) -> AccountRow | None:
    found = await db.fetch("get_account", id=account_id)
    return decode_account(found) if found else None


async def get_value(db: Statements, scope: str, key: str) -> tuple[str, str | None] | None:
    found = await db.fetch("get_value", scope=scope, key=key)
    if found is None:
        return None
    value, types = decode_output(found)
    assert value is not None
    return value, types


async def place_in_queue(db: Statements, run_id: str) -> QueuePlace | None:
    """Two statements: to be called in one snapshot."""
    found = await db.fetch("place_in_queue", id=run_id, status=RunStatus.QUEUED.value)
    if found is None:
        return None
    queue_id, ahead, executing_key, executing_all = _decode_place(found)
    queues = decode_queues(await db.fetch("list_queues", id=queue_id))
    return QueuePlace(
        queue=queues[0] if queues else QueueRow(id=queue_id),
        ahead=ahead,
        executing_key=executing_key,
        executing_all=executing_all,
    )
