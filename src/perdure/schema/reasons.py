"""The reasons for which a run isn't executing: what `client.why_not_running` returns."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import Struct

from .runs import RunStatus


class _Reason(Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower):
    """In JSON {"kind": "limited", "scope": "key", ...}: the class's name in lower case, and its attributes."""


class Ended(_Reason, frozen=True, kw_only=True):
    """The run is over."""

    status: RunStatus

    def __str__(self) -> str:
        return f"it has ended: {self.status.label}"


class Executing(_Reason, frozen=True, kw_only=True):
    """It is executing; `execution` is which of its executions."""

    execution: int

    def __str__(self) -> str:
        return f"it is executing (execution {self.execution})"


class Paused(_Reason, frozen=True, kw_only=True):
    """Nothing is started from its queue."""

    queue: str
    since: datetime

    def __str__(self) -> str:
        return f"queue {self.queue!r} is paused since {self.since:%Y-%m-%d %H:%M:%S}"


class Limited(_Reason, frozen=True, kw_only=True):
    """So many executions hold a slot that there is none left for it.

    Attributes:
        scope: whose limit it is: of the environment, of the queue, or of its concurrency key.
        id: of the queue, or the key; None for the environment.
        executing: executions that hold a slot now, those of cancelled runs whose code hasn't ended among them.
    """

    scope: Literal["environment", "queue", "key"]
    id: str | None = None
    limit: int
    executing: int

    def __str__(self) -> str:
        whose = self.scope if self.id is None else f"{self.scope} {self.id!r}"
        return f"the concurrency limit of {whose} is reached: {self.executing} of {self.limit} are executing"


class Behind(_Reason, frozen=True, kw_only=True):
    """So many runs are before it in its queue, under its concurrency key (None: the queue has none for it)."""

    queue: str
    key: str | None = None
    ahead: int

    def __str__(self) -> str:
        key = "" if self.key is None else f" under key {self.key!r}"
        return f"{self.ahead} {'runs are' if self.ahead != 1 else 'run is'} before it in queue {self.queue!r}{key}"


class Unattended(_Reason, frozen=True, kw_only=True):
    """Every process is as busy as it may be: `executing` of `max_executions`. Or it will be started this instant."""

    executing: int
    max_executions: int

    def __str__(self) -> str:
        if self.executing < self.max_executions:
            return "nothing: it is about to be started"
        return f"all {self.max_executions} places for executions are taken (max_executions)"


class Unknown(_Reason, frozen=True, kw_only=True):
    """No process defines its job."""

    job_id: str

    def __str__(self) -> str:
        return f"job {self.job_id!r} isn't defined in any process that runs"


class WaitsUntil(_Reason, frozen=True, kw_only=True):
    """Nothing in it can move before `at`: a wait, a retry, a time-out. `task`: the key of the task, if it is one's."""

    at: datetime
    task: str | None = None

    def __str__(self) -> str:
        task = "" if self.task is None else f" (task {self.task!r})"
        return f"it waits until {self.at:%Y-%m-%d %H:%M:%S}{task}"


class WaitsForRun(_Reason, frozen=True, kw_only=True):
    """Its task waits for the end of another run."""

    task: str
    run_id: str
    job_id: str
    status: RunStatus

    def __str__(self) -> str:
        return f"task {self.task!r} waits for run {self.run_id} of job {self.job_id!r}, which is {self.status.label}"


class WaitsForEvent(_Reason, frozen=True, kw_only=True):
    """Its task waits for an event of one of these names."""

    task: str
    names: tuple[str, ...]
    until: datetime | None = None

    def __str__(self) -> str:
        end = "" if self.until is None else f", until {self.until:%Y-%m-%d %H:%M:%S}"
        return f"task {self.task!r} waits for event {' or '.join(map(repr, self.names))}{end}"


class WaitsForCall(_Reason, frozen=True, kw_only=True):
    """Its task waits for a request that the platform makes: attempt `attempt`, at `at`."""

    task: str
    attempt: int
    at: datetime

    def __str__(self) -> str:
        return (
            f"task {self.task!r} waits for a request, attempt {self.attempt} at {self.at:%Y-%m-%d %H:%M:%S}"
        )


Reason: TypeAlias = (
    Ended
    | Executing
    | Paused
    | Limited
    | Behind
    | Unattended
    | Unknown
    | WaitsUntil
    | WaitsForRun
    | WaitsForEvent
    | WaitsForCall
)
