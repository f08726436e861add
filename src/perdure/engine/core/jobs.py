"""What the engine knows of jobs, and which of them an event runs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, cast

import msgspec
from msgspec import Struct

from perdure.engine.store import NewRun
from perdure.errors import UsageError
from perdure.filters import matches
from perdure.schema.execution import EventRecord
from perdure.schema.options import RunOptions as RunOptions, decode_options

from .transitions import INITIAL, RunEvent, next_status

STARTABLE = next_status(INITIAL, RunEvent.ENQUEUED)

INVOKE = "invoke"
"""Name of the events that invocations make."""

Key: TypeAlias = str | Callable[[Any], Any]
"""Where a concurrency key is in the payload: a dotted path, or what a function makes of it."""


class JobSpec(Struct, kw_only=True, frozen=True):
    """What the engine knows of a job: enough to turn events into runs.

    Attributes:
        event_names: of the events that trigger it; empty for a job that is only invoked.
        source: which source's events do; None for any.
        filter, context_filter: what their payload and context are to be like (JSON form of perdure.filters).
        enabled: whether events cause runs; invoking works either way.
        priority: of its runs; higher ones are claimed first.
        max_duration_ms: time a run may execute, waits excluded (the executor sees to it); None for no limit.
        queue: id of the queue that its runs wait in: its own id, or that of a limit it shares.
        concurrency_limit, key_limit: of that queue; see QueueRow.
        concurrency_key: what divides the queue; None for nothing.
        schedule: JSON of the schedule that fires it; `catch_up`: whether missed ticks are made up for.
        dispatchers: ids of dynamic schedules that it is attached to.
        notify_success, notify_failure: ids of (internal) jobs that run when one of its runs has completed, or ended otherwise.
        is_internal: it is perdure's own.
    """

    id: str
    version: str
    event_names: tuple[str, ...] = ()
    source: str | None = None
    filter: dict[str, Any] | None = None
    context_filter: dict[str, Any] | None = None
    enabled: bool = True
    priority: int = 0
    max_duration_ms: int | None = None
    queue: str = ""
    concurrency_limit: int | None = None
    key_limit: int | None = None
    concurrency_key: Key | None = None
    schedule: str | None = None
    catch_up: bool = False
    dispatchers: tuple[str, ...] = ()
    notify_success: tuple[str, ...] = ()
    notify_failure: tuple[str, ...] = ()
    is_internal: bool = False


class Registry:
    """The jobs of an engine, by what starts them."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobSpec] = {}
        self._by_event: dict[str, list[JobSpec]] = {}

    def add(self, jobs: Iterable[JobSpec]) -> None:
        """Add jobs, or replace them by id."""
        self.jobs.update((job.id, job) for job in jobs)
        self._by_event = {}
        for job in self.jobs.values():
            for name in dict.fromkeys(job.event_names):
                self._by_event.setdefault(name, []).append(job)

    def runs_of(
        self, event: EventRecord, now: int, ids: Iterator[str], failed: list[UsageError] | None = None
    ) -> list[NewRun]:
        """The runs that an event causes; `failed` as in `new_runs`."""
        jobs = self._by_event.get(event.name)
        return dispatch(event, jobs, now, ids, failed) if jobs else []

    def of_dispatcher(self, dispatcher: str) -> list[JobSpec]:
        """The enabled jobs that a schedule fires: "job:<id>" or "dynamic:<id>"."""
        kind, _, name = dispatcher.partition(":")
        if kind == "job":
            job = self.jobs.get(name)
            return [job] if job is not None and job.enabled else []
        return [job for job in self.jobs.values() if name in job.dispatchers and job.enabled]


def dispatch(
    event: EventRecord,
    jobs: Iterable[JobSpec],
    now: int,
    ids: Iterator[str],
    failed: list[UsageError] | None = None,
) -> list[NewRun]:
    """The runs that `event` causes, one per job it triggers; `ids` and `failed` as in `new_runs`."""
    return new_runs((job for job in jobs if is_triggered(job, event)), event, now, ids, failed)


def new_runs(
    jobs: Iterable[JobSpec],
    event: EventRecord,
    now: int,
    ids: Iterator[str],
    failed: list[UsageError] | None = None,
) -> list[NewRun]:
    """A run of each job for `event`, with ids taken from `ids` as needed.

    Jobs whose concurrency key can't be worked out get none if there is nobody to be told: their errors go to `failed`.
    Without that list they are raised.
    """
    runs: list[NewRun] = []
    for job in jobs:
        try:
            runs.append(new_run(job, now, next(ids), event))
        except UsageError as error:
            if failed is None:
                raise
            failed.append(error)
    return runs


def is_triggered(job: JobSpec, event: EventRecord) -> bool:
    """Whether an event starts a job: name, source, filters (Protocol, events: deliver)."""
    if not job.enabled or event.name not in job.event_names:
        return False
    if job.source is not None and job.source != event.source:
        return False
    if job.filter is not None and not matches(job.filter, msgspec.json.decode(event.payload)):
        return False
    if job.context_filter is not None:
        return matches(job.context_filter, msgspec.json.decode(event.context or "null"))
    return True


def new_run(
    job: JobSpec, now: int, run_id: str, event: EventRecord | None = None, options: RunOptions | None = None
) -> NewRun:
    """A run of `job` for `event`, to be queued in the transaction that creates it.

    Raises:
        UsageError: the job's concurrency key can't be worked out from the payload.
    """
    if options is None and event is not None and event.run_options is not None:
        options = decode_options(event.run_options)
    run = NewRun(
        id=run_id,
        job_id=job.id,
        job_version=job.version,
        status=STARTABLE,
        created_at=now,
        priority=job.priority,
        queue=job.queue or job.id,
        is_internal=job.is_internal,
    )
    if options is not None:
        run.tags = options.tags
        run.metadata = options.metadata
        if options.priority is not None:
            run.priority = options.priority
        if options.concurrency_key is not None:
            run.queue_key = options.concurrency_key
            return run
    if job.concurrency_key is not None and event is not None:
        run.queue_key = queue_key(job, event.payload)
    return run


def queue_key(job: JobSpec, payload: str) -> str:
    """The concurrency key of a run with this payload; "" if the payload has none."""
    value: Any = msgspec.json.decode(payload)
    key = job.concurrency_key
    try:
        if isinstance(key, str):
            for part in key.split("."):
                value = cast("dict[str, Any]", value).get(part) if isinstance(value, dict) else None
        elif key is not None:
            value = key(value)
        if value is None:
            return ""
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()
    except Exception as error:
        raise UsageError(
            f"job {job.id!r}: its concurrency_key can't be worked out from the payload ({type(error).__name__}: {error})"
        ) from error
