"""Looks at every commit, and holds the database to what was committed before and to the rules of runs and tasks.

Nothing here knows how an engine or a store works: it sees changes go in, results come out, and reads rows through the
Store port. Each check names the promise it is for (docs/reliability.md lists them).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from perdure.engine.core.transitions import INITIAL, TRANSITIONS
from perdure.engine.store import (
    Applied,
    Change,
    Claimed,
    ClaimRuns,
    Ingested,
    IngestEvent,
    MoveRun,
    RecordTasks,
    Result,
    RunFilter,
    RunRow,
    Store,
    WakeRuns,
    Woken,
)
from perdure.schema.execution import TaskRecord
from perdure.schema.runs import RunStatus, TaskStatus

from .batch import Batch
from .findings import Findings
from .trace import Trace

LEGAL = frozenset((status, following) for (status, _), following in TRANSITIONS.items())
EVERYTHING = 1_000_000
FAR = 1 << 60


class Watch(Protocol):
    """Looks at one concern of every commit, after the runs that it touches have been read."""

    def before(self) -> None:
        """A transaction was committed; `History` still shows what was before it."""
        ...

    async def after(self, batch: Batch) -> None:
        """`History` shows what it left."""
        ...


class History:
    """What the database has been seen to hold (port: Witness).

    Args:
        store: the one that survives; read at once, whatever the weather.
        slots: runs that one owner may have leased at once.

    Attributes:
        runs: each run as last seen.
        since: when it came into the status it has, seconds of the loop.
        past: all statuses it has been in.
        tasks: of each run, its tasks as last recorded.
        commits: how many there were.
        full_at: when no slot was free for the last time.
        watches: who else looks at every commit.
    """

    def __init__(
        self, store: Store, findings: Findings, trace: Trace, *, now: Callable[[], float], slots: int
    ) -> None:
        self.runs: dict[str, RunRow] = {}
        self.since: dict[str, float] = {}
        self.past: defaultdict[str, list[RunStatus]] = defaultdict(list)
        self.tasks: defaultdict[str, dict[str, TaskRecord]] = defaultdict(dict)
        self.commits = 0
        self.full_at = 0.0
        self.watches: list[Watch] = []
        self._executing: set[str] = set()
        self._store = store
        self._findings = findings
        self._trace = trace
        self._now = now
        self._slots = slots

    async def committed(self, changes: Sequence[Change], results: Sequence[Result]) -> None:
        """A transaction was committed: what it did must be what it was asked for, and be allowed."""
        self.commits += 1
        if self.is_full:
            self.full_at = self._now()
        for watch in self.watches:
            watch.before()
        batch = Batch(self.runs, changes, results)
        for change, result in batch.of(IngestEvent):
            self._ingested(batch, change, result)
        for change, result in batch.of(RecordTasks):
            if isinstance(result, Applied):
                self._recorded(batch, change)
        for change, result in batch.of(MoveRun):
            if isinstance(result, Applied):
                self._moved(batch, change, result)
        for change, result in batch.of(WakeRuns):
            self._woken(batch, change, result)
        for change, result in batch.of(ClaimRuns):
            self._claimed(batch, change, result)
        self._trace.add("commit", batch.describe())
        await self._look(batch)
        for watch in self.watches:
            await watch.after(batch)
        if self.commits % 16 == 0 or len(self.runs) <= 3:
            await self.look_at_all()

    # --- what the changes mean ------------------------------------------------------------------------------------------

    def _ingested(self, batch: Batch, change: IngestEvent, result: Any) -> None:
        assert isinstance(result, Ingested)
        for run in result.runs:
            if result.duplicate:
                if run.id not in self.runs and run.id not in batch.states:
                    self._find(
                        "nothing acknowledged is lost", f"{run.id} appears as an old run, and wasn't seen"
                    )
            elif run.id in self.runs or run.id in batch.states:
                self._find("ids are unique", f"{run.id} was created twice")
            else:
                batch.go(run.id, INITIAL, 0)
                if run.status is not INITIAL:
                    self._step(batch, run.id, run.status, 0)

    def _recorded(self, batch: Batch, change: RecordTasks) -> None:
        if batch.state(change.run_id) == (RunStatus.EXECUTING, change.execution):
            self._write(change.run_id, change.tasks)
            if change.effects:  # a child that is asked for once more may have ended: that counts as a wake-up
                batch.reread.add(change.run_id)
        elif not self._is_known(change):
            status, execution = batch.state(change.run_id) or (None, None)
            self._find(
                "fences hold",
                f"execution {change.execution} of {change.run_id} wrote tasks while it was {status}, execution {execution}",
            )

    def _is_known(self, change: RecordTasks) -> bool:
        """Whether a write that came too late says only what is stored (a repeat after an unknown outcome)."""
        known = self.tasks[change.run_id]
        return all(task.id in known and known[task.id].status is task.status for task in change.tasks)

    def _moved(self, batch: Batch, move: MoveRun, result: Applied) -> None:
        state = batch.state(move.run_id)
        if move.run_id in batch.loose:
            self._write(move.run_id, move.tasks)
            batch.reread.add(move.run_id)
            return
        if state != (move.expected, move.execution):
            if state != (move.status, move.execution):  # else two of the same kind: the second finds it done
                self._find(
                    "fences hold",
                    f"{move.run_id} was moved from {move.expected.name}, execution {move.execution}, while it was {state}",
                )
            return
        self._write(move.run_id, move.tasks)
        if move.cancel_open or move.reset or move.reset_open:
            batch.reread.add(move.run_id)
            batch.forgotten.update((move.run_id, task_id) for task_id in move.reset)
        status = move.status
        if result.overtaken:  # somebody resolved a task that the execution hadn't seen
            status = RunStatus.QUEUED
        elif status is RunStatus.WAITING and move.reason is None:
            batch.suspended.add(move.run_id)
        self._step(batch, move.run_id, status, move.execution)

    def _woken(self, batch: Batch, change: WakeRuns, result: Any) -> None:
        assert isinstance(result, Woken)
        for run_id in result.runs:
            status, execution = batch.state(run_id) or (None, 0)
            if run_id not in batch.loose and status is not change.expected:
                self._find("a run is in one place", f"{run_id} was woken while it was {status}")
            elif run_id not in batch.loose:
                self._step(batch, run_id, change.status, execution)

    def _claimed(self, batch: Batch, change: ClaimRuns, result: Any) -> None:
        assert isinstance(result, Claimed)
        if len(result.claims) > change.limit:
            self._find(
                "limits are never exceeded", f"{len(result.claims)} claims, {change.limit} were asked for"
            )
        for claim in result.claims:
            state = batch.state(claim.run_id)
            is_free = claim.run_id in batch.loose or (state is None and batch.creates)
            if state != (RunStatus.QUEUED, claim.execution - 1) and not is_free:
                self._find(
                    "one execution at a time",
                    f"execution {claim.execution} of {claim.run_id} was claimed while it was {state}",
                )
            batch.go(claim.run_id, RunStatus.EXECUTING, claim.execution)
            known = {task.id for task in self.tasks[claim.run_id].values()}
            got = {task.id for task in claim.tasks}
            if claim.execution > 1 and known != got and claim.run_id not in batch.reread | batch.loose:
                self._find(
                    "nothing acknowledged is lost",
                    f"the claim of {claim.run_id} lacks tasks {sorted(known - got)}, has {sorted(got - known)} too",
                )

    def _step(self, batch: Batch, run_id: str, status: RunStatus, execution: int) -> None:
        before = batch.states[run_id][0] if run_id in batch.states else self.runs[run_id].status
        if (before, status) not in LEGAL:
            self._find("legal transitions only", f"{run_id} went from {before.name} to {status.name}")
        batch.go(run_id, status, execution)

    def _write(self, run_id: str, records: Iterable[TaskRecord]) -> None:
        tasks = self.tasks[run_id]
        for record in records:
            known = tasks.get(record.id)
            if known is not None:
                if known.seq is not None and (known.status, known.seq) != (record.status, record.seq):
                    self._find(
                        "what is recorded as completed stays",
                        f"task {record.key!r} of {run_id} was {known.status.name} at {known.seq}, and was written as "
                        f"{record.status.name} at {record.seq}",
                    )
                if record.attempts == 0 and None is not known.due_at != record.due_at is not None:
                    self._find(
                        "a wait begins once", f"{record.key!r} of {run_id}: {known.due_at} → {record.due_at}"
                    )
                if record.output is None and known.output is not None:
                    record.output, record.types = known.output, known.types
            tasks[record.id] = record

    # --- what the database holds ----------------------------------------------------------------------------------------

    async def _look(self, batch: Batch) -> None:
        """Read what the transaction touched."""
        for run_id in dict.fromkeys((*batch.states, *batch.reread, *batch.loose)):
            row = await self._store.get_run(run_id)
            if row is None:
                self._find("nothing acknowledged is lost", f"{run_id} is gone")
                continue
            state = batch.state(run_id)
            if run_id in batch.loose:
                if run_id in self.runs and not _can_become(self.runs[run_id].status, row.status):
                    self._find(
                        "legal transitions only",
                        f"{run_id} went from {self.runs[run_id].status.name} to {row.status.name}",
                    )
            elif (row.status, row.execution) != state:
                self._find(
                    "a commit does what it says",
                    f"{run_id} is {row.status.name}, execution {row.execution}, and should be {state}",
                )
            self._saw(row)
        if batch.creates:
            for row in await self._store.list_runs(RunFilter(limit=EVERYTHING, internal=True)):
                if row.id not in self.runs:
                    self._saw(row)
        for run_id in dict.fromkeys((*batch.reread, *batch.loose)):
            await self._reread_tasks(run_id, batch)
        for run_id in batch.suspended:
            row = self.runs[run_id]
            if (
                row.status is RunStatus.WAITING
                and row.wake_at is not None
                and not any(
                    task.due_at == row.wake_at
                    for task in await self._store.get_tasks(run_id)
                    if task.seq is None
                )
            ):
                self._find(
                    "a suspension is atomic", f"{run_id} waits until {row.wake_at}, and no task of it does"
                )

    async def _reread_tasks(self, run_id: str, batch: Batch) -> None:
        tasks = {task.id: task for task in await self._store.get_tasks(run_id)}
        for known in self.tasks[run_id].values():
            if known.status is not TaskStatus.COMPLETED or (run_id, known.id) in batch.forgotten:
                continue
            now = tasks.get(known.id)
            if now is None or now.status is not TaskStatus.COMPLETED or now.output != known.output:
                self._find("what is recorded as completed stays", f"task {known.key!r} of {run_id}")
        self.tasks[run_id] = tasks

    def _saw(self, row: RunRow) -> None:
        before = self.runs.get(row.id)
        self.runs[row.id] = row
        if before is None or (before.status, before.execution) != (row.status, row.execution):
            self.since[row.id] = self._now()
            self.past[row.id].append(row.status)
            (self._executing.add if row.status is RunStatus.EXECUTING else self._executing.discard)(row.id)

    @property
    def is_full(self) -> bool:
        """Whether no slot is free."""
        return len(self._executing) >= self._slots

    async def look_at_all(self) -> None:
        """Read everything: every run is where its status puts it, and nothing changed that no commit spoke of."""
        store = self._store
        rows = {row.id: row for row in await store.list_runs(RunFilter(limit=EVERYTHING, internal=True))}
        for run_id in self.runs.keys() - rows.keys():
            self._find("nothing acknowledged is lost", f"{run_id} is gone")
        for run_id, row in rows.items():
            if row != self.runs.get(run_id):
                self._find(
                    "a commit does what it says",
                    f"{run_id} changed by itself: {self.runs.get(run_id)} → {row}",
                )
        by_status = {status: {r.id for r in rows.values() if r.status is status} for status in RunStatus}
        leases = [
            lease for lease in await store.leases(expired_at=None, limit=EVERYTHING) if not lease.is_revoked
        ]
        self._same(
            "a run is in one place",
            "leases",
            {lease.run_id for lease in leases},
            by_status[RunStatus.EXECUTING],
        )
        for lease in leases:
            if lease.run_id in rows and lease.execution != rows[lease.run_id].execution:
                self._find("fences hold", f"the lease of {lease.run_id} is of execution {lease.execution}")
        for owner, count in Counter(lease.owner for lease in leases).items():
            if count > self._slots:
                self._find(
                    "limits are never exceeded", f"{owner} executes {count} runs, {self._slots} are allowed"
                )
        timers = {row.id for row in await store.due_runs(FAR, EVERYTHING)}
        timed = {run_id for run_id in by_status[RunStatus.WAITING] if rows[run_id].wake_at is not None}
        self._same("a run is in one place", "timers", timers, timed)
        for run_id in by_status[RunStatus.WAITING] - timed:
            if not rows[run_id].open_waits:
                self._find("no run waits for a resolved reason", f"{run_id} waits for nobody and for no time")
        counts = await store.count_by_status(active_only=True)
        if counts[RunStatus.QUEUED] != len(by_status[RunStatus.QUEUED]):
            self._find(
                "a run is in one place",
                f"{counts[RunStatus.QUEUED]} rows in the queue, {len(by_status[RunStatus.QUEUED])} runs queued",
            )

    async def end(self) -> None:
        """Read everything, tasks too. All runs have ended: nothing may be left of their executions."""
        await self.look_at_all()
        for lease in await self._store.leases(expired_at=None, limit=EVERYTHING):
            self._find("no slot leaks", f"{lease.owner} still holds a slot for {lease.run_id}")
        for run_id, known in self.tasks.items():
            stored = {task.id: task for task in await self._store.get_tasks(run_id)}
            for task in known.values():
                if task.status is TaskStatus.COMPLETED and (
                    task.id not in stored or stored[task.id].output != task.output
                ):
                    self._find("what is recorded as completed stays", f"task {task.key!r} of {run_id}")

    def _same(self, promise: str, what: str, there: set[str], expected: set[str]) -> None:
        if there != expected:
            self._find(
                promise, f"{what}: {sorted(there - expected)} too many, {sorted(expected - there)} missing"
            )

    def _find(self, promise: str, what: str) -> None:
        self._findings.add(promise, what)

    def is_completed(self, run_id: str, task_id: str) -> bool:
        """Whether the task is recorded as completed."""
        task = self.tasks[run_id].get(task_id)
        return task is not None and task.status is TaskStatus.COMPLETED


def _can_become(status: RunStatus, later: RunStatus, steps: int = 4) -> bool:
    if status is later:
        return True
    return steps > 0 and any(
        _can_become(following, later, steps - 1) for before, following in LEGAL if before is status
    )
