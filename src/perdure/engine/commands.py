"""What people and clients ask to be done with runs, one by one or by filter: loads the run, lets the core decide, writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from perdure.errors import ConflictError, NotFoundError, PerdureError
from perdure.schema.run_filter import BulkResult as BulkResult
from perdure.schema.runs import RunStatus

from .core import runs as core
from .store import Ingested, MoveRun, Refused, RunFilter, RunRow

if TYPE_CHECKING:
    from .engine import Engine

_DECISIONS_MAX = 20
"""How often a decision is taken anew because the run moved on between reading and writing."""

_PAGE = 500
"""Runs of a filter that are worked on at a time."""


class Commands:
    """The commands of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._last_rerun = 0

    async def cancel(self, run_id: str) -> RunRow:
        """End a run early; one that is cancelled already is left as it is. Returns it as it is then.

        Its execution, if there is one, can record nothing from the commit on and is told right after it.

        Raises:
            NotFoundError: no such run.
            ConflictError: it ended in another way.
            UnavailableError: nothing was written.
        """
        return await self._cancel(await self.require(run_id))

    async def _cancel(self, run: RunRow) -> RunRow:
        engine = self._engine

        def decide(run: RunRow) -> MoveRun | None:
            execution, claimed_at = engine.executing.get(run.id, (0, 0))
            known = run.status is RunStatus.EXECUTING and execution == run.execution
            return core.cancel(
                run, engine.clock.now(), claimed_at=claimed_at if known else None, endings=engine.endings
            )

        move = await self._decide(run, decide)
        if move is not None and move.expected is RunStatus.EXECUTING:
            engine.revoked(run.id, move.execution, "cancelled")
        return await self.require(run.id)

    async def continue_(self, run_id: str) -> RunRow:
        """Go on with a run that failed, was cancelled or timed out, from where it ended. Errors as `cancel`."""
        return await self._continue(await self.require(run_id))

    async def _continue(self, run: RunRow) -> RunRow:
        await self._decide(run, lambda run: core.continue_run(run, self._engine.clock.now()))
        return await self.require(run.id)

    async def rerun(self, run_id: str) -> Ingested:
        """Start another run for the payload of one that has ended.

        Raises:
            NotFoundError: no such run.
            ConflictError: it hasn't ended.
            UnavailableError: nothing was written.
        """
        return await self._rerun(await self.require(run_id))

    async def _rerun(self, run: RunRow) -> Ingested:
        engine = self._engine
        event = await engine.store.get_event(run.event_id)
        if event is None:
            raise NotFoundError(kind="event", id=run.event_id)
        # The instant is part of the new event's id: two reruns within one millisecond are two runs.
        now = max(engine.clock.now(), self._last_rerun + 1)
        change = core.rerun(run, event, now, engine.ids.run_id())
        self._last_rerun = now
        result = await engine.submit(change)
        assert isinstance(result, Ingested)
        return result

    # --- by filter ------------------------------------------------------------------------------------------------------

    async def cancel_all(self, filter: RunFilter) -> BulkResult:
        """Cancel every run of a filter that hasn't ended."""
        live = tuple(status for status in RunStatus if not status.is_terminal)
        return await self._for_all(_narrowed(filter, live), self._cancel)

    async def continue_all(self, filter: RunFilter) -> BulkResult:
        """Continue every run of a filter that can be."""
        return await self._for_all(_narrowed(filter, core.CONTINUABLE), self._continue)

    async def rerun_all(self, filter: RunFilter) -> BulkResult:
        """Run every ended run of a filter again."""
        ended = tuple(status for status in RunStatus if status.is_terminal)
        return await self._for_all(_narrowed(filter, ended), self._rerun)

    async def _for_all(
        self, filter: RunFilter | None, command: Callable[[RunRow], Awaitable[object]]
    ) -> BulkResult:
        """Newest first. Runs that are made while this is under way are none of its business."""
        result = BulkResult(done=[], failed={})
        if filter is None:
            return result
        before = filter.before
        while True:
            page = await self._engine.store.list_runs(replace(filter, before=before, limit=_PAGE))
            answers = await asyncio.gather(*map(command, page), return_exceptions=True)
            for run, answer in zip(page, answers, strict=True):
                if isinstance(answer, PerdureError):
                    result.failed[run.id] = str(answer)
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    result.done.append(run.id)
            if len(page) < _PAGE:
                return result
            before = page[-1].id

    # --- parts ----------------------------------------------------------------------------------------------------------

    async def _decide(self, run: RunRow, decide: Callable[[RunRow], MoveRun | None]) -> MoveRun | None:
        """Have decided, and write it; again with the run as it is, if it moved on meanwhile."""
        run_id = run.id
        for _ in range(_DECISIONS_MAX):
            move = decide(run)
            if move is None:
                return None
            result = await self._engine.submit(move, patient=False)
            if not isinstance(result, Refused):
                return move
            if result.run is None:
                raise NotFoundError(kind="run", id=run_id)
            run = result.run
        raise ConflictError(
            f"run {run_id!r} moves on faster than it can be changed (now {run.status.label}); repeat"
        )

    async def require(self, run_id: str) -> RunRow:
        """The run. Raises NotFoundError."""
        run = await self._engine.store.get_run(run_id)
        if run is None:
            raise NotFoundError(kind="run", id=run_id)
        return run


def _narrowed(filter: RunFilter, statuses: tuple[RunStatus, ...]) -> RunFilter | None:
    """The filter for those of its statuses that a command can be for; None if there is none."""
    wanted = tuple(status for status in filter.statuses or statuses if status in statuses)
    return replace(filter, statuses=wanted) if wanted else None
