"""Group commit over a real store in memory, held up and made to fail at its port."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from perdure.engine.store import (
    Applied,
    Change,
    Claimed,
    ClaimRuns,
    Ingested,
    IngestEvent,
    MoveRun,
    NewRun,
    RecordTasks,
    Refused,
    Result,
)
from perdure.engine.writer import Writer
from perdure.errors import StoreBrokenError, UnavailableError
from perdure.schema.execution import EventRecord
from perdure.schema.runs import RunStatus
from perdure.store.sqlite.store import SqliteStore
from perdure.testing.virtual_clock import run_virtual


class Tap(SqliteStore):
    """A store whose `apply` notes batches, holds them at a gate, and raises what a test wants raised."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.batches: list[list[Change]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self.errors: deque[BaseException] = deque()
        self.error_for: Callable[[Change], BaseException | None] = lambda _: None

    async def apply(self, changes: Sequence[Change]) -> list[Result]:
        self.batches.append(list(changes))
        self.reached.set()
        await self.gate.wait()
        if self.errors:
            raise self.errors.popleft()
        for change in changes:
            if error := self.error_for(change):
                raise error
        return await super().apply(changes)

    @property
    def ids(self) -> list[list[str]]:
        """Which events' ingests were in which batch."""
        return [[event_id_of(change) for change in batch] for batch in self.batches]


async def open_tap() -> Tap:
    tap = await Tap.open(":memory:", inline=True)
    assert isinstance(tap, Tap)
    return tap


def event_id_of(change: Change) -> str:
    return change.event.id if isinstance(change, IngestEvent) else type(change).__name__


def ingest(event_id: str) -> IngestEvent:
    event = EventRecord(id=event_id, name="n", payload="{}", timestamp=1)
    run = NewRun(id=f"run_{event_id}", job_id="j", job_version="1", status=RunStatus.QUEUED, created_at=1)
    return IngestEvent(event=event, runs=[run], created_at=1)


def claim(limit: int = 1) -> ClaimRuns:
    return ClaimRuns(
        owner="me", limit=limit, at=1, expires_at=100, expected=RunStatus.QUEUED, status=RunStatus.EXECUTING
    )


def complete(event_id: str) -> MoveRun:
    return MoveRun(
        run_id=f"run_{event_id}",
        expected=RunStatus.EXECUTING,
        execution=1,
        status=RunStatus.COMPLETED,
        at=2,
        completed_at=2,
    )


@pytest.fixture
async def tap() -> AsyncIterator[Tap]:
    tap = await open_tap()
    yield tap
    await tap.close()


@pytest.fixture
async def writer(tap: Tap) -> AsyncIterator[Writer]:
    writer = Writer(tap)
    yield writer
    tap.gate.set()
    await writer.close()


async def test_changes_of_one_turn_are_one_transaction(tap: Tap, writer: Writer) -> None:
    results = await asyncio.gather(*(writer.submit(ingest(name)) for name in "abc"))

    assert tap.ids == [["a", "b", "c"]]
    assert [result.event.id for result in results if isinstance(result, Ingested)] == ["a", "b", "c"]


async def test_what_gathers_during_a_transaction_is_the_next_one(tap: Tap, writer: Writer) -> None:
    tap.gate.clear()
    first = writer.submit(ingest("a"))
    await tap.reached.wait()
    rest = [writer.submit(ingest(name)) for name in "bcd"]
    await asyncio.sleep(0)
    started = len(tap.batches)
    tap.gate.set()
    await asyncio.gather(first, *rest)

    assert started == 1
    assert tap.ids == [["a"], ["b", "c", "d"]]


async def test_batches_are_capped_and_keep_their_order(tap: Tap) -> None:
    writer = Writer(tap, batch_max=2)

    await asyncio.gather(*(writer.submit(ingest(name)) for name in "abcde"))

    assert tap.ids == [["a", "b"], ["c", "d"], ["e"]]
    await writer.close()


async def test_guarded_futures_say_whether_the_guard_held(writer: Writer) -> None:
    await writer.submit(ingest("a"))
    claimed = await writer.submit(claim())
    assert isinstance(claimed, Claimed)

    held = await writer.submit_guarded(RecordTasks(run_id="run_a", execution=1))
    stale = await writer.submit_guarded(RecordTasks(run_id="run_a", execution=7))
    raw = await writer.submit(RecordTasks(run_id="run_a", execution=7))

    assert (held, stale) == (True, False)
    assert isinstance(raw, Refused)


async def test_who_wants_no_future_is_told_whether_the_guard_held(writer: Writer) -> None:
    await writer.submit(ingest("a"))
    await writer.submit(claim())
    told: list[bool | BaseException] = []

    writer.write(RecordTasks(run_id="run_a", execution=1), told.append)
    writer.write(RecordTasks(run_id="run_a", execution=7), told.append)
    before = list(told)
    await writer.flush()

    assert before == []
    assert told == [True, False]


