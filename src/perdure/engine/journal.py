"""Journal and Source over an engine in the same process: the embedded carrier of executions.

They satisfy the ports of `perdure.sdk.journal` by structure: an engine needs no SDK.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from perdure.errors import PerdureError, UnavailableError
from perdure.schema.effects import CallJob, EventWait, Resolution, RunEffect
from perdure.schema.execution import Claim, EventRecord, LogRecord, Outcome, TaskRecord

from .core import jobs, runs as core
from .engine import Engine
from .store import AwaitEvent, Claimed, Effect, IngestEvent, RecordTasks, ReleaseLease, ResolveTask, Result
from .writer import Told

if TYPE_CHECKING:
    from perdure.sdk.journal import Journal, Source

logger = logging.getLogger("perdure.engine")

POLL_SECONDS = 30.0
"""How often a waiting source looks into the queue although nothing was announced: a safety net."""

SHARED_POLL_SECONDS = 5.0
"""The same where other engines put runs into the queue, too, who don't announce them here."""


class EngineJournal:
    """The record of one execution (port: Journal)."""

    __slots__ = ("_claim", "_claimed_at", "_engine")

    def __init__(self, engine: Engine, claim: Claim, claimed_at: int) -> None:
        self._engine = engine
        self._claim = claim
        self._claimed_at = claimed_at

    def record(
        self,
        tasks: Sequence[TaskRecord],
        logs: Sequence[LogRecord],
        told: Told,
        effects: Sequence[RunEffect] = (),
    ) -> None:
        """See the port. Tells an UnavailableError if the engine stops before the records are known to be durable."""
        engine, claim = self._engine, self._claim
        known = engine.executing.get(claim.run_id)
        if known is None or known[0] != claim.execution:  # as in _is_lost: hot
            asyncio.get_running_loop().call_soon(told, False)
            return
        change = RecordTasks(run_id=claim.run_id, execution=claim.execution, tasks=tasks, logs=logs)
        if effects:
            try:
                change.effects = [self._effect(effect) for effect in effects]
            except PerdureError as error:
                asyncio.get_running_loop().call_soon(told, error)
                return
            engine.announce_queued()
        engine.writer.write(change, told)

    def _effect(self, effect: RunEffect) -> Effect:
        if type(effect) is EventWait:
            return AwaitEvent(run_id=self._claim.run_id, wait=effect)
        if type(effect) is not CallJob:
            return effect  # pyright: ignore[reportReturnType] (the other effects are the store's, too)
        engine, claim = self._engine, self._claim
        event = EventRecord(
            id=effect.key,
            name=jobs.INVOKE,
            payload=effect.payload,
            timestamp=engine.clock.now(),
            context=effect.context,
            is_test=claim.event.is_test,
            account_id=effect.account_id,
        )
        options = jobs.RunOptions(
            tags=effect.tags,
            metadata=effect.metadata,
            priority=effect.priority,
            concurrency_key=effect.concurrency_key,
        )
        run = engine.new_run(effect.job_id, event, options)
        run.parent_run_id, run.parent_task_id = claim.run_id, effect.task_id
        return IngestEvent(event=event, runs=[run], created_at=event.timestamp)

    def close(
        self, outcome: Outcome, tasks: Sequence[TaskRecord], logs: Sequence[LogRecord], told: Told
    ) -> None:
        """See the port; the core decides what becomes of the run. Tells errors as `record`.

        If the end can't be written it may be repeated with another one; else the run is rescued.
        """
        engine = self._engine
        if self._is_lost() and engine.orphans.get(self._claim.run_id) != self._claim.execution:
            asyncio.get_running_loop().call_soon(told, False)
            return
        now = engine.clock.now()
        engine.close(
            core.close(self._claim, self._claimed_at, outcome, now, tasks, logs, engine.endings), told
        )

    def release(self) -> None:
        """See the port. If this can't be written the slot is free when the lease ends."""
        change = ReleaseLease(run_id=self._claim.run_id, execution=self._claim.execution)
        self._engine.submit(change, patient=False).add_done_callback(_released)

    async def fetch_output(self, task_id: str) -> tuple[str | None, str | None]:
        """See the port. Raises NotFoundError."""
        return await self._engine.store.get_output(self._claim.run_id, task_id)

    def _is_lost(self) -> bool:
        """Whether this execution is known not to hold its run any more. The guard in the store has the last word."""
        known = self._engine.executing.get(self._claim.run_id)
        return known is None or known[0] != self._claim.execution


