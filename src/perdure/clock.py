"""Time and chance as arguments: the ports, and their real implementations.

Nothing else in perdure reads a clock or draws a random number (the linter sees to it), so a whole engine can run under
virtual time with a seeded generator.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NewType, Protocol

Instant = NewType("Instant", int)
"""Milliseconds since 1970-01-01 UTC: what is stored and compared. The public API speaks aware datetimes."""


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Clock(Protocol):
    def now(self) -> Instant:
        """The present; never decreases within a process."""
        ...


class Random(Protocol):
    def random(self) -> float:
        """A float in [0, 1)."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """An int of `k` random bits."""
        ...


class SystemClock:
    """Wall-clock time read once, then advanced by the monotonic clock: a jump of the wall clock changes nothing."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now(self) -> Instant:
        return (time.monotonic_ns() + self._offset_ns) // 1_000_000  # pyright: ignore[reportReturnType]  (hot: a NewType is a call)


def system_random() -> Random:
    """A generator seeded by the operating system."""
    return random.SystemRandom()


@lru_cache(maxsize=256)  # what happens together is often of the same millisecond
def to_datetime(instant: int) -> datetime:
    """The aware UTC datetime of an instant."""
    return datetime.fromtimestamp(instant / 1000, UTC)


def to_instant(moment: datetime) -> Instant:
    """The instant of an aware datetime, to the millisecond (rounded down)."""
    return Instant((moment - _EPOCH) // _MILLISECOND)


def parse_instant(text: str) -> Instant | None:
    """The instant that an ISO 8601 text names, rounded down to the millisecond; UTC if it names no offset. None if it is none."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    try:
        return to_instant(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    except OverflowError:
        return None
