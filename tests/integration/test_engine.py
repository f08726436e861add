"""The engine over a real store, under virtual time: what clients ask for, timers, leases, recovery, faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import wraps
from random import Random

import pytest

from perdure.engine.core.jobs import JobSpec
from perdure.engine.core.runs import rescue, rescue_delay_ms
from perdure.engine.engine import Engine
from perdure.engine.journal import EngineSource
from perdure.engine.store import Change, ClaimRuns, Result, RunRow, Store
from perdure.errors import ConflictError, NotFoundError, StoreBrokenError, UnavailableError
from perdure.ids import Ids
from perdure.schema.execution import (
    Claim,
    Completed,
    EventRecord,
    Failed,
    JobMissing,
    Suspended,
    TaskRecord,
    Yielded,
)
from perdure.schema.runs import ErrorInfo, RunStatus, TaskStatus
from perdure.sdk.journal import Journal
from perdure.store.sqlite.store import SqliteStore
from perdure.testing.journal_contract import close_journal, write_records
from perdure.testing.virtual_clock import VirtualClock, run_virtual

JOB = JobSpec(id="j", version="1", event_names=("n",))
ERROR = ErrorInfo(name="ValueError", message="no")


class Node:
    """An engine with its source, and shorthand for what tests do with them."""

    def __init__(
        self,
        store: Store,
        *,
        owner: str = "me",
        jobs: Sequence[JobSpec] = (JOB,),
        exclusive: bool = True,
        on_broken: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.store = store
        self.clock = VirtualClock()
        self.engine = Engine(
            store,
            self.clock,
            Ids(self.clock, Random(1)),
            owner=owner,
            random=Random(2),
            jobs=jobs,
            exclusive=exclusive,
            on_broken=on_broken,
        )
        self.source = EngineSource(self.engine)

    async def send(self, event_id: str = "evt_1") -> str:
        event = EventRecord(id=event_id, name="n", payload='{"a":1}', timestamp=1)
        [ingested] = await self.engine.ingest([event])
        return ingested.runs[0].id

    async def claim(self) -> tuple[Claim, Journal]:
        [claimed] = await self.source.claim(1)
        return claimed

    async def run(self, run_id: str) -> RunRow:
        run = await self.engine.store.get_run(run_id)
        assert run is not None
        return run

    async def status(self, run_id: str) -> RunStatus:
        return (await self.run(run_id)).status


class Faulty(SqliteStore):
    """A store that raises `error` from `apply`, and from reads too if `reads_too`, while it is set; counts calls."""

    error: BaseException | None = None
    reads_too = False
    calls = 0
    claims = 0

    async def apply(self, changes: Sequence[Change]) -> list[Result]:
        self.calls += 1
        self.claims += sum(isinstance(change, ClaimRuns) for change in changes)
        if self.error is not None:
            raise self.error
        return await super().apply(changes)

    async def next_due(self) -> int | None:
        self.calls += 1
        if self.error is not None and self.reads_too:
            raise self.error
        return await super().next_due()


async def open_store(path: str = ":memory:") -> Faulty:
    store = await Faulty.open(path, inline=True)
    assert isinstance(store, Faulty)
    return store


@asynccontextmanager
async def running(store: Store | None = None) -> AsyncIterator[Node]:
    node = Node(store or await open_store())
    await node.engine.start()
    yield node
    await node.engine.stop()
    if store is None:
        await node.store.close()


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test under virtual time."""

    @wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        async def main() -> None:
            await test(*args, **kwargs)

        run_virtual(main())

    return run


# --- ingesting ----------------------------------------------------------------------------------------------------------


@virtual
async def test_event_causes_a_run_per_job_and_its_repetition_none() -> None:
    async with running() as node:
        await node.engine.register([JobSpec(id="k", version="3", event_names=("n", "m"), priority=2)])
        event = EventRecord(id="evt_1", name="n", payload="{}", timestamp=1)

        [first] = await node.engine.ingest([event])
        [again] = await node.engine.ingest([event])

        assert sorted((run.job_id, run.job_version, run.priority) for run in first.runs) == [
            ("j", "1", 0),
            ("k", "3", 2),
        ]
        assert (first.duplicate, again.duplicate) == (False, True)
        assert sorted(run.id for run in again.runs) == sorted(run.id for run in first.runs)


