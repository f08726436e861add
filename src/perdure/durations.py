"""Durations and instants of the public API, turned into the milliseconds that are stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from .clock import Instant
from .errors import UsageError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
LONGEST = timedelta(days=36_525)
"""No duration is longer: instants must stay within the calendar."""


def to_ms(duration: timedelta | int | float, what: str) -> int:
    """Milliseconds of a timedelta or a number of seconds, rounded up (a wait is never shorter than asked for).

    Raises:
        UsageError: it is negative, NaN, infinite or no duration at all; the message begins with `what`.
    """
    given: Any = duration
    if isinstance(given, bool) or not isinstance(given, (timedelta, int, float)):
        raise UsageError(f"{what}: expected a timedelta or a number of seconds, got {given!r}")
    try:
        exact = given if isinstance(given, timedelta) else timedelta(seconds=given)
    except (OverflowError, ValueError) as exc:
        raise UsageError(f"{what}: {given!r} seconds is no finite duration that can be stored") from exc
    if exact < timedelta():
        raise UsageError(f"{what}: a duration can't be negative, got {given!r}")
    if exact > LONGEST:
        raise UsageError(f"{what}: {given!r} is longer than a hundred years")
    return -(-exact // _MILLISECOND)


def to_instant_ms(moment: datetime, what: str) -> Instant:
    """The instant of an aware datetime, rounded down to the millisecond.

    Raises:
        UsageError: it is naive or no datetime; the message begins with `what`.
    """
    given: Any = moment
    if not isinstance(given, datetime):
        raise UsageError(f"{what}: expected an aware datetime, got {given!r}")
    if given.utcoffset() is None:
        raise UsageError(
            f"{what}: {given.isoformat()} has no time zone, so it names no instant; use datetime.now(UTC), "
            "or add tzinfo=ZoneInfo(...)"
        )
    return Instant((given - _EPOCH) // _MILLISECOND)
