"""What runs wait for that others do: children that end, events that come; and who is told when a run has ended."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

import msgspec

from perdure.engine.store import Applied, DeliverEvent, Ingested, IngestEvent, MoveRun, RunRow, Store
from perdure.schema.execution import TaskRecord
from perdure.schema.runs import RunStatus, TaskStatus

from .batch import Batch
from .findings import Findings

SIGNAL = "signal"
"""The event that runs wait for; the number in its payload says which of them."""


class OthersWatch:
    """See the module (port: Watch).

    Attributes:
        signals: events that runs may wait for: id → (number, when it arrived in milliseconds).
    """

    def __init__(
        self,
        store: Store,
        runs: Mapping[str, RunRow],
        tasks: Mapping[str, dict[str, TaskRecord]],
        past: Mapping[str, Iterable[RunStatus]],
        findings: Findings,
    ) -> None:
        self.signals: dict[str, tuple[int, int]] = {}
        self._coming: dict[str, int] = {}
        self._store = store
        self._runs = runs
        self._tasks = tasks
        self._past = past
        self._findings = findings
        self._commits = 0

    def before(self) -> None:
        pass

    async def after(self, batch: Batch) -> None:
        for change, result in batch.of(IngestEvent):
            if change.event.name == SIGNAL and isinstance(result, Ingested) and not result.duplicate:
                event = change.event
                number: int = msgspec.json.decode(event.payload)["n"]
                if event.deliver_at is not None and event.deliver_at > change.created_at:
                    self._coming[event.id] = number
                else:
                    self.signals[event.id] = (number, change.created_at)
        for change, result in batch.of(DeliverEvent):
            if isinstance(result, Applied) and change.event_id in self._coming:
                self.signals[change.event_id] = (self._coming.pop(change.event_id), change.at)
        self._commits += 1
        if batch.creates or batch.loose or self._commits % 16 == 0:
            await self.look()

    async def look(self) -> None:
        """A task and its child are there together; the one is open as long as the other goes on."""
        children: defaultdict[str, list[RunRow]] = defaultdict(list)
        for run in self._runs.values():
            if run.parent_run_id is not None:
                children[run.parent_run_id].append(run)
        waiting = [run for run in self._runs.values() if run.status is RunStatus.WAITING and run.open_waits]
        for parent in dict.fromkeys([*children, *(run.id for run in waiting)]):
            await self._look_at(self._runs[parent], children[parent])

    async def _look_at(self, parent: RunRow, children: list[RunRow]) -> None:
        if parent.status.is_terminal:
            return
        stored = {task.id: task for task in await self._store.get_tasks(parent.id)}
        by_task: defaultdict[str, list[RunRow]] = defaultdict(list)
        for child in children:
            by_task[child.parent_task_id or ""].append(child)
        for task_id, runs in by_task.items():
            self._check(parent, runs, stored.get(task_id))
        if parent.status is RunStatus.WAITING and parent.open_waits > sum(map(_is_open, stored.values())):
            self._find(
                "no run waits for a resolved reason",
                f"{parent.id} waits for {parent.open_waits} others, and has fewer tasks that do",
            )

    def _check(self, parent: RunRow, runs: list[RunRow], task: TaskRecord | None) -> None:
        """A task that was forgotten (its run was continued) may have asked for another run after one that ended badly."""
        ids = ", ".join(run.id for run in runs)
        if task is None:
            # Forgotten, when the run was continued or its job's retry executed it again.
            if not parent.failures and not any(status.is_terminal for status in self._past[parent.id]):
                self._find("a task and its child are there together", f"{ids} of {parent.id}: no task")
            return
        has_ended = any(status.is_terminal for run in runs for status in self._past[run.id])
        if _is_open(task) and all(run.status.is_terminal for run in runs):
            self._find("a task ends with its child", f"{task.key} of {parent.id} is open, {ids} has ended")
        if task.status is TaskStatus.COMPLETED and not has_ended:
            self._find("a task ends with its child", f"{task.key} of {parent.id} has ended, {ids} not")

    def wait_began(self, run_id: str, key: str) -> tuple[int, int | None] | None:
        """(from when on, until when) the task waits, milliseconds; None if there is none."""
        for task in self._tasks[run_id].values():
            if task.key == key and task.started_at is not None:
                return task.started_at, task.due_at
        return None

    def _find(self, promise: str, what: str) -> None:
        self._findings.add(promise, what)


class NotificationWatch:
    """Whether each end of a run has one run that tells of it (port: Watch).

    `defines`: whether the process that is up defines a job; one that doesn't has no handlers for the job's runs to be told to.
    """

    def __init__(
        self, runs: Mapping[str, RunRow], findings: Findings, defines: Callable[[str], bool]
    ) -> None:
        self._runs = runs
        self._defines = defines
        self._findings = findings
        self._ends: dict[str, None] = {}

    def before(self) -> None:
        pass

    async def after(self, batch: Batch) -> None:
        for move, result in batch.of(MoveRun):
            run = self._runs.get(move.run_id)
            if not isinstance(result, Applied) or move.completed_at is None or run is None:
                continue
            if not run.is_internal and self._defines(run.job_id):
                self._ends[f"{move.run_id}:{move.execution}:{move.status.value}:{move.at}"] = None

    def end(self) -> None:
        """All runs have ended."""
        told: Counter[str] = Counter()
        for run in self._runs.values():
            if run.is_internal:
                told[":".join(run.event_id.split(":")[:4])] += 1
                if run.status is not RunStatus.COMPLETED:
                    self._findings.add(
                        "each end is told once", f"{run.id} of {run.event_id} is {run.status.name}"
                    )
        for end in dict.fromkeys([*self._ends, *told]):
            if told[end] != 1 or end not in self._ends:
                self._findings.add("each end is told once", f"{end}: {told[end]} runs tell of it")


def _is_open(task: TaskRecord) -> bool:
    """Whether it waits, for others or for a time."""
    return (
        task.status is TaskStatus.WAITING
        and task.seq is None
        and task.interrupted is None
        and task.completed_at is None
    )
