"""The engine's shell: loads what is known, lets the core decide, has the writer write, then tells whom it concerns.

One per process and environment. Executors reach it through `EngineSource` and `EngineJournal` (journal.py), clients
through the methods here; embedded.py puts them together. It doesn't decide (core/), doesn't execute jobs, doesn't
decode payloads or outputs, and closes no store that it was given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Protocol

from perdure.clock import Clock, Random
from perdure.errors import ConflictError, NotFoundError
from perdure.ids import Ids
from perdure.schema.execution import EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import RunStatus

from .core import runs as core
from .core.runs import JobSpec
from .loops.adopter import Adopter
from .loops.renewer import Renewer
from .loops.rescuer import Rescuer
from .loops.runner import RETRY_MS, LoopRunner, settled
from .loops.waker import Waker
from .store import (
    Applied,
    Change,
    Claimed,
    ClaimRuns,
    Ingested,
    IngestEvent,
    LeaseRow,
    MoveRun,
    RecordTasks,
    Refused,
    Result,
    RunFilter,
    RunRow,
    Store,
)
from .waits import Waits
from .writer import Writer

IDLE_SECONDS = 60.0
"""How often loops look although nothing was announced. All changes of an owned store pass through its engine, so this is
only a safety net."""

_DECISIONS_MAX = 20
"""How often a decision is taken anew because the run moved on between reading and writing."""


class Listener(Protocol):
    """Who is told what happens in an engine, at once and synchronously."""

    def runs_queued(self) -> None:
        """Runs were, or with the transaction now being gathered will be, put into the queue."""
        ...

    def run_revoked(self, run_id: str, execution: int, reason: str) -> None:
        """An execution of this engine lost its run."""
        ...

    def engine_stopped(self, reason: str) -> None:
        """Nothing can be claimed from now on."""
        ...


class Engine:
    """See the module. To be made inside the running loop that will use it.

    Attributes:
        store, clock, ids, owner, writer: its parts; reads may go to the store directly.
        lease_ms: how long a lease lasts unless renewed.
        jobs: what is known of the jobs, by id.
        executing: of runs that this engine handed to executors: (execution, claimed at).
        orphans: executions whose end couldn't be written, by run; the rescuer takes them.
        is_running: between `start` and `stop`.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        *,
        owner: str,
        random: Random,
        lease_seconds: float = 30.0,
        jobs: Iterable[JobSpec] = (),
        exclusive: bool = True,
        claim_bytes_max: int = core.CLAIM_BYTES_MAX,
        on_broken: Callable[[BaseException], None] | None = None,
    ) -> None:
        """Make an engine; `start` begins its work.

        Args:
            store: opened and migrated; closed by whoever opened it.
            clock: the present.
            ids: makes run ids.
            owner: name of this process in its leases.
            random: spreads the loops of several nodes.
            lease_seconds: how long a run may be without news from its execution.
            jobs: which events cause which runs; more by `register`.
            claim_bytes_max: outputs that come along with a run that is claimed; larger ones are fetched when asked for.
            exclusive: nobody else uses the store: `start` takes up at once what is leased.
            on_broken: called once if the store breaks; the engine has stopped then.
        """
        self.store = store
        self.clock = clock
        self.ids = ids
        self.owner = owner
        self.lease_ms = int(lease_seconds * 1000)
        self.claim_bytes_max = claim_bytes_max
        self.jobs: dict[str, JobSpec] = {}
        self.executing: dict[str, tuple[int, int]] = {}
        self.orphans: dict[str, int] = {}
        self.is_running = False
        self.writer = Writer(
            store,
            on_committed=self._committed,
            on_rejected=self._rejected,
            on_available=self._announce_queued,
            on_broken=self._broke,
        )
        self._exclusive = exclusive
        self._on_broken = on_broken
        self._by_event: dict[str, list[JobSpec]] = {}
        self._run_ids: Iterator[str] = iter(ids.run_id, "")
        self._listeners: list[Listener] = []
        self._random = random
        self._closed: str | None = None
        self._last_rerun = 0
        self._index(jobs)
        self._rescuer = Rescuer(
            store, self.submit, is_alive=self._is_alive, orphans=self.orphans, lease_ms=self.lease_ms
        )
        self._adopter = Adopter(store, self.submit, jobs=self.jobs)
        self._renewer = Renewer(
            self.submit, owner=owner, lease_ms=self.lease_ms, is_needed=lambda: bool(self.executing)
        )
        self._waker_loop = self._loop_of("waker", Waker(store, self.submit).step)
        self._rescuer_loop = self._loop_of("rescuer", self._rescuer.step)
        self._renewer_loop = self._loop_of("renewer", self._renewer.step)
        self._adopter_loop = self._loop_of("adopter", self._adopter.step)
        self._waits = Waits(store, self.writer, clock, on_due=self._waker_loop.notify)

    # --- life -----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what an earlier process left, then let executors claim.

        Raises:
            UnavailableError, StoreBrokenError: as the store says; the engine isn't running.
        """
        self._waits.active = sum((await self.store.count_by_status(active_only=True)).values())
        if self._exclusive:
            await self._rescuer.recover(self.clock.now())
        await self._adopter.adopt(self.clock.now())
        self.is_running = True
        for loop in self._loops():
            loop.start()
        self._announce_queued()

    async def stop(self) -> None:
        """Let nothing be claimed any more, write what was submitted, stop the loops. May be repeated.

        Executions that are under way should be closed before: what they record afterwards fails.
        """
        self._end("the engine has been stopped")
        for loop in self._loops():
            await loop.stop()
        await self.writer.flush(patient=False)  # a claim under way comes back and is put back first
        await self.writer.close()

    def define(self, jobs: Iterable[JobSpec]) -> None:
        """Add jobs, or replace them by id; runs that waited for one of them are queued soon."""
        self._index(jobs)
        self._adopter.is_needed = True
        self._adopter_loop.notify(self.clock.now())

    async def register(self, jobs: Iterable[JobSpec]) -> None:
        """As `define`; returns when the runs are queued."""
        self._index(jobs)
        if self.is_running:
            await self._adopter.adopt(self.clock.now())

    def add_listener(self, listener: Listener) -> None:
        self._listeners.append(listener)

    # --- what clients ask for -------------------------------------------------------------------------------------------

    async def ingest(self, events: Sequence[EventRecord]) -> list[Ingested]:
        """Store events with the runs they cause, each atomically by itself; durable when this returns.

        An event whose id is known returns what it caused the first time. Waits while too many writes are unsettled.

        Raises:
            UnavailableError: of the events some may have been stored; repeating with the same ids is safe.
        """
        submitted: list[asyncio.Future[Result]] = []
        for event in events:
            if self.writer.is_full:
                await self.writer.room()
            now = self.clock.now()
            runs = core.dispatch(event, self._by_event.get(event.name, ()), now, self._run_ids)
            submitted.append(self.submit(IngestEvent(event=event, runs=runs, created_at=now)))
        results = [await submitted[0]] if len(submitted) == 1 else await settled(submitted)
        return [_ingested(result) for result in results]

    async def ingest_run(
        self,
        job_id: str,
        payload: str,
        *,
        key: str | None = None,
        context: str | None = None,
        is_test: bool = False,
    ) -> Ingested:
        """Start a run of one job, whatever triggers it: it is the only run of an event named "invoke".

        Args:
            job_id: a registered job, enabled or not (Protocol, invoke: "Not checked: whether the job is disabled").
            payload: JSON.
            key: idempotency key, and id of the event: a known one returns the first run. None for a fresh one.
            context: JSON.
            is_test: marks event and run.

        Raises:
            NotFoundError: no such job.
            UnavailableError: not stored.
        """
        job = self.jobs.get(job_id)
        if job is None:
            raise NotFoundError(kind="job", id=job_id)
        if self.writer.is_full:
            await self.writer.room()
        now = self.clock.now()
        event = EventRecord(
            id=key or self.ids.event_id(),
            name="invoke",
            payload=payload,
            timestamp=now,
            context=context,
            is_test=is_test,
        )
        run = core.new_run(job, now, self.ids.run_id())
        return _ingested(await self.submit(IngestEvent(event=event, runs=[run], created_at=now)))

    async def cancel_run(self, run_id: str) -> RunRow:
        """End a run early; one that is cancelled already is left as it is. Returns it as it is then.

        Its execution, if there is one, can record nothing from the commit on and is told right after it.

        Raises:
            NotFoundError: no such run.
            ConflictError: it ended in another way.
            UnavailableError: nothing was written.
        """

        def decide(run: RunRow) -> MoveRun | None:
            execution, claimed_at = self.executing.get(run_id, (0, 0))
            known = run.status is RunStatus.EXECUTING and execution == run.execution
            return core.cancel(run, self.clock.now(), claimed_at=claimed_at if known else None)

        move = await self._decide(run_id, decide)
        if move is not None and move.expected is RunStatus.EXECUTING:
            for listener in self._listeners:
                listener.run_revoked(run_id, move.execution, "cancelled")
        return await self._require_run(run_id)

    async def continue_run(self, run_id: str) -> RunRow:
        """Go on with a run that failed, was cancelled or timed out, from where it ended. Errors as `cancel_run`."""
        await self._decide(run_id, lambda run: core.continue_run(run, self.clock.now()))
        return await self._require_run(run_id)

    async def rerun(self, run_id: str) -> Ingested:
        """Start another run for the payload of one that has ended.

        Raises:
            NotFoundError: no such run.
            ConflictError: it hasn't ended.
            UnavailableError: nothing was written.
        """
        run = await self._require_run(run_id)
        event = await self.store.get_event(run.event_id)
        if event is None:
            raise NotFoundError(kind="event", id=run.event_id)
        # The instant is part of the new event's id: two reruns within one millisecond are two runs.
        now = max(self.clock.now(), self._last_rerun + 1)
        change = core.rerun(run, event, now, self.ids.run_id())
        self._last_rerun = now
        return _ingested(await self.submit(change))

    # --- reads ----------------------------------------------------------------------------------------------------------

    async def get_run(self, run_id: str) -> RunRow | None:
        return await self.store.get_run(run_id)

    async def list_runs(self, filter: RunFilter) -> list[RunRow]:
        return await self.store.list_runs(filter)

    async def get_event(self, event_id: str) -> EventRecord | None:
        return await self.store.get_event(event_id)

    async def get_tasks(self, run_id: str) -> list[TaskRecord]:
        return await self.store.get_tasks(run_id)

    async def get_logs(self, run_id: str) -> list[LogRecord]:
        return await self.store.get_logs(run_id)

    async def wait_settled(self, run_id: str) -> RunRow:
        """Wait until a run has ended; the run as it is then. Cancelling the wait doesn't touch the run.

        Raises:
            NotFoundError: no such run.
            UnavailableError: the engine stopped before the run ended.
        """
        return await self._waits.settled(run_id)

    async def wait_idle(self) -> None:
        """Wait until nothing is queued or executing and every write is settled.

        A waiting run whose time has come counts as queued; one that waits for the future doesn't.

        Raises:
            UnavailableError: the engine stopped before.
        """
        await self._waits.idle()

    # --- for executors' carriers and loops ------------------------------------------------------------------------------

    def submit(self, change: Change, *, patient: bool = True) -> asyncio.Future[Result]:
        """`Writer.submit`, with claimers told at once: their claim is then part of the same transaction."""
        future = self.writer.submit(change, patient=patient)
        if type(change) is IngestEvent:
            if change.runs:
                self._announce_queued()
        elif type(change) is MoveRun and change.status is RunStatus.QUEUED:
            self._announce_queued()
        return future

    def submit_close(self, move: MoveRun) -> asyncio.Future[bool]:
        """Have the end of an execution written; True if it still held the run."""
        future = self.writer.submit_guarded(move)
        if move.status is RunStatus.QUEUED:
            self._announce_queued()
        return future

    # --- after a commit -------------------------------------------------------------------------------------------------

    def _committed(self, changes: list[Change], results: list[Result]) -> None:
        """Keep count and tell who waits. Hot: once per transaction over all its changes.

        They come in the order in which they were submitted, which isn't that in which they took effect (see the Store
        port): what is kept of a run must not depend on it.
        """
        for change, result in zip(changes, results, strict=True):
            if type(change) is RecordTasks:
                if type(result) is Refused:
                    self._forget(change)
            elif type(change) is MoveRun:
                if type(result) is Applied:
                    self._moved(change)
                elif change.expected is _EXECUTING:
                    self._forget(change)
            elif type(result) is Ingested:
                if not result.duplicate:
                    for run in result.runs:
                        if run.status is _QUEUED:
                            self._waits.active += 1
            elif type(change) is ClaimRuns and type(result) is Claimed and result.claims:
                for claim in result.claims:
                    self.executing[claim.run_id] = (claim.execution, change.at)
                self._renewer_loop.notify(self._renewer.due_after(change.at))
        self._waits.committed()

    def _moved(self, move: MoveRun) -> None:
        if move.expected is _EXECUTING:
            # The claim that followed in the same transaction may have been submitted, and come past here, before.
            self._forget(move)
            self._waits.active -= 1
        elif move.expected is _QUEUED:
            self._waits.active -= 1
        if move.status is _QUEUED:
            self._waits.active += 1
        elif move.completed_at is not None:
            self._waits.run_ended(move.run_id)
        elif move.wake_at is not None:
            self._waker_loop.notify(move.wake_at)

    def _forget(self, change: RecordTasks | MoveRun) -> None:
        """An execution of ours ended, or turned out to have lost its run."""
        if self.executing.get(change.run_id, (0, 0))[0] == change.execution:
            del self.executing[change.run_id]
        if self.orphans and self.orphans.get(change.run_id) == change.execution:
            del self.orphans[change.run_id]

    def _rejected(self, change: Change) -> None:
        """The end of an execution can't be written: its lease would be renewed for ever if it still counted as ours."""
        if type(change) is MoveRun and change.expected is _EXECUTING:
            self._forget(change)
            self.orphans[change.run_id] = change.execution
            self._rescuer_loop.notify(
                self.clock.now() + RETRY_MS
            )  # until then it may be ended in another way

    # --- parts ----------------------------------------------------------------------------------------------------------

    def _index(self, jobs: Iterable[JobSpec]) -> None:
        self.jobs.update((job.id, job) for job in jobs)
        self._by_event = {}
        for job in self.jobs.values():
            for name in job.event_names:
                self._by_event.setdefault(name, []).append(job)

    async def _decide(self, run_id: str, decide: Callable[[RunRow], MoveRun | None]) -> MoveRun | None:
        """Have decided, and write it; again with the run as it is, if it moved on meanwhile."""
        run = await self._require_run(run_id)
        for _ in range(_DECISIONS_MAX):
            move = decide(run)
            if move is None:
                return None
            result = await self.submit(move, patient=False)
            if not isinstance(result, Refused):
                return move
            if result.run is None:
                raise NotFoundError(kind="run", id=run_id)
            run = result.run
        raise ConflictError(
            f"run {run_id!r} moves on faster than it can be changed (now {run.status.label}); repeat"
        )

    async def _require_run(self, run_id: str) -> RunRow:
        run = await self.store.get_run(run_id)
        if run is None:
            raise NotFoundError(kind="run", id=run_id)
        return run

    def _is_alive(self, lease: LeaseRow) -> bool:
        return lease.owner == self.owner and self.executing.get(lease.run_id, (0, 0))[0] == lease.execution

    def _announce_queued(self) -> None:
        if self.is_running:
            for listener in self._listeners:
                listener.runs_queued()

    def _loop_of(self, name: str, step: Callable[[int], Awaitable[int | None]]) -> LoopRunner:
        return LoopRunner(
            name, step, self.clock, self._random, idle_seconds=IDLE_SECONDS, on_broken=self.writer.break_off
        )

    def _loops(self) -> tuple[LoopRunner, ...]:
        return (self._waker_loop, self._rescuer_loop, self._renewer_loop, self._adopter_loop)

    def _broke(self, exc: BaseException) -> None:
        self._end(f"the engine has stopped because its store broke ({exc}); reopen it to recover")
        for loop in self._loops():
            loop.cancel()
        if self._on_broken is not None:
            self._on_broken(exc)

    def _end(self, reason: str) -> None:
        if self._closed is not None:
            return
        self._closed = reason
        self.is_running = False
        for listener in self._listeners:
            listener.engine_stopped(reason)
        self._waits.close(reason)


_QUEUED = RunStatus.QUEUED
_EXECUTING = RunStatus.EXECUTING


def _ingested(result: Result) -> Ingested:
    assert isinstance(result, Ingested)
    return result
