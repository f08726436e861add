"""Limits, pauses, turns: who may execute, counted twice.

`QueueWatch` counts slots, as the database has them (leases, revoked ones too); `Bodies` counts what really runs, as the
bodies themselves say. Neither asks the engine what a run's queue and key are for the other's numbers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from perdure.engine.store import (
    Claimed,
    ClaimRuns,
    DefineQueue,
    MoveRun,
    PauseQueue,
    ReleaseLease,
    RunRow,
    Store,
)
from perdure.schema.execution import Claim
from perdure.schema.runs import RunStatus

from .batch import Batch
from .findings import Findings

EVERYTHING = 1_000_000

Lane: TypeAlias = tuple[str, str]
"""(queue, concurrency key)"""

Scope: TypeAlias = tuple[str, ...]
"""What a limit is for: () the environment, (queue,), or a lane."""


@dataclass(frozen=True)
class Queue:
    """A queue that jobs are in. `limit`: executions at once, in all; `per_key`: likewise under a key; None for any number."""

    id: str
    limit: int | None = None
    per_key: int | None = None


@dataclass(frozen=True)
class Limits:
    """All limits of a seed."""

    queues: Mapping[str, Queue]
    environment: int | None

    def of(self, scope: Scope) -> int | None:
        if not scope:
            return self.environment
        queue = self.queues.get(scope[0])
        if queue is None:
            return None
        return queue.limit if len(scope) == 1 else queue.per_key


def scopes(lane: Lane) -> tuple[Scope, ...]:
    """Whose slots an execution of a lane takes."""
    return (), (lane[0],), lane


class QueueWatch:
    """See the module (port: Watch).

    Attributes:
        paused: ids of the queues that are.
    """

    def __init__(
        self,
        store: Store,
        runs: Mapping[str, RunRow],
        limits: Limits,
        findings: Findings,
        now: Callable[[], float],
    ) -> None:
        self.paused: set[str] = set()
        self._store = store
        self._runs = runs
        self._limits = limits
        self._findings = findings
        self._now = now
        self._priorities: dict[str, int] = {}
        self._taken: Counter[Scope] = Counter()
        self._blocked_at: dict[Scope, float] = {}

    def before(self) -> None:
        for scope in self._full():
            self._blocked_at[scope] = self._now()
        for queue in self.paused:
            self._blocked_at["paused", queue] = self._now()

    async def after(self, batch: Batch) -> None:
        for change, _ in batch.pairs:
            match change:
                case DefineQueue():
                    self._priorities[change.id] = change.priority
                case PauseQueue():
                    (self.paused.discard if change.paused_at is None else self.paused.add)(change.id)
                case _:
                    pass
        if any(isinstance(change, ClaimRuns | MoveRun | ReleaseLease) for change, _ in batch.pairs):
            await self._count()
        for change, result in batch.pairs:
            if isinstance(change, ClaimRuns) and isinstance(result, Claimed) and result.claims:
                self._claimed(result.claims)

    def is_blocked(self, run: RunRow, since: float) -> bool:
        """Whether a queued run could not be claimed at some time from `since` on, because of a limit or a pause."""
        lane = (run.queue, run.queue_key)
        if run.queue in self.paused or any(self._is_full(scope) for scope in scopes(lane)):
            return True
        marks: tuple[Scope, ...] = (*scopes(lane), ("paused", run.queue))
        return any(self._blocked_at.get(mark, -1.0) >= since for mark in marks)

    # --- parts ----------------------------------------------------------------------------------------------------------

    def _is_full(self, scope: Scope) -> bool:
        limit = self._limits.of(scope)
        return limit is not None and self._taken[scope] >= limit

    def _full(self) -> Iterator[Scope]:
        return (scope for scope in self._taken if self._is_full(scope))

    async def _count(self) -> None:
        self._taken.clear()
        for lease in await self._store.leases(expired_at=None, limit=EVERYTHING):
            run = self._runs.get(lease.run_id)
            if run is not None:
                self._taken.update(scopes((run.queue, run.queue_key)))
        for scope, count in self._taken.items():
            limit = self._limits.of(scope)
            if limit is not None and count > limit:
                self._find("limits are never exceeded", f"{count} slots of {scope}, {limit} are allowed")

    def _claimed(self, claims: list[Claim]) -> None:
        got: Counter[Lane] = Counter((claim.queue, claim.queue_key) for claim in claims)
        in_all: Counter[str] = Counter(claim.queue for claim in claims)
        lowest: dict[Lane, int] = {}
        for claim in claims:
            lane = (claim.queue, claim.queue_key)
            priority = self._runs[claim.run_id].priority
            lowest[lane] = min(lowest.get(lane, priority), priority)
            if claim.queue in self.paused:
                self._find("a paused queue starts nothing", f"{claim.run_id} was claimed from {claim.queue}")
        first = max(self._priorities.get(queue, 0) for queue in in_all)
        for lane, highest in self._left().items():
            queue, _ = lane
            if lane in lowest and highest > lowest[lane]:
                self._find("higher priorities come first", f"a run of {lane} was passed over: {dict(got)}")
            if queue in self.paused or any(self._is_full(scope) for scope in scopes(lane)):
                continue
            if self._priorities.get(queue, 0) > min(self._priorities.get(other, 0) for other in in_all):
                self._find("higher priorities come first", f"queue {queue} was passed over: {dict(got)}")
            if not got[lane] and any(other[0] == queue and n > 1 for other, n in got.items()):
                self._find("keys and queues take turns", f"{lane} got nothing: {dict(got)}")
            if self._priorities.get(queue, 0) == first and max(in_all.values()) > in_all[queue] + 2:
                self._find("keys and queues take turns", f"queue {queue} got too little: {dict(got)}")

    def _left(self) -> dict[Lane, int]:
        """Lanes with runs that are queued still, and the highest priority of these."""
        left: defaultdict[Lane, int] = defaultdict(lambda: -EVERYTHING)
        for run in self._runs.values():
            if run.status is RunStatus.QUEUED:
                lane = (run.queue, run.queue_key)
                left[lane] = max(left[lane], run.priority)
        return left

    def _find(self, promise: str, what: str) -> None:
        self._findings.add(promise, what)


class Bodies:
    """Runs with bodies that really run, process by process."""

    def __init__(self, limits: Limits, findings: Findings, process: Callable[[], int]) -> None:
        """`process()` is the one whose code runs now."""
        self._limits = limits
        self._findings = findings
        self._process = process
        self._running: defaultdict[int, Counter[tuple[str, Lane]]] = defaultdict(Counter)

    def begin(self, run_id: str, lane: Lane) -> None:
        running = self._running[self._process()]
        running[run_id, lane] += 1
        if running[run_id, lane] > 1:
            return
        executing = [one for process in self._running.values() for one, n in process.items() if n]
        for scope in scopes(lane):
            limit = self._limits.of(scope)
            there = {run for run, other in executing if other[: len(scope)] == scope}
            if limit is not None and len(there) > limit:
                self._findings.add(
                    "limits are never exceeded",
                    f"bodies of {len(there)} runs of {scope} run at once, {limit} are allowed: {sorted(there)}",
                )

    def end(self, run_id: str, lane: Lane) -> None:
        running = self._running[self._process()]
        running[run_id, lane] -= 1

    def died(self, process: int) -> None:
        """Nothing of it runs any more."""
        self._running.pop(process, None)
