"""What follows from a commit: counts are kept, loops and claimers hear of new work, executions and clients of what ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.schema.effects import StartOperation
from perdure.schema.runs import RunStatus

from .store import (
    Applied,
    AwaitEvent,
    Change,
    Claimed,
    ClaimRuns,
    DeliverEvent,
    Ingested,
    IngestEvent,
    MoveRun,
    RecordTasks,
    Refused,
    ReleaseLease,
    ResolveTask,
    Result,
    TickSchedule,
    Woken,
)

if TYPE_CHECKING:
    from .engine import Engine

_QUEUED = RunStatus.QUEUED
_EXECUTING = RunStatus.EXECUTING


class Commits:
    """Follows the commits of one engine. Nothing here may be relied on after a crash: it only makes things happen soon.

    Attributes:
        awaited_names: of events that a task may be waiting for.
    """

    def __init__(self, engine: Engine) -> None:
        self.awaited_names: set[str] = set()
        self._engine = engine

    def settle(self, changes: list[Change], results: list[Result]) -> None:
        """Hot: once per transaction over all its changes.

        They come in the order in which they were submitted, which isn't that in which they took effect (see the Store
        port): what is kept of a run must not depend on it.
        """
        for change, result in zip(changes, results, strict=True):
            if type(change) is RecordTasks:
                if type(result) is Refused:
                    self._engine.forget(change.run_id, change.execution)
                elif change.effects:
                    self._took_effect(change)
            elif type(change) is MoveRun:
                if type(result) is Applied:
                    self._moved(change, result)
                elif change.expected is _EXECUTING:
                    self._engine.forget(change.run_id, change.execution)
            elif type(result) is Ingested:
                self._ingested(result)
            elif type(change) is ClaimRuns and type(result) is Claimed:
                if result.claims:
                    for claim in result.claims:
                        self._engine.executing[claim.run_id] = (claim.execution, change.at)
                    self._engine.loops.claimed(change.at)
            elif type(result) is Woken:
                self._engine.waits.active += len(result.runs)
            elif type(result) is Applied:
                self._applied(change, result)
        self._engine.waits.committed()

    def _ingested(self, result: Ingested) -> None:
        engine = self._engine
        if not result.duplicate:
            for run in result.runs:
                if run.status is _QUEUED:
                    engine.waits.active += 1
        event = result.event
        if event.deliver_at is not None:
            engine.loops.deliverer.notify(engine.clock.now() if result.duplicate else event.deliver_at)
        elif result.duplicate and event.delivered_at is None:
            engine.loops.deliverer.notify(engine.clock.now())  # it may have been put forward
        if event.name in self.awaited_names:
            engine.loops.matcher.notify(engine.clock.now())

    def _moved(self, move: MoveRun, result: Applied) -> None:
        engine = self._engine
        waits = engine.waits
        if move.expected is _EXECUTING:
            # The claim that followed in the same transaction may have been submitted, and come past here, before.
            engine.forget(move.run_id, move.execution)
            waits.active -= 1
            if engine.queues.are_limited:
                engine.announce_queued()  # a slot is free
        elif move.expected is _QUEUED:
            waits.active -= 1
        if result.overtaken:
            waits.active += 1
            engine.announce_queued()
        elif move.status is _QUEUED:
            waits.active += 1
        elif move.completed_at is not None:
            waits.run_ended(move.run_id)
            engine.loops.calls.run_ended(move.run_id)
        else:
            self._waits_now(move)
        if move.effects:
            self._took_effect(move)
        if move.resolve is not None:
            self._resolved(move.resolve, result)

    def _waits_now(self, move: MoveRun) -> None:
        loops = self._engine.loops
        if move.wake_at is not None:
            loops.waker.notify(move.wake_at)
        if move.waits:
            for wait in move.waits:
                self.awaited_names.update(wait.names)
            loops.matcher.notify(self._engine.clock.now())

    def _resolved(self, resolution: ResolveTask, result: Applied) -> None:
        """A task was completed by somebody else, or would have been: its execution, if it is here, finds out."""
        engine = self._engine
        if result.woken:
            engine.waits.active += 1
            engine.announce_queued()
        elif result.due_at is not None:
            engine.loops.waker.notify(result.due_at)
        execution, _ = engine.executing.get(resolution.run_id, (0, 0))
        if execution:
            for listener in engine.listeners:
                listener.task_resolved(resolution.run_id, execution, resolution)

    def _applied(self, change: Change, result: Applied) -> None:
        engine = self._engine
        match change:
            case ResolveTask():
                self._resolved(change, result)
            case DeliverEvent() | TickSchedule():
                engine.waits.active += len(change.runs)
                engine.loops.matcher.notify(engine.clock.now())
            case ReleaseLease():
                if engine.queues.are_limited:
                    engine.announce_queued()
            case _:
                pass

    def _took_effect(self, change: RecordTasks | MoveRun) -> None:
        """Runs that were made along with tasks, and waits that began with them."""
        engine = self._engine
        for effect in change.effects:
            if type(effect) is IngestEvent:
                engine.waits.active += len(effect.runs)
                engine.announce_queued()
            elif type(effect) is AwaitEvent:
                self.awaited_names.update(effect.wait.names)
                engine.loops.matcher.notify(engine.clock.now())
            elif type(effect) is StartOperation:
                engine.loops.calls.started(effect)
