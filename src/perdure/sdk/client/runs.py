"""Runs: what a client starts, looks up and does with them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict, TypeVar, Unpack, cast

from msgspec.structs import replace

from perdure.durations import to_instant_ms, to_ms
from perdure.errors import NotFoundError, UsageError
from perdure.schema.reasons import Reason
from perdure.schema.run_filter import BulkResult, RunFilter
from perdure.schema.runs import Run, RunStatus
from perdure.sdk.jobs import Job
from perdure.sdk.operation import Duration
from perdure.sdk.run_options import run_options
from perdure.sdk.texts import check_text

from .connection import Connection

P = TypeVar("P")

_PAGE = 500

_TEXTS = ("event_id", "version", "account_id", "parent", "queue")
"""What runs are selected by that is a text."""


class RunSelection(TypedDict, total=False):
    """Which runs are meant; what isn't given doesn't matter.

    job_id: the job's id. event_id: runs that this event caused. status: one, or several. version: of the job. tags: runs that
    have all of them. account_id: of the user they are for. parent: id of the run that waits for them. queue: where they
    wait for slots. created_after, created_before: aware datetimes, the second one excluded. is_test: tests only, or others
    only.
    """

    event_id: str | None
    status: RunStatus | Sequence[RunStatus]
    version: str | None
    tags: str | Iterable[str]
    account_id: str | None
    parent: str | None
    queue: str | None
    created_after: datetime | None
    created_before: datetime | None
    is_test: bool | None


class ClientRuns(Connection):
    """The part of `Client` about runs."""

    async def invoke(
        self,
        job: Job[P, Any] | str,
        payload: P,
        *,
        key: str | None = None,
        context: Any = None,
        is_test: bool = False,
        account_id: str | None = None,
        tags: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
        concurrency_key: str | None = None,
    ) -> Run:
        """Start a run of a job, given as itself or by id. See `Job.invoke`; the other options as for `send_event`."""
        if isinstance(job, str):
            if job not in self.jobs:
                raise NotFoundError(kind="job", id=job)
            job = self.jobs[job]
        if key is None:
            self._refuse_in_run("client.invoke", "`await io.invoke(key, job, payload)`, which starts one run")
        given: Any = job
        if not isinstance(given, Job):
            raise UsageError(f"invoke takes a job, or the id of one, not {given!r}")
        where = f"job {job.id!r}"
        check_text(key, f"{where}: key", self.limits.name_chars_max)
        check_text(account_id, f"{where}: account_id", self.limits.name_chars_max)
        text = self._to_json(payload, f"payload of {where}")
        job.trigger.schema.parse(text, job_id=job.id)
        return await self.platform.invoke(
            job.id,
            text,
            key=key,
            context=self._context_json(context, where),
            is_test=is_test,
            account_id=account_id,
            options=run_options(
                where,
                self.limits,
                tags=tags,
                metadata=metadata,
                priority=priority,
                concurrency_key=concurrency_key,
            ),
        )

    async def get_run(self, id: str) -> Run | None:
        """A run with its tasks and logs; None if there is none of that id."""
        return await self.platform.get_run(self._checked_id(id, "get_run: the id of a run"))

    async def get_runs(
        self,
        job_id: str | None = None,
        *,
        before: str | None = None,
        limit: int = 50,
        **selection: Unpack[RunSelection],
    ) -> list[Run]:
        """Runs, newest first, without tasks and logs.

        Args:
            job_id: only this job's.
            before: the id of the last run of the previous page; `iter_runs` goes through all pages.
            limit: at most so many.
            selection: see `RunSelection`.
        """
        given: Any = limit
        if type(given) is not int or not 1 <= given < 2**31:
            raise UsageError(f"get_runs: limit must be a whole number from 1 to 2,147,483,647, not {limit!r}")
        _check_texts("get_runs", {"before": before})
        wanted = _run_filter("get_runs", job_id, selection)
        return await self.platform.get_runs(replace(wanted, before=before, limit=limit))

    async def iter_runs(
        self, job_id: str | None = None, **selection: Unpack[RunSelection]
    ) -> AsyncGenerator[Run]:
        """`async for run in client.iter_runs(...)`: as `get_runs`, all of them, however many. Holds a page in memory."""
        wanted = replace(_run_filter("iter_runs", job_id, selection), limit=_PAGE)
        while True:
            page = await self.platform.get_runs(wanted)
            for run in page:
                yield run
            if len(page) < _PAGE:
                return
            wanted = replace(wanted, before=page[-1].id)

    async def count_runs(self) -> dict[RunStatus, int]:
        """How many runs there are in each status, 0 included."""
        return await self.platform.count_runs()

    async def why_not_running(self, id: str) -> list[Reason]:
        """Why a run isn't executing now, as data; `str()` of a reason is a sentence for people.

        Of a queued run: what keeps it from being started, and how many are before it. Of a waiting one: what it waits for.
        Of one that executes or has ended: just that.

        Raises:
            NotFoundError: there is no such run.
        """
        return await self.platform.why_not_running(self._checked_id(id, "why_not_running: the id of a run"))

    async def wait_for_run(self, id: str, timeout: Duration | None = None) -> Run:
        """Wait until a run has ended, however; returns it.

        Raises:
            TimeoutError: it hasn't ended after `timeout` (timedelta or seconds). The run goes on.
            NotFoundError: there is no such run.
        """
        seconds = None if timeout is None else to_ms(timeout, "wait_for_run: timeout") / 1000
        wanted = self._checked_id(id, "wait_for_run: the id of a run")
        return await asyncio.wait_for(self.platform.wait_for_run(wanted), seconds)

    async def cancel_run(self, id: str) -> Run:
        """End a run early as Cancelled. Its code is unwound; nothing it does from now on counts.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: it has ended otherwise already.
        """
        return await self.platform.cancel_run(self._checked_id(id, "cancel_run: the id of a run"))

    async def rerun(self, id: str) -> Run:
        """Start a new run with the payload of one that has ended, in its job version. Errors as `cancel_run`."""
        self._refuse_in_run("client.rerun", "it in a task, `await io.run_task(key, client.rerun, id)`")
        return await self.platform.rerun(self._checked_id(id, "rerun: the id of a run"))

    async def continue_run(self, id: str) -> Run:
        """Go on with a failed, cancelled or timed out run: completed tasks keep their outputs, the failed ones run again.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: its status doesn't allow it; says what does.
        """
        self._refuse_in_run(
            "client.continue_run", "it in a task, `await io.run_task(key, client.continue_run, id)`"
        )
        return await self.platform.continue_run(self._checked_id(id, "continue_run: the id of a run"))

    # --- many at once ---------------------------------------------------------------------------------------------------

    async def cancel_runs(self, job_id: str | None = None, **selection: Unpack[RunSelection]) -> BulkResult:
        """Cancel every run of a selection that hasn't ended.

        Returns:
            the ids of those cancelled (`done`), and of the others why not (`failed`). Runs that are made while this is under
            way aren't touched.

        Raises:
            UsageError: nothing was selected: this would cancel everything.
        """
        return await self.platform.cancel_runs(_chosen("cancel_runs", job_id, selection))

    async def rerun_runs(self, job_id: str | None = None, **selection: Unpack[RunSelection]) -> BulkResult:
        """Run every ended run of a selection again, as `rerun`; result and errors as `cancel_runs`."""
        self._refuse_in_run("client.rerun_runs", "it in a task of its own")
        return await self.platform.rerun_runs(_chosen("rerun_runs", job_id, selection))

    async def continue_runs(self, job_id: str | None = None, **selection: Unpack[RunSelection]) -> BulkResult:
        """Continue every run of a selection that can be, as `continue_run`; result and errors as `cancel_runs`."""
        self._refuse_in_run("client.continue_runs", "it in a task of its own")
        return await self.platform.continue_runs(_chosen("continue_runs", job_id, selection))

    async def cancel_runs_for_event(self, id: str) -> BulkResult:
        """Cancel the runs that an event caused; result as `cancel_runs`.

        Raises:
            NotFoundError: there is no such event.
        """
        self._checked_id(id, "cancel_runs_for_event: the id of an event")
        if await self.platform.get_event(id) is None:
            raise NotFoundError(kind="event", id=id)
        return await self.platform.cancel_runs(RunFilter(event_id=id))

    async def cancel_runs_for_job(self, id: str) -> BulkResult:
        """Cancel the runs of a job, in whatever version; result as `cancel_runs`."""
        wanted = self._checked_id(id, "cancel_runs_for_job: the id of a job")
        return await self.platform.cancel_runs(RunFilter(job_id=wanted))

    async def drain(self) -> None:
        """Wait until nothing is queued or executing. Runs that wait for the future aren't waited for."""
        await self.platform.drain()


