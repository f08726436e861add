"""How long what has ended is kept."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeAlias

from msgspec import UNSET, Struct, UnsetType

Age: TypeAlias = timedelta | float | UnsetType | None


class Retention(Struct, frozen=True, kw_only=True):
    """How long runs are kept after their end, by how they ended; None: for ever. A timedelta or a number of seconds each.

    With a run go its tasks, logs, statuses and values, and its event, if no other run of it is left: sending its id again
    then is a new event. A run is never deleted while one that waited for it hasn't ended.

    Attributes:
        default: of what isn't named; what is named with None is kept for ever all the same.
        completed, failed, cancelled, timed_out, invalid_payload, unresolved_auth: by status.
        events: of events that caused no run, after they arrived.

    Example: `Retention(default=timedelta(days=90), completed=timedelta(days=7))`
    """

    default: timedelta | float | None = None
    completed: Age = UNSET
    failed: Age = UNSET
    cancelled: Age = UNSET
    timed_out: Age = UNSET
    invalid_payload: Age = UNSET
    unresolved_auth: Age = UNSET
    events: Age = UNSET


class Pruned(Struct, frozen=True, kw_only=True):
    """How many runs, and events without runs, were deleted."""

    runs: int = 0
    events: int = 0
