"""The contract of the Journal and Source ports as tests. A carrier proves itself by passing them.

Subclass `JournalContract` in a test module (its name beginning with "Test") and give it an async fixture `carrier`
which yields a `Carrier`: a platform with nothing in it, and what the tests need to look behind the ports.

Example:
    class TestMyCarrier(JournalContract):
        @pytest.fixture
        async def carrier(self):
            async with my_platform() as platform:
                yield platform
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from perdure.schema.execution import (
    Claim,
    Completed,
    Failed,
    InvalidPayload,
    JobMissing,
    LogRecord,
    Outcome,
    Suspended,
    TaskRecord,
    TimedOut,
    Yielded,
)
from perdure.schema.runs import ErrorInfo, RunStatus, TaskStatus
from perdure.sdk.journal import Journal, Source, Told


class Carrier(Protocol):
    """A platform under test."""

    @property
    def source(self) -> Source: ...

    async def send(self) -> str:
        """Queue one more run; its id."""
        ...

    async def status(self, run_id: str) -> RunStatus: ...

    async def tasks(self, run_id: str) -> list[TaskRecord]: ...

    async def logs(self, run_id: str) -> list[LogRecord]: ...

    async def cancel(self, run_id: str) -> None: ...

    async def lose(self, run_id: str) -> None:
        """Take the run away from its execution, as when its lease has expired; it is queued again."""
        ...

    def now(self) -> int: ...


def make_task(key: str, **facts: Any) -> TaskRecord:
    """A completed task with output `"..."`, unless `facts` say otherwise."""
    known: dict[str, Any] = {
        "id": f"id of {key}",
        "idempotency_key": f"idempotency key of {key}",
        "key": key,
        "name": key,
        "status": TaskStatus.COMPLETED,
        "position": 1,
        "seq": 1,
        "completed_at": 5,
        "output": f'"{key}"',
    }
    return TaskRecord(**{**known, **facts})


def make_log(message: str) -> LogRecord:
    return LogRecord(id=f"id of {message}", level="INFO", message=message, at=5)


ERROR = ErrorInfo(name="ValueError", message="no")


def write_records(
    journal: Journal, tasks: Sequence[TaskRecord] = (), logs: Sequence[LogRecord] = ()
) -> asyncio.Future[bool]:
    """`Journal.record` for who waits: what it tells, as a future."""
    future, told = _telling()
    journal.record(tasks, logs, told)
    return future


def close_journal(
    journal: Journal, outcome: Outcome, tasks: Sequence[TaskRecord] = (), logs: Sequence[LogRecord] = ()
) -> asyncio.Future[bool]:
    """`Journal.close` for who waits: what it tells, as a future."""
    future, told = _telling()
    journal.close(outcome, tasks, logs, told)
    return future


def _telling() -> tuple[asyncio.Future[bool], Told]:
    """A future, and what resolves it when it is told."""
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def told(outcome: bool | BaseException) -> None:
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return future, told


class JournalContract:
    """See the module."""

    # --- Source -----------------------------------------------------------------------------------------------------

    async def test_claim_hands_over_a_run_with_its_event(self, carrier: Carrier) -> None:
        run_id = await carrier.send()

        [(claim, _)] = await carrier.source.claim(5)

        assert (claim.run_id, claim.execution, claim.crashes, claim.tasks) == (run_id, 1, 0, [])
        assert claim.event.payload == "{}"
        assert await carrier.status(run_id) is RunStatus.EXECUTING

    async def test_claim_takes_at_most_limit(self, carrier: Carrier) -> None:
        sent = {await carrier.send() for _ in range(5)}

        first = await carrier.source.claim(3)
        second = await carrier.source.claim(3)

        assert 1 <= len(first) <= 3
        assert {claim.run_id for claim, _ in first} < sent
        assert {claim.run_id for claim, _ in first}.isdisjoint(claim.run_id for claim, _ in second)

    async def test_claim_waits_for_a_run(self, carrier: Carrier) -> None:
        waiting = asyncio.create_task(carrier.source.claim(1))
        await _turns()
        early = waiting.done()

        run_id = await carrier.send()

        [(claim, _)] = await waiting
        assert not early
        assert claim.run_id == run_id

    async def test_concurrent_claims_are_disjoint_and_all_are_served(self, carrier: Carrier) -> None:
        waiting = [asyncio.create_task(carrier.source.claim(2)) for _ in range(3)]
        await _turns()

        sent = {await carrier.send() for _ in range(6)}

        claimed = [claim.run_id for claims in await asyncio.gather(*waiting) for claim, _ in claims]
        assert len(claimed) == len(set(claimed)) >= 3
        while len(claimed) < len(sent):
            claimed += [claim.run_id for claim, _ in await carrier.source.claim(2)]
        assert sorted(claimed) == sorted(sent)

    async def test_cancelled_claim_takes_nothing(self, carrier: Carrier) -> None:
        for turns in range(8):  # cancelled at every moment of the way
            waiting = asyncio.create_task(carrier.source.claim(5))
            run_id = await carrier.send()
            await _turns(turns)
            waiting.cancel()
            await asyncio.wait([waiting])
            claims = await (carrier.source.claim(5) if waiting.cancelled() else waiting)

            assert [claim.run_id for claim, _ in claims] == [run_id]
            assert await close_journal(claims[0][1], Completed("1"))

    async def test_cancelled_claim_leaves_runs_to_another_that_waits(self, carrier: Carrier) -> None:
        first, second = (asyncio.create_task(carrier.source.claim(1)) for _ in range(2))
        await _turns()
        first.cancel()

        run_id = await carrier.send()

        [(claim, _)] = await second
        assert claim.run_id == run_id

    # --- Journal: recording -----------------------------------------------------------------------------------------

    async def test_record_is_durable_when_true(self, carrier: Carrier) -> None:
        claim, journal = await _claimed(carrier)

        recorded = await write_records(
            journal, [make_task("a"), make_task("b", position=2, seq=2)], [make_log("hello")]
        )

        assert recorded is True
        assert [task.key for task in await carrier.tasks(claim.run_id)] == ["a", "b"]
        assert [log.message for log in await carrier.logs(claim.run_id)] == ["hello"]

    async def test_records_take_effect_in_order_without_being_awaited(self, carrier: Carrier) -> None:
        claim, journal = await _claimed(carrier)

        write_records(
            journal, [make_task("a", status=TaskStatus.RUNNING, seq=None, completed_at=None, output=None)], []
        )
        write_records(journal, [make_task("a", output="1")], [])
        closed = await close_journal(
            journal, Completed("1"), [make_task("b", position=2, seq=2)], [make_log("bye")]
        )

        assert closed is True
        assert [(task.key, task.status, task.output) for task in await carrier.tasks(claim.run_id)] == [
            ("a", TaskStatus.COMPLETED, "1"),
            ("b", TaskStatus.COMPLETED, '"b"'),
        ]
        assert [log.message for log in await carrier.logs(claim.run_id)] == ["bye"]

    async def test_a_record_replaces_the_task_but_keeps_an_absent_output(self, carrier: Carrier) -> None:
        claim, journal = await _claimed(carrier)
        await write_records(journal, [make_task("a", output="1")], [])

        await write_records(journal, [make_task("a", output=None, interrupted=2)], [])

        [task] = await carrier.tasks(claim.run_id)
        assert (task.output, task.interrupted) == ("1", 2)

    async def test_the_same_log_line_is_kept_once(self, carrier: Carrier) -> None:
        claim, journal = await _claimed(carrier)

        await write_records(journal, [], [make_log("hello")])
        await write_records(journal, [], [make_log("hello")])

        assert len(await carrier.logs(claim.run_id)) == 1

    async def test_fetch_output_has_what_was_recorded(self, carrier: Carrier) -> None:
        _, journal = await _claimed(carrier)
        task = make_task("a", output="[1]", types='{"":"tuple"}')
        await write_records(journal, [task], [])

        assert await journal.fetch_output(task.id) == ("[1]", '{"":"tuple"}')

    # --- Journal: ends ----------------------------------------------------------------------------------------------

    async def test_every_outcome_ends_the_execution(self, carrier: Carrier) -> None:
        cases: list[tuple[Outcome, RunStatus]] = [
            (Completed("1"), RunStatus.COMPLETED),
            (Failed(ERROR, []), RunStatus.FAILED),
            (Failed(ERROR, [], carrier.now() + 3_600_000), RunStatus.WAITING),
            (Suspended(carrier.now() + 3_600_000), RunStatus.WAITING),
            (TimedOut(10), RunStatus.TIMED_OUT),
            (InvalidPayload(ERROR), RunStatus.INVALID_PAYLOAD),
            (JobMissing(), RunStatus.PENDING),
        ]
        for outcome, status in cases:
            claim, journal = await _claimed(carrier)

            assert await close_journal(journal, outcome) is True, outcome
            assert await carrier.status(claim.run_id) is status, outcome
            assert await write_records(journal, [make_task("late")], []) is False, outcome
            assert await carrier.tasks(claim.run_id) == [], outcome

    async def test_yielded_run_is_claimed_again_with_its_tasks(self, carrier: Carrier) -> None:
        for outcome in (Yielded("shutdown"), Suspended(carrier.now())):
            claim, journal = await _claimed(carrier)
            await close_journal(journal, outcome, [make_task("a"), make_task("b", position=2, seq=2)], [])

            [(again, journal)] = await carrier.source.claim(5)

            assert (again.run_id, again.execution) == (claim.run_id, 2)
            assert sorted((task.key, task.output) for task in again.tasks) == [("a", '"a"'), ("b", '"b"')]
            await close_journal(journal, Completed("1"))

    async def test_suspended_run_is_claimed_when_it_is_due(self, carrier: Carrier) -> None:
        claim, journal = await _claimed(carrier)
        wake_at = carrier.now() + 50
        await close_journal(journal, Suspended(wake_at))

        [(again, _)] = await carrier.source.claim(5)

        assert (again.run_id, again.execution) == (claim.run_id, 2)
        assert carrier.now() >= wake_at

    async def test_retried_run_starts_its_failed_tasks_afresh(self, carrier: Carrier) -> None:
        _, journal = await _claimed(carrier)
        kept, failed = (
            make_task("kept"),
            make_task("failed", position=2, seq=2, status=TaskStatus.ERRORED, error=ERROR),
        )
        await close_journal(journal, Failed(ERROR, [failed.id], carrier.now() + 10), [kept, failed], [])

        [(again, _)] = await carrier.source.claim(5)

        assert [task.key for task in again.tasks] == ["kept"]

    async def test_open_tasks_are_cancelled_when_the_run_ends(self, carrier: Carrier) -> None:
        claim, journal = await _claimed(carrier)
        await write_records(
            journal,
            [make_task("open", status=TaskStatus.RUNNING, seq=None, completed_at=None, output=None)],
            [],
        )

        await close_journal(journal, Completed("1"))

        [task] = await carrier.tasks(claim.run_id)
        assert task.status is TaskStatus.CANCELED

    # --- the fence --------------------------------------------------------------------------------------------------

    async def test_execution_that_lost_its_run_can_write_nothing(self, carrier: Carrier) -> None:
        claim, journal = await _claimed(carrier)
        await carrier.lose(claim.run_id)
        [(again, successor)] = await carrier.source.claim(5)

        recorded = await write_records(journal, [make_task("late")], [make_log("late")])
        closed = await close_journal(journal, Completed("1"), [make_task("late")], [])

        assert (recorded, closed) == (False, False)
        assert again.execution > claim.execution
        assert await carrier.tasks(claim.run_id) == []
        assert await carrier.status(claim.run_id) is RunStatus.EXECUTING
        assert await close_journal(successor, Completed("1")) is True

    async def test_cancelled_run_is_revoked_and_its_execution_can_write_nothing(
        self, carrier: Carrier
    ) -> None:
        revoked: list[tuple[str, int]] = []
        told = asyncio.Event()

        def on_revoked(run_id: str, execution: int, reason: str) -> None:
            assert reason
            revoked.append((run_id, execution))
            told.set()

        carrier.source.on_revoked(on_revoked)
        claim, journal = await _claimed(carrier)

        await carrier.cancel(claim.run_id)
        await asyncio.wait_for(told.wait(), 10)

        assert revoked == [(claim.run_id, claim.execution)]
        assert await write_records(journal, [make_task("late")], []) is False
        assert await close_journal(journal, Completed("1")) is False
        assert await carrier.status(claim.run_id) is RunStatus.CANCELLED

    async def test_records_under_way_when_a_run_is_cancelled_are_all_or_nothing(
        self, carrier: Carrier
    ) -> None:
        claim, journal = await _claimed(carrier)

        results = [
            write_records(journal, [make_task(key, position=n, seq=n)], [])
            for n, key in enumerate("abc", start=1)
        ]
        await carrier.cancel(claim.run_id)
        results += [write_records(journal, [make_task("late")], [])]

        recorded = [key for key, result in zip(["a", "b", "c", "late"], results, strict=True) if await result]
        assert [task.key for task in await carrier.tasks(claim.run_id)] == recorded
        assert "late" not in recorded


async def _claimed(carrier: Carrier) -> tuple[Claim, Journal]:
    """A new run's execution."""
    await carrier.send()
    [claimed] = await carrier.source.claim(1)
    return claimed


async def _turns(count: int = 5) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)
