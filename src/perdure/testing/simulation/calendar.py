"""What is to happen at a time: events that were sent for later, ticks of schedules. Each once, not too early, none too late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from perdure.engine.store import (
    Applied,
    CancelEvent,
    DeliverEvent,
    Ingested,
    IngestEvent,
    PutSchedule,
    RunRow,
    ScheduleRow,
    Store,
    TickSchedule,
)

from .batch import Batch
from .findings import Findings

CRON = "* * * * *"
CRON_MS = 60_000
"""The one cron expression of simulated schedules, and how far apart its ticks are."""


@dataclass
class Later:
    """An event that is, or was, to be delivered at a time; `due_at` is None once it isn't any more."""

    due_at: int | None
    payload: str
    is_cancelled: bool = False


class Calendar:
    """See the module (port: Watch).

    Attributes:
        later: events that were sent for later, by id.
    """

    def __init__(self, store: Store, runs: Mapping[str, RunRow], findings: Findings) -> None:
        self.later: dict[str, Later] = {}
        self._store = store
        self._runs = runs
        self._findings = findings
        self._schedules: dict[str, ScheduleRow] = {}

    def before(self) -> None:
        pass

    async def after(self, batch: Batch) -> None:
        touched: dict[str, None] = {}
        for change, _ in batch.of(PutSchedule):
            self._put(change.schedule)
        for change, result in batch.of(IngestEvent):
            assert isinstance(result, Ingested)
            self._ingested(change, result)
            touched[change.event.id] = None
        for change, result in batch.of(DeliverEvent):
            self._delivered(change, isinstance(result, Applied))
            touched[change.event_id] = None
        for change, result in batch.of(CancelEvent):
            later = self.later.get(change.event_id)
            if later is not None and later.due_at is not None and isinstance(result, Applied):
                later.due_at, later.is_cancelled = None, True
            elif isinstance(result, Applied):
                self._find(
                    "a cancelled event stays so", f"{change.event_id} was cancelled after its delivery"
                )
            touched[change.event_id] = None
        for change, result in batch.of(TickSchedule):
            if isinstance(result, Applied):
                self._ticked(change)
        for event_id in touched.keys() & self.later.keys():
            await self._look(event_id)

    def late(self, instant: int) -> Iterator[str]:
        """What was due at that instant, milliseconds, and hasn't happened."""
        for event_id, later in self.later.items():
            if later.due_at is not None and later.due_at <= instant:
                yield f"event {event_id} was to be delivered at {later.due_at}"
        for row in self._schedules.values():
            if row.next_at is not None and row.next_at <= instant:
                yield f"schedule {row.id} was to fire at {row.next_at}"

    @property
    def is_open(self) -> bool:
        """Whether an event is still to be delivered."""
        return any(later.due_at is not None for later in self.later.values())

    def end(self) -> None:
        """No event, whatever it is of, started a job twice; none that was cancelled started one."""
        counts = Counter((run.event_id, run.job_id) for run in self._runs.values())
        for (event_id, job_id), count in counts.items():
            if count > 1:
                self._find("an event starts a job once", f"{event_id} has {count} runs of {job_id}")
            later = self.later.get(event_id)
            if later is not None and later.is_cancelled:
                self._find("a cancelled event stays so", f"{event_id} has a run of {job_id}")

    # --- events ---------------------------------------------------------------------------------------------------------

    def _ingested(self, change: IngestEvent, result: Ingested) -> None:
        event = change.event
        if not result.duplicate:
            if event.deliver_at is not None and event.deliver_at > change.created_at:
                self.later[event.id] = Later(event.deliver_at, event.payload)
                if change.runs:
                    self._find("an event is delivered when it is due", f"{event.id} has runs already")
            return
        later = self.later.get(event.id)
        if later is None or later.due_at is None or change.edit_before is None:
            return
        if later.due_at >= change.edit_before:
            later.due_at = change.created_at if event.deliver_at is None else event.deliver_at
            if event.payload != "null":
                later.payload = event.payload

    def _delivered(self, change: DeliverEvent, is_applied: bool) -> None:
        later = self.later.get(change.event_id)
        due_at = None if later is None else later.due_at
        if is_applied != (due_at == change.due_at):
            self._find(
                "an event is delivered once",
                f"{change.event_id} was {'' if is_applied else 'not '}delivered, due at {due_at}: {change.due_at}",
            )
        if is_applied and change.at < change.due_at:
            self._find(
                "an event is delivered when it is due", f"{change.event_id} at {change.at}, due {due_at}"
            )
        if is_applied and later is not None:
            later.due_at = None

    async def _look(self, event_id: str) -> None:
        later = self.later[event_id]
        event = await self._store.get_event(event_id)
        if event is None:
            self._find("nothing acknowledged is lost", f"event {event_id} is gone")
            return
        if event.payload != later.payload or (event.cancelled_at is not None) != later.is_cancelled:
            self._find("a commit does what it says", f"event {event_id} is {event}, should be {later}")
        if later.due_at is not None and (event.deliver_at != later.due_at or event.delivered_at is not None):
            self._find("a commit does what it says", f"event {event_id} is {event}, should be {later}")

    # --- schedules ------------------------------------------------------------------------------------------------------

    def _put(self, row: ScheduleRow) -> None:
        before = self._schedules.get(row.id)
        if before is not None and before.is_active and row.is_active and _same(before, row):
            # Of two that are put at the same time for the first time either may count.
            if (row.next_at or 0) >= (before.next_at or 0) + _step(row):
                self._find(
                    "a tick comes once, and none is left out",
                    f"{row.id} was put from {before.next_at} to {row.next_at} without reason",
                )
        elif row.is_active and (row.next_at is None or row.next_at <= row.created_at):
            self._find("a tick comes once, and none is left out", f"{row.id} begins with {row.next_at}")
        self._schedules[row.id] = row

    def _ticked(self, tick: TickSchedule) -> None:
        row = self._schedules.get(tick.id)
        if row is None or row.next_at != tick.expected or tick.at < tick.expected:
            self._find("a tick comes once, and none is left out", f"{tick.id} fired at {tick.at}: {row}")
            return
        step = _step(row)
        following = tick.expected + step
        if not row.catch_up and following < tick.at:
            following += -(-(tick.at - following) // step) * step
        if tick.next_at != following:
            self._find(
                "a tick comes once, and none is left out",
                f"{tick.id} goes on at {tick.next_at} after {tick.expected}, and should at {following}",
            )
        payload: dict[str, Any] = msgspec.json.decode(tick.event.payload)
        if (payload.get("lastTimestamp") is None) != (row.last_at is None):
            self._find("a tick knows the one before", f"{tick.id}: {payload}, before was {row.last_at}")
        self._schedules[tick.id] = msgspec.structs.replace(row, next_at=tick.next_at, last_at=tick.expected)

    def _find(self, promise: str, what: str) -> None:
        self._findings.add(promise, what)


def _same(one: ScheduleRow, other: ScheduleRow) -> bool:
    return (one.schedule, one.catch_up) == (other.schedule, other.catch_up)


def _step(row: ScheduleRow) -> int:
    schedule: dict[str, Any] = msgspec.json.decode(row.schedule)
    return CRON_MS if schedule["type"] == "cron" else schedule["seconds"] * 1000
