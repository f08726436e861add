"""Queues as people see them."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct


class Queue(Struct, frozen=True, kw_only=True):
    """A queue: of one job (its id is the job's), or of the jobs that share a limit (its id is the limit's).

    Attributes:
        concurrency_limit: executions at once, in all; None for any number.
        per_key: the same per concurrency key.
        paused_at: since when nothing is started from it; None if it isn't paused.
        queued, executing: how many runs wait in it, and how many of its executions hold a slot.
    """

    id: str
    concurrency_limit: int | None = None
    per_key: int | None = None
    paused_at: datetime | None = None
    queued: int = 0
    executing: int = 0
