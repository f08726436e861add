"""Two transactions at once: records of many runs, over a real store in memory whose calls end when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from perdure.engine.store import (
    AwaitEvent,
    Change,
    ClaimRuns,
    IngestEvent,
    MoveRun,
    NewRun,
    RecordTasks,
    Result,
)
from perdure.engine.writer import Writer
from perdure.errors import StoreBrokenError, UnavailableError
from perdure.schema.effects import EventWait
from perdure.schema.execution import EventRecord, TaskRecord
from perdure.schema.runs import RunStatus, TaskStatus
from perdure.store.sqlite.store import SqliteStore
from perdure.testing.virtual_clock import run_virtual

RUNS = 100
HALF = 32
"""From twice as many records a batch is divided; so many may be written beside another."""
Answer = bool | BaseException


class Doors(SqliteStore):
    """A store whose calls of `apply` wait, each at a door of its own, once `closed` is set."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.closed = False
        self.batches: list[list[Change]] = []
        self.doors: list[asyncio.Event] = []
        self.errors: dict[int, BaseException] = {}
        self.error_for: Callable[[Change], BaseException | None] = lambda _: None
        self.seconds = 0.0
        self._begun = asyncio.Event()

    async def apply(self, changes: Sequence[Change]) -> list[Result]:
        n = len(self.batches)
        self.batches.append(list(changes))
        self.doors.append(asyncio.Event())
        self._begun.set()
        await asyncio.sleep(self.seconds)
        if self.closed:
            await self.doors[n].wait()
        error = self.errors.pop(n, None) or next(filter(None, map(self.error_for, changes)), None)
        if error is not None:
            raise error
        return await super().apply(changes)

    async def until_begun(self, n: int) -> None:
        while len(self.batches) < n:
            self._begun.clear()
            await self._begun.wait()

    def runs(self, n: int) -> list[str]:
        return [change.run_id for change in self.batches[n] if isinstance(change, RecordTasks | MoveRun)]

    def open_all(self) -> None:
        self.closed = False
        for door in self.doors:
            door.set()


class Setting:
    """A store with RUNS runs that are executing, a writer, and what was told of what."""

    def __init__(self, store: Doors, writer: Writer) -> None:
        self.store = store
        self.writer = writer
        self.told: dict[tuple[int, str], Answer] = {}
        self.before = len(store.batches)

    def record(self, run: int, key: str = "t", **options: Any) -> None:
        task = TaskRecord(
            id=f"task_{key}",
            idempotency_key=f"{run}{key}",
            key=key,
            name=key,
            status=TaskStatus.COMPLETED,
            position=0,
            seq=1,
            completed_at=2,
        )
        change = RecordTasks(run_id=f"run_{run}", execution=1, tasks=[task], **options)

        def told(answer: Answer) -> None:
            assert (run, key) not in self.told
            self.told[run, key] = answer

        self.writer.write(change, told)

    def record_all(self, runs: range = range(RUNS)) -> None:
        for run in runs:
            self.record(run)

    async def until_begun(self, n: int) -> None:
        """Until `n` more batches have been begun since the setting was made."""
        await self.store.until_begun(self.before + n)

    async def settle(self) -> None:
        """Let everything go on that can without a door being opened."""
        for _ in range(20):
            await asyncio.sleep(0)

    def runs(self, n: int) -> list[str]:
        return self.store.runs(self.before + n)

    @property
    def begun(self) -> int:
        return len(self.store.batches) - self.before

    def open(self, n: int) -> None:
        self.store.doors[self.before + n].set()

    async def stored(self) -> set[int]:
        return {run for run in range(RUNS) if len(await self.store.get_tasks(f"run_{run}")) == 3}


def with_setting(test: Callable[[Setting], Any], **options: Any) -> None:
    async def main() -> None:
        store = await Doors.open(":memory:", inline=True)
        assert isinstance(store, Doors)
        writer = Writer(store, **options)
        for n in range(RUNS):
            event = EventRecord(id=f"evt_{n}", name="n", payload="{}", timestamp=1)
            run = NewRun(
                id=f"run_{n}", job_id="j", job_version="1", status=RunStatus.QUEUED, created_at=1, queue="j"
            )
            writer.submit(IngestEvent(event=event, runs=[run], created_at=1))
        claim = ClaimRuns(
            owner="me",
            limit=RUNS,
            at=1,
            expires_at=100,
            expected=RunStatus.QUEUED,
            status=RunStatus.EXECUTING,
        )
        await writer.submit(claim)
        setting = Setting(store, writer)
        for key in ("before", "again"):  # now it is known how fast store and loop are: in virtual time alike
            for run in range(RUNS):
                setting.record(run, key)
            await writer.flush()
        setting.told.clear()
        setting.before = len(store.batches)
        store.closed = True
        try:
            await test(setting)
        finally:
            store.open_all()
            await writer.close()
            await store.close()

    run_virtual(main())


def end(run: int) -> MoveRun:
    return MoveRun(
        run_id=f"run_{run}",
        expected=RunStatus.EXECUTING,
        execution=1,
        status=RunStatus.COMPLETED,
        at=2,
        completed_at=2,
    )


