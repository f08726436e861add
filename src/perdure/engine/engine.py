"""The engine's shell: loads what is known, lets the core decide, has the writer write, then tells whom it concerns.

One per process and environment. Executors reach it through `EngineSource` and `EngineJournal` (journal.py), clients
through the methods here; embedded.py puts them together. It doesn't decide (core/), doesn't execute jobs, doesn't
decode payloads or outputs, and closes no store that it was given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from perdure.clock import Clock, Random
from perdure.errors import ConflictError, NotFoundError
from perdure.ids import Ids
from perdure.limits import DEFAULT_LIMITS
from perdure.schema.execution import EventRecord
from perdure.schema.runs import RunStatus

from .commands import Commands
from .commits import Commits
from .core import jobs as core
from .core.endings import Endings
from .core.jobs import JobSpec, Registry, RunOptions
from .core.runs import CLAIM_BYTES_MAX
from .fetcher import HttpClient
from .loops.all import Loops
from .loops.pruner import KEEP_ALL, Ages
from .loops.runner import RETRY_MS, settled
from .queues import Queues
from .store import (
    CancelEvent,
    Change,
    ClaimRuns,
    DeliverEvent,
    Ingested,
    IngestEvent,
    LeaseRow,
    MoveRun,
    NewRun,
    ResolveTask,
    Result,
    RunRow,
    Store,
    TickSchedule,
    WakeRuns,
)
from .waits import Waits
from .writer import Told, Writer

EDIT_MARGIN_MS = 5_000
"""How long before its delivery an event can still be edited (Protocol, events: dedupe)."""


class Listener(Protocol):
    """Who is told what happens in an engine, at once and synchronously."""

    def runs_queued(self) -> None:
        """Runs were, or with the transaction now being gathered will be, put into the queue."""
        ...

    def run_revoked(self, run_id: str, execution: int, reason: str) -> None:
        """An execution of this engine lost its run."""
        ...

    def task_resolved(self, run_id: str, execution: int, resolution: ResolveTask) -> None:
        """Somebody else completed a task of a run that an execution of this engine has."""
        ...

    def engine_stopped(self, reason: str) -> None:
        """Nothing can be claimed from now on."""
        ...


class Engine:
    """See the module. To be made inside the running loop that will use it.

    Attributes:
        store, clock, ids, owner, writer: its parts; reads go to the store directly.
        lease_ms: how long a lease lasts unless renewed.
        environment_limit: how many executions there may be in the environment; None for any number.
        retention: what is deleted when.
        registry: what is known of the jobs.
        endings: what there is to be done when their runs end.
        commands: what can be done to runs.
        loops: its maintenance; `waits`: who waits for the end of a run, or of all work.
        queues: limits and pauses.
        executing: of runs that this engine handed to executors: (execution, claimed at).
        orphans: executions whose end couldn't be written, by run; the rescuer takes them.
        is_running: between `start` and `stop`.
        is_shared: whether other engines use the store, too.
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
        environment_limit: int | None = None,
        retention: Ages = KEEP_ALL,
        claim_bytes_max: int = CLAIM_BYTES_MAX,
        http: HttpClient | None = None,
        output_bytes_max: int = DEFAULT_LIMITS.output_bytes_max,
        on_broken: Callable[[BaseException], None] | None = None,
        divided_from: int | None = None,
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
            environment_limit: how many executions there may be in the environment, on all nodes; None for any number.
            retention: what is deleted when.
            http: makes the calls that runs wait for; None for a client of the engine's own.
            output_bytes_max: what such a call may answer.
            on_broken: called once if the store breaks; the engine has stopped then.
            divided_from: see Writer.
        """
        self.store = store
        self.clock = clock
        self.ids = ids
        self.owner = owner
        self.lease_ms = int(lease_seconds * 1000)
        self.claim_bytes_max = claim_bytes_max
        self.environment_limit = environment_limit
        self.retention = retention
        self.registry = Registry()
        self.endings = Endings(self.registry.jobs, ids.run_id)
        self.commands = Commands(self)
        self.executing: dict[str, tuple[int, int]] = {}
        self.orphans: dict[str, int] = {}
        self.is_running = False
        self._claiming_at: int | None = None
        self.writer = Writer(
            store,
            on_committed=self._committed,
            on_rejected=self._rejected,
            on_available=self.announce_queued,
            on_broken=self._broke,
            divided_from=divided_from,
        )
        self.is_shared = not exclusive
        self._on_broken = on_broken
        self.run_ids: Iterator[str] = iter(ids.run_id, "")
        self._listeners: list[Listener] = []
        self._closed: str | None = None
        self.registry.add(jobs)
        self.queues = Queues(self)
        self.loops = Loops(self, random, http, output_bytes_max)
        self.waits = Waits(store, self.writer, clock, on_due=self.loops.look, is_shared=not exclusive)
        self._commits = Commits(self)

    # --- life -----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what an earlier process left, then let executors claim.

        Raises:
            UnavailableError, StoreBrokenError: as the store says; the engine isn't running.
        """
        self.waits.active = sum((await self.store.count_by_status(active_only=True)).values())
        if not self.is_shared:
            await self.loops.rescue_all(self.clock.now())
        self._commits.awaited_names.update(await self.store.waiter_names())
        await self._set_up()
        self.is_running = True
        self.loops.start()
        self.announce_queued()

    async def stop(self) -> None:
        """Let nothing be claimed any more, write what was submitted, stop the loops. May be repeated.

        Executions that are under way should be closed before: what they record afterwards fails.
        """
        self._end("the engine has been stopped")
        await self.loops.stop()
        await self.writer.flush(patient=False)  # a claim under way comes back and is put back first
        await self.writer.close()

    def define(self, jobs: Iterable[JobSpec]) -> None:
        """Add jobs, or replace them by id; runs that waited for one of them are queued soon."""
        jobs = list(jobs)
        self.registry.add(jobs)
        self.queues.define(jobs)
        self.loops.set_up_soon()

    async def register(self, jobs: Iterable[JobSpec]) -> None:
        """As `define`; returns when the runs are queued."""
        self.registry.add(jobs)
        if self.is_running:
            await self._set_up()

    async def _set_up(self) -> None:
        await self.queues.set_up()
        await self.loops.schedules.set_up()
        await self.loops.adopt(self.clock.now())

    def add_listener(self, listener: Listener) -> None:
        self._listeners.append(listener)

    # --- what clients ask for -------------------------------------------------------------------------------------------

    async def ingest(self, events: Sequence[EventRecord]) -> list[Ingested]:
        """Store events with the runs they cause, each atomically by itself; durable when this returns.

        An event whose id is known returns what it caused the first time; if it hasn't been delivered yet, and won't be in
        the next seconds, it is changed instead. Waits while too many writes are unsettled.

        Raises:
            UsageError: a job's concurrency key can't be worked out; of the events some may have been stored.
            UnavailableError: of the events some may have been stored; repeating with the same ids is safe.
        """
        submitted: list[asyncio.Future[Result]] = []
        for event in events:
            if self.writer.is_full:
                await self.writer.room()
            submitted.append(self.submit_event(event))
        return [ingested(result) for result in await settled(submitted)]

    def submit_event(self, event: EventRecord) -> asyncio.Future[Result]:
        """As `ingest`, of one event, and at once: to be called when the writer isn't full. See `ingested`."""
        now = self.clock.now()
        is_delayed = event.deliver_at is not None and event.deliver_at > now
        runs = [] if is_delayed else self.registry.runs_of(event, now, self.run_ids)
        if runs or (not is_delayed and event.name in self._commits.awaited_names):
            event.delivered_at = now
        return self.submit(
            IngestEvent(event=event, runs=runs, created_at=now, edit_before=now + EDIT_MARGIN_MS)
        )

    async def cancel_event(self, event_id: str) -> EventRecord:
        """Keep an event from being delivered; one that is cancelled already is left as it is.

        Raises:
            NotFoundError: no such event.
            ConflictError: it has been delivered.
            UnavailableError: nothing was written.
        """
        now = self.clock.now()
        await self.submit(CancelEvent(event_id=event_id, at=now), patient=False)
        event = await self.store.get_event(event_id)
        if event is None:
            raise NotFoundError(kind="event", id=event_id)
        if event.cancelled_at is None:
            raise ConflictError(
                f"event {event_id!r} has been delivered already; its runs can be cancelled: client.cancel_runs_for_event"
            )
        return event

    async def ingest_run(
        self,
        job_id: str,
        payload: str,
        *,
        key: str | None = None,
        context: str | None = None,
        is_test: bool = False,
        account_id: str | None = None,
        options: RunOptions | None = None,
    ) -> Ingested:
        """Start a run of one job, whatever triggers it: it is the only run of an event named "invoke".

        Args:
            job_id: a registered job, enabled or not (Protocol, invoke: "Not checked: whether the job is disabled").
            payload: JSON.
            key: idempotency key, and id of the event: a known one returns the first run. None for a fresh one.
            context: JSON.
            is_test: marks event and run.
            account_id: of the user it is for.
            options: tags and so on.

        Raises:
            NotFoundError: no such job.
            UsageError: the job's concurrency key can't be worked out.
            UnavailableError: not stored.
        """
        if self.writer.is_full:
            await self.writer.room()
        now = self.clock.now()
        event = EventRecord(
            id=key or self.ids.event_id(),
            name=core.INVOKE,
            payload=payload,
            timestamp=now,
            context=context,
            is_test=is_test,
            account_id=account_id,
        )
        run = self.new_run(job_id, event, options)
        event.delivered_at = now
        return ingested(await self.submit(IngestEvent(event=event, runs=[run], created_at=now)))

    def new_run(self, job_id: str, event: EventRecord, options: RunOptions | None = None) -> NewRun:
        """A run of a job for an event, whatever triggers it. Raises NotFoundError and UsageError, as `ingest_run`."""
        job = self.registry.jobs.get(job_id)
        if job is None:
            raise NotFoundError(kind="job", id=job_id)
        return core.new_run(job, event.timestamp, self.ids.run_id(), event, options)

    async def wait_settled(self, run_id: str) -> RunRow:
        """Wait until a run has ended; the run as it is then. Cancelling the wait doesn't touch the run.

        Raises:
            NotFoundError: no such run.
            UnavailableError: the engine stopped before the run ended.
        """
        return await self.waits.settled(run_id)

    async def wait_idle(self) -> None:
        """Wait until nothing is queued or executing and every write is settled.

        A waiting run whose time has come counts as queued; one that waits for the future doesn't.

        Raises:
            UnavailableError: the engine stopped before.
        """
        await self.waits.idle()

    # --- for executors' carriers and loops ------------------------------------------------------------------------------

    def submit(self, change: Change, *, patient: bool = True) -> asyncio.Future[Result]:
        """`Writer.submit`, with claimers told at once: their claim is then part of the same transaction."""
        future = self.writer.submit(change, patient=patient)
        if type(change) is IngestEvent or type(change) is DeliverEvent or type(change) is TickSchedule:
            if change.runs:
                self.announce_queued()
        elif (type(change) is MoveRun and change.status is _QUEUED) or type(change) is WakeRuns:
            self.announce_queued()
        elif type(change) is ClaimRuns:
            self._claiming_at = change.at
            future.add_done_callback(self._claim_told)
        return future

    def _claim_told(self, _: asyncio.Future[Result]) -> None:
        self._claiming_at = None

    def close(self, move: MoveRun, told: Told) -> None:
        """Have the end of an execution written; `told` gets True if it still held the run. See `Writer.write`."""
        self.writer.write(move, told)
        if move.status is _QUEUED or move.effects or move.resolve is not None:
            self.announce_queued()

    # --- parts ----------------------------------------------------------------------------------------------------------

    def _committed(self, changes: list[Change], results: list[Result]) -> None:
        self._commits.settle(changes, results)

    def _rejected(self, change: Change) -> None:
        """The end of an execution can't be written: its lease would be renewed for ever if it still counted as ours."""
        if type(change) is MoveRun and change.expected is _EXECUTING:
            self.forget(change.run_id, change.execution)
            self.orphans[change.run_id] = change.execution
            # Until then it may be ended in another way.
            self.loops.rescuer.notify(self.clock.now() + RETRY_MS)

    @property
    def listeners(self) -> Sequence[Listener]:
        return self._listeners

    def revoked(self, run_id: str, execution: int, reason: str) -> None:
        """An execution has lost its run: tell who has it."""
        for listener in self._listeners:
            listener.run_revoked(run_id, execution, reason)

    def forget(self, run_id: str, execution: int) -> None:
        """An execution of ours ended, or turned out to have lost its run."""
        if self.executing.get(run_id, (0, 0))[0] == execution:
            del self.executing[run_id]
        if self.orphans and self.orphans.get(run_id) == execution:
            del self.orphans[run_id]

    def is_alive(self, lease: LeaseRow) -> bool:
        """Whether an execution of ours has it, or will once we are told of a claim: its commit may outlast the lease."""
        if lease.owner != self.owner:
            return False
        is_news = self._claiming_at is not None and lease.claimed_at >= self._claiming_at
        return is_news or self.executing.get(lease.run_id, (0, 0))[0] == lease.execution

    def announce_queued(self) -> None:
        if self.is_running:
            for listener in self._listeners:
                listener.runs_queued()

    def _broke(self, exc: BaseException) -> None:
        self._end(f"the engine has stopped because its store broke ({exc}); reopen it to recover")
        self.loops.cancel()
        if self._on_broken is not None:
            self._on_broken(exc)

    def _end(self, reason: str) -> None:
        if self._closed is not None:
            return
        self._closed = reason
        self.is_running = False
        for listener in self._listeners:
            listener.engine_stopped(reason)
        self.waits.close(reason)


_QUEUED = RunStatus.QUEUED
_EXECUTING = RunStatus.EXECUTING


def ingested(result: Result) -> Ingested:
    """The result of an IngestEvent."""
    assert isinstance(result, Ingested)
    return result
