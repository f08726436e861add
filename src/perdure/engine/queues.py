"""Limits and pauses of queues, and why a run isn't running."""

from __future__ import annotations

import logging
from asyncio import Future
from collections.abc import Iterable
from typing import TYPE_CHECKING

from perdure.errors import NotFoundError, UsageError

from .core.jobs import JobSpec
from .loops.runner import settled
from .store import DefineQueue, PauseQueue, QueueRow, Result

if TYPE_CHECKING:
    from .engine import Engine

logger = logging.getLogger("perdure.engine")


class Queues:
    """The queues of one engine.

    Attributes:
        are_limited: whether runs may wait for a slot of another: the end of an execution is then a reason to claim.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.are_limited = True

    async def set_up(self) -> None:
        """Write the limits of the jobs, where they are others than the stored ones.

        Raises:
            UsageError: two jobs give one queue different limits.
        """
        wanted = self._wanted()
        stored = {queue.id: queue for queue in await self._engine.store.list_queues()}
        await settled(
            [
                self._engine.submit(queue)
                for queue in wanted.values()
                if _limits(queue) != _limits(stored.get(queue.id))
            ]
        )
        self.are_limited = self._engine.environment_limit is not None or any(
            _limits(queue)[:2] != (None, None) for queue in (*wanted.values(), *stored.values())
        )
        self._engine.announce_queued()

    def define(self, jobs: Iterable[JobSpec]) -> None:
        """Write the limits of jobs that are known by now, before any event that is ingested from now on.

        Raises:
            UsageError: two jobs give one queue different limits.
        """
        wanted = self._wanted()
        for queue_id in {_queue_of(job): None for job in jobs}:
            queue = wanted[queue_id]
            self.are_limited = self.are_limited or _limits(queue)[:2] != (None, None)
            self._engine.submit(queue).add_done_callback(_report)

    def _wanted(self) -> dict[str, DefineQueue]:
        """The queues as the jobs want them, by id."""
        wanted: dict[str, DefineQueue] = {}
        for job in self._engine.registry.jobs.values():
            queue = DefineQueue(
                id=_queue_of(job),
                concurrency_limit=job.concurrency_limit,
                key_limit=job.key_limit,
                priority=job.priority,
            )
            known = wanted.setdefault(queue.id, queue)
            known.priority = max(known.priority, queue.priority)  # the jobs of one queue go together
            if _limits(known)[:2] != _limits(queue)[:2]:
                raise UsageError(f"the limit {queue.id!r} is defined twice, with different numbers")
        return wanted

    async def all(self) -> list[QueueRow]:
        """The queues of the jobs, and others that have been used, by id."""
        rows = {queue.id: queue for queue in await self._engine.store.list_queues()}
        for job in self._engine.registry.jobs.values():
            if not job.is_internal:
                rows.setdefault(_queue_of(job), QueueRow(id=_queue_of(job), priority=job.priority))
        return [row for _, row in sorted(rows.items())]

    async def pause(self, queue_id: str) -> None:
        """Let nothing be claimed from a queue; what executes goes on.

        Raises:
            NotFoundError: no job has such a queue.
            UnavailableError: nothing was written.
        """
        await self._set_paused(queue_id, self._engine.clock.now())

    async def resume(self, queue_id: str) -> None:
        """Let runs be claimed from a queue again. Errors as `pause`."""
        await self._set_paused(queue_id, None)
        self._engine.announce_queued()

    async def _set_paused(self, queue_id: str, at: int | None) -> None:
        engine = self._engine
        known = {_queue_of(job) for job in engine.registry.jobs.values()}
        if queue_id not in known and queue_id not in {queue.id for queue in await engine.store.list_queues()}:
            raise NotFoundError(kind="queue", id=queue_id)
        await engine.submit(PauseQueue(id=queue_id, paused_at=at), patient=False)


def _queue_of(job: JobSpec) -> str:
    return job.queue or job.id


def _report(future: Future[Result]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.warning("the limits of a queue could not be written: %s", error)


def _limits(queue: QueueRow | DefineQueue | None) -> tuple[int | None, int | None, int]:
    return (None, None, 0) if queue is None else (queue.concurrency_limit, queue.key_limit, queue.priority)