@virtual
async def test_event_nobody_waits_for_is_stored() -> None:
    async with running() as node:
        event = EventRecord(id="evt_1", name="other", payload="{}", timestamp=1)

        results = await node.engine.ingest([event, event])

        assert [ingested.runs for ingested in results] == [[], []]
        assert await node.engine.store.get_event("evt_1") == event


@virtual
async def test_many_events_wait_for_room_and_all_are_stored() -> None:
    async with running() as node:
        events = [EventRecord(id=f"evt_{n}", name="n", payload="{}", timestamp=1) for n in range(12_000)]

        results = await node.engine.ingest(events)

        assert [ingested.event.id for ingested in results] == [event.id for event in events]


@virtual
async def test_ingest_run_starts_one_job_once_per_key() -> None:
    async with running() as node:
        await node.engine.register([JobSpec(id="off", version="1", enabled=False)])

        first = await node.engine.ingest_run("off", "[1]", key="k1", context="{}", is_test=True)
        again = await node.engine.ingest_run("off", "[2]", key="k1")
        other = await node.engine.ingest_run("off", "[2]")

        assert (first.event.id, first.event.name, first.event.payload, first.event.is_test) == (
            "k1",
            "invoke",
            "[1]",
            True,
        )
        assert (again.duplicate, again.runs[0].id) == (True, first.runs[0].id)
        assert other.runs[0].id != first.runs[0].id
        with pytest.raises(NotFoundError, match="job 'x'"):
            await node.engine.ingest_run("x", "{}")


# --- cancelling, continuing, running again ------------------------------------------------------------------------------


@virtual
async def test_cancel_in_every_unended_status() -> None:
    async with running() as node:
        queued = await node.send("evt_1")
        assert (await node.engine.commands.cancel(queued)).status is RunStatus.CANCELLED

        executing = await node.send("evt_2")
        await node.claim()
        await node.clock.advance(2)
        cancelled = await node.engine.commands.cancel(executing)
        assert (cancelled.status, cancelled.spent_ms) == (RunStatus.CANCELLED, 2_000)

        waiting = await node.send("evt_3")
        _, journal = await node.claim()
        await close_journal(journal, Suspended(node.clock.now() + 60_000))
        assert (await node.engine.commands.cancel(waiting)).status is RunStatus.CANCELLED
        assert await node.store.next_due() is None


@virtual
async def test_cancel_twice_is_one_cancellation_and_of_an_ended_run_a_conflict() -> None:
    async with running() as node:
        run_id = await node.send()
        first = await node.engine.commands.cancel(run_id)
        await node.clock.advance(1)

        assert (await node.engine.commands.cancel(run_id)).completed_at == first.completed_at

        run_id = await node.send("evt_2")
        _, journal = await node.claim()
        await close_journal(journal, Completed("1"))
        with pytest.raises(ConflictError, match="Completed"):
            await node.engine.commands.cancel(run_id)
        with pytest.raises(NotFoundError):
            await node.engine.commands.cancel("run_x")


@virtual
async def test_cancel_and_finish_race_for_the_run_and_the_loser_learns() -> None:
    async with running() as node:
        run_id = await node.send()
        _, journal = await node.claim()

        # Both in one transaction: whichever is first in it wins.
        closing = close_journal(journal, Completed("1"))
        cancelling = asyncio.create_task(node.engine.commands.cancel(run_id))
        closed, cancelled = await asyncio.gather(closing, cancelling, return_exceptions=True)

        status = await node.status(run_id)
        if status is RunStatus.COMPLETED:
            assert closed is True
            assert isinstance(cancelled, ConflictError)
        else:
            assert (status, closed) == (RunStatus.CANCELLED, False)


