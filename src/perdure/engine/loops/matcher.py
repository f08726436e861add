"""Brings events and the tasks that wait for them together.

Theory of operation. An event and a waiter are two rows that may be written at the same moment; whichever comes second has
to find the first. A store notes every delivered event whose name is waited for (`Store.matches`), and every waiter that
hasn't been compared with what arrived before it was written (`Store.unchecked_waiters`). Both notes are made in the
transaction of the row itself, and deleted once the comparison is done, so nothing is missed whatever dies in between;
a comparison that is made twice resolves a task once.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable

import msgspec

from perdure.engine.store import Change, CheckWaiter, FinishMatch, ResolveTask, Result, Store, WaiterRow
from perdure.filters import matches
from perdure.schema.execution import EventRecord
from perdure.schema.runs import RunStatus, TaskStatus

from .runner import settled

MATCH_BATCH = 200
"""Events, or waiters, compared in one step."""

LOOK_BACK_PAGE = 200
"""Events that arrived before a waiter was written, looked at at a time."""


class Matcher:
    """Resolves tasks that wait for events."""

    def __init__(self, store: Store, submit: Callable[[Change], Future[Result]]) -> None:
        self._store = store
        self._submit = submit

    async def step(self, now: int) -> int | None:
        """Compare what there is; returns `now` if there may be more."""
        new = await self._store.unchecked_waiters(MATCH_BATCH)
        if new:
            # First, and all of them: an earlier event counts before one that has just arrived.
            await self._look_back(new, now)
            if len(new) == MATCH_BATCH:
                return now
        arrived = await self._store.matches(MATCH_BATCH)
        changes: list[Change] = []
        for match in arrived:
            payload, context = _decoded(match.event)
            changes += [
                resolution(waiter, match.event, now)
                for waiter in match.waiters
                if is_awaited(waiter, match.event, payload, context)
            ]
            changes.append(FinishMatch(event_id=match.event.id))
        await settled([self._submit(change) for change in changes])
        return now if len(arrived) == MATCH_BATCH else None

    async def _look_back(self, waiters: list[WaiterRow], now: int) -> None:
        """Compare waiters with what had arrived already. A task is resolved by the earliest event of any of its names."""
        by_task: dict[tuple[str, str], list[WaiterRow]] = {}
        for waiter in waiters:
            by_task.setdefault((waiter.run_id, waiter.task_id), []).append(waiter)
        if len(waiters) == MATCH_BATCH and len(by_task) > 1:
            by_task.popitem()  # there may be more names of it; the next step has them all
        changes: list[Change] = []
        for (run_id, task_id), names in by_task.items():
            found = [event for waiter in names if (event := await self._earliest(waiter)) is not None]
            if found:
                arrived = min(found, key=_arrival)
                changes.append(resolution(names[0], arrived, now))
            else:
                changes.append(CheckWaiter(run_id=run_id, task_id=task_id))
        await settled([self._submit(change) for change in changes])

    async def _earliest(self, waiter: WaiterRow) -> EventRecord | None:
        after: str | None = None
        while True:
            page = await self._store.events_since(
                waiter.name, waiter.since, after=after, limit=LOOK_BACK_PAGE
            )
            for event in page:
                if is_awaited(waiter, event, *_decoded(event)):
                    return event
            if len(page) < LOOK_BACK_PAGE:
                return None
            after = page[-1].id


def is_awaited(waiter: WaiterRow, event: EventRecord, payload: object, context: object) -> bool:
    """Whether an event is what a task waits for: name, source, account and filters."""
    if event.name != waiter.name:
        return False
    if waiter.source is not None and event.source != waiter.source:
        return False
    if waiter.account_id is not None and event.account_id != waiter.account_id:
        return False
    if waiter.filter is not None and not matches(msgspec.json.decode(waiter.filter), payload):
        return False
    return waiter.context_filter is None or matches(msgspec.json.decode(waiter.context_filter), context)


def resolution(waiter: WaiterRow, event: EventRecord, now: int) -> ResolveTask:
    """The task that waited completes; its output is the event, as the executor reads it."""
    return ResolveTask(
        run_id=waiter.run_id,
        task_id=waiter.task_id,
        status=TaskStatus.COMPLETED,
        at=now,
        waiting=RunStatus.WAITING,
        queued=_QUEUED,
        output=msgspec.json.encode(event).decode(),
    )


def _arrival(event: EventRecord) -> int:
    """About when it arrived: nearly always to the millisecond, and only names of one wait are put in order by it."""
    return event.delivered_at or event.deliver_at or event.timestamp


def _decoded(event: EventRecord) -> tuple[object, object]:
    return msgspec.json.decode(event.payload), msgspec.json.decode(event.context or "null")


_QUEUED = RunStatus.QUEUED
