"""How many executions there may be at once: of a job, of a group of jobs, under a concurrency key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from msgspec import Struct

from perdure.errors import UsageError

ConcurrencyKey: TypeAlias = str | Callable[[Any], Any]
"""A dotted path into the payload, like "user.id", or a function of the payload (as decoded from JSON, before any schema)."""


class ConcurrencyLimit(Struct, frozen=True, kw_only=True):
    """A limit that jobs share; made by `client.define_concurrency_limit`.

    Attributes:
        id: of the limit, and of the queue that the jobs share.
        limit: executions of all of them at once; None for any number.
        per_key: the same for each concurrency key.
    """

    id: str
    limit: int | None = None
    per_key: int | None = None


class Slots(Struct, frozen=True, kw_only=True):
    """What a job's options say about its queue; `queue` is "" for one of its own."""

    queue: str = ""
    limit: int | None = None
    per_key: int | None = None


def slots(where: str, limit: int | ConcurrencyLimit | None, key: ConcurrencyKey | None) -> Slots:
    """What `concurrency_limit` and `concurrency_key` mean together: a number is per key if there is one, else in all.

    Raises:
        UsageError: one of them is nothing that can be used.
    """
    given: Any = key
    if given is not None and not callable(given) and not (isinstance(given, str) and all(given.split("."))):
        raise UsageError(
            f'{where}: concurrency_key is a dotted path into the payload, like "user.id", or a function of the payload, '
            f"not {key!r}"
        )
    if isinstance(limit, ConcurrencyLimit):
        return Slots(queue=limit.id, limit=limit.limit, per_key=limit.per_key)
    check_limit(limit, f"{where}: concurrency_limit")
    return Slots(limit=limit) if key is None else Slots(per_key=limit)


def check_limit(limit: int | None, what: str) -> None:
    """Raises UsageError for what is no whole number from 1, of 32 bits."""
    given: Any = limit
    if given is not None and (type(given) is not int or not 1 <= given < 2**31):
        raise UsageError(
            f"{what} must be a whole number from 1 (to start nothing: client.pause_queue) to 2,147,483,647, not {given!r}"
        )
