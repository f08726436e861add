"""Jobs that run by the clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from perdure.durations import to_ms
from perdure.errors import UsageError
from perdure.schedules import INTERVAL_SECONDS_MIN, Cron, Interval, Schedule, check_schedule
from perdure.sdk.payloads import Example

from .trigger import Trigger

_Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class ScheduledPayload(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a job gets at a tick of its schedule; in JSON {"ts": "2026-03-01T09:00:00Z", "lastTimestamp": null}.

    Attributes:
        ts: the instant for which the tick was due, aware; the run may start later.
        last_timestamp: `ts` of the tick before; None at the first.
    """

    ts: _Instant
    last_timestamp: _Instant | None = None


def cron_trigger(
    cron: str, *, timezone: str = "UTC", catch_up: bool = False, examples: Sequence[Example] = ()
) -> Trigger[ScheduledPayload]:
    """Run the job when the clock on the wall in `timezone` shows a time that the cron expression matches.

    Example: `cron_trigger("30 9 * * MON-FRI", timezone="Europe/Berlin")`

    Args:
        cron: minute, hour, day of month, month, day of week; with seconds first if there are six fields. What exactly is
            understood, and what happens when clocks change, is told in `perdure.schedules`.
        timezone: of the IANA database.
        catch_up: run the job for each tick that was missed while no engine ran; without it they are skipped.
        examples: payloads to try the job with.

    Raises:
        UsageError: the expression is malformed, ambiguous or never due; there is no such time zone.
    """
    return _scheduled(
        Cron(cron, timezone), catch_up, examples, f"cron_trigger({cron!r})", INTERVAL_SECONDS_MIN
    )


def interval_trigger(
    interval: timedelta | int | float,
    *,
    catch_up: bool = False,
    examples: Sequence[Example] = (),
    minimum: timedelta | int | float = INTERVAL_SECONDS_MIN,
) -> Trigger[ScheduledPayload]:
    """Run the job every `interval`, counted from when it was first registered.

    Args:
        interval: whole seconds, 20 s to 30 days.
        catch_up: run the job for each tick that was missed while no engine ran; without it they are skipped.
        examples: payloads to try the job with.
        minimum: the shortest interval that is accepted; lower it in tests only.

    Raises:
        UsageError: the interval is too short, too long, or no whole number of seconds.
    """
    where = f"interval_trigger({interval!r})"
    seconds, rest = divmod(to_ms(interval, where), 1000)
    if rest:
        raise UsageError(f"{where}: an interval is a whole number of seconds")
    shortest = -(-to_ms(minimum, f"{where}: minimum") // 1000)
    return _scheduled(Interval(seconds), catch_up, examples, where, shortest)


def _scheduled(
    schedule: Schedule, catch_up: bool, examples: Sequence[Example], where: str, interval_seconds_min: int
) -> Trigger[ScheduledPayload]:
    check_schedule(schedule, where=where, interval_seconds_min=interval_seconds_min)
    return Trigger(
        schedule=schedule, catch_up=catch_up, schema=ScheduledPayload, examples=examples, where=where
    )
