"""How long what has ended is kept."""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct


class Retention(Struct, frozen=True, kw_only=True):
    """How long runs are kept after their end, by how they ended; None: for ever. A timedelta or a number of seconds each.

    With a run go its tasks, logs, statuses and values, and its event, if no other run of it is left: sending its id again
    then is a new event. A run is never deleted while one that waited for it hasn't ended.

    Attributes:
        default: of what isn't named.
        completed, failed, cancelled, timed_out, invalid_payload, unresolved_auth: by status.
        events: of events that caused no run, after they arrived.

    Example: `Retention(default=timedelta(days=90), completed=timedelta(days=7))`
    """

    default: timedelta | float | None = None
    completed: timedelta | float | None = None
    failed: timedelta | float | None = None
    cancelled: timedelta | float | None = None
    timed_out: timedelta | float | None = None
    invalid_payload: timedelta | float | None = None
    unresolved_auth: timedelta | float | None = None
    events: timedelta | float | None = None


class Pruned(Struct, frozen=True, kw_only=True):
    """How many runs, and events without runs, were deleted."""

    runs: int = 0
    events: int = 0