@virtual
async def test_continue_goes_on_with_completed_tasks_kept() -> None:
    async with running() as node:
        run_id = await node.send()
        _, journal = await node.claim()
        kept = TaskRecord(
            id="t1",
            idempotency_key="k1",
            key="a",
            name="a",
            status=TaskStatus.COMPLETED,
            position=1,
            seq=1,
            output="1",
        )
        failed = TaskRecord(
            id="t2",
            idempotency_key="k2",
            key="b",
            name="b",
            status=TaskStatus.ERRORED,
            position=2,
            seq=2,
            error=ERROR,
        )
        await close_journal(journal, Failed(ERROR, ["t2"]), [kept, failed], [])
        assert (await node.run(run_id)).error == ERROR

        continued = await node.engine.commands.continue_(run_id)

        assert (continued.status, continued.error, continued.completed_at) == (RunStatus.QUEUED, None, None)
        again, journal = await node.claim()
        assert [task.id for task in again.tasks] == ["t1"]
        with pytest.raises(ConflictError, match="hasn't ended"):
            await node.engine.commands.continue_(run_id)
        await close_journal(journal, Completed("1"))
        with pytest.raises(ConflictError, match="rerun"):
            await node.engine.commands.continue_(run_id)


@virtual
async def test_rerun_makes_another_run_each_time() -> None:
    async with running() as node:
        run_id = await node.send()
        with pytest.raises(ConflictError):
            await node.engine.commands.rerun(run_id)
        _, journal = await node.claim()
        await close_journal(journal, Completed("1"))

        first, second = await asyncio.gather(
            node.engine.commands.rerun(run_id), node.engine.commands.rerun(run_id)
        )

        assert first.event.id == f"evt_1:retry:{node.clock.now()}"
        assert first.event.payload == '{"a":1}'
        assert len({run_id, first.runs[0].id, second.runs[0].id}) == 3
        with pytest.raises(NotFoundError):
            await node.engine.commands.rerun("run_x")


# --- jobs that are missing ----------------------------------------------------------------------------------------------


@virtual
async def test_run_of_an_unknown_job_waits_until_it_is_registered() -> None:
    async with running() as node:
        run_id = await node.send()
        _, journal = await node.claim()
        await close_journal(journal, JobMissing())
        run = await node.run(run_id)
        assert (run.status, run.reason) == (
            RunStatus.PENDING,
            "job 'j' isn't defined in this process: the run starts as soon as a process that defines it does",
        )

        await node.engine.register([JOB])

        claim, _ = await node.claim()
        assert claim.run_id == run_id


@virtual
async def test_start_adopts_pending_runs_oldest_first() -> None:
    store = await open_store()
    async with running(store) as node:
        sent = [await node.send(f"evt_{n}") for n in range(3)]
        for _ in sent:
            _, journal = await node.claim()
            await close_journal(journal, JobMissing())

    async with running(store) as node:
        assert [(await node.claim())[0].run_id for _ in sent] == sent
    await store.close()


# --- timers -------------------------------------------------------------------------------------------------------------


