"""The client: what an application defines its jobs on and talks to the platform through."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import msgspec
from msgspec import Struct

from perdure.clock import Clock, Random, SystemClock, system_random
from perdure.durations import to_instant_ms, to_ms
from perdure.errors import ConfigurationError, ConflictError, LimitExceededError, NotFoundError, UsageError
from perdure.ids import Ids
from perdure.limits import DEFAULT_LIMITS, Limits
from perdure.schema.execution import EventRecord
from perdure.schema.runs import Event, Run, RunStatus

from .jobs import Job, JobDecorator
from .logger import LEVELS
from .operation import Duration
from .platform import Platform
from .retry import Retry
from .scope import current_scope
from .texts import check_text
from .triggers.invoke import invoke_trigger
from .triggers.trigger import Trigger
from .values import to_json

if TYPE_CHECKING:
    from perdure.embedded import Embedded, EmbeddedSettings

    from .sync_client import SyncClient

_log = logging.getLogger("perdure.client")

P = TypeVar("P")
R = TypeVar("R")


class EventToSend(Struct, frozen=True, kw_only=True):
    """An event on its way; made by `client.event`."""

    name: str
    payload: Any = None
    id: str | None = None
    context: Any = None
    timestamp: datetime | None = None
    source: str | None = None
    is_test: bool = False

    def with_id(self, id: str) -> EventToSend:
        return msgspec.structs.replace(self, id=id)


class Client:
    """An application's jobs, and its connection to the platform.

    Example:
        client = Client(id="my-app")

        @client.job(id="hello", trigger=event_trigger(name="hello"))
        async def hello(payload, io, ctx): ...

        async with client.embedded("sqlite:///jobs.db"):
            await client.send_event("hello", {"to": "world"})

    Args:
        id: names the application; stays the same over releases.
        api_url, api_key: where the platform is and how to get in; else PERDURE_API_URL and PERDURE_API_KEY.
        log_level: of jobs that set none: log < error < warn < info < debug.
        limits: how large things may be.
    """

    def __init__(
        self,
        id: str,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        log_level: str = "info",
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if not id:
            raise UsageError("a client needs an id: Client(id='my-app')")
        if log_level.upper() not in LEVELS:
            raise UsageError(f"log_level {log_level!r} is none of log, error, warn, info, debug")
        self.id = id
        self.api_url = api_url or os.environ.get("PERDURE_API_URL")
        self.api_key = api_key or os.environ.get("PERDURE_API_KEY")
        self.log_level = log_level
        self.jobs: dict[str, Job[Any, Any]] = {}
        self.limits = limits
        self._platform: Platform | None = None
        self._pid = os.getpid()
        self._unheard: set[str] = set()
        self._clock: Clock = SystemClock()
        self._ids = Ids(self._clock, system_random())

    # --- jobs --------------------------------------------------------------------------------------------------------

    def job(
        self,
        *,
        id: str,
        name: str | None = None,
        version: str = "1.0.0",
        trigger: Trigger[P] | None = None,
        enabled: bool = True,
        priority: int = 0,
        max_duration: Duration | None = None,
        retry: Retry | None = None,
        log_level: str | None = None,
    ) -> JobDecorator[P]:
        """Decorator that makes a job of a run function `(payload, io, ctx)`, async or not.

        Args:
            id: stays the same for ever; a run finds its code by it.
            name: for people; the function's name if not given.
            version: "N.N.N"; recorded with each run.
            trigger: what starts it; without one it is only invoked.
            enabled: False starts no new runs for events; those under way go on.
            priority: runs of higher priority are executed first.
            max_duration: time a run may execute in all, waits excluded, timedelta or seconds; then it is Timed out.
            retry: an uncaught error gives the run another execution, its completed tasks kept, the failed ones reset.
            log_level: see the client's.
        """

        def define(fn: Callable[..., Any]) -> Job[P, Any]:
            return self.define_job(
                id=id,
                run=fn,
                name=name,
                version=version,
                trigger=trigger,
                enabled=enabled,
                priority=priority,
                max_duration=max_duration,
                retry=retry,
                log_level=log_level,
            )

        return define

    def define_job(
        self,
        *,
        id: str,
        run: Callable[..., Awaitable[R]] | Callable[..., R],
        name: str | None = None,
        version: str = "1.0.0",
        trigger: Trigger[P] | None = None,
        enabled: bool = True,
        priority: int = 0,
        max_duration: Duration | None = None,
        retry: Retry | None = None,
        log_level: str | None = None,
    ) -> Job[P, R]:
        """The same as `job` without the decorator. On a connected client, too: events sent from then on start it.

        Raises:
            ConflictError: the client has a job of this id.
        """
        if id in self.jobs:
            raise ConflictError(
                f"job {id!r} is defined twice on client {self.id!r}; give each job an id of its own"
            )
        job: Job[P, R] = Job(
            self,
            run,
            id=id,
            name=name,
            version=version,
            trigger=trigger if trigger is not None else invoke_trigger(),
            enabled=enabled,
            priority=priority,
            max_duration=max_duration,
            retry=retry,
            log_level=log_level,
        )
        self.jobs[id] = job
        if self._platform is not None and self._pid == os.getpid():
            self._platform.define(job)
        return job

    # --- connecting --------------------------------------------------------------------------------------------------

    def embedded(self, url: str | None = None, **settings: Unpack[EmbeddedSettings]) -> Embedded:
        """Engine and executor inside this process: `async with client.embedded("sqlite:///jobs.db"):`.

        Args:
            url: "sqlite:///relative.db", "sqlite:////absolute.db" or ":memory:"; else PERDURE_DATABASE_URL.
            settings: see `perdure.embedded.Embedded`.
        """
        from perdure.embedded import Embedded, EmbeddedSettings

        if unknown := settings.keys() - EmbeddedSettings.__annotations__.keys():
            raise UsageError(
                f"client.embedded has no setting {min(unknown)!r}; there are {', '.join(EmbeddedSettings.__annotations__)}"
            )
        return Embedded(self, url, **settings)

    @property
    def sync(self) -> SyncClient:
        """The same client without `await`, for code that has no event loop."""
        from .sync_client import sync_client_of

        return sync_client_of(self)

    def connect(
        self, platform: Platform | None, *, clock: Clock | None = None, random: Random | None = None
    ) -> None:
        """Use `platform` from now on (None: not connected). Called by carriers, not by applications.

        `clock` and `random` give events their times and ids while it is connected; else the system's do.

        Raises:
            ConflictError: the client is connected already.
        """
        if platform is not None and self._platform is not None:
            raise ConflictError(
                f"client {self.id!r} is already running embedded; leave that before entering it again"
            )
        self._platform = platform
        self._clock = clock or SystemClock()
        self._ids = Ids(self._clock, random or system_random())
        self._pid = os.getpid()

    @property
    def platform(self) -> Platform:
        """What the client is connected to.

        Raises:
            ConfigurationError: nothing.
            UsageError: it was, in the process that this one was forked from.
        """
        if self._platform is not None and self._pid != os.getpid():
            raise UsageError(
                f"client {self.id!r} runs embedded in process {self._pid}, and this one was forked from it: an engine and "
                "its file belong to one process. Open `client.embedded(...)` after forking, on a file of its own"
            )
        if self._platform is None:
            raise ConfigurationError(
                f"client {self.id!r} isn't connected to anything. Either run embedded: `async with "
                'client.embedded("sqlite:///jobs.db"):` around this call; or connect to a server: '
                "Client(api_url=..., api_key=...) or PERDURE_API_URL and PERDURE_API_KEY (servers come with a later release)"
            )
        return self._platform

    # --- events ------------------------------------------------------------------------------------------------------

    def event(
        self,
        name: str,
        payload: Any = None,
        *,
        id: str | None = None,
        context: Any = None,
        timestamp: datetime | None = None,
        source: str | None = None,
        is_test: bool = False,
    ) -> EventToSend:
        """An event for `send_events`; the arguments are those of `send_event`."""
        return EventToSend(
            name=name,
            payload=payload,
            id=id,
            context=context,
            timestamp=timestamp,
            source=source,
            is_test=is_test,
        )

    async def send_event(
        self,
        name: str,
        payload: Any = None,
        *,
        id: str | None = None,
        context: Any = None,
        timestamp: datetime | None = None,
        source: str | None = None,
        is_test: bool = False,
    ) -> Event:
        """Send an event; each job it triggers gets a run. Durable when this returns.

        Args:
            name: what triggers select by; case-sensitive.
            payload: JSON-like; models, dataclasses, datetimes etc. become JSON.
            id: sending an id again returns the first event with its runs, and starts nothing.
            context: JSON-like, beside the payload; jobs find it in `ctx.event.context`.
            timestamp: aware; when it happened. Now, if not given.
            source: what triggers may select by; "trigger.dev" if not given, as in v2.
            is_test: marks the runs as tests.

        Raises:
            SerializationError, LimitExceededError, UsageError: the event can't be stored; says why.
            ConfigurationError: the client isn't connected to anything.
            UnavailableError: not stored (the disk is full, say); safe to repeat with the same id.
        """
        platform = self._sender(all_have_ids=bool(id))
        record = self._record(name, payload, id, context, timestamp, source, is_test)
        [event] = await platform.send([record])
        self._look_for_runs(event)
        return event

    async def send_events(self, events: Sequence[EventToSend]) -> list[Event]:
        """Send several events (made by `client.event`) in one go; each is stored by itself. Errors as `send_event`."""
        if len(events) > self.limits.events_per_send_max:
            raise LimitExceededError(
                what="the number of events in one send_events",
                size=len(events),
                limit=self.limits.events_per_send_max,
                setting="limits.events_per_send_max",
            )
        platform = self._sender(all_have_ids=all(event.id for event in events))
        records = [
            self._record(
                event.name,
                event.payload,
                event.id,
                event.context,
                event.timestamp,
                event.source,
                event.is_test,
            )
            for event in events
        ]
        sent = await platform.send(records)
        for event in sent:
            self._look_for_runs(event)
        return sent

    def _sender(self, *, all_have_ids: bool) -> Platform:
        """What events are sent to, if they may be sent from here."""
        platform = self.platform
        scope = current_scope.get()
        if scope is not None and scope.operation is None and not all_have_ids:
            raise UsageError(
                "client.send_event in a run function sends again at every replay: write `await io.send_event(key, name, "
                "payload)`, which sends once (or give the event an id: the same id is the same event)"
            )
        return platform

    def _look_for_runs(self, event: Event) -> None:
        """Say, once per name, that nobody listens."""
        if not event.runs and event.name not in self._unheard:
            self._unheard.add(event.name)
            _log.warning("event %r is stored, and triggers no job of client %r", event.name, self.id)

    def _record(
        self,
        name: str,
        payload: Any,
        id: str | None,
        context: Any,
        timestamp: datetime | None,
        source: str | None,
        is_test: bool,
    ) -> EventRecord:
        where = f"event {name!r}"
        limits = self.limits
        for what, text in (("name", name), ("id", id), ("source", source)):
            if text is not None:
                check_text(text, f"{where}: {what}", limits.name_chars_max)
        if not name:
            raise UsageError("an event needs a name")
        return EventRecord(
            id=id or self._ids.event_id(),
            name=name,
            payload=to_json(payload, where=f"payload of {where}", limit=limits.payload_bytes_max),
            timestamp=(
                self._clock.now() if timestamp is None else to_instant_ms(timestamp, f"{where}: timestamp")
            ),
            context=None if context is None else self._context(context, where),
            source=source or "trigger.dev",
            is_test=is_test,
        )

    def _context(self, context: Any, where: str) -> str | None:
        if context is None:
            return None
        limit = self.limits.context_bytes_max
        return to_json(context, where=f"context of {where}", limit=limit, setting="limits.context_bytes_max")

    async def get_event(self, id: str) -> Event | None:
        """An event with the runs it caused; None if there is none of that id."""
        return await self.platform.get_event(id)

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
        text = to_json(payload, where=f"payload of {where}", limit=self.limits.payload_bytes_max)
        job.trigger.schema.parse(text, job_id=job.id)
        return await self.platform.invoke(job.id, text, key=key, context=self._context(context, where))

    # --- runs --------------------------------------------------------------------------------------------------------

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
