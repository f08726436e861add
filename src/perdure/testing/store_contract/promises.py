"""What holds for all changes: repeats, atomicity, environments, exactness, closing."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from perdure.engine.store import (
    Applied,
    Change,
    Claimed,
    Ingested,
    IngestEvent,
    MoveRun,
    Refused,
    Renewed,
    RenewLeases,
    RunFilter,
)
from perdure.errors import NotFoundError, StoreBrokenError, UnavailableError
from perdure.schema.execution import EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import ErrorInfo, RunStatus, TaskStatus

from .factories import (
    LEASE,
    NOW,
    UNCLAIMABLE,
    OpenStore,
    all_leases,
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
    stored_run,
)


class RepeatContract:
    """Every change can be sent again after an unknown outcome, and finds its own rows."""

    async def test_ingest(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        (first,) = await apply(store, ingest())
        (again,) = await apply(store, ingest())

        assert (again.event, again.runs, again.duplicate) == (first.event, first.runs, True)
        assert len(await claimed(store)) == 1

    async def test_record(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        change = record(completed_task("a", 1, output="1"), make_task("b"), logs=[make_log()])
        await apply(store, change)

        assert await apply(store, change) == [Applied()]

        assert len(await store.get_logs("run_1")) == 1

    @pytest.mark.parametrize("status", UNCLAIMABLE)
    async def test_move(self, open_store: OpenStore, status: RunStatus) -> None:
        store = await open_store("dev")
        await executing_run(store)
        change = move(
            status,
            add_spent_ms=5,
            output="1",
            error=ErrorInfo(name="E", message="m"),
            failed_tasks=["x"],
            priority=2,
            tasks=[make_task()],
            logs=[make_log()],
            cancel_open=True,
        )
        await apply(store, change)
        before = await stored_run(store)

        assert await apply(store, change) == [Applied()]

        assert await stored_run(store) == before
        assert len(await store.get_logs("run_1")) == 1

    async def test_similar_move_is_no_repeat(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, move(RunStatus.COMPLETED, output="1"))

        (result,) = await apply(store, move(RunStatus.COMPLETED, output="2"))

        assert isinstance(result, Refused)
        assert (await stored_run(store)).output == "1"

    async def test_record_together_with_the_end(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        batch = [
            record(completed_task("a", 1, output="1"), logs=[make_log()]),
            move(RunStatus.COMPLETED, output="2"),
        ]
        await apply(store, *batch)

        assert await apply(store, *batch) == [Applied(), Applied()]

        (late,) = await apply(store, record(completed_task("a", 1, output="9")))
        assert isinstance(late, Refused)

    async def test_several_moves_of_one_run(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        batch = [
            move(RunStatus.WAITING),
            move(RunStatus.QUEUED, expected=RunStatus.WAITING, at=NOW + 30),
            move(RunStatus.CANCELLED, expected=RunStatus.QUEUED, at=NOW + 40),
        ]
        await apply(store, *batch)

        assert await apply(store, *batch) == [Applied()] * 3

    async def test_renewal(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        change = RenewLeases(owner="node-1", expires_at=LEASE + 1)
        await apply(store, change)

        assert await apply(store, change) == [Renewed(count=1)]


_poison = [
    pytest.param(ingest("run_1", event=make_event("evt_9")), id="run id in use"),
    pytest.param(
        IngestEvent(event=make_event("evt_9"), runs=[make_run("run_8"), make_run("run_9")], created_at=NOW),
        id="two runs for one job version",
    ),
    pytest.param(ingest("run_9", event=make_event("evt_9", payload='"\ud800"')), id="surrogate"),
    pytest.param(ingest("run_9", event=make_event("evt_9", name="a\x00b")), id="nul"),
    pytest.param(move(RunStatus.EXECUTING), id="move into execution"),
    pytest.param(record(make_task(name="\ud800")), id="surrogate in a task"),
    pytest.param(record(logs=[make_log(message="\\\x00")]), id="nul in a log"),
]


class AtomicityContract:
    @pytest.mark.parametrize("poison", _poison)
    @pytest.mark.parametrize("first", [True, False])
    async def test_nothing_of_a_rejected_batch_is_written(
        self, open_store: OpenStore, poison: Change, first: bool
    ) -> None:
        store = await open_store("dev")
        await executing_run(store)
        before = (await stored_run(store), await all_leases(store))
        good: list[Change] = [
            ingest("run_2"),
            record(make_task(), logs=[make_log()]),
            move(RunStatus.WAITING) if not isinstance(poison, MoveRun) else ingest("run_3"),
            RenewLeases(owner="node-1", expires_at=LEASE + 9),
            claim(),
        ]

        with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is the adapter's
            await apply(store, *([poison, *good] if first else [*good, poison]))

        assert not isinstance(caught.value, UnavailableError | StoreBrokenError)
        assert (await stored_run(store), await all_leases(store)) == before
        assert await store.get_run("run_2") is None
        assert await store.get_event("evt_9") is None
        assert await store.get_tasks("run_1") == []
        assert await store.get_logs("run_1") == []
        assert len(await apply(store, *good)) == len(good)

    async def test_empty_batch(self, open_store: OpenStore) -> None:
        store = await open_store("dev")

        assert await store.apply([]) == []

    async def test_results_come_in_the_order_of_changes(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest("run_1"), ingest("run_2"), claim())

        results = await apply(
            store,
            claim(),
            move(RunStatus.COMPLETED, "run_2"),
            RenewLeases(owner="node-1", expires_at=LEASE),
            record(make_task()),
            ingest("run_3"),
            record(make_task(), run_id="run_x"),
        )

        assert [type(result) for result in results] == [Claimed, Applied, Renewed, Applied, Ingested, Refused]

    async def test_a_large_batch(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        count = 2_000

        await apply(store, *(ingest(f"run_{n:05}") for n in range(count)))
        found = await claimed(store, count)
        await apply(store, *(record(make_task(), run_id=one.run_id) for one in found))
        results = await apply(store, *(move(RunStatus.COMPLETED, one.run_id) for one in found))

        assert results == [Applied()] * count
        assert (await store.count_by_status())[RunStatus.COMPLETED] == count


class EnvironmentContract:
    async def test_environments_do_not_see_each_other(self, open_store: OpenStore) -> None:
        dev, prod = await open_store("dev"), await open_store("prod")
        await executing_run(dev)
        await apply(dev, record(make_task(output="1"), logs=[make_log()]))
        await apply(dev, ingest("run_2"), ingest("run_3"))
        before = [await stored_run(dev, each) for each in ("run_1", "run_2", "run_3")]

        assert await prod.get_run("run_1") is None
        assert await prod.get_event("evt_1") is None
        assert await prod.get_tasks("run_1") == []
        assert await prod.get_logs("run_1") == []
        assert await prod.list_runs(RunFilter()) == []
        assert await prod.list_runs(RunFilter(event_id="evt_1")) == []
        assert await all_leases(prod) == []
        assert set((await prod.count_by_status()).values()) == {0}
        assert set((await prod.count_by_status(active_only=True)).values()) == {0}
        with pytest.raises(NotFoundError):
            await prod.get_output("run_1", "task_1")
        assert await claimed(prod) == []
        assert await apply(
            prod,
            RenewLeases(owner="node-1", expires_at=LEASE + 1),
            record(make_task(attempts=9)),
            move(RunStatus.CANCELLED, cancel_open=True, reset=["task_1"], reset_open=True),
        ) == [Renewed(count=0), Refused(run=None), Refused(run=None)]
        assert [await stored_run(dev, each) for each in ("run_1", "run_2", "run_3")] == before
        assert await dev.get_tasks("run_1") == [make_task(output="1")]

    async def test_the_same_ids_live_in_two_environments(self, open_store: OpenStore) -> None:
        dev, prod = await open_store("dev"), await open_store("prod")
        for store, name in ((dev, "in dev"), (prod, "in prod")):
            await apply(store, ingest(event=make_event(name=name)), claim())
            await apply(store, record(make_task(name=name), make_task("w"), logs=[make_log(message=name)]))

        await apply(dev, move(RunStatus.WAITING, cancel_open=True, reset=["w"]))

        assert [lease.run_id for lease in await all_leases(prod)] == ["run_1"]
        assert await prod.next_due() is None
        assert await prod.due_runs(NOW + 99_999, 10) == []
        assert await prod.get_tasks("run_1") == [make_task(name="in prod"), make_task("w")]
        assert await prod.get_logs("run_1") == [make_log(message="in prod")]
        assert (await prod.get_event("evt_1")) == make_event(name="in prod")
        await apply(dev, move(RunStatus.QUEUED, expected=RunStatus.WAITING))
        await apply(prod, move(RunStatus.QUEUED))
        assert [found.event.name for found in await claimed(prod)] == ["in prod"]
        assert [found.tasks[0].name for found in await claimed(dev)] == ["in dev"]


_text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40)
_hard_text = st.sampled_from(
    [
        '"\\u0000"',
        '"\\\\u0000"',
        '{"a":\\u0000',
        '"\\ud83d\\ude00"',
        "\U0001f600",
        "\u2028\u2029\ufeff\uffff\x7f\x80",
        "123456789012345678901234567890.000000000000000000000000000000001",
        "1e999",
        "[1,  2 , 3]",
        "null",
        "",
        " ",
        "'",
        '"',
        "\\",
        "\r\n\t\x01\x1f",
        "$[0]",
    ]
)
_any_text = st.one_of(_text, _hard_text)
_optional = st.none() | _any_text
_number = st.integers(-(2**63), 2**63 - 1)
_count = itertools.count()


class ExactnessContract:
    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(data=st.data())
    async def test_text_and_numbers_come_back_exactly(
        self, open_store: OpenStore, data: st.DataObject
    ) -> None:
        store = await open_store("dev")
        run_id = f"run_{next(_count)}"
        error = ErrorInfo(
            name=data.draw(_any_text),
            message=data.draw(_any_text) + "\x00",
            stack=data.draw(_optional),
            types=data.draw(st.lists(_any_text, max_size=3)),
        )
        event = EventRecord(
            id=f"{run_id} {data.draw(_any_text)}",
            name=data.draw(_any_text),
            payload=data.draw(_any_text),
            context=data.draw(_optional),
            source=data.draw(_any_text),
            timestamp=data.draw(_number),
        )
        task = TaskRecord(
            id=data.draw(_any_text),
            idempotency_key=data.draw(_any_text),
            key=data.draw(_any_text),
            name=data.draw(_any_text),
            status=data.draw(st.sampled_from(TaskStatus)),
            position=data.draw(_number),
            due_at=data.draw(st.none() | _number),
            output=data.draw(_any_text),
            types=data.draw(_optional),
            details=data.draw(_optional),
            error=error,
        )
        log = LogRecord(
            id=data.draw(_any_text),
            level="INFO",
            message=data.draw(_any_text),
            at=data.draw(_number),
            data=data.draw(_optional),
        )
        output, reason = data.draw(_optional), data.draw(_optional)
        failed = data.draw(st.lists(_any_text, max_size=3))

        await apply(store, ingest(run_id, event=event, priority=1_000_000), claim())
        await apply(store, record(task, run_id=run_id, logs=[log]))
        await apply(
            store,
            move(RunStatus.FAILED, run_id, output=output, reason=reason, error=error, failed_tasks=failed),
        )

        assert await store.get_event(event.id) == event
        assert await store.get_tasks(run_id) == [task]
        assert await store.get_logs(run_id) == [log]
        assert await store.get_output(run_id, task.id) == (task.output, task.types)
        run = await stored_run(store, run_id)
        assert (run.event_id, run.output, run.reason) == (event.id, output, reason)
        assert (run.error, run.failed_tasks) == (error, failed)
        await apply(store, move(RunStatus.QUEUED, run_id, expected=RunStatus.FAILED))
        (found,) = await claimed(store)
        assert (found.event, found.tasks) == (event, [task])
        await apply(store, move(RunStatus.COMPLETED, run_id, execution=2))

    async def test_a_megabyte_comes_back_exactly(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        output = '"' + "é\\u0000\U0001f600\\n" * 90_000 + '"'

        await apply(store, record(completed_task("t", 1, output=output)))
        await apply(store, move(RunStatus.COMPLETED, output=output))

        assert await store.get_output("run_1", "t") == (output, None)
        assert (await stored_run(store)).output == output


class CloseContract:
    async def test_closed_store_is_unavailable(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await store.close()

        with pytest.raises(UnavailableError):
            await apply(store, ingest())
        with pytest.raises(UnavailableError):
            await store.get_run("run_1")

    async def test_close_finishes_what_was_submitted(self, open_store: OpenStore) -> None:
        keeper = await open_store("other")
        store = await open_store("dev")
        writing = [asyncio.ensure_future(apply(store, ingest(f"run_{n}"))) for n in range(20)]
        await asyncio.sleep(0)

        await store.close()

        assert [type(result) for (result,) in await asyncio.gather(*writing)] == [Ingested] * 20
        assert await keeper.next_due() is None

    async def test_closing_twice_is_harmless(self, open_store: OpenStore) -> None:
        store = await open_store("dev")

        await store.close()
        await store.close()
