"""Runs: what a client starts, looks up and does with them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from perdure.durations import to_ms
from perdure.errors import NotFoundError
from perdure.schema.runs import Run, RunStatus
from perdure.sdk.jobs import Job
from perdure.sdk.operation import Duration
from perdure.sdk.texts import check_text

from .connection import Connection

P = TypeVar("P")


class ClientRuns(Connection):
    """The part of `Client` about runs."""

    async def invoke(
        self, job: Job[P, Any] | str, payload: P, *, key: str | None = None, context: Any = None
    ) -> Run:
        """Start a run of a job, given as itself or by id. See `Job.invoke`."""
        if isinstance(job, str):
            if job not in self.jobs:
                raise NotFoundError(kind="job", id=job)
            job = self.jobs[job]
        where = f"job {job.id!r}"
        check_text(key, f"{where}: key", self.limits.name_chars_max)
        text = self._to_json(payload, f"payload of {where}")
        job.trigger.schema.parse(text, job_id=job.id)
        return await self.platform.invoke(job.id, text, key=key, context=self._context_json(context, where))

    async def get_run(self, id: str) -> Run | None:
        """A run with its tasks and logs; None if there is none of that id."""
        return await self.platform.get_run(id)

    async def get_runs(
        self,
        job_id: str | None = None,
        *,
        event_id: str | None = None,
        status: RunStatus | Sequence[RunStatus] = (),
        before: str | None = None,
        limit: int = 50,
    ) -> list[Run]:
        """Runs, newest first, without tasks and logs. `before`: the id of the last run of the previous page."""
        statuses = (status,) if isinstance(status, RunStatus) else tuple(status)
        return await self.platform.get_runs(
            job_id=job_id, event_id=event_id, statuses=statuses, before=before, limit=limit
        )

    async def wait_for_run(self, id: str, timeout: Duration | None = None) -> Run:
        """Wait until a run has ended, however; returns it.

        Raises:
            TimeoutError: it hasn't ended after `timeout` (timedelta or seconds). The run goes on.
            NotFoundError: there is no such run.
        """
        seconds = None if timeout is None else to_ms(timeout, "wait_for_run: timeout") / 1000
        return await asyncio.wait_for(self.platform.wait_for_run(id), seconds)

    async def cancel_run(self, id: str) -> Run:
        """End a run early as Cancelled. Its code is unwound; nothing it does from now on counts.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: it has ended otherwise already.
        """
        return await self.platform.cancel_run(id)

    async def rerun(self, id: str) -> Run:
        """Start a new run with the payload of one that has ended, in its job version. Errors as `cancel_run`."""
        return await self.platform.rerun(id)

    async def continue_run(self, id: str) -> Run:
        """Go on with a failed, cancelled or timed out run: completed tasks keep their outputs, the failed ones run again.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: its status doesn't allow it; says what does.
        """
        return await self.platform.continue_run(id)

    async def drain(self) -> None:
        """Wait until nothing is queued or executing. Runs that wait for the future aren't waited for."""
        await self.platform.drain()
