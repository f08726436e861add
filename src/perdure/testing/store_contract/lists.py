"""What is shown of runs: lists and counts."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from perdure.engine.store import (
    IngestEvent,
    RunFilter,
)
from perdure.schema.runs import ErrorInfo, RunStatus

from .factories import (
    NOW,
    OpenStore,
    apply,
    claim,
    executing_run,
    ingest,
    make_event,
    make_run,
    move,
    stored_run,
)


class ListContract:
    async def test_newest_first_in_pages(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, *(ingest(f"run_{n}") for n in (3, 1, 5, 2, 4)))

        seen: list[str] = []
        before: str | None = None
        while page := await store.list_runs(RunFilter(limit=2, before=before)):
            assert len(page) <= 2
            seen += [run.id for run in page]
            before = page[-1].id

        assert seen == ["run_5", "run_4", "run_3", "run_2", "run_1"]

    @pytest.mark.parametrize(
        "filter, expected",
        [
            pytest.param({"job_id": "a"}, ["run_3", "run_1"], id="job"),
            pytest.param({"event_id": "evt_1"}, ["run_2", "run_1"], id="event"),
            pytest.param({"statuses": (RunStatus.PENDING,)}, ["run_2"], id="status"),
            pytest.param(
                {"statuses": (RunStatus.PENDING, RunStatus.QUEUED)}, ["run_3", "run_2", "run_1"], id="two"
            ),
            pytest.param({"statuses": (RunStatus.FAILED,)}, [], id="none"),
            pytest.param({"job_id": "a", "event_id": "evt_1"}, ["run_1"], id="both"),
            pytest.param({"job_id": "a", "before": "run_3"}, ["run_1"], id="before"),
            pytest.param({"job_id": "' or 1=1 --"}, [], id="quoted"),
        ],
    )
    async def test_filters(self, open_store: OpenStore, filter: dict[str, Any], expected: list[str]) -> None:
        store = await open_store("dev")
        runs = [make_run("run_1", job_id="a"), make_run("run_2", job_id="b", status=RunStatus.PENDING)]
        await apply(
            store, IngestEvent(event=make_event(), runs=runs, created_at=NOW), ingest("run_3", job_id="a")
        )

        assert [run.id for run in await store.list_runs(RunFilter(**filter))] == expected

    @pytest.mark.parametrize("limit", [50, 2])
    async def test_every_set_of_statuses(self, open_store: OpenStore, limit: int) -> None:
        """Of these runs some execute, and one has ended whose execution still holds its slot."""
        store, other = await open_store("dev"), await open_store("prod")
        await executing_run(other, "run_9")
        await apply(store, *(ingest(f"run_{n}") for n in range(7)), claim(5))
        await apply(
            store,
            move(RunStatus.COMPLETED, "run_1"),
            move(RunStatus.WAITING, "run_2"),
            move(RunStatus.CANCELLED, "run_3", revoke=True),
        )
        runs = {
            RunStatus.EXECUTING: ["run_0", "run_4"],
            RunStatus.COMPLETED: ["run_1"],
            RunStatus.WAITING: ["run_2"],
            RunStatus.CANCELLED: ["run_3"],
            RunStatus.QUEUED: ["run_5", "run_6"],
        }

        for size in range(1, len(runs) + 1):
            for statuses in combinations(runs, size):
                expected = sorted((run for status in statuses for run in runs[status]), reverse=True)
                found = await store.list_runs(RunFilter(statuses=statuses, limit=limit))
                assert [run.id for run in found] == expected[:limit], statuses
                assert all(run.status in statuses for run in found)

    async def test_rows_are_whole(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, move(RunStatus.FAILED, error=ErrorInfo(name="E", message="m"), failed_tasks=["a"]))

        assert await store.list_runs(RunFilter()) == [await stored_run(store)]

    async def test_counts(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, *(ingest(f"run_{n}") for n in range(6)), claim(4))
        await apply(store, move(RunStatus.COMPLETED, "run_0"), move(RunStatus.WAITING, "run_1"))
        await apply(store, ingest("run_9", status=RunStatus.PENDING))

        expected = dict.fromkeys(RunStatus, 0) | {
            RunStatus.QUEUED: 2,
            RunStatus.EXECUTING: 2,
            RunStatus.COMPLETED: 1,
            RunStatus.WAITING: 1,
            RunStatus.PENDING: 1,
        }
        assert await store.count_by_status() == expected
        assert await store.count_by_status(active_only=True) == {RunStatus.QUEUED: 2, RunStatus.EXECUTING: 2}
