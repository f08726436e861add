"""What a client is connected to, and what it knows of itself: common to all parts of `Client`."""

from __future__ import annotations

import os
from typing import Any

from perdure.clock import Clock, Random, SystemClock, system_random
from perdure.errors import ConfigurationError, ConflictError, UsageError
from perdure.ids import Ids
from perdure.limits import Limits
from perdure.sdk.jobs import Job
from perdure.sdk.platform import Platform
from perdure.sdk.scope import current_scope
from perdure.sdk.texts import check_id
from perdure.sdk.values import to_json


class Connection:
    """The base of `Client` and its parts; see there."""

    def __init__(self, id: str, limits: Limits) -> None:
        self.id = id
        self.limits = limits
        self.jobs: dict[str, Job[Any, Any]] = {}
        self.internal_jobs: dict[str, Job[Any, Any]] = {}
        self._platform: Platform | None = None
        self._pid = os.getpid()
        self._clock: Clock = SystemClock()
        self._ids = Ids(self._clock, system_random())

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

    def all_jobs(self) -> list[Job[Any, Any]]:
        """Its jobs, and those that perdure made for it. For carriers."""
        return [*self.jobs.values(), *self.internal_jobs.values()]

    def find_job(self, id: str) -> Job[Any, Any] | None:
        """One of `all_jobs`."""
        return self.jobs.get(id) or self.internal_jobs.get(id)

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

    def _refuse_in_run(self, call: str, instead: str) -> None:
        """Raise UsageError in a run function, outside of its tasks: what would be done again at every replay."""
        scope = current_scope.get()
        if scope is not None and scope.operation is None:
            raise UsageError(f"{call} in a run function does it again at every replay: write {instead}")

    @property
    def _platform_here(self) -> Platform | None:
        """What the client is connected to in this process, if it is."""
        return self._platform if self._pid == os.getpid() else None

    def now(self) -> int:
        """The present of what the client is connected to, milliseconds."""
        return self._clock.now()

    def _checked_id(self, id: str, what: str) -> str:
        """`id` of something that is asked for. Errors as `check_id`."""
        return check_id(id, what, self.limits.name_chars_max)

    def _to_json(self, value: Any, where: str) -> str:
        """A payload as JSON text. Raises SerializationError and LimitExceededError."""
        return to_json(value, where=where, limit=self.limits.payload_bytes_max)

    def _context_json(self, context: Any, where: str) -> str | None:
        if context is None:
            return None
        limit = self.limits.context_bytes_max
        return to_json(context, where=f"context of {where}", limit=limit, setting="limits.context_bytes_max")
