"""Takes runs from a source and executes them, so many at once; puts them down when it is asked to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from perdure.clock import Clock, Random
from perdure.errors import InvalidPayloadError, UnavailableError
from perdure.schema.effects import Resolution
from perdure.schema.execution import Claim, InvalidPayload, JobMissing, Yielded

from .branches import BranchWatch
from .context import EnvironmentContext, context_of
from .execution import Execution
from .failures import describe_error
from .flushes import Flushes
from .integrations.auth import run_sync_with_integrations, run_with_integrations
from .io import IO
from .journal import Journal, Source
from .scope import Scope, current_scope
from .settings import ExecutionSettings
from .sync_io import SyncIO
from .sync_run import SyncRun
from .threads import DaemonThreads
from .watchdog import Watchdog

if TYPE_CHECKING:
    from .client import Client

_log = logging.getLogger("perdure.runner")


class Runner:
    """Executes the jobs of one client in the running event loop.

    Args:
        source: where runs come from.
        max_executions: how many executions at once.
        threads: threads for plain `def` bodies of async runs. Sync runs have one each, beside these.
        watch_loop: whether to report code that blocks the event loop.
    """

    def __init__(
        self,
        client: Client,
        source: Source,
        *,
        clock: Clock,
        random: Random,
        environment: EnvironmentContext,
        settings: ExecutionSettings,
        max_executions: int,
        threads: int,
        watch_loop: bool,
    ) -> None:
        self._client = client
        self._source = source
        self._clock = clock
        self._random = random
        self._environment = environment
        self._settings = settings
        self._max = max_executions
        self._bodies = DaemonThreads(threads, "perdure-body")
        self._sync_runs = DaemonThreads(None, "perdure-run")
        self._executions: dict[tuple[str, int], Execution] = {}
        # What came for runs that are claimed and on their way here: their claims don't have it.
        self._early: dict[tuple[str, int], list[Resolution]] = {}
        self._on_finished = self._finished  # one object for all executions
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._outside = Context()
        self._flushes = Flushes(self._loop, settings.flush_delay, self._outside)
        self._pulling: asyncio.Task[None] | None = None
        self._watch: BranchWatch | None = None
        self._watchdog = Watchdog(self._blocked) if watch_loop else None
        source.on_revoked(self._revoked)
        source.on_resolved(self._resolved)

    def start(self) -> None:
        loop = self._loop
        self._watch = BranchWatch.install(loop)
        if self._watchdog is not None:
            self._watchdog.start(loop)
        self._pulling = loop.create_task(self._pull(), context=Context(), name="perdure-runner")

    async def _pull(self) -> None:
        while True:
            while len(self._executions) >= self._max:
                self._changed.clear()
                await self._changed.wait()
            self._early.clear()
            try:
                claims = await self._source.claim(self._max - len(self._executions))
            except UnavailableError:
                return  # the source has stopped and said so; those who wait for runs are told by it
            for claim, journal in claims:
                try:
                    self._execute(claim, journal)
                except Exception as error:  # noqa: BLE001 - nothing of one run may stop the others
                    _log.exception("run %s could not be started", claim.run_id)
                    self._give_up(claim, journal, error)
            del claims  # or they would live until the next ones come

    def _execute(self, claim: Claim, journal: Journal) -> None:
        job = self._client.find_job(claim.job_id)
        if job is None:
            _log.warning("run %s waits: its job %r isn't defined in this process", claim.run_id, claim.job_id)
            journal.close(JobMissing(), (), (), partial(_release_if_refused, journal))
            return
        execution = Execution(
            claim,
            journal,
            job,
            loop=self._loop,
            clock=self._clock,
            random=self._random,
            settings=self._settings,
            threads=self._bodies,
            outside=self._outside,
            flushes=self._flushes,
            on_finished=self._on_finished,
        )
        self._executions[claim.run_id, claim.execution] = execution
        for resolution in self._early.pop((claim.run_id, claim.execution), ()):
            execution.others.resolved(resolution)
        try:
            payload = job.trigger.schema.parse(claim.event.payload, job_id=job.id)
            context = context_of(claim, self._environment)
        except InvalidPayloadError as error:
            execution.end(InvalidPayload(describe_error(error, self._settings.limits)))
            return
        if job.max_duration_ms is not None:
            execution.limit_duration(job.max_duration_ms)
        inside = copy_context()
        root = Scope(execution, None)
        inside.run(current_scope.set, root)
        if job.is_async:
            io = IO(execution, self._client)
            main = partial(run_with_integrations, execution) if job.integrations else job.fn
            execution.start(main, (payload, io, context), inside, root)
        else:
            run = SyncRun(execution, self._sync_runs)
            sync_io = SyncIO(run, self._client)
            main = partial(job.fn, payload, sync_io, context)
            if job.integrations:
                main = partial(run_sync_with_integrations, execution, run, payload, sync_io, context)
            run.start(main, inside)

    def _give_up(self, claim: Claim, journal: Journal, error: Exception) -> None:
        execution = self._executions.get((claim.run_id, claim.execution))
        if execution is not None:
            execution.end_failed(error)

    def _finished(self, execution: Execution) -> None:
        self._executions.pop((execution.claim.run_id, execution.claim.execution), None)
        self._changed.set()

    def _revoked(self, run_id: str, number: int, reason: str) -> None:
        execution = self._executions.get((run_id, number))
        if execution is not None:
            execution.revoke(reason)

    def _resolved(self, run_id: str, number: int, resolution: Resolution) -> None:
        execution = self._executions.get((run_id, number))
        if execution is not None:
            execution.others.resolved(resolution)
        else:
            self._early.setdefault((run_id, number), []).append(resolution)

    def _blocked(self, task: asyncio.Task[Any] | None, message: str) -> None:
        """The loop is blocked by `task`: say so on the run, if it is one's. Called by the watchdog's thread."""
        for execution in tuple(self._executions.values()):
            if task is not None and task in execution.branches:
                execution.warn(message)
                return
        _log.warning(message)

    async def stop(self, grace: float) -> None:
        """Claim no more. Bodies under way may finish within `grace` seconds, then their runs are put down."""
        if self._pulling is not None:
            self._pulling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pulling
        for execution in list(self._executions.values()):
            execution.yield_soon("shutdown")
        await self._until_empty(grace)
        for execution in list(self._executions.values()):
            self._warn_of_bodies(execution, grace)
            execution.end(Yielded("shutdown"))
        await self._until_empty(self._settings.unwind_limit + 1)
        self._release()

    def _warn_of_bodies(self, execution: Execution, grace: float) -> None:
        """Say which bodies the grace wasn't enough for: they are cut off, or go on in threads until the process ends."""
        around = {operation.scope.operation for operation in execution.bodies}
        keys = sorted(operation.record.key for operation in execution.bodies if operation not in around)
        if keys:
            _log.warning(
                "run %s (job %s): still running %s after the grace of %g s; it is put down and does that again later",
                execution.claim.run_id,
                execution.claim.job_id,
                ", ".join(map(repr, keys)),
                grace,
            )

    def crash(self) -> None:
        """Drop everything at once, as if the process had died (for tests)."""
        if self._pulling is not None:
            self._pulling.cancel()
        for execution in list(self._executions.values()):
            execution.abandon()
        self._executions.clear()
        self._release()

    def _release(self) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._watch is not None:
            self._watch.uninstall()
            self._watch = None
        for pool in (self._bodies, self._sync_runs):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _until_empty(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._executions:
                    self._changed.clear()
                    await self._changed.wait()


def _release_if_refused(journal: Journal, closed: bool | BaseException) -> None:
    """The run was taken away while nobody executed it: its slot is free."""
    if closed is False:
        journal.release()
