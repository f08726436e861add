"""Which runs are meant: filters of lists and of what is done to many runs at once, and what became of that."""

from __future__ import annotations

from msgspec import Struct

from .runs import RunStatus


class RunFilter(Struct, kw_only=True, frozen=True):
    """Which runs a list shows: newest first, ids below `before` (keyset paging). What is None or empty doesn't matter.

    Attributes:
        tags: the run has all of them.
        created_from, created_until: instants, milliseconds since the epoch, the second one excluded.
        parent_run_id: the run whose task waits, or waited, for it.
        internal: whether runs that perdure made for itself are shown too.
    """

    job_id: str | None = None
    event_id: str | None = None
    statuses: tuple[RunStatus, ...] = ()
    job_version: str | None = None
    tags: tuple[str, ...] = ()
    account_id: str | None = None
    parent_run_id: str | None = None
    queue: str | None = None
    is_test: bool | None = None
    created_from: int | None = None
    created_until: int | None = None
    internal: bool = False
    before: str | None = None
    limit: int = 50


class BulkResult(Struct, kw_only=True):
    """What became of the runs of a filter: ids of those it was done to, and of the others why not."""

    done: list[str]
    failed: dict[str, str]
