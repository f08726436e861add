"""Handlers for the ends of runs: of one job's, or of all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, overload

from perdure.errors import UsageError
from perdure.limits import Limits
from perdure.sdk.notifications import INTERNAL, NotificationHandler, RunEnd, name_of, notifying_job

from .connection import Connection

if TYPE_CHECKING:
    from perdure.sdk.jobs import Job

    from .client import Client

Handler = TypeVar("Handler", bound=NotificationHandler)


class ClientNotifications(Connection):
    """The part of `Client` about notifications."""

    def __init__(self, id: str, limits: Limits) -> None:
        super().__init__(id, limits)
        self._of_all: dict[RunEnd, list[str]] = {end: [] for end in get_args(RunEnd)}

    @overload
    def on(self, end: RunEnd, handler: Handler) -> Handler: ...
    @overload
    def on(self, end: RunEnd) -> Callable[[Handler], Handler]: ...
    def on(self, end: RunEnd, handler: Any = None) -> Any:
        """Have `handler(notification)` called for the end of every run of the client's jobs, or decorate it.

        It is found by its name and module, also for ends that another process of the application has seen. It is called at
        least once for each end, and again, up to 13 times over half a day, as long as it raises.

        Example:
            @client.on("run_failed")
            async def alert(notification: RunNotification): ...

        Args:
            end: "run_succeeded", or "run_failed": ended in any other way, cancelled included.
            handler: sync or async, takes a `RunNotification`.

        Raises:
            UsageError: there is no such end, or the handler can't take a notification.
        """
        if end not in self._of_all:
            raise UsageError(f"client.on: there is no {end!r}, but {' and '.join(self._of_all)}")
        if handler is None:
            return partial(self.on, end)
        job_id = name = f"{INTERNAL}{end}:{name_of(handler)}"
        number = 1
        while job_id in self.internal_jobs:
            number += 1
            job_id = f"{name}:{number}"
        self._define_handler(job_id, handler, f"handler of {end}")
        self._of_all[end].append(job_id)
        for job in self.jobs.values():
            self._tell_platform(job)
        return handler

    def notified(self, job: Job[Any, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Ids of the internal jobs that run when a run of `job` has completed, and when it has ended otherwise."""
        own_success = [_own("on_success", job)] if job.on_success is not None else []
        own_failure = [_own("on_failure", job)] if job.on_failure is not None else []
        return (*own_success, *self._of_all["run_succeeded"]), (*own_failure, *self._of_all["run_failed"])

    def _define_handlers(self, job: Job[Any, Any]) -> None:
        """Make the internal jobs of the handlers that a job was given."""
        for option, handler in (("on_success", job.on_success), ("on_failure", job.on_failure)):
            if handler is not None:
                self._define_handler(_own(option, job), handler, f"{option} of job {job.id!r}")

    def _define_handler(self, job_id: str, handler: NotificationHandler, where: str) -> None:
        job = notifying_job(cast("Client", self), job_id, handler, where)
        self.internal_jobs[job_id] = job
        self._tell_platform(job)

    def _tell_platform(self, job: Job[Any, Any]) -> None:
        if (platform := self._platform_here) is not None:
            platform.define(job)


def _own(option: str, job: Job[Any, Any]) -> str:
    return f"{INTERNAL}{option}:{job.id}"
