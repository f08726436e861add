"""Runs that are made for tasks of other runs, and what is made of one that is asked for twice."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.engine.store import Applied, IngestEvent, MoveRun, RecordTasks, Store
from perdure.schema.effects import ChildResult
from perdure.schema.execution import TaskRecord
from perdure.schema.runs import RunStatus, TaskStatus

from .factories import (
    NOW,
    OpenStore,
    apply,
    claimed,
    executing_run,
    make_event,
    make_run,
    make_task,
    move,
    record,
    stored_run,
)


def ask(id: str, task_id: str = "t", **fields: Any) -> IngestEvent:
    """The task of run_1 asks for the run `id`, always by the same event."""
    run = make_run(id, parent_run_id="run_1", parent_task_id=task_id, **fields)
    return IngestEvent(event=make_event(f"for {task_id}", name="invoke"), runs=[run], created_at=NOW + 30)


def asking(*asked: IngestEvent) -> RecordTasks:
    change = record(
        *(make_task(each.runs[0].parent_task_id or "", status=TaskStatus.WAITING) for each in asked)
    )
    change.effects = asked
    return change


def end(id: str, status: RunStatus, **fields: Any) -> MoveRun:
    return move(status, id, **fields)


async def runs_for(store: Store, task_id: str = "t") -> list[str]:
    found = [await store.get_run(run_id) for run_id in ("first", "second", "third")]
    return [run.id for run in found if run is not None and run.parent_task_id == task_id]


async def task_of(store: Store, id: str = "t") -> TaskRecord:
    return next(task for task in await store.get_tasks("run_1") if task.id == id)


class ChildContract:
    async def test_run_for_a_task_is_made_with_it(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)

        assert await apply(store, asking(ask("first"), ask("second", "u"))) == [Applied()]

        child = await stored_run(store, "first")
        assert (child.parent_run_id, child.parent_task_id, child.status) == ("run_1", "t", RunStatus.QUEUED)
        assert (await stored_run(store, "second")).parent_task_id == "u"
        assert (await task_of(store)).status is TaskStatus.WAITING

    async def test_run_that_is_alive_is_not_made_again(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, asking(ask("first")))

        await apply(store, asking(ask("second")))

        assert await runs_for(store) == ["first"]
        assert (await task_of(store)).completed_at is None
        assert (await stored_run(store)).wakes == 0

    async def test_run_that_has_completed_resolves_the_task(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, asking(ask("first")))
        await claimed(store)
        await apply(store, end("first", RunStatus.COMPLETED, output='{"a":1}', types='{"a":"x"}'))

        await apply(store, asking(ask("second")))

        assert await runs_for(store) == ["first"]
        task = await task_of(store)
        assert (task.status, task.seq, task.completed_at) == (TaskStatus.COMPLETED, None, NOW + 30)
        result = msgspec.json.decode(task.output or "", type=ChildResult)
        assert (result.run_id, result.status, bytes(result.output)) == ("first", "SUCCESS", b'{"a":1}')
        assert result.types == '{"a":"x"}'
        assert (await stored_run(store)).wakes == 1

    @pytest.mark.parametrize(
        "status",
        [status for status in RunStatus if status.is_terminal and status is not RunStatus.COMPLETED],
    )
    async def test_run_that_ended_otherwise_is_replaced(
        self, open_store: OpenStore, status: RunStatus
    ) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, asking(ask("first")))
        await claimed(store)
        await apply(store, end("first", status))

        await apply(store, asking(ask("second")))

        assert await runs_for(store) == ["first", "second"]
        assert (await stored_run(store, "second")).status is RunStatus.QUEUED
        assert (await task_of(store)).completed_at is None

    async def test_what_counts_is_the_run_that_was_made_last(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, asking(ask("first")))
        await claimed(store)
        await apply(store, end("first", RunStatus.FAILED))
        await apply(store, asking(ask("second")))

        await apply(store, asking(ask("third")))

        assert await runs_for(store) == ["first", "second"]

    async def test_repeat_of_the_write_makes_nothing_twice(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)

        for _ in range(2):
            assert await apply(store, asking(ask("first"))) == [Applied()]

        assert await runs_for(store) == ["first"]
