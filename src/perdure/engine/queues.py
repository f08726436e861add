"""Limits and pauses of queues, and why a run isn't running."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import NotFoundError, UsageError

from .loops.runner import settled
from .store import DefineQueue, PauseQueue, QueueRow

if TYPE_CHECKING:
    from .engine import Engine


class Queues:
    """The queues of one engine.

    Attributes:
        are_limited: whether runs may wait for a slot of another: the end of an execution is then a reason to claim.
        is_changed: jobs were defined whose limits aren't written yet; `set_up` does that.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.are_limited = True
        self.is_changed = False

    async def set_up(self) -> None:
        """Write the limits of the jobs, where they are others than the stored ones.

        Raises:
            UsageError: two jobs give one queue different limits.
        """
        self.is_changed = False
        wanted: dict[str, DefineQueue] = {}
        for job in self._engine.registry.jobs.values():
            queue = DefineQueue(
                id=job.queue or job.id,
                concurrency_limit=job.concurrency_limit,
                key_limit=job.key_limit,
                priority=job.priority,
            )
            known = wanted.setdefault(queue.id, queue)
            known.priority = max(known.priority, queue.priority)  # the jobs of one queue go together
            if _limits(known)[:2] != _limits(queue)[:2]:
                raise UsageError(f"the limit {queue.id!r} is defined twice, with different numbers")
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

    async def all(self) -> list[QueueRow]:
        """The queues of the jobs, and others that have been used, by id."""
        rows = {queue.id: queue for queue in await self._engine.store.list_queues()}
        for job in self._engine.registry.jobs.values():
            if not job.is_internal:
                rows.setdefault(job.queue or job.id, QueueRow(id=job.queue or job.id, priority=job.priority))
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
        known = {job.queue or job.id for job in engine.registry.jobs.values()}
        if queue_id not in known and queue_id not in {queue.id for queue in await engine.store.list_queues()}:
            raise NotFoundError(kind="queue", id=queue_id)
        await engine.submit(PauseQueue(id=queue_id, paused_at=at), patient=False)


def _limits(queue: QueueRow | DefineQueue | None) -> tuple[int | None, int | None, int]:
    return (None, None, 0) if queue is None else (queue.concurrency_limit, queue.key_limit, queue.priority)
