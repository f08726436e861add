"""The client: what an application defines its jobs on and talks to the platform through."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from perdure.errors import ConflictError, UsageError
from perdure.limits import DEFAULT_LIMITS, Limits
from perdure.sdk.concurrency import ConcurrencyKey, ConcurrencyLimit, check_limit
from perdure.sdk.integrations import Integration
from perdure.sdk.jobs import Job, JobDecorator
from perdure.sdk.logger import LEVELS
from perdure.sdk.notifications import INTERNAL, NotificationHandler
from perdure.sdk.operation import Duration
from perdure.sdk.retry import Retry
from perdure.sdk.texts import check_text
from perdure.sdk.triggers.invoke import invoke_trigger
from perdure.sdk.triggers.trigger import Trigger

from .auth import ClientAuth
from .events import ClientEvents
from .notifications import ClientNotifications
from .runs import ClientRuns
from .schedules import ClientSchedules
from .state import ClientState
from .upkeep import ClientUpkeep

if TYPE_CHECKING:
    from perdure.embedded import Embedded, EmbeddedSettings
    from perdure.sdk.sync_client import SyncClient

P = TypeVar("P")
R = TypeVar("R")


class Client(
    ClientEvents, ClientRuns, ClientSchedules, ClientState, ClientUpkeep, ClientNotifications, ClientAuth
):
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
        super().__init__(id, limits)
        self.api_url = api_url or os.environ.get("PERDURE_API_URL")
        self.api_key = api_key or os.environ.get("PERDURE_API_KEY")
        self.log_level = log_level
        self._limits: dict[str, ConcurrencyLimit] = {}

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
        concurrency_limit: int | ConcurrencyLimit | None = None,
        concurrency_key: ConcurrencyKey | None = None,
        max_duration: Duration | None = None,
        retry: Retry | None = None,
        integrations: Mapping[str, Integration] | None = None,
        on_success: NotificationHandler | None = None,
        on_failure: NotificationHandler | None = None,
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
            concurrency_limit: how many of its runs may execute at once (waiting ones don't); with a `concurrency_key` so many
                for each key. Or a limit that several jobs share: `define_concurrency_limit`.
            concurrency_key: what divides the job's runs, so that no tenant, say, can keep others from being served: a dotted
                path into the payload ("user.id"), or a function of the payload. Keys take turns.
            max_duration: time a run may execute in all, waits excluded, timedelta or seconds; then it is Timed out.
            retry: an uncaught error gives the run another execution, its completed tasks kept, the failed ones reset.
            integrations: services that its runs use: {"slack": slack} makes `io.slack`.
            on_success: `handler(notification)`, sync or async, called with a `RunNotification` after one of its runs has
                completed: at least once, and again if it raises.
            on_failure: the same after one of its runs has ended in any other way, cancelled included.
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
                concurrency_limit=concurrency_limit,
                concurrency_key=concurrency_key,
                max_duration=max_duration,
                retry=retry,
                integrations=integrations,
                on_success=on_success,
                on_failure=on_failure,
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
        concurrency_limit: int | ConcurrencyLimit | None = None,
        concurrency_key: ConcurrencyKey | None = None,
        max_duration: Duration | None = None,
        retry: Retry | None = None,
        integrations: Mapping[str, Integration] | None = None,
        on_success: NotificationHandler | None = None,
        on_failure: NotificationHandler | None = None,
        log_level: str | None = None,
    ) -> Job[P, R]:
        """The same as `job` without the decorator. On a connected client, too: events sent from then on start it.

        Raises:
            ConflictError: the client has a job of this id.
        """
        check_text(id, "the id of a job", self.limits.name_chars_max)
        if not id:
            raise UsageError("a job needs an id")
        if id.startswith(INTERNAL):
            raise UsageError(
                f"job {id!r}: ids that begin with {INTERNAL!r} are perdure's own; choose another one"
            )
        if id in self.jobs:
            raise ConflictError(
                f"job {id!r} is defined twice on client {self.id!r}; give each job an id of its own"
            )
        if id in self._limits:
            raise ConflictError(
                f"job {id!r}: there is a concurrency limit of this id; give the job another one"
            )
        if isinstance(concurrency_limit, ConcurrencyLimit):
            self._keep_limit(concurrency_limit)
        job: Job[P, R] = Job(
            self,
            run,
            id=id,
            name=name,
            version=version,
            trigger=trigger if trigger is not None else invoke_trigger(),
            enabled=enabled,
            priority=priority,
            concurrency_limit=concurrency_limit,
            concurrency_key=concurrency_key,
            max_duration=max_duration,
            retry=retry,
            integrations=integrations,
            on_success=on_success,
            on_failure=on_failure,
            log_level=log_level,
        )
        self._define_handlers(job)
        self.jobs[id] = job
        self._tell_platform(job)
        return job

    def define_concurrency_limit(
        self, *, id: str, limit: int | None = None, per_key: int | None = None
    ) -> ConcurrencyLimit:
        """A limit for several jobs together: `concurrency_limit=client.define_concurrency_limit(id="mail", limit=5)`.

        Args:
            id: of the limit, and of the queue that these jobs share.
            limit: how many of their runs may execute at once.
            per_key: the same for each concurrency key (see `concurrency_key` of jobs), or one of the two.

        Raises:
            UsageError: neither is given, or one is no whole number from 1.
            ConflictError: the client has a limit, or a job, of this id.
        """
        where = f"concurrency limit {id!r}"
        check_text(id, f"{where}: id", self.limits.name_chars_max)
        check_limit(limit, f"{where}: limit")
        check_limit(per_key, f"{where}: per_key")
        if not id or (limit is None and per_key is None):
            raise UsageError(
                "a concurrency limit needs an id, and a number: limit= in all, per_key= for each key"
            )
        if id in self._limits:
            raise ConflictError(f"{where} is defined twice on client {self.id!r}; give each an id of its own")
        made = ConcurrencyLimit(id=id, limit=limit, per_key=per_key)
        self._keep_limit(made)
        return made

    def _keep_limit(self, limit: ConcurrencyLimit) -> None:
        if limit.id in self.jobs:
            raise ConflictError(
                f"concurrency limit {limit.id!r}: there is a job of this id; give the limit another one"
            )
        if self._limits.setdefault(limit.id, limit) != limit:
            raise ConflictError(f"concurrency limit {limit.id!r} is defined twice, with different numbers")

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
        from perdure.sdk.sync_client import sync_client_of

        return sync_client_of(self)
