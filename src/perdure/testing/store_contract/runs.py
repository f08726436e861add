"""What befalls runs: events, claims, leases, timers."""

from __future__ import annotations

import asyncio

import pytest

from perdure.engine.store import (
    Claimed,
    Ingested,
    IngestEvent,
    LeaseRow,
    Renewed,
    RenewLeases,
    RunRow,
    Woken,
)
from perdure.errors import NotFoundError
from perdure.schema.execution import Claim
from perdure.schema.runs import ErrorInfo, RunStatus, TaskStatus

from .factories import (
    LEASE,
    NOW,
    OpenStore,
    all_leases,
    apply,
    claim,
    claimed,
    completed_task,
    executing_run,
    ingest,
    make_event,
    make_run,
    make_task,
    move,
    places,
    record,
    stored_run,
    wake,
)


class IngestContract:
    async def test_event_and_runs_are_stored_and_returned(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        event = make_event(context='{"c": 2}', source="shop", is_test=True)
        runs = [
            make_run("run_1", priority=3, reason="because"),
            make_run("run_2", job_id="other", job_version="2.0.0", status=RunStatus.PENDING),
        ]

        (result,) = await apply(store, IngestEvent(event=event, runs=runs, created_at=NOW))

        assert result.event == event
        assert result.duplicate is False
        assert result.runs == [
            RunRow(
                id="run_1",
                job_id="job",
                job_version="1.0.0",
                event_id="evt_1",
                status=RunStatus.QUEUED,
                created_at=NOW,
                priority=3,
                reason="because",
                is_test=True,
                number=1,
            ),
            RunRow(
                id="run_2",
                job_id="other",
                job_version="2.0.0",
                event_id="evt_1",
                status=RunStatus.PENDING,
                created_at=NOW,
                is_test=True,
                number=1,
            ),
        ]
        assert await store.get_event("evt_1") == event
        assert [await store.get_run("run_1"), await store.get_run("run_2")] == result.runs

    async def test_event_without_runs(self, open_store: OpenStore) -> None:
        store = await open_store("dev")

        (result,) = await apply(store, IngestEvent(event=make_event(), runs=[], created_at=NOW))

        assert result == Ingested(event=make_event(), runs=[], duplicate=False)

    async def test_known_event_id_returns_what_is_stored_and_writes_nothing(
        self, open_store: OpenStore
    ) -> None:
        store = await open_store("dev")
        await executing_run(store)
        other = IngestEvent(
            event=make_event(name="else"), runs=[make_run("run_9", job_id="x")], created_at=NOW
        )

        (result,) = await apply(store, other)

        assert result == Ingested(event=make_event(), runs=[await stored_run(store)], duplicate=True)
        assert result.runs[0].status is RunStatus.EXECUTING
        assert await store.get_run("run_9") is None

    async def test_same_event_twice_in_a_batch_is_stored_once(self, open_store: OpenStore) -> None:
        store = await open_store("dev")

        first, second, third = await apply(store, ingest("run_1"), ingest("run_1"), ingest("run_1"))

        assert (first.duplicate, second.duplicate, third.duplicate) == (False, True, True)
        assert first.runs == second.runs == third.runs
        assert len(await claimed(store)) == 1

    async def test_new_and_known_events_mix_in_a_batch(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest("run_2"))

        results = await apply(store, ingest("run_1"), ingest("run_2"), ingest("run_3"))

        assert [result.event.id for result in results] == ["evt_1", "evt_2", "evt_3"]
        assert [result.duplicate for result in results] == [False, True, False]

    async def test_missing_things_are_none(self, open_store: OpenStore) -> None:
        store = await open_store("dev")

        assert await store.get_run("run_x") is None
        assert await store.get_event("evt_x") is None
        assert await store.get_tasks("run_x") == []
        assert await store.get_logs("run_x") == []

    async def test_pending_run_is_not_claimed(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest(status=RunStatus.PENDING))

        assert await places(store) == set()


class ClaimContract:
    async def test_claim_carries_all_that_an_executor_needs(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        event = make_event(context="[1]", is_test=True)
        await apply(store, ingest(event=event, priority=7))

        (found,) = await claimed(store)

        assert found == Claim(
            run_id="run_1",
            execution=1,
            job_id="job",
            job_version="1.0.0",
            event=event,
            started_at=NOW + 10,
            lease_expires_at=LEASE,
            priority=7,
            number=1,
            created_at=NOW,
        )
        run = await stored_run(store)
        assert (run.status, run.execution, run.started_at) == (RunStatus.EXECUTING, 1, NOW + 10)
        assert await all_leases(store) == [
            LeaseRow(
                run_id="run_1",
                execution=1,
                owner="node-1",
                expires_at=LEASE,
                claimed_at=NOW + 10,
                crashes=0,
                spent_ms=0,
                priority=7,
                progressed=False,
                job_id="job",
                event_id="evt_1",
                created_at=NOW,
            )
        ]

    async def test_order_is_priority_then_longest_queued(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        queue = [("run_1", 0, 3), ("run_2", 0, 1), ("run_3", 5, 4), ("run_4", -1, 0), ("run_5", 5, 2)]
        await apply(store, *(ingest(each, priority=p, created_at=NOW + at) for each, p, at in queue))

        first = [found.run_id for found in await claimed(store, 2)]
        rest = [found.run_id for found in await claimed(store)]

        assert first == ["run_5", "run_3"]
        assert rest == ["run_2", "run_1", "run_4"]

    async def test_queue_order_counts_from_entering_the_queue(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store, "run_1")
        await apply(store, ingest("run_2", created_at=NOW + 5), move(RunStatus.QUEUED, at=NOW + 20))

        assert [found.run_id for found in await claimed(store)] == ["run_2", "run_1"]

    async def test_limit_is_kept(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, *(ingest(f"run_{n}") for n in range(5)))

        assert len(await claimed(store, 3)) == 3
        assert len(await claimed(store, 0)) == 0
        assert len(await claimed(store, 3)) == 2
        assert await claimed(store, 3) == []

    async def test_concurrent_claims_are_disjoint(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, *(ingest(f"run_{n:02}") for n in range(30)))

        batches = await asyncio.gather(*(claimed(store, 4, owner=f"node-{n}") for n in range(10)))

        ids = [found.run_id for batch in batches for found in batch]
        assert sorted(ids) == [f"run_{n:02}" for n in range(30)]

    async def test_claims_in_one_batch_are_disjoint(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, *(ingest(f"run_{n}") for n in range(3)))

        first, second = await apply(store, claim(2, owner="a"), claim(2, owner="b"))

        assert [found.run_id for found in first.claims] == ["run_0", "run_1"]
        assert [found.run_id for found in second.claims] == ["run_2"]
        assert {lease.run_id: lease.owner for lease in await all_leases(store)} == {
            "run_0": "a",
            "run_1": "a",
            "run_2": "b",
        }

    async def test_next_execution_keeps_started_at_and_brings_the_tasks(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        done = completed_task("task_1", 1, output='"x"', types='{"": "date"}', details='{"icon": "x"}')
        failed = completed_task(
            "task_2",
            2,
            status=TaskStatus.ERRORED,
            parent_id="task_3",
            error=ErrorInfo(
                name="ValueError", message="no", stack="at", types=["ValueError"], task_id="task_2"
            ),
        )
        running = make_task("task_3", position=3, attempts=2, started_at=NOW, due_at=NOW + 9)
        await apply(store, record(done, failed, running))
        await apply(store, move(RunStatus.QUEUED, add_spent_ms=10, crashes=2))

        (found,) = await claimed(store, at=NOW + 99)

        assert (found.execution, found.started_at, found.crashes, found.spent_ms) == (2, NOW + 10, 2, 10)
        assert sorted(found.tasks, key=lambda task: task.id) == [done, failed, running]

    async def test_tasks_go_to_their_own_runs(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        ids = ["run_1", "run_2", "run_3"]
        await apply(store, *map(ingest, ids))
        await claimed(store)
        await apply(store, *(record(make_task(f"task of {each}"), run_id=each) for each in ids[:2]))
        await apply(store, *(move(RunStatus.QUEUED, each) for each in ids))

        found = {one.run_id: [task.id for task in one.tasks] for one in await claimed(store)}

        assert found == {"run_1": ["task of run_1"], "run_2": ["task of run_2"], "run_3": []}

    async def test_outputs_over_the_limit_are_omitted_and_can_be_fetched(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        outputs = {f"task_{n}": f'"{"é" * 40}{n}"' for n in range(4)}
        tasks = [
            completed_task(each, n + 1, output=text, types="{}")
            for n, (each, text) in enumerate(outputs.items())
        ]
        empty = completed_task("task_9", 9)
        await apply(store, record(*tasks, empty), move(RunStatus.QUEUED))

        (found,) = await claimed(store, output_bytes_max=200)

        carried = {task.id: task for task in found.tasks}
        assert carried["task_9"].omitted is False
        whole = [each for each in outputs if not carried[each].omitted]
        assert 1 <= len(whole) <= 2
        for each, text in outputs.items():
            expected = (None, None) if carried[each].omitted else (text, "{}")
            assert (carried[each].output, carried[each].types) == expected
            assert await store.get_output("run_1", each) == (text, "{}")
        assert [task.output for task in await store.get_tasks("run_1")] == [*outputs.values(), None]

    async def test_output_limit_is_per_run(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        ids = ["run_1", "run_2"]
        await apply(store, *map(ingest, ids))
        await claimed(store)
        await apply(
            store, *(record(completed_task("t", 1, output=f'"{"x" * 80}"'), run_id=each) for each in ids)
        )
        await apply(store, *(move(RunStatus.QUEUED, each) for each in ids))

        found = await claimed(store, output_bytes_max=100)

        assert [task.omitted for one in found for task in one.tasks] == [False, False]

    async def test_recording_an_omitted_task_keeps_its_output(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(
            store, record(completed_task("t", 1, output='"long"', types="{}")), move(RunStatus.QUEUED)
        )
        (found,) = await claimed(store, output_bytes_max=0)
        (task,) = found.tasks
        assert task.omitted

        await apply(store, record(task, execution=2))

        assert await store.get_tasks("run_1") == [completed_task("t", 1, output='"long"', types="{}")]

    async def test_output_of_unknown_task_raises(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)

        with pytest.raises(NotFoundError):
            await store.get_output("run_1", "task_x")

    async def test_output_of_task_without_one_is_none(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, record(make_task()))

        assert await store.get_output("run_1", "task_1") == (None, None)


class TimerContract:
    async def test_due_runs_earliest_first_and_limited(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        ids = ["run_1", "run_2", "run_3", "run_4"]
        await apply(store, *map(ingest, ids), claim())
        assert await store.next_due() is None
        wakes = {"run_1": NOW + 300, "run_2": NOW + 100, "run_3": NOW + 200, "run_4": NOW + 201}
        await apply(store, *(move(RunStatus.WAITING, each, wake_at=at) for each, at in wakes.items()))

        assert await store.next_due() == NOW + 100
        assert await store.due_runs(NOW + 99, 10) == []
        assert [run.id for run in await store.due_runs(NOW + 200, 10)] == ["run_2", "run_3"]
        assert [run.id for run in await store.due_runs(NOW + 999, 3)] == ["run_2", "run_3", "run_4"]
        assert await store.due_runs(NOW + 100, 1) == [await stored_run(store, "run_2")]

    async def test_wakes_what_is_due_earliest_first_and_no_more_than_asked_for(
        self, open_store: OpenStore
    ) -> None:
        store = await open_store("dev")
        ids = ["run_1", "run_2", "run_3", "run_4"]
        await apply(store, *map(ingest, ids), claim())
        wakes = {"run_1": NOW + 300, "run_2": NOW + 100, "run_3": NOW + 200, "run_4": NOW + 201}
        await apply(store, *(move(RunStatus.WAITING, each, wake_at=at) for each, at in wakes.items()))

        assert await apply(store, wake(NOW + 99)) == [Woken([])]
        assert await apply(store, wake(NOW + 999, limit=2)) == [Woken(["run_2", "run_3"])]
        assert await apply(store, wake(NOW + 250)) == [Woken(["run_4"])]

        assert await store.next_due() == NOW + 300
        counts = await store.count_by_status()
        assert (counts[RunStatus.QUEUED], counts[RunStatus.WAITING]) == (3, 1)

    async def test_a_woken_run_keeps_its_crashes_and_nothing_of_its_wait(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        error = ErrorInfo(name="ValueError", message="no")
        await apply(
            store, move(RunStatus.WAITING, wake_at=NOW + 5, crashes=2, reason="backs off", error=error)
        )

        await apply(store, wake(NOW + 5))

        run = await stored_run(store, "run_1")
        assert (run.status, run.execution, run.crashes) == (RunStatus.QUEUED, 1, 2)
        assert (run.wake_at, run.reason, run.error) == (None, None, None)

    async def test_woken_runs_are_claimed_in_the_same_transaction_in_the_order_in_which_they_were_made(
        self, open_store: OpenStore
    ) -> None:
        store = await open_store("dev")
        await apply(store, ingest("run_1"), ingest("run_2"), claim())
        await apply(
            store,
            *(
                move(RunStatus.WAITING, each, wake_at=at)
                for each, at in (("run_1", NOW + 9), ("run_2", NOW + 5))
            ),
        )

        results = await apply(store, claim(), wake(NOW + 10))

        claimed = results[0]
        assert isinstance(claimed, Claimed)
        assert [each.run_id for each in claimed.claims] == ["run_1", "run_2"]
        assert await store.due_runs(NOW + 999, 10) == []

    async def test_waiting_again_moves_the_timer(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, move(RunStatus.WAITING, wake_at=NOW + 100))
        await apply(store, move(RunStatus.WAITING, expected=RunStatus.WAITING, wake_at=NOW + 50))

        assert await store.next_due() == NOW + 50
        assert len(await store.due_runs(NOW + 999, 10)) == 1


class LeaseContract:
    async def test_expired_leases(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        for n in range(3):
            await apply(store, ingest(f"run_{n}"), claim(expires_at=NOW + 100 * n, owner=f"node-{n}"))

        assert [lease.run_id for lease in await store.leases(expired_at=NOW + 100, limit=10)] == [
            "run_0",
            "run_1",
        ]
        assert await store.leases(expired_at=NOW - 1, limit=10) == []
        assert len(await store.leases(expired_at=None, limit=10)) == 3
        assert len(await store.leases(expired_at=None, limit=2)) == 2

    async def test_progressed_is_a_completion_since_the_claim(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)

        async def progressed() -> bool:
            (lease,) = await all_leases(store)
            return lease.progressed

        await apply(store, record(make_task("a"), make_task("b", interrupted=1)))
        assert await progressed() is False
        await apply(store, record(completed_task("a", 2)))
        assert await progressed() is True
        await apply(store, move(RunStatus.QUEUED), claim())
        assert await progressed() is False
        await apply(store, record(completed_task("a", 2), execution=2))
        assert await progressed() is False
        await apply(store, record(completed_task("c", 3, status=TaskStatus.ERRORED), execution=2))
        assert await progressed() is True

    async def test_running_names_tasks_latest_started_first(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(
            store,
            record(
                make_task("a", key="first", started_at=NOW + 1),
                make_task("b", key="third", started_at=NOW + 3),
                make_task("c", key="second", started_at=NOW + 2),
                make_task("d", status=TaskStatus.WAITING, started_at=NOW + 4),
                completed_task("e", 1, started_at=NOW + 5),
            ),
        )

        (lease,) = await all_leases(store)

        assert lease.running == ["third", "second", "first"]

    async def test_lease_shows_what_the_run_has_spent(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, move(RunStatus.QUEUED, crashes=2, add_spent_ms=7, priority=3), claim())

        (lease,) = await all_leases(store)

        assert (lease.execution, lease.crashes, lease.spent_ms, lease.priority) == (2, 2, 7, 3)

    async def test_renewal_extends_the_leases_of_its_owner(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest("run_1"), ingest("run_2"), claim(owner="a"))
        await apply(store, ingest("run_3"), claim(owner="b"))

        results = await apply(
            store, RenewLeases(owner="a", expires_at=LEASE + 5), RenewLeases(owner="x", expires_at=LEASE + 9)
        )

        assert results == [Renewed(count=2), Renewed(count=0)]
        assert {lease.run_id: lease.expires_at for lease in await all_leases(store)} == {
            "run_1": LEASE + 5,
            "run_2": LEASE + 5,
            "run_3": LEASE,
        }

    async def test_renewal_comes_before_claims_of_its_batch(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest())

        _, renewed = await apply(store, claim(), RenewLeases(owner="node-1", expires_at=LEASE + 5))

        assert renewed == Renewed(count=0)
        assert [lease.expires_at for lease in await all_leases(store)] == [LEASE]
