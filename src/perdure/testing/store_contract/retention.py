"""What has ended is deleted with all that is its own; what is live, and what that needs, never. And the database itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perdure.engine.store import (
    CancelEvent,
    Deleted,
    DeleteEvents,
    DeleteRuns,
    IngestEvent,
    ReleaseLease,
    RunFilter,
    Store,
)
from perdure.errors import ConfigurationError
from perdure.schema.effects import AnnotateRun, SetValue, UpdateStatus
from perdure.schema.runs import RunStatus

from .delayed import DUE, delay, deliver, put, tick
from .factories import (
    NOW,
    OpenStore,
    apply,
    claim,
    claimed,
    completed_task,
    executing_run,
    ingest,
    make_event,
    make_log,
    make_run,
    make_task,
    move,
    record,
)
from .waiting import send, suspend, wait

LATER = NOW + 1_000_000


async def ended_run(
    store: Store,
    id: str = "run_1",
    *,
    status: RunStatus = RunStatus.COMPLETED,
    at: int = NOW + 20,
    **fields: Any,
) -> None:
    await apply(store, ingest(id, **fields))
    assert [found.run_id for found in await claimed(store)] == [id]
    await apply(store, move(status, id, at=at, completed_at=at))


async def ended(store: Store, *statuses: RunStatus, before: int = LATER, limit: int = 10) -> list[str]:
    return await store.ended_runs(before=before, statuses=statuses, limit=limit)


async def childless(store: Store, *, before: int = LATER, limit: int = 10) -> list[str]:
    return await store.childless_events(before=before, limit=limit)


class RetentionContract:
    async def test_ended_runs_by_age_and_status(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await ended_run(store, "run_1", at=NOW + 22)
        await ended_run(store, "run_2", at=NOW + 21, status=RunStatus.FAILED)
        await ended_run(store, "run_3", at=NOW + 23, status=RunStatus.CANCELLED)
        await executing_run(store, "run_4")
        await apply(store, ingest("run_5"), ingest("run_6", status=RunStatus.PENDING))

        assert await ended(store) == ["run_2", "run_1", "run_3"]
        assert await ended(store, limit=2) == ["run_2", "run_1"]
        assert await ended(store, before=NOW + 23) == ["run_2", "run_1"]
        assert await ended(store, RunStatus.FAILED, RunStatus.CANCELLED) == ["run_2", "run_3"]
        assert await ended(store, RunStatus.TIMED_OUT) == []

    async def test_child_stays_while_its_parent_lives(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store, "run_1")
        await ended_run(store, "run_2", parent_run_id="run_1", parent_task_id="t")

        assert await ended(store) == []
        assert await apply(store, DeleteRuns(ids=["run_2"])) == [Deleted(0)]
        assert await store.get_run("run_2") is not None

        await apply(store, move(RunStatus.COMPLETED, "run_1", at=NOW + 30))
        assert await ended(store) == ["run_1", "run_2"] or await ended(store) == ["run_2", "run_1"]
        assert await apply(store, DeleteRuns(ids=["run_1"])) == [Deleted(1)]
        assert await ended(store) == ["run_2"]
        assert await apply(store, DeleteRuns(ids=["run_2"])) == [Deleted(1)]

    async def test_run_whose_slot_is_still_held_stays(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, move(RunStatus.CANCELLED, revoke=True))

        assert await ended(store) == []
        assert await apply(store, DeleteRuns(ids=["run_1"])) == [Deleted(0)]

        await apply(store, ReleaseLease(run_id="run_1", execution=1))
        assert await apply(store, DeleteRuns(ids=["run_1"])) == [Deleted(1)]

    async def test_all_that_is_a_runs_own_goes_with_it(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        for run_id in ("run_1", "run_2"):
            await executing_run(store, run_id)
            await apply(store, record(make_task(), run_id=run_id, logs=[make_log()]))
            await apply(
                store,
                UpdateStatus(run_id=run_id, key="k", id="u", at=NOW),
                UpdateStatus(run_id=run_id, key="k", id="v", at=NOW),
                SetValue(scope=f"run:{run_id}", key="k", value="1", at=NOW),
                AnnotateRun(run_id=run_id, tags=("a", "b")),
            )
            await apply(store, move(RunStatus.COMPLETED, run_id))
        await apply(store, SetValue(scope="env", key="k", value="1", at=NOW))

        assert await apply(store, DeleteRuns(ids=["run_1", "run_9"])) == [Deleted(1)]

        assert await store.get_run("run_1") is None
        assert (await store.get_tasks("run_1"), await store.get_logs("run_1")) == ([], [])
        assert await store.get_statuses("run_1") == []
        assert await store.get_value("run:run_1", "k") is None
        assert await store.get_event("evt_1") is None
        assert [run.id for run in await store.list_runs(RunFilter(tags=("a",)))] == ["run_2"]
        assert len(await store.get_tasks("run_2")) == len(await store.get_logs("run_2")) == 1
        assert len(await store.get_statuses("run_2")) == 1
        assert await store.get_value("run:run_2", "k") is not None
        assert await store.get_value("env", "k") is not None
        assert await store.get_event("evt_2") is not None
        assert await store.check() == []
        await executing_run(store, "run_1")
        await apply(store, UpdateStatus(run_id="run_1", key="k", id="u", at=NOW))
        assert [status.history for status in await store.get_statuses("run_1")] == ["[]"]

    async def test_event_goes_with_the_last_of_its_runs(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        runs = [make_run("run_1", job_id="a"), make_run("run_2", job_id="b")]
        await apply(store, IngestEvent(event=make_event(), runs=runs, created_at=NOW), claim())
        await apply(store, *(move(RunStatus.COMPLETED, each.id) for each in runs))

        await apply(store, DeleteRuns(ids=["run_1"]))
        assert await store.get_event("evt_1") is not None
        await apply(store, DeleteRuns(ids=["run_2"]))
        assert await store.get_event("evt_1") is None

    async def test_live_runs_are_not_deleted(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store, "run_1")
        await apply(store, ingest("run_2"), ingest("run_3", status=RunStatus.PENDING))

        assert await apply(store, DeleteRuns(ids=["run_1", "run_2", "run_3"])) == [Deleted(0)]

        assert len(await store.list_runs(RunFilter())) == 3

    async def test_childless_events_by_age(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, send("b", NOW + 2), send("a", NOW + 2), send("c", NOW + 1), ingest())

        assert await childless(store) == ["c", "a", "b"]
        assert await childless(store, before=NOW + 2) == ["c"]
        assert await childless(store, limit=1) == ["c"]

        assert await apply(store, DeleteEvents(ids=["a", "c", "evt_1", "nope"])) == [Deleted(2)]
        assert await childless(store) == ["b"]
        assert await store.get_event("a") is None
        assert await store.get_event("evt_1") is not None

    async def test_event_that_is_to_be_delivered_or_compared_stays(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, suspend(wait()), delay("delayed"), delay("cancelled"))
        await apply(store, CancelEvent(event_id="cancelled", at=NOW), send("matched"))

        assert await childless(store) == ["cancelled"]
        assert await apply(store, DeleteEvents(ids=["delayed", "matched", "cancelled"])) == [Deleted(1)]
        assert await store.get_event("delayed") is not None
        assert len(await store.matches(10)) == 1

    async def test_retention_of_environments_is_apart(self, open_store: OpenStore) -> None:
        dev, prod = await open_store("dev"), await open_store("prod")
        await ended_run(dev)
        await apply(dev, send("e1"))

        assert (await ended(prod), await childless(prod)) == ([], [])
        assert await apply(prod, DeleteRuns(ids=["run_1"]), DeleteEvents(ids=["e1"])) == [Deleted(0)] * 2
        assert (await ended(dev), await childless(dev)) == (["run_1"], ["e1"])


class DatabaseContract:
    async def test_nothing_is_wrong_with_a_database_in_use(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        assert await store.check() == []
        await apply(store, *(ingest(f"run_{n}", queue="q", queue_key=str(n % 2)) for n in range(8)))
        (taken,) = await apply(store, claim(6))
        ids = [found.run_id for found in taken.claims]
        await apply(
            store,
            record(completed_task("a", 1), run_id=ids[0]),
            move(RunStatus.COMPLETED, ids[0]),
            move(RunStatus.WAITING, ids[1]),
            move(RunStatus.WAITING, ids[2], wake_at=None, open_waits=1, waits=[wait()]),
            move(RunStatus.QUEUED, ids[3], ready_at=NOW + 99),
            move(RunStatus.CANCELLED, ids[4], revoke=True),
            put(),
            delay("delayed"),
            send("matched"),
        )
        await apply(store, tick("run_8"), deliver("run_9", event_id="delayed"), send("e1"))

        assert await store.check() == []
        assert await store.next_tick() == DUE + 60

    async def test_backup_never_overwrites(self, open_store: OpenStore, tmp_path: Path) -> None:
        store = await open_store("dev")
        path = tmp_path / "backup.db"
        path.write_text("mine")

        with pytest.raises(ConfigurationError):
            await store.backup(str(path))

        assert path.read_text() == "mine"
        assert [found.name for found in tmp_path.iterdir() if "backup" in found.name] == ["backup.db"]  # noqa: ASYNC240 - nothing else runs