class EngineSource:
    """Where executors of this process get their runs (port: Source).

    A waiting `claim` costs nothing: when runs are announced its ClaimRuns is submitted at once, into the transaction
    that queues them. At most one is under way, for everybody who waits.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiters: deque[tuple[int, asyncio.Future[list[tuple[Claim, Journal]]]]] = deque()
        self._callbacks: list[Callable[[str, int, str], None]] = []
        self._resolved_callbacks: list[Callable[[str, int, Resolution], None]] = []
        self._may_have_runs = True
        self._under_way: asyncio.Future[Result] | None = None
        self._poll_timer: asyncio.TimerHandle | None = None
        self._stopped: str | None = None
        engine.add_listener(self)

    async def claim(self, limit: int) -> list[tuple[Claim, Journal]]:
        """See the port. Waits, too, until the engine runs and its store is available.

        Raises:
            UnavailableError: the engine has stopped; there will be no more claims.
        """
        if self._stopped is not None:
            raise UnavailableError(self._stopped)
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[list[tuple[Claim, Journal]]] = loop.create_future()
        self._waiters.append((limit, waiter))
        self._issue()
        if self._poll_timer is None:
            self._poll_timer = loop.call_later(self._poll_seconds, self._poll)
        try:
            return await waiter
        except asyncio.CancelledError:
            # Cancelled in the very turn in which it was handed runs: it takes none.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._hand_out([claim for claim, _ in waiter.result()], self._engine.clock.now())
            raise

    def on_revoked(self, callback: Callable[[str, int, str], None]) -> None:
        """See the port; called right after the commit that took the run away."""
        self._callbacks.append(callback)

    def on_resolved(self, callback: Callable[[str, int, Resolution], None]) -> None:
        """See the port; called right after the commit."""
        self._resolved_callbacks.append(callback)

    # --- Listener of the engine -----------------------------------------------------------------------------------------

    def runs_queued(self) -> None:
        self._may_have_runs = True
        if self._waiters:
            self._issue()

    def run_revoked(self, run_id: str, execution: int, reason: str) -> None:
        for callback in self._callbacks:
            callback(run_id, execution, reason)

    def task_resolved(self, run_id: str, execution: int, resolution: ResolveTask) -> None:
        told = Resolution(
            task_id=resolution.task_id,
            status=resolution.status,
            output=resolution.output,
            types=resolution.types,
            error=resolution.error,
        )
        for callback in self._resolved_callbacks:
            callback(run_id, execution, told)

    def engine_stopped(self, reason: str) -> None:
        self._stopped = reason
        if self._poll_timer is not None:
            self._poll_timer.cancel()
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(UnavailableError(reason))
        self._waiters.clear()

    # --- parts ----------------------------------------------------------------------------------------------------------

    def _issue(self) -> None:
        """Submit a ClaimRuns for everybody who waits, if there may be something to claim."""
        engine = self._engine
        if not self._may_have_runs or self._under_way is not None or not engine.is_running:
            return
        if engine.writer.unavailable is not None:
            return  # the engine announces runs again once the store can be tried
        limit = sum(limit for limit, waiter in self._waiters if not waiter.done())
        if not limit:
            return
        self._may_have_runs = False
        now = engine.clock.now()
        self._under_way = engine.submit(
            core.claim(
                engine.owner,
                limit,
                now,
                engine.lease_ms,
                engine.claim_bytes_max,
                engine.environment_limit,
            )
        )
        self._under_way.add_done_callback(lambda future: self._claimed(future, limit, now))

    def _claimed(self, future: asyncio.Future[Result], limit: int, now: int) -> None:
        self._under_way = None
        error = future.exception()
        if error is not None:
            self._may_have_runs = True  # tried again when the store is available, or by the poll
            if not isinstance(error, UnavailableError):
                logger.error("claiming failed and will be repeated", exc_info=error)
            return
        result = future.result()
        assert isinstance(result, Claimed)
        if len(result.claims) >= limit:
            self._may_have_runs = True
        self._hand_out(result.claims, now)
        self._issue()

    def _hand_out(self, claims: list[Claim], claimed_at: int) -> None:
        """Give claims to who waits, first come first served; what is left over goes back to the queue."""
        engine = self._engine
        given = 0
        while given < len(claims) and self._waiters:
            limit, waiter = self._waiters.popleft()
            if waiter.done():
                continue
            share = claims[given : given + limit]
            given += len(share)
            waiter.set_result([(claim, EngineJournal(engine, claim, claimed_at)) for claim in share])
        now = engine.clock.now()
        for claim in claims[given:]:
            journal = EngineJournal(engine, claim, claimed_at)
            engine.close(core.put_back(claim, now), partial(_returned, journal))

    @property
    def _poll_seconds(self) -> float:
        return SHARED_POLL_SECONDS if self._engine.is_shared else POLL_SECONDS

    def _poll(self) -> None:
        self._poll_timer = None
        self._may_have_runs |= self._engine.is_shared
        while self._waiters and self._waiters[0][1].done():
            self._waiters.popleft()
        if self._waiters:
            self._poll_timer = asyncio.get_running_loop().call_later(self._poll_seconds, self._poll)
        self.runs_queued()


def _returned(journal: EngineJournal, outcome: bool | BaseException) -> None:
    """A claim was put back; unless its run was taken away meanwhile: then nobody is left to give its slot back."""
    if isinstance(outcome, BaseException):
        _not_given_back(outcome)
    elif not outcome:
        journal.release()


def _released(future: asyncio.Future[Result]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        _not_given_back(error)


def _not_given_back(error: BaseException) -> None:
    """The run stays leased to this process, and is rescued when the lease ends."""
    logger.warning("a claimed run could not be put back or let go: %s", error)


if TYPE_CHECKING:
    # Type checkers hold the two to their ports here.
    _PORTS: tuple[type[Journal], type[Source]] = (EngineJournal, EngineSource)