async def test_one_who_raises_when_told_keeps_nobody_from_being_told(
    writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[bool | BaseException] = []

    def raising(outcome: bool | BaseException) -> None:
        raise ValueError("no")

    writer.write(RecordTasks(run_id="run_a", execution=1), raising)
    writer.write(RecordTasks(run_id="run_a", execution=1), told.append)
    ingested = writer.submit(ingest("a"))
    await writer.flush()

    assert told == [False]
    assert ingested.done()
    assert "what is to happen after a commit failed" in caplog.text


async def test_who_wants_no_future_is_told_later_that_the_writer_is_closed(writer: Writer) -> None:
    await writer.close()
    told: list[bool | BaseException] = []

    writer.write(RecordTasks(run_id="run_a", execution=1), told.append)
    before = list(told)
    await asyncio.sleep(0)

    assert before == []
    assert isinstance(told[0], UnavailableError)


@pytest.mark.parametrize("culprit", ["a", "c", "e"])
async def test_rejected_batch_is_repeated_in_halves_and_only_the_culprit_fails(
    tap: Tap, writer: Writer, culprit: str
) -> None:
    tap.error_for = lambda change: ValueError("bad") if event_id_of(change) == culprit else None
    futures = {name: writer.submit(ingest(name)) for name in "abcde"}
    await asyncio.wait(futures.values())

    assert [name for name, future in futures.items() if future.exception()] == [culprit]
    assert isinstance(futures[culprit].exception(), ValueError)
    stored = [ids for ids in tap.ids if culprit not in ids]
    assert [name for ids in stored for name in ids] == [name for name in "abcde" if name != culprit]
    assert writer.size == 0


async def test_cancelled_waiter_does_not_take_its_change_back(tap: Tap, writer: Writer) -> None:
    async def wait_for(change: Change) -> None:
        await writer.submit(change)

    tap.gate.clear()
    waiter = asyncio.create_task(wait_for(ingest("a")))
    await tap.reached.wait()
    waiter.cancel()
    tap.gate.set()
    other = await writer.submit(ingest("b"))

    assert isinstance(other, Ingested)
    assert await tap.get_run("run_a") is not None


def test_unavailable_fails_ingests_and_claims_at_once_and_holds_what_executions_say() -> None:
    async def main() -> None:
        tap = await open_tap()
        available = asyncio.Event()
        writer = Writer(tap, on_available=available.set)
        await writer.submit(ingest("a"))
        await writer.submit(claim())
        tap.errors.extend(UnavailableError("disk full") for _ in range(3))

        futures = [
            writer.submit_guarded(RecordTasks(run_id="run_a", execution=1)),
            writer.submit(ingest("b")),
            writer.submit(claim()),
            writer.submit_guarded(complete("a")),
            writer.submit(complete("a"), patient=False),
        ]
        record, ingested, claimed, closed, impatient = futures
        await asyncio.wait([ingested, claimed, impatient])
        late = writer.submit(ingest("c"))

        assert writer.unavailable == "disk full"
        assert late.done()
        for failed in (ingested, claimed, impatient, late):
            assert isinstance(failed.exception(), UnavailableError)
        assert [record.done(), closed.done()] == [False, False]
        assert (await record, await closed) == (True, True)
        assert available.is_set()
        assert writer.unavailable is None
        assert asyncio.get_running_loop().time() > 0.3  # three pauses, growing
        run = await tap.get_run("run_a")
        assert run is not None
        assert run.status is RunStatus.COMPLETED
        await writer.close()
        await tap.close()

    run_virtual(main())


def test_order_is_kept_when_newer_changes_arrive_while_unavailable() -> None:
    async def main() -> None:
        tap = await open_tap()
        writer = Writer(tap, batch_max=1)
        await writer.submit(ingest("a"))
        await writer.submit(claim())
        tap.errors.append(UnavailableError("disk full"))
        futures = [writer.submit_guarded(RecordTasks(run_id="run_a", execution=1))]
        await asyncio.sleep(0.01)
        futures.append(writer.submit_guarded(complete("a")))

        assert await asyncio.gather(*futures) == [True, True]
        assert tap.ids[-3:] == [["RecordTasks"], ["RecordTasks"], ["MoveRun"]]
        await writer.close()
        await tap.close()

    run_virtual(main())


def test_available_again_without_anything_held() -> None:
    async def main() -> None:
        tap = await open_tap()
        available = asyncio.Event()
        writer = Writer(tap, on_available=available.set)
        tap.errors.append(UnavailableError("disk full"))

        with pytest.raises(UnavailableError, match="disk full"):
            await writer.submit(ingest("a"))
        await available.wait()

        assert isinstance(await writer.submit(ingest("a")), Ingested)
        await writer.close()
        await tap.close()

    run_virtual(main())


async def test_broken_store_stops_the_writer_and_fails_everything(tap: Tap) -> None:
    broken: list[BaseException] = []
    writer = Writer(tap, on_broken=broken.append)
    tap.gate.clear()
    tap.errors.append(StoreBrokenError("I/O error in COMMIT"))
    first = writer.submit(ingest("a"))
    await tap.reached.wait()
    pending = writer.submit_guarded(complete("a"))
    tap.gate.set()
    await asyncio.wait([first, pending])
    later = writer.submit(ingest("b"))

    for future in (first, pending, later):
        assert isinstance(future.exception(), UnavailableError)
        assert "I/O error in COMMIT" in str(future.exception())
    assert broken == [writer.broken]
    assert len(tap.batches) == 1
    await writer.flush()
    await writer.room()
    await writer.close()


async def test_break_off_stops_an_idle_writer_once(tap: Tap) -> None:
    broken: list[BaseException] = []
    writer = Writer(tap, on_broken=broken.append)
    await asyncio.sleep(0)

    writer.break_off(StoreBrokenError("a read failed"))
    writer.break_off(StoreBrokenError("another"))

    with pytest.raises(UnavailableError, match="a read failed"):
        await writer.submit(ingest("a"))
    assert [str(exc) for exc in broken] == ["a read failed"]
    await writer.close()


async def test_room_waits_while_too_much_is_unsettled(tap: Tap) -> None:
    writer = Writer(tap, pending_max=2)
    tap.gate.clear()
    futures = [writer.submit(ingest(name)) for name in "ab"]
    assert writer.is_full
    waiters = [asyncio.create_task(writer.room()) for _ in range(5)]
    await tap.reached.wait()
    waiting = [waiter.done() for waiter in waiters]
    tap.gate.set()
    await asyncio.gather(*futures, *waiters)

    assert waiting == [False] * 5
    await writer.close()


@pytest.mark.parametrize("when", ["waiting", "let in"])
async def test_cancelled_waiter_for_room_passes_its_turn_on(tap: Tap, when: str) -> None:
    writer = Writer(tap, pending_max=1)
    tap.gate.clear()
    future = writer.submit(ingest("a"))
    first, second = asyncio.create_task(writer.room()), asyncio.create_task(writer.room())
    await tap.reached.wait()
    if when == "waiting":
        first.cancel()
    else:
        future.add_done_callback(lambda _: first.cancel())
    tap.gate.set()

    await second

    assert first.cancelled()
    await writer.close()


async def test_flush_waits_for_everything(tap: Tap, writer: Writer) -> None:
    tap.gate.clear()
    future = writer.submit(ingest("a"))
    flush = asyncio.create_task(writer.flush())
    await tap.reached.wait()
    early = flush.done()
    tap.gate.set()
    await flush

    assert (early, future.done(), writer.size) == (False, True, 0)


async def test_close_writes_what_was_submitted_and_refuses_what_comes_later(tap: Tap) -> None:
    writer = Writer(tap)
    submitted = writer.submit(ingest("a"))

    await writer.close()
    await writer.close()

    assert isinstance(await submitted, Ingested)
    with pytest.raises(UnavailableError, match="stopped"):
        await writer.submit(ingest("b"))


def test_close_gives_up_while_the_store_is_unavailable() -> None:
    async def main() -> None:
        tap = await open_tap()
        writer = Writer(tap)
        tap.error_for = lambda _: UnavailableError("disk full")
        held = writer.submit_guarded(complete("a"))
        await writer.flush(patient=False)

        await writer.close()

        assert isinstance(held.exception(), UnavailableError)
        await tap.close()

    run_virtual(main())


async def test_cancelled_pump_leaves_nobody_waiting(tap: Tap) -> None:
    writer = Writer(tap)
    tap.gate.clear()
    future = writer.submit(ingest("a"))
    await tap.reached.wait()

    for task in asyncio.all_tasks():
        if task.get_name() == "perdure-writer":
            task.cancel()

    with pytest.raises(UnavailableError):
        await future


async def test_hook_sees_batches_before_waiters_do_and_its_errors_are_reported(
    tap: Tap, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, bool]] = []
    futures: list[asyncio.Future[Result]] = []

    def hook(changes: list[Change], results: list[Result]) -> None:
        seen.extend(
            (type(result).__name__, future.done()) for result, future in zip(results, futures, strict=True)
        )
        raise ValueError("in the hook")

    writer = Writer(tap, on_committed=hook)
    futures.append(writer.submit(ingest("a")))

    await futures[0]

    assert seen == [("Ingested", False)]
    assert "in the hook" in caplog.text
    await writer.close()


async def test_applied_is_passed_through_unguarded(writer: Writer) -> None:
    await writer.submit(ingest("a"))
    await writer.submit(claim())

    assert isinstance(await writer.submit(complete("a")), Applied)


def test_submitting_after_the_loop_cancelled_the_pump_is_unavailable() -> None:
    async def main() -> asyncio.Future[Result]:
        tap = await open_tap()
        writer = Writer(tap)
        await asyncio.sleep(0)  # the pump sleeps
        writer._pump.cancel()  # as a loop does that SystemExit took down; the pump hasn't seen it yet
        future = writer.submit(ingest("a"))
        await asyncio.wait([future])
        await tap.close()
        return future

    assert isinstance(run_virtual(main()).exception(), UnavailableError)