def _chosen(call: str, job_id: str | None, selection: RunSelection) -> RunFilter:
    wanted = _run_filter(call, job_id, selection)
    if wanted == RunFilter():
        raise UsageError(
            f"{call} without a selection would be done to every run there is. Say which: a job's id, status=, tags=, ...; if "
            "all are meant, created_before=datetime.now(UTC)"
        )
    return wanted


def _run_filter(call: str, job_id: str | None, selection: RunSelection) -> RunFilter:
    if unknown := selection.keys() - RunSelection.__annotations__.keys():
        raise UsageError(
            f"{call} can't select by {min(unknown)!r}; it can by job_id, {', '.join(RunSelection.__annotations__)}"
        )
    statuses, tags = _several(call, "status", selection), _several(call, "tags", selection)
    for given in statuses:
        if not isinstance(given, RunStatus):
            raise UsageError(f"{call}: status takes RunStatus values, like RunStatus.FAILED, not {given!r}")
    _check_texts(call, {"job_id": job_id, **{name: selection.get(name) for name in _TEXTS}})
    for tag in tags:
        _check_texts(call, {"tags": tag or ""})
    is_test: Any = selection.get("is_test")
    if is_test is not None and not isinstance(is_test, bool):
        raise UsageError(f"{call}: is_test is True or False, not {is_test!r}")
    after, before = selection.get("created_after"), selection.get("created_before")
    return RunFilter(
        job_id=job_id,
        event_id=selection.get("event_id"),
        statuses=statuses,
        job_version=selection.get("version"),
        tags=tags,
        account_id=selection.get("account_id"),
        parent_run_id=selection.get("parent"),
        queue=selection.get("queue"),
        is_test=is_test,
        created_from=None if after is None else to_instant_ms(after, f"{call}: created_after"),
        created_until=None if before is None else to_instant_ms(before, f"{call}: created_before"),
    )


def _several(call: str, name: Literal["status", "tags"], selection: RunSelection) -> tuple[Any, ...]:
    """One or several values, as a tuple; none for None."""
    given: Any = selection.get(name)
    if given is None:
        return ()
    if isinstance(given, (str, RunStatus)):
        return (given,)
    if not isinstance(given, Iterable):
        raise UsageError(f"{call}: {name} takes one value, or a list of them, not {given!r}")
    return tuple(cast("Iterable[Any]", given))


def _check_texts(call: str, texts: Mapping[str, Any]) -> None:
    """Raises UsageError for what can't be the text of anything stored. None is let through."""
    for name, text in texts.items():
        check_text(text, f"{call}: {name}", sys.maxsize)
