"""One transaction as the simulation sees it: what was asked for, what came out, what that means for the runs it touches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from perdure.engine.store import (
    Change,
    ClaimRuns,
    DeliverEvent,
    IngestEvent,
    MoveRun,
    RecordTasks,
    ResolveTask,
    Result,
    RunRow,
    TickSchedule,
    WakeRuns,
)
from perdure.schema.runs import RunStatus


class Batch:
    """One transaction, and what follows from it for the runs it touches.

    Attributes:
        pairs: the changes with their results.
        states: what they are after what has been looked at so far.
        reread: runs whose tasks it changes as only the store can tell.
        forgotten: tasks that start afresh.
        suspended: runs whose execution ended with a wait.
        loose: runs that are woken by what happens to others, if that was the last they waited for: only the store can tell.
        creates: whether runs may appear that no result speaks of.
    """

    def __init__(
        self, runs: Mapping[str, RunRow], changes: Sequence[Change], results: Sequence[Result]
    ) -> None:
        self._runs = runs
        self.pairs: list[tuple[Any, Any]] = list(zip(changes, results, strict=True))
        self.states: dict[str, tuple[RunStatus, int]] = {}
        self.reread: set[str] = set()
        self.forgotten: set[tuple[str, str]] = set()
        self.suspended: set[str] = set()
        self.loose = {run_id for change, _ in self.pairs for run_id in _resolved(change)}
        self.creates = any(map(_creates, changes))

    def of(self, kind: type[Any]) -> list[tuple[Any, Any]]:
        return [pair for pair in self.pairs if isinstance(pair[0], kind)]

    def state(self, run_id: str) -> tuple[RunStatus, int] | None:
        if run_id in self.states:
            return self.states[run_id]
        row = self._runs.get(run_id)
        return None if row is None else (row.status, row.execution)

    def go(self, run_id: str, status: RunStatus, execution: int) -> None:
        self.states[run_id] = (status, execution)

    def describe(self) -> str:
        return "; ".join(_describe(change, result) for change, result in self.pairs)


def _resolved(change: Change) -> Iterator[str]:
    """Runs of which the change resolves a task."""
    if isinstance(change, ResolveTask):
        yield change.run_id
    elif isinstance(change, MoveRun) and change.resolve is not None:
        yield change.resolve.run_id


def _creates(change: Change) -> bool:
    if isinstance(change, DeliverEvent | TickSchedule):
        return bool(change.runs)
    return isinstance(change, RecordTasks | MoveRun) and bool(change.effects)


def _describe(change: Any, result: Any) -> str:
    outcome = type(result).__name__
    match change:
        case IngestEvent():
            runs = ", ".join(run.id[-6:] for run in result.runs)
            return f"ingest {change.event.id} → {runs or 'no run'}{' again' if result.duplicate else ''}"
        case RecordTasks():
            tasks = ", ".join(f"{task.key} {task.status.name}" for task in change.tasks)
            return f"record {change.run_id[-6:]}#{change.execution} [{tasks}] {outcome}"
        case MoveRun():
            return (
                f"move {change.run_id[-6:]}#{change.execution} {change.expected.name} → {change.status.name} "
                f"[{', '.join(f'{task.key} {task.status.name}' for task in change.tasks)}] {outcome}"
            )
        case WakeRuns():
            return f"wake {', '.join(run_id[-6:] for run_id in result.runs) or 'nothing'}"
        case ClaimRuns():
            runs = ", ".join(f"{claim.run_id[-6:]}#{claim.execution}" for claim in result.claims)
            return f"claim {change.limit} → {runs or 'nothing'}"
        case _:
            return f"{type(change).__name__} {outcome}"