@virtual
async def test_waiting_runs_are_woken_when_due_in_their_order() -> None:
    async with running() as node:
        began = node.clock.now()
        delays = [timedelta(days=3), timedelta(seconds=1), timedelta(hours=2)]
        for n, delay in enumerate(delays):
            await node.send(f"evt_{n}")
            _, journal = await node.claim()
            await close_journal(journal, Suspended(began + delay // timedelta(milliseconds=1)))

        woken: list[int] = []
        for _ in delays:
            claim, journal = await node.claim()
            woken.append(node.clock.now() - began)
            await close_journal(journal, Completed(claim.run_id))

        assert woken == [1_000, 7_200_000, 259_200_000]


@virtual
async def test_more_timers_than_one_batch_fire_together() -> None:
    async with running() as node:
        count = 2_500
        events = [EventRecord(id=f"evt_{n}", name="n", payload="{}", timestamp=1) for n in range(count)]
        await node.engine.ingest(events)
        claimed = await node.source.claim(count)
        wake_at = node.clock.now() + 5_000
        await asyncio.gather(*(close_journal(journal, Suspended(wake_at)) for _, journal in claimed))

        woken = 0
        while woken < count:
            woken += len(await node.source.claim(count))

        assert node.clock.now() == wake_at


@virtual
async def test_timers_set_before_a_restart_fire_after_it() -> None:
    store = await open_store()
    async with running(store) as node:
        run_id = await node.send()
        _, journal = await node.claim()
        wake_at = node.clock.now() + 60_000
        await close_journal(journal, Suspended(wake_at))

    async with running(store) as node:
        claim, _ = await node.claim()
        assert (claim.run_id, claim.execution, node.clock.now()) == (run_id, 2, wake_at)
    await store.close()


@virtual
async def test_idle_engine_hardly_asks_the_store() -> None:
    store = await open_store()
    async with running(store) as node:
        waiting = asyncio.create_task(node.source.claim(1))
        before = store.calls
        await node.clock.advance(timedelta(hours=1))

        assert store.calls - before < 3_600 / 10
        waiting.cancel()
    await store.close()


# --- leases -------------------------------------------------------------------------------------------------------------


@virtual
async def test_leases_of_a_long_execution_are_renewed() -> None:
    async with running() as node:
        await node.send()
        _, journal = await node.claim()

        await node.clock.advance(timedelta(hours=1))

        assert await close_journal(journal, Completed("1")) is True


@virtual
async def test_expired_lease_of_a_dead_node_is_rescued_by_another() -> None:
    store = await open_store()
    dead = Node(store, owner="dead", exclusive=False)
    await dead.engine.start()
    run_id = await dead.send()
    _, journal = await dead.claim()
    await dead.engine.stop()  # nobody renews any more

    other = Node(store, owner="other", exclusive=False)
    await other.engine.start()
    began = other.clock.now()
    claim, successor = await other.claim()

    assert (claim.run_id, claim.execution, claim.crashes) == (run_id, 2, 1)
    assert 20_000 < other.clock.now() - began < 70_000
    with pytest.raises(UnavailableError):
        await write_records(journal, [], [])
    assert await close_journal(successor, Completed("1")) is True
    await other.engine.stop()
    await store.close()


@virtual
async def test_owner_of_the_store_takes_up_at_once_what_a_dead_process_left() -> None:
    store = await open_store()
    async with running(store) as node:
        run_id = await node.send()
        await node.claim()

    async with running(store) as node:
        began = node.clock.now()
        claim, _ = await node.claim()
        assert (claim.run_id, claim.execution, claim.crashes) == (run_id, 2, 1)
        assert node.clock.now() == began
    await store.close()


@virtual
async def test_run_that_kills_its_process_fails_at_the_fifth_time_and_names_the_task() -> None:
    store = await open_store()
    deadly = TaskRecord(
        id="t1",
        idempotency_key="k1",
        key="native code",
        name="native code",
        status=TaskStatus.RUNNING,
        position=1,
    )
    waits: list[int] = []
    run_id = ""
    for n in range(5):
        async with running(store) as node:
            run_id = run_id or await node.send()
            began = node.clock.now()
            claim, journal = await node.claim()
            waits.append(node.clock.now() - began)
            assert claim.crashes == n
            await write_records(journal, [deadly], [])

    async with running(store) as node:
        run = await node.engine.wait_settled(run_id)
        assert waits == [0, 0, *(rescue_delay_ms(run_id, crashes) for crashes in (2, 3, 4))]
        assert (run.status, run.execution) == (RunStatus.FAILED, 5)
        assert run.error is not None
        assert "'native code'" in run.error.message
        assert (await node.engine.commands.continue_(run_id)).crashes == 0
    await store.close()


@virtual
async def test_execution_whose_run_another_node_rescued_learns_at_its_next_record_and_then_writes_no_more() -> (
    None
):
    store = await open_store()
    node = Node(store, exclusive=False)
    await node.engine.start()
    run_id = await node.send()
    _, journal = await node.claim()
    [lease] = await store.leases(expired_at=None, limit=10)
    await store.apply([rescue(lease, node.clock.now(), lease_ms=30_000)])  # by another node

    assert await write_records(journal, [], []) is False
    before = store.calls
    assert await close_journal(journal, Completed("1")) is False

    assert store.calls == before
    assert await node.status(run_id) is RunStatus.QUEUED
    await node.engine.stop()
    await store.close()


@virtual
async def test_run_claimed_again_by_the_transaction_that_requeues_it_is_known_to_execute() -> None:
    async with running() as node:
        run_id = await node.send()
        _, first = await node.claim()
        claiming = asyncio.create_task(node.claim())
        await asyncio.sleep(0)  # its claim is submitted first, and takes effect after the move
        closing = close_journal(first, Yielded("more to do"))

        claim, second = await claiming

        assert await closing is True
        assert (claim.run_id, claim.execution) == (run_id, 2)
        assert node.engine.executing[run_id][0] == 2
        assert await write_records(second, [], []) is True
        assert await close_journal(second, Completed("1")) is True
        await node.engine.wait_idle()
        assert not node.engine.executing


# --- waiting for ends ---------------------------------------------------------------------------------------------------


@virtual
async def test_wait_settled_sees_every_way_to_end() -> None:
    async with running() as node:
        run_id = await node.send()
        waiters = [asyncio.create_task(node.engine.wait_settled(run_id)) for _ in range(2)]
        _, journal = await node.claim()
        await close_journal(journal, Suspended(node.clock.now() + 1_000))
        await node.clock.advance(2)
        assert not any(waiter.done() for waiter in waiters)
        waiters[1].cancel()

        await node.engine.commands.cancel(run_id)

        assert (await waiters[0]).status is RunStatus.CANCELLED
        assert (await node.engine.wait_settled(run_id)).status is RunStatus.CANCELLED
        with pytest.raises(NotFoundError):
            await node.engine.wait_settled("run_x")


@virtual
async def test_wait_idle_waits_for_queued_executing_and_due_runs_but_not_for_the_future() -> None:
    async with running() as node:
        await node.engine.wait_idle()
        for n in range(3):
            await node.send(f"evt_{n}")
        idle = asyncio.create_task(node.engine.wait_idle())
        began = node.clock.now()
        for outcome in (Completed("1"), Suspended(began + 3_600_000), Failed(ERROR, [], began - 1)):
            _, journal = await node.claim()
            await node.clock.advance(1)
            assert not idle.done()
            await close_journal(journal, outcome)

        _, journal = await node.claim()  # the one to be retried at once
        assert not idle.done()
        await close_journal(journal, Completed("1"))
        await idle

        assert node.clock.now() - began == 3_000


@virtual
async def test_stop_ends_every_wait_and_puts_claims_back() -> None:
    store = await open_store()
    async with running(store) as node:
        run_id = await node.send()
        settled = asyncio.create_task(node.engine.wait_settled(run_id))
        idle = asyncio.create_task(node.engine.wait_idle())
        await asyncio.sleep(0)
        claiming = asyncio.create_task(node.source.claim(1))
        await asyncio.sleep(0)  # its claim is on its way

        await node.engine.stop()

        for wait in (
            settled,
            idle,
            claiming,
            node.source.claim(1),
            node.engine.wait_idle(),
            node.send("evt_2"),
        ):
            with pytest.raises(UnavailableError, match="stopped"):
                await wait
        assert await node.status(run_id) is RunStatus.QUEUED
    await store.close()


@pytest.mark.parametrize("turns", range(8))
@virtual
async def test_cancelled_run_whose_claim_nobody_waits_for_any_more_keeps_no_slot(turns: int) -> None:
    async with running() as node:
        run_id = await node.send()
        claiming = asyncio.create_task(node.claim())
        await asyncio.sleep(0)  # its claim is on its way
        claiming.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)

        await node.engine.commands.cancel(run_id)
        await asyncio.sleep(1)

        assert await node.status(run_id) is RunStatus.CANCELLED
        assert await node.store.leases(expired_at=None, limit=10) == []


# --- faults -------------------------------------------------------------------------------------------------------------


@virtual
async def test_full_disk_pauses_claiming_and_loses_nothing() -> None:
    store = await open_store()
    async with running(store) as node:
        first, second = await node.send("evt_1"), await node.send("evt_2")
        _, journal = await node.claim()
        store.error = UnavailableError("the disk is full")

        closing = close_journal(journal, Completed("1"))
        with pytest.raises(UnavailableError, match="the disk is full"):
            await node.send("evt_3")
        with pytest.raises(UnavailableError, match="the disk is full"):
            await node.engine.commands.cancel(second)
        before = store.claims
        claiming = asyncio.create_task(node.claim())
        await node.clock.advance(60)
        assert not closing.done()
        assert not claiming.done()
        assert store.claims == before

        store.error = None
        assert await closing is True
        claim, _ = await claiming
        assert claim.run_id == second
        assert await node.status(first) is RunStatus.COMPLETED
    await store.close()


@virtual
async def test_leases_survive_an_unavailability_longer_than_they_last() -> None:
    store = await open_store()
    async with running(store) as node:
        await node.send()
        _, journal = await node.claim()
        store.error = UnavailableError("the disk is full")
        with pytest.raises(UnavailableError):
            await node.send("evt_2")
        await node.clock.advance(300)
        store.error = None
        await node.clock.advance(300)

        assert await close_journal(journal, Completed("1")) is True
    await store.close()


@virtual
async def test_rejected_claim_is_reported_and_repeated(caplog: pytest.LogCaptureFixture) -> None:
    store = await open_store()
    async with running(store) as node:
        claiming = asyncio.create_task(node.claim())
        await asyncio.sleep(0)
        store.error = ValueError("a bug in the store")
        with pytest.raises(ValueError, match="a bug in the store"):
            await node.send("evt_1")
        store.error = None

        run_id = await node.send("evt_2")

        assert (await claiming)[0].run_id == run_id
        assert "claiming failed" in caplog.text
    await store.close()


@virtual
async def test_failed_step_of_a_loop_is_reported_and_repeated(caplog: pytest.LogCaptureFixture) -> None:
    store = await open_store()
    async with running(store) as node:
        run_id = await node.send()
        _, journal = await node.claim()
        store.reads_too = True
        await close_journal(journal, Suspended(node.clock.now() + 1_000))
        store.error = ValueError("a bug in the store")
        await node.clock.advance(5)
        store.error = None

        claim, _ = await node.claim()

        assert claim.run_id == run_id
        assert "the waker failed" in caplog.text
    await store.close()


@pytest.mark.parametrize("by", ["a write", "a read"])
def test_broken_store_stops_the_engine(by: str) -> None:
    async def main() -> None:
        store = await open_store()
        broken: list[BaseException] = []
        node = Node(store, on_broken=broken.append)
        await node.engine.start()
        run_id = await node.send()
        _, journal = await node.claim()
        settled = asyncio.create_task(node.engine.wait_settled(run_id))
        claiming = asyncio.create_task(node.claim())
        await asyncio.sleep(0)
        store.error = StoreBrokenError("I/O error")
        store.reads_too = by == "a read"

        if by == "a write":
            with pytest.raises(UnavailableError, match="I/O error"):
                await write_records(journal, [], [])
        else:
            await node.clock.advance(120)
        for wait in (settled, claiming, write_records(journal, [], []), node.send("evt_2")):
            with pytest.raises(UnavailableError, match="I/O error"):
                await wait

        assert broken == [store.error]
        assert not node.engine.is_running
        await node.engine.stop()
        await store.close()

    run_virtual(main())
