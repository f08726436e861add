"""Changes with what matters given and the rest filled in, and short ways to look at a store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from perdure.engine.store import (
    Change,
    Claimed,
    ClaimRuns,
    IngestEvent,
    LeaseRow,
    MoveRun,
    NewRun,
    RecordTasks,
    RunRow,
    Store,
    WakeRuns,
)
from perdure.schema.execution import Claim, EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import RunStatus, TaskStatus

OpenStore = Callable[[str], Awaitable[Store]]

NOW = 1_700_000_000_000
LEASE = NOW + 30_000
UNCLAIMABLE = [status for status in RunStatus if status is not RunStatus.EXECUTING]


def make_event(id: str = "evt_1", **fields: Any) -> EventRecord:
    defaults: dict[str, Any] = {"name": "foo.bar", "payload": '{"a": 1}', "timestamp": NOW - 5}
    return EventRecord(**defaults | fields, id=id)


def make_run(id: str = "run_1", **fields: Any) -> NewRun:
    defaults: dict[str, Any] = {
        "job_id": "job",
        "job_version": "1.0.0",
        "status": RunStatus.QUEUED,
        "created_at": NOW,
    }
    return NewRun(**defaults | fields, id=id)


def make_task(id: str = "task_1", **fields: Any) -> TaskRecord:
    defaults: dict[str, Any] = {
        "idempotency_key": f"key of {id}",
        "key": id,
        "name": id,
        "status": TaskStatus.RUNNING,
        "position": 1,
    }
    return TaskRecord(**defaults | fields, id=id)


def completed_task(id: str, seq: int, **fields: Any) -> TaskRecord:
    done: dict[str, Any] = {
        "status": TaskStatus.COMPLETED,
        "seq": seq,
        "completed_at": NOW + seq,
        "position": seq,
    }
    return make_task(id, **done | fields)


def make_log(id: str = "log_1", **fields: Any) -> LogRecord:
    defaults: dict[str, Any] = {"level": "INFO", "message": "hello", "at": NOW}
    return LogRecord(**defaults | fields, id=id)


def ingest(id: str = "run_1", *, event: EventRecord | None = None, **fields: Any) -> IngestEvent:
    """An event of its own ("evt_1" for "run_1") with one run."""
    event = event or make_event(id.replace("run", "evt"))
    return IngestEvent(event=event, runs=[make_run(id, **fields)], created_at=NOW)


def claim(limit: int = 10, **fields: Any) -> ClaimRuns:
    defaults: dict[str, Any] = {"owner": "node-1", "at": NOW + 10, "expires_at": LEASE}
    return ClaimRuns(**defaults | fields, limit=limit, expected=RunStatus.QUEUED, status=RunStatus.EXECUTING)


def move(status: RunStatus, id: str = "run_1", **fields: Any) -> MoveRun:
    """A move of an executing run's first execution; `at` is NOW + 20."""
    defaults: dict[str, Any] = {"expected": RunStatus.EXECUTING, "execution": 1, "at": NOW + 20}
    if status.is_terminal:
        defaults["completed_at"] = NOW + 20
    if status is RunStatus.WAITING:
        defaults["wake_at"] = NOW + 1_000
    return MoveRun(**defaults | fields, run_id=id, status=status)


def record(
    *tasks: TaskRecord, run_id: str = "run_1", execution: int = 1, logs: Sequence[LogRecord] = ()
) -> RecordTasks:
    return RecordTasks(run_id=run_id, execution=execution, tasks=tasks, logs=logs)


def wake(now: int, *, limit: int = 10) -> WakeRuns:
    return WakeRuns(limit=limit, at=now, expected=RunStatus.WAITING, status=RunStatus.QUEUED)


async def apply(store: Store, *changes: Change) -> list[Any]:
    return list(await store.apply(changes))


async def claimed(store: Store, limit: int = 10, **fields: Any) -> list[Claim]:
    (result,) = await apply(store, claim(limit, **fields))
    assert isinstance(result, Claimed)
    return result.claims


async def executing_run(store: Store, id: str = "run_1") -> None:
    """Have run `id` in its first execution, owned by node-1."""
    await apply(store, ingest(id))
    assert [found.run_id for found in await claimed(store)] == [id]


async def stored_run(store: Store, id: str = "run_1") -> RunRow:
    run = await store.get_run(id)
    assert run is not None
    return run


async def all_leases(store: Store) -> list[LeaseRow]:
    return await store.leases(expired_at=None, limit=1000)


async def places(store: Store, id: str = "run_1") -> set[str]:
    """Where the run is, seen from outside: among "ready", "leases", "timers". Claims what is ready."""
    found: set[str] = set()
    if any(lease.run_id == id for lease in await all_leases(store)):
        found.add("leases")
    if await store.next_due() is not None:
        found.add("timers")
    if any(found.run_id == id for found in await claimed(store, 1000)):
        found.add("ready")
    return found