def test_many_records_are_written_in_two_parts_side_by_side() -> None:
    async def test(setting: Setting) -> None:
        setting.record_all()
        await setting.until_begun(2)
        first, second = set(setting.runs(0)), set(setting.runs(1))
        setting.open(1)
        await setting.settle()
        told_early = {f"run_{run}" for run, _ in setting.told}
        setting.open(0)
        await setting.writer.flush()

        assert first | second == {f"run_{run}" for run in range(RUNS)}
        assert not first & second
        assert told_early == second
        assert list(setting.told.values()) == [True] * RUNS
        assert await setting.stored() == set(range(RUNS))

    with_setting(test)


def test_records_of_one_run_stay_together_and_in_order() -> None:
    async def test(setting: Setting) -> None:
        setting.record(0, "first")
        setting.record_all(range(1, RUNS))
        setting.record(0, "second")
        await setting.until_begun(2)
        of_run = [
            [
                change.tasks[0].key
                for change in batch
                if isinstance(change, RecordTasks) and change.run_id == "run_0"
            ]
            for batch in setting.store.batches[-2:]
        ]

        assert of_run == [["first", "second"], []]

    with_setting(test)


def test_those_of_the_first_part_go_on_while_the_second_is_written() -> None:
    async def test(setting: Setting) -> None:
        setting.record_all()
        await setting.until_begun(2)
        first = [int(run.removeprefix("run_")) for run in setting.runs(0)]
        setting.open(0)
        await setting.settle()
        for run in first:
            setting.record(run, "next")
        await setting.until_begun(3)

        assert setting.runs(2) == [f"run_{run}" for run in first]

    with_setting(test)


@pytest.mark.parametrize("what", ["an end", "the same run", "an event to wait for"])
def test_what_may_not_be_written_beside_waits(what: str) -> None:
    async def test(setting: Setting) -> None:
        setting.record_all(range(10))  # too few to be divided
        await setting.until_begun(1)
        setting.record_all(range(10, RUNS))
        ended: asyncio.Future[Any] | None = None
        if what == "an end":
            ended = setting.writer.submit(end(10))
        elif what == "the same run":
            setting.record(5, "more")
        else:
            wait = EventWait(task_id="task_t", names=("n",), since=1)
            setting.record(11, "more", effects=[AwaitEvent(run_id="run_11", wait=wait)])
        await setting.settle()
        begun = setting.begun
        setting.store.open_all()
        await setting.writer.flush()

        assert begun == 1
        assert all(answer is True for answer in setting.told.values())
        if ended is not None:
            assert await ended

    with_setting(test)


def test_enough_records_of_other_runs_are_written_beside() -> None:
    async def test(setting: Setting) -> None:
        setting.record_all(range(10))
        await setting.until_begun(1)
        setting.record_all(range(10, 10 + HALF - 1))
        await setting.settle()
        begun = setting.begun
        setting.record(RUNS - 1)
        await setting.until_begun(2)

        assert begun == 1
        assert len(setting.runs(1)) == HALF

    with_setting(test)


def test_other_changes_wait_for_both_parts() -> None:
    async def test(setting: Setting) -> None:
        setting.record_all()
        await setting.until_begun(2)
        run = int(setting.runs(1)[0].removeprefix("run_"))
        ended = setting.writer.submit(end(run))
        setting.open(0)
        await setting.settle()
        begun = setting.begun
        setting.open(1)
        await setting.until_begun(3)
        setting.store.open_all()
        await ended

        assert begun == 2
        assert setting.told[run, "t"] is True  # written before its run ended

    with_setting(test)


def test_few_records_are_one_transaction() -> None:
    async def test(setting: Setting) -> None:
        setting.record_all(range(2 * HALF - 1))
        await setting.until_begun(1)
        await setting.settle()

        assert setting.begun == 1

    with_setting(test)


@pytest.mark.parametrize("store_ms, loop_ms, parts", [(10, 1, 1), (1, 10, 2)])
def test_a_store_slower_than_the_loop_is_given_one_transaction(
    store_ms: int, loop_ms: int, parts: int
) -> None:
    async def test(setting: Setting) -> None:
        setting.store.closed = False
        setting.store.seconds = store_ms / 1000
        begun: list[int] = []
        for n in range(60):
            before = setting.begun
            await asyncio.sleep(loop_ms / 1000)
            for run in range(RUNS):
                setting.record(run, f"t{n}")
            await setting.writer.flush()
            begun.append(setting.begun - before)

        assert begun[-3:] == [parts] * 3

    with_setting(test)


