"""Tasks, runs and what they wait for, as engine/changes.py words it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from msgspec.structs import replace

from perdure.engine.core.endings import end_of_child
from perdure.engine.store import (
    Applied,
    AwaitEvent,
    CheckWaiter,
    FinishMatch,
    IngestEvent,
    MoveRun,
    NewRun,
    OperationRow,
    RecordTasks,
    Refused,
    RepeatOperation,
    ResolveTask,
    Result,
    RunRow,
    WaiterRow,
)
from perdure.schema.effects import EventWait, StartOperation
from perdure.schema.execution import PLATFORM_ROW, LogRecord, TaskRecord
from perdure.schema.runs import RunStatus, TaskStatus

from .events import EventWrites
from .state import StoredWaiter, copy_run

T = TypeVar("T")

Numbered: TypeAlias = list[tuple[int, T]]
"""Changes of a batch with their places in it."""

Answers: TypeAlias = dict[int, Result]

_COMPLETIONS = (TaskStatus.COMPLETED, TaskStatus.ERRORED)


class RunWrites(EventWrites):
    """What happens to tasks and runs."""

    # --- tasks -----------------------------------------------------------------------------------------------------------

    def record_all(self, changes: Numbered[RecordTasks]) -> Answers:
        """What was recorded by all of them is written before effects are carried out."""
        held = [change for _, change in changes if self.lease_of(change.run_id, change.execution) is not None]
        for change in held:
            self._write(change.run_id, change.tasks, change.logs)
        self._carry_out(held)
        return {n: self._recorded(change, change in held) for n, change in changes}

    def _recorded(self, change: RecordTasks, held: bool) -> Result:
        """One that was refused is a repeat if it is there, as it was given, and nothing has been executed since."""
        run = self.runs.get(change.run_id)
        if not held:
            repeated = run is not None and run.execution == change.execution and (change.tasks or change.logs)
            tasks, logs = self.tasks.get(change.run_id, {}), self.logs.get(change.run_id, {})
            if not repeated or not all(log.id in logs for log in change.logs):
                return self.refuse(change.run_id)
            latest = {task.id: task for task in change.tasks}
            if not all(_is_stored(task, tasks.get(task.id)) for task in latest.values()):
                return self.refuse(change.run_id)
        return Applied()

    def _write(self, run_id: str, tasks: Sequence[TaskRecord], logs: Sequence[LogRecord]) -> None:
        for task in tasks:
            self._write_task(run_id, task)
        for task in tasks:
            if task.interrupted is not None:
                self.forget_waits(run_id, task.id)
        for log in logs:
            self.logs.setdefault(run_id, {}).setdefault(log.id, log)

    def _carry_out(self, changes: Sequence[RecordTasks | MoveRun]) -> None:
        """What goes along with changes, kind by kind."""
        effects = [effect for change in changes for effect in change.effects]
        for effect in effects:
            if isinstance(effect, StartOperation):
                self._start(effect)
        ingests = [effect for effect in effects if isinstance(effect, IngestEvent)]
        known = [effect for effect in ingests if self.ingest_event(effect).duplicate]
        self._take_up([effect for effect in known if effect.runs and effect.runs[0].parent_task_id])
        for effect in effects:
            if isinstance(effect, AwaitEvent):
                self._wait(effect.run_id, effect.wait)
        for effect in effects:
            if not isinstance(effect, StartOperation | AwaitEvent | IngestEvent):
                self.carry_out(effect)

    def _take_up(self, asked: Sequence[IngestEvent]) -> None:
        """Tasks ask once more for runs that they had asked for; see RecordTasks."""
        latest = [self._asked_for(effect.runs[0]) for effect in asked]
        for effect, run in zip(asked, latest, strict=True):
            if run is None or (run.status.is_terminal and run.status is not RunStatus.COMPLETED):
                event = replace(effect.event, id=f"{effect.event.id}:{effect.runs[0].id}")
                self.ingest_event(replace(effect, event=event))
        for effect, run in zip(asked, latest, strict=True):
            if run is not None and run.status is RunStatus.COMPLETED:
                self.resolve_task(end_of_child(run, effect.created_at))

    def _asked_for(self, new: NewRun) -> RunRow | None:
        """The latest run that the task which `new` is for has asked for."""
        task = (new.parent_run_id, new.parent_task_id)
        found = [run for run in self.runs.values() if (run.parent_run_id, run.parent_task_id) == task]
        return max(found, key=lambda run: run.id, default=None)

    def _write_task(self, run_id: str, task: TaskRecord) -> None:
        rows = self.tasks.setdefault(run_id, {})
        stored = rows.get(task.id)
        if stored is not None and _is_resolution(stored) and task.seq is None and task.interrupted is None:
            return
        if stored is not None and task.output is None:
            task = replace(task, output=stored.output, types=stored.types)
        rows[task.id] = replace(task, omitted=False)

    def _start(self, effect: StartOperation) -> None:
        task = self.tasks.get(effect.run_id, {}).get(effect.task_id)
        if task is None or task.completed_at is not None or task.interrupted is not None:
            return
        self.operations.setdefault(
            (effect.run_id, effect.task_id),
            OperationRow(
                run_id=effect.run_id,
                task_id=effect.task_id,
                due_at=effect.at,
                attempt=1,
                tries=1,
                started_at=effect.at,
                operation=effect.operation,
            ),
        )

    def resolve_all(self, changes: Numbered[ResolveTask]) -> Answers:
        """The first one that was applied of each run tells what became of the run by all of them."""
        answers: Answers = {n: self.resolve_task(change) for n, change in changes}
        first: dict[str, int] = {}
        for n, change in changes:
            answer = answers[n]
            if isinstance(answer, Applied):
                told = answers[first.setdefault(change.run_id, n)]
                assert isinstance(told, Applied)
                answers[n] = Applied()
                woken = told.woken or answer.woken
                due_at = None if woken else told.due_at or answer.due_at
                answers[first[change.run_id]] = Applied(woken=woken, due_at=due_at)
        return answers

    def resolve_task(self, change: ResolveTask) -> Result:
        self.forget_waits(change.run_id, change.task_id)
        task = self.tasks.get(change.run_id, {}).get(change.task_id)
        if task is None or not _is_open(task) or self.has_ended(change.run_id):
            return Refused(run=None)
        self.tasks[change.run_id][change.task_id] = replace(
            task,
            status=change.status,
            output=change.output,
            types=change.types,
            error=change.error,
            completed_at=change.at,
            due_at=None,
        )
        for below in change.tasks:
            self._write_task(change.run_id, below)
        run = self.runs[change.run_id]
        run.wakes += 1
        if run.status is not change.waiting or (run.open_waits == 0 and run.wake_at is not None):
            return Applied()
        run.open_waits = max(0, run.open_waits - 1)
        if run.open_waits == 0 or (run.resume_at is not None and run.resume_at <= change.at):
            self.wake(run, change.queued)
            return Applied(woken=True)
        if run.resume_at is not None and (run.wake_at is None or run.resume_at < run.wake_at):
            run.wake_at = run.resume_at
            return Applied(due_at=run.resume_at)
        return Applied()

    # --- runs ------------------------------------------------------------------------------------------------------------

    def move_all(self, changes: Numbered[MoveRun]) -> Answers:
        """Those of one run in their order, the first of every run before the second of any; then what they resolve."""
        answers: Answers = {}
        for wave in self._waves(changes):
            for _, change in wave:
                self._write(change.run_id, change.tasks, change.logs)
            self._carry_out([change for _, change in wave])
            answers |= {n: self.move_run(change) for n, change in wave}
        resolutions = [
            (n, change.resolve) for n, change in changes if n in answers and change.resolve is not None
        ]
        told = self.resolve_all(resolutions)
        for n, result in told.items():
            if isinstance(result, Applied):
                ours = answers[n]
                assert isinstance(ours, Applied)
                answers[n] = replace(result, overtaken=ours.overtaken)
        later: dict[str, MoveRun] = {}
        for n, change in reversed(changes):
            if n not in answers:
                repeat = self._as_repeat(change, later.get(change.run_id))
                if repeat is not None:
                    later[change.run_id] = change
                answers[n] = repeat or self.refuse(change.run_id)
        return answers

    def _waves(self, changes: Numbered[MoveRun]) -> list[Numbered[MoveRun]]:
        """Those whose guards hold: the n-th of each run in the n-th list."""
        states = {run.id: (run.status, run.execution) for run in self.runs.values()}
        depth: Counter[str] = Counter()
        waves: list[Numbered[MoveRun]] = []
        for n, change in changes:
            if states.get(change.run_id) != (change.expected, change.execution):
                continue
            overtaken = change.wakes_seen not in (None, self.runs[change.run_id].wakes)
            entered = change.otherwise if overtaken and change.otherwise is not None else change.status
            states[change.run_id] = (entered, change.execution)
            if depth[change.run_id] == len(waves):
                waves.append([])
            waves[depth[change.run_id]].append((n, change))
            depth[change.run_id] += 1
        return waves

    def _as_repeat(self, change: MoveRun, later: MoveRun | None) -> Applied | None:
        """What a move was answered that has been made already; `later`: a repeat that went on from there."""
        run = self.runs.get(change.run_id)
        overtaken = None if change.wakes_seen is None else _overtaken(change)
        for move in (change, overtaken):
            if run is None or move is None:
                continue
            left = None if later is None else (later.expected, later.execution)
            if _is_result(run, move) or (move.status, move.execution) == left:
                return Applied(overtaken=move is overtaken)
        return None

    def move_run(self, change: MoveRun) -> Result:
        run = self.runs[change.run_id]
        overtaken = change.wakes_seen is not None and change.wakes_seen != run.wakes
        tasks = self.tasks.get(change.run_id, {})
        if change.cancel_open:
            for task in tasks.values():
                if _is_open(task):
                    tasks[task.id] = replace(task, status=TaskStatus.CANCELED, completed_at=change.at)
        _reset(tasks, change.reset)
        if change.reset_open:
            for task in list(tasks.values()):
                if task.status is TaskStatus.CANCELED and task.interrupted is None:
                    del tasks[task.id]
        slot = self.leases.get((run.id, run.execution)) if run.status is RunStatus.EXECUTING else None
        self.take_from_place(run)
        _enter(run, _overtaken(change) if overtaken else change)
        if run.status is RunStatus.QUEUED:
            self.ready[run.id] = change.at if change.ready_at is None else change.ready_at
        if slot is not None and change.revoke:
            slot.is_revoked = True
            self.leases[run.id, run.execution] = slot
        if run.status is RunStatus.WAITING:
            tasks_left = {wait.task_id for wait in change.waits}
            for key in [each for each in self.waiters if each[0] == run.id and each[1] not in tasks_left]:
                del self.waiters[key]
            for wait in change.waits:
                self._wait(run.id, wait)
        if run.completed_at is not None:
            self.forget_waits(run.id)
        return Applied(overtaken=overtaken)

    def _wait(self, run_id: str, wait: EventWait) -> None:
        for name in wait.names:
            row = WaiterRow(
                run_id=run_id,
                task_id=wait.task_id,
                name=name,
                since=wait.since,
                source=wait.source,
                filter=wait.filter,
                context_filter=wait.context_filter,
                account_id=wait.account_id,
            )
            known = self.waiters.get((run_id, wait.task_id, name))
            if known is None or known.row != row:
                self.waiters[run_id, wait.task_id, name] = StoredWaiter(row=row)

    # --- waits for others ------------------------------------------------------------------------------------------------

    def repeat_operation(self, change: RepeatOperation) -> Result:
        row = self.operations.get((change.run_id, change.task_id))
        if row is None or row.attempt != change.attempt:
            return self.refuse(change.run_id)
        row.attempt += 1
        row.tries = change.tries
        row.due_at = change.due_at
        for task in change.tasks:
            self._write_task(change.run_id, task)
        return Applied()

    def check_waiter(self, change: CheckWaiter) -> Result:
        for (run_id, task_id, _), waiter in self.waiters.items():
            if (run_id, task_id) == (change.run_id, change.task_id):
                waiter.is_checked = True
        return Applied()

    def finish_match(self, change: FinishMatch) -> Result:
        if change.event_id in self.events:
            self.events[change.event_id].matching = False
        return Applied()


def _enter(run: RunRow, move: MoveRun) -> None:
    """Let the run's row say what the move says."""
    run.status = move.status
    run.priority = run.priority if move.priority is None else move.priority
    run.spent_ms += move.add_spent_ms
    run.crashes = move.crashes
    run.failures = run.failures if move.failures is None else move.failures
    run.output, run.types, run.error = move.output, move.types, move.error
    run.reason, run.failed_tasks = move.reason, list(move.failed_tasks)
    run.completed_at, run.wake_at = move.completed_at, move.wake_at
    run.open_waits, run.resume_at = move.open_waits, move.resume_at


