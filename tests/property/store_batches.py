"""Random batches of every kind of change, made with an eye on what a store holds: most take effect, many just miss.

A batch may have several changes of one run, event, queue or lane; some repeat an earlier batch as after a lost COMMIT.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from perdure.engine.store import (
    AwaitEvent,
    CancelEvent,
    Change,
    CheckWaiter,
    ClaimRuns,
    DefineQueue,
    DeleteEvents,
    DeleteRuns,
    DeliverEvent,
    FinishMatch,
    IngestEvent,
    MoveRun,
    NewRun,
    PauseQueue,
    PutAccount,
    PutSchedule,
    RecordTasks,
    ReleaseLease,
    RenewLeases,
    RepeatOperation,
    ResolveTask,
    RunRow,
    ScheduleRow,
    TickSchedule,
    WakeRuns,
)
from perdure.schema.effects import AnnotateRun, DeleteValue, EventWait, SetValue, StartOperation, UpdateStatus
from perdure.schema.execution import PLATFORM_ROW, EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import ErrorInfo, RunStatus, TaskStatus
from perdure.testing.store_model import StoreModel

T = TypeVar("T")

START = 1_700_000_000_000
NAMES = ("a", "b", "c")
QUEUES = ("", "q", "r")
KEYS = ("", "k", "l")
JOBS = ("job", "other")
OWNERS = ("one", "two")
TASKS = ("t1", "t2", "t3", "t4")
OPEN: dict[str, Any] = {"status": TaskStatus.WAITING, "seq": None, "interrupted": None, "completed_at": None}
ERROR = ErrorInfo(name="E", message="m")
SURROGATE = '"\ud800"'
MOVABLE = [status for status in RunStatus if status is not RunStatus.EXECUTING]


class Batches:
    """A stream of batches for what `model` holds at the time; the same for the same seed."""

    def __init__(self, seed: int, model: StoreModel) -> None:
        self.random = random.Random(seed)
        self.model = model
        self.now = START
        self._count = 0
        self._past: list[list[Change]] = []

    def next(self) -> list[Change]:
        self.now += self.random.choice([0, 1, 1, 5, 50])
        if self._past and self._chance(0.12):
            return list(self.random.choice(self._past[-3:]))
        batch = [self._change() for _ in range(self.random.choice([1, 1, 2, 2, 3, 5, 8]))]
        if self._chance(0.2):
            batch.append(self._pick(batch))
        self._past = [*self._past[-5:], batch]
        return batch

    def poisoned(self) -> list[Change] | None:
        """Now and then a batch that a store has to reject as a whole: text that can't be stored, early or late in it."""
        if not self._chance(0.08):
            return None
        batch = [self._change() for _ in range(4)]
        poison = self._pick(
            [
                replace(self.ingest(), event=replace(self.event(), payload=SURROGATE)),
                SetValue(scope="env", key="a", value=SURROGATE, at=self.now),
                PutAccount(id="acc", metadata=SURROGATE, at=self.now),
            ]
        )
        return [*batch, poison]

    def _change(self) -> Change:
        makers = list(_MAKERS)
        (maker,) = self.random.choices(makers, [_MAKERS[each] for each in makers])
        return maker(self)

    # --- choices ---------------------------------------------------------------------------------------------------------

    def _chance(self, p: float) -> bool:
        return self.random.random() < p

    def _pick(self, among: Sequence[T]) -> T:
        return self.random.choice(among)

    def _maybe(self, value: T, p: float = 0.5) -> T | None:
        return value if self._chance(p) else None

    def _fresh(self, kind: str) -> str:
        """Ids that don't come in the order in which they are made."""
        self._count += 1
        return f"{kind}_{self.random.randrange(1000):03}_{self._count}"

    def _some(self, known: Sequence[str], kind: str) -> str:
        """The id of one that exists, now and then of one that doesn't."""
        return self._pick(known[-12:]) if known and self._chance(0.93) else f"{kind}_unknown"

    def _run(self, *statuses: RunStatus) -> RunRow | None:
        found = [run for run in self.model.runs.values() if not statuses or run.status in statuses]
        return self._pick(found[-12:]) if found else None

    def _run_id(self, *statuses: RunStatus) -> str:
        run = self._run(*statuses)
        return "run_unknown" if run is None or self._chance(0.05) else run.id

    def _task_of(self, run_id: str) -> str:
        known = list(self.model.tasks.get(run_id, {}))
        return self._pick(known) if known and self._chance(0.8) else self._pick(TASKS)

    def _at(self) -> int:
        return self.now + self._pick([-20, -1, 0, 0, 1, 20])

    # --- events ----------------------------------------------------------------------------------------------------------

    def event(self, id: str | None = None) -> EventRecord:
        return EventRecord(
            id=id or self._fresh("evt"),
            name=self._pick(NAMES),
            payload=self._pick(['{"a":1}', "null", "[1,  2]"]),
            timestamp=self.now,
            context=self._maybe('{"c":1}', 0.3),
            is_test=self._chance(0.1),
            account_id=self._maybe(self._pick(["acc", "bcc"]), 0.3),
            deliver_at=self._maybe(self._at(), 0.4),
            delivered_at=None,
        )

    def new_run(self, job: str) -> NewRun:
        parent = self._run(RunStatus.WAITING) if self._chance(0.5) else None
        return NewRun(
            id=self._fresh("run"),
            job_id=job,
            job_version="1",
            status=self._pick([RunStatus.QUEUED, RunStatus.QUEUED, RunStatus.QUEUED, RunStatus.PENDING]),
            created_at=self.now,
            priority=self._pick([0, 0, 0, 5]),
            queue=self._pick(QUEUES),
            queue_key=self._pick(KEYS),
            parent_run_id=None if parent is None else parent.id,
            parent_task_id=None if parent is None else self._open_task(parent.id),
            tags=self._pick([(), ("x",), ("x", "y")]),
            metadata=self._maybe('{"m":1}', 0.2),
            is_internal=self._chance(0.1),
        )

    def new_runs(self) -> list[NewRun]:
        return [self.new_run(job) for job in self.random.sample(JOBS, self._pick([0, 1, 1, 2]))]

    def ingest(self) -> IngestEvent:
        known = list(self.model.events)
        again = self._chance(0.25)
        event = self.event(self._pick(known[-8:]) if known and again else None)
        delayed = event.deliver_at is not None and event.deliver_at > self.now
        return IngestEvent(
            event=event,
            runs=[] if delayed else self.new_runs(),
            created_at=self.now,
            edit_before=self._maybe(self.now + self._pick([0, 10])),
        )

    def deliver(self) -> DeliverEvent:
        due = self.model.due_events(self.now + 30, 5)
        if due and self._chance(0.9):
            event = self._pick(due)
            due_at = (event.deliver_at or 0) + self._pick([0, 0, 0, 0, 1])
        else:
            event, due_at = None, self.now
        event_id = self._some(list(self.model.events), "evt") if event is None else event.id
        return DeliverEvent(event_id=event_id, due_at=due_at, at=self.now, runs=self.new_runs())

    def cancel_event(self) -> CancelEvent:
        due = [event.id for event in self.model.due_events(self.now + 30, 5)]
        known = due if self._chance(0.7) else list(self.model.events)
        return CancelEvent(event_id=self._some(known, "evt"), at=self.now)

    def put_schedule(self) -> PutSchedule:
        return PutSchedule(
            schedule=ScheduleRow(
                id=self._pick(["s1", "s2"]),
                dispatcher=self._pick(["job:job", "dynamic:d"]),
                key=self._pick(["x", "y"]),
                schedule="{}",
                created_at=self.now,
                metadata=self._maybe("{}"),
                is_active=self._chance(0.8),
                next_at=self._maybe(self._at(), 0.9),
            )
        )

    def tick(self) -> TickSchedule:
        row = self.model.get_schedule(self._pick(["s1", "s1", "s2", "s2", "s3"]))
        expected = self.now if row is None or row.next_at is None else row.next_at
        expected += self._pick([0, 0, 0, 0, 1])
        event = self.event(f"s:{expected}")
        event.deliver_at = None
        return TickSchedule(
            id="s3" if row is None else row.id,
            expected=expected,
            next_at=expected + self._pick([1, 10]),
            at=self.now,
            event=event,
            runs=self.new_runs(),
        )

    # --- tasks -----------------------------------------------------------------------------------------------------------

    def task(self, id: str | None = None, run_id: str = "") -> TaskRecord:
        status = self._pick(list(TaskStatus))
        ended = status in (TaskStatus.COMPLETED, TaskStatus.ERRORED, TaskStatus.CANCELED)
        interrupted = status is TaskStatus.CANCELED or self._chance(0.1)
        name = id or self._pick(TASKS)
        return TaskRecord(
            id=name,
            idempotency_key=f"key of {name}",
            key=name,
            name=name,
            status=status,
            position=ord(name[-1]) * 10 + len(name),
            seq=self._seq(run_id, name) if ended and status is not TaskStatus.CANCELED else None,
            interrupted=self.random.randrange(1, self._count + 9) if interrupted else None,
            attempts=self.random.randrange(3),
            due_at=self._maybe(self._at(), 0.2),
            started_at=self.now - self.random.randrange(5) if self._chance(0.7) else None,
            completed_at=self.now if ended else None,
            output=self._maybe(self._pick(['"out"', "1", "null"]), 0.4),
            types=self._maybe("{}", 0.1),
            error=ERROR if status is TaskStatus.ERRORED else None,
        )

    def _seq(self, run_id: str, id: str) -> int:
        """That of the task if it was completed already, else the next of the run."""
        rows = self.model.tasks.get(run_id, {})
        known = rows[id].seq if id in rows else None
        self._count += 1
        return known or self._count

    def platform_row(self, id: str, parent_id: str) -> TaskRecord:
        return replace(self.task(id), opened=PLATFORM_ROW, parent_id=parent_id, seq=None, interrupted=None)

    def logs(self) -> list[LogRecord]:
        return [
            LogRecord(
                id=self._pick(["l1", "l2", "l3", "l4"]), level="INFO", message=self._fresh("m"), at=self.now
            )
            for _ in range(self._pick([0, 0, 1, 2]))
        ]

    def effects(self, run_id: str) -> list[Any]:
        made: list[Any] = []
        for _ in range(self._pick([0, 0, 0, 1, 2])):
            kind = self.random.randrange(7)
            if kind == 0:
                made.append(
                    StartOperation(
                        run_id=run_id,
                        task_id=self._pick(TASKS),
                        at=self._at(),
                        operation=self._pick(["{}", "[]"]),
                    )
                )
            elif kind == 6:
                wait = EventWait(task_id=self._pick(TASKS), names=(self._pick(NAMES),), since=START)
                made.append(AwaitEvent(run_id=run_id, wait=wait))
            elif kind == 1:
                made.append(self.update_status(run_id))
            elif kind == 2:
                made.append(self.set_value(run_id))
            elif kind == 3:
                made.append(self.delete_value(run_id))
            elif kind == 4:
                made.append(self.annotate(run_id))
            else:
                made.append(self.ingest())
        return made

    def record(self) -> RecordTasks:
        run = self._run(RunStatus.EXECUTING) if self._chance(0.85) else self._run()
        if run is None:
            return RecordTasks(run_id="run_unknown", execution=1, tasks=[self.task()])
        return RecordTasks(
            run_id=run.id,
            execution=run.execution + self._pick([0] * 9 + [1, -1]),
            tasks=[self.task(run_id=run.id) for _ in range(self._pick([0, 1, 1, 2, 3]))],
            logs=self.logs(),
            effects=self.effects(run.id),
        )

    def resolve(self, run_id: str | None = None, task_id: str | None = None) -> ResolveTask:
        if run_id is None:
            run_id = self._run_id(
                *self._pick([(), (RunStatus.WAITING,), (RunStatus.WAITING,), (RunStatus.EXECUTING,)])
            )
        status = self._pick([TaskStatus.COMPLETED, TaskStatus.ERRORED])
        return ResolveTask(
            run_id=run_id,
            task_id=task_id or self._open_task(run_id),
            status=status,
            at=self.now,
            waiting=RunStatus.WAITING,
            queued=RunStatus.QUEUED,
            output=self._maybe('"resolved"', 0.7),
            error=ERROR if status is TaskStatus.ERRORED else None,
            tasks=[self.platform_row("t1/9", "t1")] if self._chance(0.1) else [],
        )

    def _open_task(self, run_id: str) -> str:
        rows = self.model.tasks.get(run_id, {}).values()
        still_open = [row.id for row in rows if row.completed_at is None and row.interrupted is None]
        return self._pick(still_open) if still_open and self._chance(0.8) else self._task_of(run_id)

    # --- runs ------------------------------------------------------------------------------------------------------------

    def move(self) -> MoveRun:
        run = self._run(RunStatus.EXECUTING) if self._chance(0.5) else self._run()
        if run is None:
            return MoveRun(
                run_id="run_unknown",
                expected=RunStatus.QUEUED,
                execution=0,
                status=RunStatus.WAITING,
                at=self.now,
            )
        expected = run.status if self._chance(0.93) else self._pick(list(RunStatus))
        return self.move_of(run, expected)

    def move_of(self, run: RunRow, expected: RunStatus) -> MoveRun:
        targets = [
            RunStatus.WAITING,
            RunStatus.WAITING,
            RunStatus.QUEUED,
            RunStatus.COMPLETED,
            self._pick(MOVABLE),
        ]
        move = MoveRun(
            run_id=run.id,
            expected=expected,
            execution=run.execution + self._pick([0] * 12 + [1]),
            status=self._pick(targets),
            at=self.now,
            ready_at=self._maybe(run.created_at),
            priority=self._maybe(self._pick([0, 5]), 0.2),
            add_spent_ms=self.random.randrange(10),
            crashes=self.random.randrange(3),
            failures=self._maybe(self.random.randrange(3), 0.3),
            output=self._maybe('"done"', 0.4),
            types=self._maybe("{}", 0.1),
            error=self._maybe(ERROR, 0.2),
            reason=self._maybe("why", 0.2),
            failed_tasks=["t1"] if self._chance(0.2) else [],
            tasks=[self.task(run_id=run.id) for _ in range(self._pick([0, 0, 1, 2]) if run.execution else 0)],
            logs=self.logs(),
            # No move asks for a run: executions do that by recording the task that waits for it.
            effects=[
                effect
                for effect in self.effects(run.id)
                if not (isinstance(effect, IngestEvent) and any(new.parent_run_id for new in effect.runs))
            ],
            reset=self.random.sample(TASKS, self._pick([1, 2])) if self._chance(0.15) else [],
            reset_open=self._chance(0.15),
        )
        if move.status.is_terminal:
            move.completed_at = self.now
            move.cancel_open = self._chance(0.7)
            if expected is RunStatus.EXECUTING:
                move.revoke = self._chance(0.3)
            if run.parent_run_id is not None and run.parent_task_id is not None and self._chance(0.8):
                move.resolve = self.resolve(run.parent_run_id, run.parent_task_id)
        if move.status is RunStatus.WAITING:
            move.wake_at = self._maybe(self._at() + self._pick([0, 200]), 0.7)
            move.open_waits = self.random.randrange(4)
            move.resume_at = (
                self._maybe(self._at() + self._pick([0, 90, 90])) if move.open_waits > 1 else None
            )
            if self._chance(0.6):
                move.wakes_seen = run.wakes if self._chance(0.7) else max(0, run.wakes - 1)
                move.otherwise = RunStatus.QUEUED
            if run.execution and self._chance(0.5):
                move.tasks = [*move.tasks, replace(self.task(run_id=run.id), **OPEN)]
            move.waits = [self.wait(task) for task in self.random.sample(TASKS, self._pick([0, 0, 1, 2]))]
        return move

    def end_child(self) -> MoveRun:
        """The end of a run that another one waits for, if there is one."""
        model = self.model
        children = [
            run
            for run in model.runs.values()
            if run.parent_run_id in model.runs
            and run.completed_at is None
            and model.runs[run.parent_run_id].status is RunStatus.WAITING
        ]
        if not children:
            return self.move()
        run = self._pick(children)
        assert run.parent_run_id is not None
        return MoveRun(
            run_id=run.id,
            expected=run.status,
            execution=run.execution,
            status=RunStatus.COMPLETED,
            at=self.now,
            completed_at=self.now,
            cancel_open=True,
            resolve=self.resolve(run.parent_run_id),
        )

    def wait(self, task_id: str) -> EventWait:
        return EventWait(
            task_id=task_id,
            names=tuple(self.random.sample(NAMES, self._pick([1, 1, 2]))),
            since=self.now - self._pick([0, 1, 40]),
            source=self._maybe("s", 0.1),
            filter=self._maybe('{"a":[1]}', 0.3),
            account_id=self._maybe("acc", 0.1),
        )

    def delete_runs(self) -> DeleteRuns:
        ids = self.model.ended_runs(before=self.now + 1, statuses=(), limit=9)
        others = [self._run_id() for _ in range(self._pick([0, 1]))]
        return DeleteRuns(ids=[*self.random.sample(ids, min(len(ids), self._pick([0, 1, 2]))), *others])

    def delete_events(self) -> DeleteEvents:
        ids = self.model.childless_events(before=self.now + 1, limit=9)
        others = [self._some(list(self.model.events), "evt")]
        return DeleteEvents(ids=[*self.random.sample(ids, min(len(ids), self._pick([0, 1, 2]))), *others])

    # --- executions and queues -------------------------------------------------------------------------------------------

    def claim(self) -> ClaimRuns:
        return ClaimRuns(
            owner=self._pick(OWNERS),
            limit=self._pick([0, 1, 2, 3, 5, 20]),
            at=self.now,
            expires_at=self.now + self._pick([20, 30]),
            expected=RunStatus.QUEUED,
            status=RunStatus.EXECUTING,
            environment_limit=self._maybe(self._pick([2, 5, 8]), 0.3),
        )

    def wake(self) -> WakeRuns:
        return WakeRuns(
            limit=self._pick([1, 2, 9]), at=self.now, expected=RunStatus.WAITING, status=RunStatus.QUEUED
        )

    def renew(self) -> RenewLeases:
        return RenewLeases(owner=self._pick([*OWNERS, "three"]), expires_at=self.now + 30)

    def release(self) -> ReleaseLease:
        held = list(self.model.leases)
        revoked = [key for key, lease in self.model.leases.items() if lease.is_revoked]
        known = revoked if revoked and self._chance(0.8) else held
        run_id, execution = self._pick(known) if known else ("run_unknown", 1)
        return ReleaseLease(run_id=run_id, execution=execution + self._pick([0] * 9 + [1]))

    def define_queue(self) -> DefineQueue:
        return DefineQueue(
            id=self._pick(QUEUES),
            concurrency_limit=self._maybe(self.random.randrange(5), 0.4),
            key_limit=self._maybe(self.random.randrange(1, 4), 0.4),
            priority=self._pick([0, 0, 0, 1]),
        )

    def pause_queue(self) -> PauseQueue:
        return PauseQueue(id=self._pick(QUEUES), paused_at=self._maybe(self.now, 0.3))

    # --- the rest --------------------------------------------------------------------------------------------------------

    def update_status(self, run_id: str | None = None) -> UpdateStatus:
        return UpdateStatus(
            run_id=run_id or self._run_id(),
            key=self._pick(["s", "t"]),
            id=self._pick(["u1", "u2", "u3", "u4"]),
            at=self.now,
            label=self._maybe("label"),
            state=self._maybe(self._pick(["on", "off"])),
            data=self._maybe('{"n":1}'),
        )

    def _scope(self, run_id: str | None) -> str:
        return self._pick(["env", "job:job", f"run:{run_id or self._run_id()}"])

    def set_value(self, run_id: str | None = None) -> SetValue:
        return SetValue(
            scope=self._scope(run_id),
            key=self._pick(["a", "b"]),
            value=self._pick(["1", '"v"']),
            at=self.now,
            types=self._maybe("{}", 0.2),
        )

    def delete_value(self, run_id: str | None = None) -> DeleteValue:
        return DeleteValue(scope=self._scope(run_id), key=self._pick(["a", "b"]))

    def annotate(self, run_id: str | None = None) -> AnnotateRun:
        return AnnotateRun(
            run_id=run_id or self._run_id(),
            tags=self._pick([(), ("x",), ("z", "x")]),
            metadata=self._maybe(self._pick(['{"m":2}', '{"n":null}'])),
        )

    def finish_match(self) -> FinishMatch:
        pending = [match.event.id for match in self.model.matches(5)]
        return FinishMatch(event_id=self._some(pending, "evt"))

    def check_waiter(self) -> CheckWaiter:
        waiters = self.model.unchecked_waiters(5)
        if not waiters:
            return CheckWaiter(run_id=self._run_id(), task_id="t1")
        waiter = self._pick(waiters)
        return CheckWaiter(run_id=waiter.run_id, task_id=waiter.task_id)

    def repeat_operation(self) -> RepeatOperation:
        known = list(self.model.operations.values())
        if not known or self._chance(0.1):
            return RepeatOperation(run_id=self._run_id(), task_id="t1", attempt=1, due_at=self.now, tries=1)
        row = self._pick(known)
        return RepeatOperation(
            run_id=row.run_id,
            task_id=row.task_id,
            attempt=row.attempt + self._pick([0, 0, 0, 1, -1]),
            due_at=self._at(),
            tries=self._pick([1, 2]),
            tasks=[self.platform_row(f"{row.task_id}/{row.attempt}", row.task_id)],
        )

    def put_account(self) -> PutAccount:
        return PutAccount(id=self._pick(["acc", "bcc"]), metadata=self._maybe('{"a":1}'), at=self.now)


_MAKERS: dict[Callable[[Batches], Change], float] = {
    Batches.ingest: 9,
    Batches.deliver: 4,
    Batches.cancel_event: 1.5,
    Batches.put_schedule: 2,
    Batches.tick: 3,
    Batches.record: 10,
    Batches.resolve: 7,
    Batches.move: 14,
    Batches.end_child: 2,
    Batches.delete_runs: 1.5,
    Batches.delete_events: 1.5,
    Batches.claim: 9,
    Batches.wake: 3,
    Batches.renew: 2,
    Batches.release: 3,
    Batches.define_queue: 1.5,
    Batches.pause_queue: 2,
    Batches.update_status: 2,
    Batches.set_value: 2,
    Batches.delete_value: 1,
    Batches.annotate: 2,
    Batches.finish_match: 2,
    Batches.check_waiter: 2,
    Batches.repeat_operation: 4,
    Batches.put_account: 1,
}
