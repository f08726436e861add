"""What executions write: tasks, logs, and the moves that end an execution."""

from __future__ import annotations

import pytest

from perdure.engine.store import (
    Applied,
    Claimed,
    Ingested,
    MoveRun,
    Refused,
    RunRow,
)
from perdure.schema.runs import ErrorInfo, RunStatus, TaskStatus

from .factories import (
    NOW,
    UNCLAIMABLE,
    OpenStore,
    apply,
    claim,
    claimed,
    completed_task,
    executing_run,
    ingest,
    make_log,
    make_task,
    move,
    places,
    record,
    stored_run,
)


class RecordContract:
    async def test_task_is_replaced_as_a_whole(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        first = make_task(
            parent_id="p",
            interrupted=4,
            attempts=2,
            due_at=5,
            started_at=6,
            completed_at=7,
            error=ErrorInfo(name="E", message="m"),
            details="{}",
            position=3,
        )
        await apply(store, record(first))
        assert await store.get_tasks("run_1") == [first]
        second = make_task(status=TaskStatus.COMPLETED, seq=5, name="renamed")

        assert await apply(store, record(second)) == [Applied()]

        assert await store.get_tasks("run_1") == [second]

    async def test_missing_output_keeps_the_stored_one_and_its_types(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, record(make_task(output='"a"', types="{}")))
        await apply(store, record(make_task(attempts=1, types="[]")))

        assert await store.get_tasks("run_1") == [make_task(attempts=1, output='"a"', types="{}")]

        await apply(store, record(make_task(output='"b"')))

        assert await store.get_tasks("run_1") == [make_task(output='"b"')]

    async def test_last_of_a_task_in_a_batch_counts(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        changes = [
            record(make_task(attempts=1, output="1"), make_task(attempts=2)),
            record(make_task(attempts=3)),
            move(RunStatus.WAITING, tasks=[make_task(attempts=4)]),
        ]

        assert await apply(store, *changes) == [Applied()] * 3

        assert await store.get_tasks("run_1") == [make_task(attempts=4, output="1")]

    async def test_tasks_are_listed_by_position(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, record(*(make_task(f"task_{n}", position=9 - n) for n in range(5))))

        assert [task.id for task in await store.get_tasks("run_1")] == [f"task_{n}" for n in (4, 3, 2, 1, 0)]

    async def test_logs_are_kept_in_order_and_known_ids_left_alone(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        first = make_log("z", data='{"a": 1}', task_id="task_1")
        await apply(store, record(logs=[first, make_log("y", at=NOW - 9)]))
        await apply(
            store, record(logs=[make_log("z", message="other"), make_log("x"), make_log("x", message="2nd")])
        )

        assert await store.get_logs("run_1") == [first, make_log("y", at=NOW - 9), make_log("x")]

    @pytest.mark.parametrize("execution", [0, 2])
    async def test_other_fence_is_refused_with_the_run(self, open_store: OpenStore, execution: int) -> None:
        store = await open_store("dev")
        await executing_run(store)

        (result,) = await apply(store, record(make_task(), execution=execution, logs=[make_log()]))

        assert result == Refused(run=await stored_run(store))
        assert await store.get_tasks("run_1") == []
        assert await store.get_logs("run_1") == []

    async def test_run_without_lease_is_refused(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, move(RunStatus.CANCELLED))

        refused, unknown, empty = await apply(
            store, record(make_task()), record(make_task(), run_id="run_x"), record()
        )

        assert refused == empty == Refused(run=await stored_run(store))
        assert unknown == Refused(run=None)

    async def test_refused_and_applied_mix_in_a_batch(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest("run_1"), ingest("run_2"), claim())

        results = await apply(
            store, record(make_task(), run_id="run_1"), record(make_task(), run_id="run_2", execution=9)
        )

        assert [type(result) for result in results] == [Applied, Refused]
        assert len(await store.get_tasks("run_1")) == 1
        assert await store.get_tasks("run_2") == []

    async def test_tasks_before_move_in_a_batch_whatever_the_order(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)

        assert await apply(store, move(RunStatus.COMPLETED), record(make_task())) == [Applied(), Applied()]


class MoveContract:
    @pytest.mark.parametrize("status", UNCLAIMABLE)
    async def test_executing_run_moves_to(self, open_store: OpenStore, status: RunStatus) -> None:
        store = await open_store("dev")
        await executing_run(store)
        change = move(
            status,
            add_spent_ms=12,
            crashes=3,
            output='"out"',
            types="{}",
            error=ErrorInfo(name="E", message="m"),
            reason="r",
            failed_tasks=["a", "b"],
            tasks=[make_task()],
            logs=[make_log()],
        )

        assert await apply(store, change) == [Applied()]

        assert await stored_run(store) == RunRow(
            id="run_1",
            job_id="job",
            job_version="1.0.0",
            event_id="evt_1",
            status=status,
            created_at=NOW,
            execution=1,
            crashes=3,
            spent_ms=12,
            started_at=NOW + 10,
            completed_at=change.completed_at,
            wake_at=change.wake_at,
            output='"out"',
            types="{}",
            error=ErrorInfo(name="E", message="m"),
            reason="r",
            failed_tasks=["a", "b"],
            number=1,
        )
        assert await store.get_tasks("run_1") == [make_task()]
        assert await store.get_logs("run_1") == [make_log()]
        expected = {RunStatus.QUEUED: {"ready"}, RunStatus.WAITING: {"timers"}}.get(status, set())
        assert await places(store) == expected

    @pytest.mark.parametrize("start", UNCLAIMABLE)
    @pytest.mark.parametrize("end", [RunStatus.QUEUED, RunStatus.WAITING, RunStatus.CANCELLED])
    async def test_leaving_takes_the_run_from_its_place(
        self, open_store: OpenStore, start: RunStatus, end: RunStatus
    ) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, move(start, output="1", error=ErrorInfo(name="E", message="m"), reason="r"))

        assert await apply(store, move(end, expected=start, at=NOW + 30)) == [Applied()]

        run = await stored_run(store)
        assert (run.status, run.output, run.error, run.reason) == (end, None, None, None)
        expected = {RunStatus.QUEUED: {"ready"}, RunStatus.WAITING: {"timers"}}.get(end, set())
        assert await places(store) == expected

    async def test_spent_time_adds_up(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, move(RunStatus.QUEUED, add_spent_ms=5))
        await claimed(store)
        await apply(store, move(RunStatus.COMPLETED, execution=2, add_spent_ms=7))

        assert (await stored_run(store)).spent_ms == 12

    @pytest.mark.parametrize("priority, kept", [(None, 4), (9, 9)])
    async def test_priority_is_kept_or_set(
        self, open_store: OpenStore, priority: int | None, kept: int
    ) -> None:
        store = await open_store("dev")
        await apply(store, ingest(priority=4), claim(), ingest("run_2", priority=5))

        await apply(store, ingest("run_3", priority=5), move(RunStatus.QUEUED, priority=priority))

        assert (await stored_run(store)).priority == kept
        order = [found.run_id for found in await claimed(store)]
        assert order.index("run_1") == (0 if kept == 9 else len(order) - 1)

    @pytest.mark.parametrize("expected, execution", [(RunStatus.QUEUED, 1), (RunStatus.EXECUTING, 2)])
    async def test_guard_returns_the_run_as_it_is(
        self, open_store: OpenStore, expected: RunStatus, execution: int
    ) -> None:
        store = await open_store("dev")
        await executing_run(store)
        before = await stored_run(store)

        (result,) = await apply(
            store,
            move(
                RunStatus.COMPLETED,
                expected=expected,
                execution=execution,
                tasks=[make_task()],
                logs=[make_log()],
            ),
        )

        assert result == Refused(run=before)
        assert await stored_run(store) == before
        assert await store.get_tasks("run_1") == []
        assert await store.get_logs("run_1") == []

    async def test_unknown_run_is_refused_with_none(self, open_store: OpenStore) -> None:
        store = await open_store("dev")

        assert await apply(store, move(RunStatus.COMPLETED, "run_x")) == [Refused(run=None)]

    async def test_second_move_in_a_batch_sees_the_first(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)

        first, second, third = await apply(
            store,
            move(RunStatus.WAITING),
            move(RunStatus.COMPLETED, output="1"),
            move(RunStatus.QUEUED, expected=RunStatus.WAITING, at=NOW + 40),
        )

        assert (first, third) == (Applied(), Applied())
        assert isinstance(second, Refused)
        assert second.run is not None
        assert await places(store) == {"ready"}

    async def test_of_two_ends_in_a_batch_the_second_learns_the_status(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)

        first, second = await apply(store, move(RunStatus.CANCELLED), move(RunStatus.COMPLETED, output="1"))

        assert first == Applied()
        assert second == Refused(run=await stored_run(store))
        assert second.run.status is RunStatus.CANCELLED

    async def test_a_batch_may_take_a_run_from_event_to_execution(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        enqueue = MoveRun(
            run_id="run_1", expected=RunStatus.PENDING, execution=0, status=RunStatus.QUEUED, at=NOW + 1
        )

        results = await apply(store, claim(), enqueue, ingest(status=RunStatus.PENDING))

        assert [type(result) for result in results] == [Claimed, Applied, Ingested]
        assert [found.run_id for found in results[0].claims] == ["run_1"]

    async def test_cancel_open_closes_what_is_neither_complete_nor_interrupted(
        self, open_store: OpenStore
    ) -> None:
        store = await open_store("dev")
        await executing_run(store)
        done = completed_task("done", 1)
        failed = completed_task("failed", 2, status=TaskStatus.ERRORED)
        interrupted = make_task(
            "interrupted", status=TaskStatus.CANCELED, interrupted=3, completed_at=NOW, position=3
        )
        running = make_task("running", position=4)
        await apply(store, record(done, failed, interrupted, running))

        waiting = make_task("waiting", status=TaskStatus.WAITING, due_at=NOW + 50, position=5)
        await apply(store, move(RunStatus.CANCELLED, cancel_open=True, tasks=[waiting]))

        found = await store.get_tasks("run_1")
        assert found[:3] == [done, failed, interrupted]
        assert [(task.id, task.status, task.completed_at) for task in found[3:]] == [
            ("running", TaskStatus.CANCELED, NOW + 20),
            ("waiting", TaskStatus.CANCELED, NOW + 20),
        ]

    async def test_cancel_open_leaves_other_runs_alone(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest("run_1"), ingest("run_2"), claim())
        await apply(store, *(record(make_task(), run_id=each) for each in ("run_1", "run_2")))

        await apply(store, move(RunStatus.CANCELLED, cancel_open=True), move(RunStatus.QUEUED, "run_2"))

        assert await store.get_tasks("run_2") == [make_task()]

    async def test_reset_deletes_tasks_and_undoes_later_interruptions(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        canceled = TaskStatus.CANCELED
        kept = [
            completed_task("before", 1),
            make_task("interrupted before", status=canceled, interrupted=2, position=2),
            completed_task("between", 5),
        ]
        undone = completed_task("completed after interruption", 9, interrupted=6)
        gone = [
            completed_task("failed", 3, status=TaskStatus.ERRORED),
            completed_task("failed later", 7, status=TaskStatus.ERRORED),
            make_task("failed, not complete"),
            make_task("interrupted at once", status=canceled, interrupted=3),
            make_task("interrupted after", status=canceled, interrupted=8),
        ]
        await apply(store, record(*kept, undone, *gone))

        reset = ["failed later", "failed", "failed, not complete", "unknown"]
        await apply(store, move(RunStatus.QUEUED, reset=reset))

        undone.interrupted = None
        assert {task.id: task for task in await store.get_tasks("run_1")} == {
            task.id: task for task in [*kept, undone]
        }

    async def test_reset_sees_tasks_of_the_same_move(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        failed = completed_task("failed", 1, status=TaskStatus.ERRORED)

        await apply(store, move(RunStatus.WAITING, tasks=[failed, make_task("other")], reset=["failed"]))

        assert await store.get_tasks("run_1") == [make_task("other")]

    async def test_reset_leaves_other_runs_alone(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest("run_1"), ingest("run_2"), claim())
        tasks = [completed_task("failed", 1), make_task("x", status=TaskStatus.CANCELED, interrupted=2)]
        await apply(store, *(record(*tasks, run_id=each) for each in ("run_1", "run_2")))

        await apply(store, move(RunStatus.QUEUED, reset=["failed"]))

        assert await store.get_tasks("run_1") == []
        assert len(await store.get_tasks("run_2")) == 2

    async def test_without_reset_nothing_is_reset(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        tasks = [
            completed_task("a", 1),
            make_task("b", status=TaskStatus.CANCELED, interrupted=2, position=2),
        ]

        await apply(store, move(RunStatus.QUEUED, tasks=tasks))

        assert await store.get_tasks("run_1") == tasks

    async def test_reset_of_incomplete_tasks_undoes_no_interruption(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        interrupted = make_task("b", status=TaskStatus.CANCELED, interrupted=1)

        await apply(store, move(RunStatus.QUEUED, tasks=[make_task("a"), interrupted], reset=["a"]))

        assert await store.get_tasks("run_1") == [interrupted]

    async def test_reset_open_deletes_what_cancel_open_closed(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        interrupted = make_task("b", status=TaskStatus.CANCELED, interrupted=1)
        done = completed_task("c", 2)
        await apply(
            store, move(RunStatus.FAILED, cancel_open=True, tasks=[make_task("a"), interrupted, done])
        )

        await apply(store, move(RunStatus.QUEUED, expected=RunStatus.FAILED, reset_open=True))

        assert await store.get_tasks("run_1") == [interrupted, done]