def _overtaken(move: MoveRun) -> MoveRun:
    """What a move enters whose run was resolved something that it hasn't seen."""
    assert move.otherwise is not None
    return replace(
        move, status=move.otherwise, wake_at=None, open_waits=0, resume_at=None, waits=(), reason=None
    )


def _is_result(run: RunRow, move: MoveRun) -> bool:
    """Whether a run is as the move left it."""
    would = copy_run(run)
    _enter(would, replace(move, add_spent_ms=0))
    return would == run and run.execution == move.execution


def _is_stored(task: TaskRecord, stored: TaskRecord | None) -> bool:
    if stored is None:
        return False
    if task.output is None:  # the stored one was kept
        task = replace(task, output=stored.output, types=stored.types)
    return replace(task, omitted=False) == stored


def _is_open(task: TaskRecord) -> bool:
    """Without completion, place in the history or interruption."""
    return task.completed_at is None and task.seq is None and task.interrupted is None


def _is_resolution(task: TaskRecord) -> bool:
    """Completed by somebody else, and not seen by the run's code yet."""
    return task.status in _COMPLETIONS and task.seq is None and task.interrupted is None


def _reset(tasks: dict[str, TaskRecord], ids: Sequence[str]) -> None:
    going = [tasks[task_id] for task_id in dict.fromkeys(ids) if task_id in tasks]
    below = [task for task in tasks.values() if task.parent_id in ids and task.opened == PLATFORM_ROW]
    seqs = [task.seq for task in going if task.seq is not None]
    for task in {task.id: task for task in [*going, *below]}.values():
        del tasks[task.id]
    if not seqs:
        return
    for task in list(tasks.values()):
        if task.interrupted is None or task.interrupted < min(seqs):
            continue
        if task.status is TaskStatus.CANCELED:
            del tasks[task.id]
        else:
            tasks[task.id] = replace(task, interrupted=None)