def test_it_is_measured_again_whether_dividing_pays() -> None:
    async def test(setting: Setting) -> None:
        setting.store.closed = False
        parts: list[int] = []
        for n in range(200):
            before = setting.begun
            setting.store.seconds = 0.0 if n < 100 else 0.010  # from then on the disk is slow
            for run in range(RUNS):
                setting.record(run, f"t{n}")
            await setting.writer.flush()
            parts.append(setting.begun - before)

        assert parts[50] == 2
        assert parts[-20:] == [1] * 20

    with_setting(test)


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("other_first", [False, True])
def test_a_part_that_finds_the_store_unavailable_is_repeated(part: int, other_first: bool) -> None:
    async def test(setting: Setting) -> None:
        setting.record_all()
        await setting.until_begun(2)
        setting.store.errors[setting.before + part] = UnavailableError("disk full")
        order = [1 - part, part] if other_first else [part, 1 - part]
        for n in order:
            setting.open(n)
            await setting.settle()
        setting.store.open_all()
        await setting.writer.flush()

        assert list(setting.told.values()) == [True] * RUNS
        assert await setting.stored() == set(range(RUNS))

    with_setting(test)


def test_both_parts_find_the_store_unavailable_for_a_while() -> None:
    async def test(setting: Setting) -> None:
        setting.store.closed = False
        setting.store.error_for = lambda _: UnavailableError("disk full")
        setting.record_all()
        await asyncio.sleep(20)
        told_meanwhile = dict(setting.told)
        setting.store.error_for = lambda _: None
        await setting.writer.flush()

        assert told_meanwhile == {}
        assert list(setting.told.values()) == [True] * RUNS
        assert await setting.stored() == set(range(RUNS))

    with_setting(test)


@pytest.mark.parametrize("part", [0, 1])
def test_a_part_that_fails_after_the_pause_of_the_other_is_repeated(part: int) -> None:
    async def test(setting: Setting) -> None:
        setting.record_all()
        await setting.until_begun(2)
        run = int(setting.runs(1 - part)[0].removeprefix("run_"))
        for n in (0, 1):
            setting.store.errors[setting.before + n] = UnavailableError("locked")
        setting.open(part)
        await setting.settle()
        ended = setting.writer.submit(end(run))  # what the pump can't write before the other part
        await asyncio.sleep(10)  # longer than any pause
        setting.store.open_all()
        await setting.writer.flush()

        assert list(setting.told.values()) == [True] * RUNS
        assert await ended
        assert setting.writer.unavailable is None

    with_setting(test)


def test_a_part_beside_is_not_repeated_while_the_other_is_written() -> None:
    async def test(setting: Setting) -> None:
        refused: Callable[[Change], BaseException | None] = lambda _: UnavailableError("refused")  # noqa: E731
        setting.record_all()
        await setting.until_begun(2)
        setting.store.error_for = refused
        setting.open(1)
        await asyncio.sleep(10)
        begun = setting.begun
        setting.store.error_for = lambda _: None
        setting.store.open_all()
        await setting.writer.flush()

        assert begun == 2
        assert list(setting.told.values()) == [True] * RUNS

    with_setting(test)


@pytest.mark.parametrize("part", [0, 1])
def test_only_the_culprit_of_a_part_fails(part: int) -> None:
    async def test(setting: Setting) -> None:
        setting.record_all()
        await setting.until_begun(2)
        culprit = setting.runs(part)[7]
        setting.store.error_for = lambda change: (
            ValueError("unfit") if isinstance(change, RecordTasks) and change.run_id == culprit else None
        )
        setting.store.open_all()
        await setting.writer.flush()

        failed = {run for (run, _), answer in setting.told.items() if isinstance(answer, ValueError)}
        assert failed == {int(culprit.removeprefix("run_"))}
        assert len(setting.told) == RUNS
        assert await setting.stored() == set(range(RUNS)) - failed

    with_setting(test)


@pytest.mark.parametrize("part", [0, 1])
def test_a_store_that_breaks_during_a_part_fails_what_is_not_known_to_be_written(part: int) -> None:
    async def test(setting: Setting) -> None:
        setting.record_all()
        await setting.until_begun(2)
        setting.store.error_for = lambda _: StoreBrokenError("COMMIT failed")
        setting.open(part)
        await setting.settle()
        setting.store.open_all()
        await setting.writer.flush()
        await setting.settle()

        assert len(setting.told) == RUNS
        assert all(isinstance(answer, UnavailableError) for answer in setting.told.values())
        assert isinstance(setting.writer.broken, StoreBrokenError)

    with_setting(test)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_closing_waits_for_both_parts(order: list[int]) -> None:
    async def test(setting: Setting) -> None:
        setting.record_all()
        await setting.until_begun(2)
        closing = asyncio.ensure_future(setting.writer.close())
        for n in order:
            await setting.settle()
            assert not closing.done()
            setting.open(n)
        await closing

        assert list(setting.told.values()) == [True] * RUNS

    with_setting(test)


def test_nobody_is_left_waiting_when_the_loop_is_shut_down() -> None:
    told: list[Answer] = []

    async def test(setting: Setting) -> None:
        setting.record_all()
        await setting.until_begun(2)
        for task in asyncio.all_tasks():
            if task.get_name().startswith("perdure-writer"):
                task.cancel()
        await setting.settle()
        told.extend(setting.told.values())

    with_setting(test)
    assert len(told) == RUNS
    assert all(isinstance(answer, UnavailableError) for answer in told)
