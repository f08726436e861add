"""Tasks that wait for events, and calls that the platform makes for tasks."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.engine.store import (
    Applied,
    AwaitEvent,
    CheckWaiter,
    FinishMatch,
    IngestEvent,
    MoveRun,
    OperationRow,
    Refused,
    RepeatOperation,
    ResolveTask,
    Store,
    WaiterRow,
)
from perdure.schema.effects import EventWait, StartOperation
from perdure.schema.execution import PLATFORM_ROW
from perdure.schema.runs import RunStatus, TaskStatus

from .delayed import DUE, delay, deliver, stored_event
from .factories import (
    NOW,
    OpenStore,
    apply,
    claimed,
    executing_run,
    make_event,
    make_task,
    move,
    record,
    stored_run,
)


def wait(task_id: str = "t", *names: str, **fields: Any) -> EventWait:
    defaults: dict[str, Any] = {"since": NOW}
    return EventWait(**defaults | fields, task_id=task_id, names=names or ("foo.bar",))


def suspend(*waits: EventWait, **fields: Any) -> MoveRun:
    """The executing run goes to wait for events, for nothing else."""
    tasks = [make_task(each.task_id, status=TaskStatus.WAITING) for each in waits]
    defaults: dict[str, Any] = {"wake_at": None, "open_waits": len(waits), "tasks": tasks}
    return move(RunStatus.WAITING, **defaults | fields, waits=waits)


def resolve(task_id: str = "t", **fields: Any) -> ResolveTask:
    defaults: dict[str, Any] = {"run_id": "run_1", "at": NOW + 50, "output": "1"}
    return ResolveTask(
        **defaults | fields,
        task_id=task_id,
        status=TaskStatus.COMPLETED,
        waiting=RunStatus.WAITING,
        queued=RunStatus.QUEUED,
    )


def send(id: str = "e1", at: int = NOW + 30, **fields: Any) -> IngestEvent:
    """An event that causes no runs."""
    return IngestEvent(event=make_event(id, **fields), runs=[], created_at=at)


async def matched(store: Store, limit: int = 10) -> list[tuple[str, list[str]]]:
    """[(event id, ids of the tasks it has to be compared with)]"""
    found = await store.matches(limit)
    return [(match.event.id, sorted(waiter.task_id for waiter in match.waiters)) for match in found]


class WaiterContract:
    async def test_waiters_are_written_with_the_suspension(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        assert (await store.waiter_names(), await store.unchecked_waiters(10)) == ([], [])
        filters = {"source": "s", "filter": '{"a": [1]}', "context_filter": '{"b": [2]}', "account_id": "acc"}

        await apply(store, suspend(wait("t", "x", "y", since=NOW - 9, **filters), wait("u", "x")))

        assert await store.waiter_names() == ["x", "y"]
        assert await store.unchecked_waiters(10) == [
            WaiterRow(run_id="run_1", task_id="t", name="x", since=NOW - 9, **filters),
            WaiterRow(run_id="run_1", task_id="t", name="y", since=NOW - 9, **filters),
            WaiterRow(run_id="run_1", task_id="u", name="x", since=NOW),
        ]
        assert len(await store.unchecked_waiters(1)) == 1
        assert await store.waiters_of("run_1") == await store.unchecked_waiters(10)
        assert await store.waiters_of("run_2") == []

    async def test_waiter_is_written_with_tasks(self, open_store: OpenStore) -> None:
        """Of a run that is kept in memory."""
        store = await open_store("dev")
        await executing_run(store)
        change = record(make_task("t", status=TaskStatus.WAITING))
        change.effects = [AwaitEvent(run_id="run_1", wait=wait("t", "x"))]

        assert await apply(store, change) == [Applied()]

        assert await store.unchecked_waiters(10) == [
            WaiterRow(run_id="run_1", task_id="t", name="x", since=NOW)
        ]
        await apply(store, send("e1", name="x"))
        assert await matched(store) == [("e1", ["t"])]

    async def test_suspension_names_all_that_the_run_waits_for(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await executing_run(store, "run_2")
        change = record(make_task("old", status=TaskStatus.WAITING))
        change.effects = [AwaitEvent(run_id="run_1", wait=wait("old", "x"))]
        await apply(store, change)
        await apply(
            store, move(RunStatus.WAITING, "run_2", wake_at=None, open_waits=1, waits=[wait("t", "z")])
        )

        await apply(store, suspend(wait("new", "y")))

        assert await store.waiter_names() == ["y", "z"]

    async def test_checked_waiters_stay(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, suspend(wait("t", "x", "y"), wait("u", "x")))

        assert await apply(store, CheckWaiter(run_id="run_1", task_id="t")) == [Applied()]

        assert [waiter.task_id for waiter in await store.unchecked_waiters(10)] == ["u"]
        assert await store.waiter_names() == ["x", "y"]

    async def test_waiter_written_again_stays_checked_unless_it_changed(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, suspend(wait("t"), wait("u")))
        await apply(store, *(CheckWaiter(run_id="run_1", task_id=each) for each in "tu"))
        await apply(store, move(RunStatus.QUEUED, expected=RunStatus.WAITING))
        await apply(store, move(RunStatus.PENDING, expected=RunStatus.QUEUED))

        again = suspend(wait("t"), wait("u", filter='{"a": [1]}'), expected=RunStatus.PENDING)
        assert await apply(store, again) == [Applied()]

        assert [waiter.task_id for waiter in await store.unchecked_waiters(10)] == ["u"]

    async def test_event_is_compared_with_the_waiters_of_its_name(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, send("e0"), suspend(wait("t", "foo.bar", "x"), wait("u"), wait("v", "x")))
        assert await store.matches(10) == []

        await apply(store, send("e1"), send("e2", name="other"))

        assert await matched(store) == [("e1", ["t", "u"])]
        (match,) = await store.matches(10)
        assert match.event == await stored_event(store, "e1")
        assert match.waiters[0].name == "foo.bar"

    async def test_event_is_not_compared_with_waits_that_began_after_its_arrival(
        self, open_store: OpenStore
    ) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await executing_run(store, "run_2")
        await apply(store, suspend(wait("t")))
        await apply(store, send("e1", NOW + 30))

        waits = [wait("u", since=NOW + 31), wait("v", since=NOW + 30)]
        await apply(store, move(RunStatus.WAITING, "run_2", wake_at=None, open_waits=2, waits=waits))

        assert await matched(store) == [("e1", ["t", "v"])]

    async def test_event_that_somebody_waits_for_counts_as_delivered(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, suspend(wait()))

        await apply(store, send("e1"), send("e2", name="other"))

        assert (await stored_event(store, "e1")).delivered_at == NOW + 30
        assert (await stored_event(store, "e2")).delivered_at is None

    async def test_matches_come_by_arrival_until_they_are_finished(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, suspend(wait()))
        await apply(store, send("a", NOW + 32), send("b", NOW + 31), send("c", NOW + 31))

        assert [event_id for event_id, _ in await matched(store)] == ["b", "c", "a"]
        assert [event_id for event_id, _ in await matched(store, 1)] == ["b"]
        assert await apply(store, FinishMatch(event_id="b"), FinishMatch(event_id="nope")) == [Applied()] * 2
        assert [event_id for event_id, _ in await matched(store)] == ["c", "a"]

    async def test_delayed_event_matches_when_it_is_delivered(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, suspend(wait()), delay("e1"))
        await apply(store, delay("e1"))
        assert await store.matches(10) == []

        await apply(store, deliver(event_id="e1"))

        assert await matched(store) == [("e1", ["t"])]
        assert (await stored_event(store, "e1")).delivered_at == DUE + 5

    async def test_match_whose_waiters_are_gone_is_still_finished(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, suspend(wait()), resolve("other"))
        await apply(store, send("e1"))

        await apply(store, resolve())

        assert await matched(store) == [("e1", [])]
        assert await apply(store, FinishMatch(event_id="e1")) == [Applied()]
        assert await store.matches(10) == []

    async def test_resolved_task_waits_no_more(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, suspend(wait("t", "x", "y"), wait("u", "x")))

        assert await apply(store, resolve("t")) == [Applied()]

        assert await store.waiter_names() == ["x"]
        assert [waiter.task_id for waiter in await store.unchecked_waiters(10)] == ["u"]

    @pytest.mark.parametrize("status", [status for status in RunStatus if status.is_terminal])
    async def test_ended_run_waits_no_more(self, open_store: OpenStore, status: RunStatus) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, record(make_task("call")), suspend(wait()))
        await apply(
            store,
            move(
                status,
                expected=RunStatus.WAITING,
                effects=[StartOperation(run_id="run_1", task_id="call", at=NOW, operation="{}")],
            ),
        )

        assert await store.waiter_names() == []
        assert await store.next_operation_due() is None

    async def test_overtaken_suspension_writes_no_waiters(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, record(make_task("other")))
        await apply(store, resolve("other"))

        await apply(store, suspend(wait(), wakes_seen=0, otherwise=RunStatus.QUEUED))

        assert (await stored_run(store)).status is RunStatus.QUEUED
        assert await store.waiter_names() == []

    async def test_waiters_of_environments_are_apart(self, open_store: OpenStore) -> None:
        dev, prod = await open_store("dev"), await open_store("prod")
        for store in (dev, prod):
            await executing_run(store)
        await apply(dev, suspend(wait()))

        await apply(prod, send("e1"), CheckWaiter(run_id="run_1", task_id="t"))

        assert (await prod.waiter_names(), await prod.matches(10)) == ([], [])
        assert len(await dev.unchecked_waiters(10)) == 1
        await apply(dev, send("e1"))
        await apply(prod, FinishMatch(event_id="e1"))
        assert await matched(dev) == [("e1", ["t"])]


def operate(task_id: str = "call", at: int = NOW + 30, operation: str = '{"url": "x"}') -> StartOperation:
    return StartOperation(run_id="run_1", task_id=task_id, at=at, operation=operation)


async def operating_run(store: Store, *effects: StartOperation) -> None:
    await executing_run(store)
    change = record(*(make_task(each.task_id) for each in effects))
    change.effects = effects
    assert await apply(store, change) == [Applied()]


def repeat(attempt: int, due_at: int = NOW + 90, **fields: Any) -> RepeatOperation:
    defaults: dict[str, Any] = {"run_id": "run_1", "task_id": "call", "tries": attempt + 1}
    return RepeatOperation(**defaults | fields, attempt=attempt, due_at=due_at)


class OperationContract:
    async def test_first_call_is_due_at_once(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        assert await store.next_operation_due() is None

        await operating_run(store, operate("b"), operate("a"), operate("c", NOW + 29))

        assert await store.next_operation_due() == NOW + 29
        assert await store.due_operations(NOW + 28, 10) == []
        due = await store.due_operations(NOW + 30, 10)
        assert [found.task_id for found in due] == ["c", "a", "b"]
        assert due[1] == OperationRow(
            run_id="run_1",
            task_id="a",
            due_at=NOW + 30,
            attempt=1,
            tries=1,
            started_at=NOW + 30,
            operation='{"url": "x"}',
        )
        assert len(await store.due_operations(NOW + 30, 1)) == 1
        assert await store.next_operation_due(NOW + 29) == NOW + 30
        assert await store.next_operation_due(NOW + 30) is None
        assert [found.task_id for found in await store.operations_of("run_1")] == ["a", "b", "c"]
        assert await store.operations_of("run_2") == []

    async def test_operation_that_is_known_is_left_alone(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await operating_run(store, operate())
        await apply(store, repeat(1))

        change = record(make_task("call"))
        change.effects = [operate(at=NOW + 40, operation="{}")]
        await apply(store, change)

        (found,) = await store.due_operations(NOW + 99, 10)
        assert (found.attempt, found.due_at, found.operation) == (2, NOW + 90, '{"url": "x"}')

    async def test_repeat_is_due_later_and_records_the_attempt(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await operating_run(store, operate())
        attempt = make_task("call/1", parent_id="call", status=TaskStatus.ERRORED, completed_at=NOW + 35)

        assert await apply(store, repeat(1, tasks=[attempt])) == [Applied()]

        (found,) = await store.due_operations(NOW + 99, 10)
        assert (found.attempt, found.due_at, found.started_at) == (2, NOW + 90, NOW + 30)
        assert attempt in await store.get_tasks("run_1")

    async def test_tries_begin_anew_after_a_success(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await operating_run(store, operate())

        await apply(store, repeat(1), repeat(2), repeat(3, tries=1))

        (found,) = await store.due_operations(NOW + 99, 10)
        assert (found.attempt, found.tries) == (4, 1)

    async def test_rows_of_attempts_are_shown_and_not_claimed(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await operating_run(store, operate())
        first = make_task("one", parent_id="call", opened=PLATFORM_ROW, completed_at=NOW + 35)
        last = make_task("two", parent_id="call", opened=PLATFORM_ROW, completed_at=NOW + 45)
        await apply(store, repeat(1, tasks=[first]), move(RunStatus.WAITING, wake_at=None, open_waits=1))

        await apply(store, resolve("call", tasks=[last]))

        assert {task.id for task in await store.get_tasks("run_1")} == {"call", "one", "two"}
        (again,) = await claimed(store)
        assert [task.id for task in again.tasks] == ["call"]

    async def test_reset_task_takes_the_rows_of_its_attempts_along(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await operating_run(store, operate("call"), operate("other"))
        below = [make_task(f"{each}/1", parent_id=each, opened=PLATFORM_ROW) for each in ("call", "other")]
        await apply(store, repeat(1, tasks=below[:1]), repeat(1, task_id="other", tasks=below[1:]))

        await apply(store, move(RunStatus.QUEUED, reset=["call"]))

        assert sorted(task.id for task in await store.get_tasks("run_1")) == ["other", "other/1"]

    async def test_interrupted_task_is_called_for_no_more(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await operating_run(store, operate("call"), operate("other"))
        interrupted = make_task("call", status=TaskStatus.CANCELED, interrupted=3, completed_at=NOW + 40)

        await apply(store, record(interrupted))

        assert [found.task_id for found in await store.due_operations(NOW + 99, 10)] == ["other"]
        assert await apply(store, repeat(1)) == [Refused(run=await stored_run(store))]

    async def test_task_interrupted_in_the_same_batch_is_not_called_for(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        begin = record(make_task("call", status=TaskStatus.WAITING))
        begin.effects = [operate("call")]
        interrupted = make_task("call", status=TaskStatus.CANCELED, interrupted=3, completed_at=NOW + 40)

        await apply(store, begin, record(interrupted))

        assert await store.next_operation_due() is None

    async def test_interrupted_task_that_begins_anew_is_called_for_afresh(
        self, open_store: OpenStore
    ) -> None:
        store = await open_store("dev")
        await operating_run(store, operate("call"))
        await apply(store, repeat(1))
        interrupted = make_task("call", status=TaskStatus.CANCELED, interrupted=3, completed_at=NOW + 40)
        anew = record(make_task("call", status=TaskStatus.WAITING))
        anew.effects = [operate("call", NOW + 50)]

        await apply(store, record(interrupted), anew)

        (found,) = await store.due_operations(NOW + 99, 10)
        assert (found.attempt, found.started_at) == (1, NOW + 50)

    async def test_repeat_of_another_attempt_is_refused(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await operating_run(store, operate())

        results = await apply(
            store,
            repeat(1),
            repeat(1, NOW + 91, tasks=[make_task("late")]),
            repeat(2, NOW + 92),
            repeat(1, task_id="nope"),
            repeat(1, run_id="run_9"),
        )

        run = await stored_run(store)
        assert results == [
            Applied(),
            Refused(run=run),
            Applied(),
            Refused(run=run),
            Refused(run=None),
        ]
        (found,) = await store.due_operations(NOW + 99, 10)
        assert (found.attempt, found.due_at) == (3, NOW + 92)
        assert [task.id for task in await store.get_tasks("run_1")] == ["call"]

    async def test_resolved_task_is_called_for_no_more(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await operating_run(store, operate("call"), operate("other"))

        assert await apply(store, resolve("call")) == [Applied()]

        assert [found.task_id for found in await store.due_operations(NOW + 99, 10)] == ["other"]

    async def test_operations_of_environments_are_apart(self, open_store: OpenStore) -> None:
        dev, prod = await open_store("dev"), await open_store("prod")
        await operating_run(dev, operate())

        assert (await prod.due_operations(NOW + 99, 10), await prod.next_operation_due()) == ([], None)
        assert await apply(prod, repeat(1)) == [Refused(run=None)]
        assert len(await dev.due_operations(NOW + 30, 10)) == 1
