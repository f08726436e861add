"""Schedules: when a job runs by the clock, as values and pure functions over instants; nothing here reads a clock.

A tick is the instant at which a schedule is due. `Interval` ticks every so many seconds from a base; `Cron` ticks whenever
the clock on the wall in its time zone shows a matching time. Expressions are Debian cron's, evaluated by cronsim: minute,
hour, day of month, month, day of week, optionally with a field for seconds before them (as in v2):

    30 9 * * MON-FRI      half past nine on working days
    0 0 1,15 * *          midnight on two days of each month
    */10 * * * * *        every ten seconds

Names of months and days, lists, ranges, steps, `L` (last day of the month), `LW` (its last day from Monday to Friday), `5L` (its
last Friday), `5#2` (its second), `@hourly` ... `@yearly`. If both days are restricted, one of them suffices (POSIX cron).
What crons in use read differently is refused rather than guessed; see `check_schedule`.

When clocks change (Debian cron, "local time changes"):

- *Fixed times* - hour, minute and, where given, second begin with no `*` - keep to the wall. Clocks go forward: what the gap
  swallows ticks once, at its end (02:30 at 03:00). Clocks go back: what the wall shows twice ticks the first time only.
- *All others* keep to the elapsing time: they tick whenever the clock shows a match, so `0 * * * *` ticks every hour, twice at
  what is shown twice and never at what isn't shown (`*/30 2 * * *` leaves out the day on which clocks jump from 2 to 3).

An interval has no time zone. The engine goes from tick to tick by `next_tick`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from .clock import Instant
from .errors import UsageError

if TYPE_CHECKING:
    from cronsim import CronSim

INTERVAL_SECONDS_MIN: Final = 20
"""Shortest interval of a trigger, seconds (Protocol, ScheduleMetadata)."""
INTERVAL_SECONDS_MAX: Final = 2_592_000
"""Longest interval of a trigger, seconds: 30 days (Protocol, ScheduleMetadata)."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)
_MILLISECOND: Final = timedelta(milliseconds=1)


class Cron(msgspec.Struct, frozen=True, tag_field="type", tag="cron"):
    """By a cron expression; in JSON {"type": "cron", "expression": "0 9 * * 1", "timezone": "Europe/Berlin"}.

    Attributes:
        expression: five fields, or six with seconds first; an `@` name.
        timezone: of the IANA database, by whose wall clock it goes.
    """

    expression: str
    timezone: str = "UTC"


class Interval(msgspec.Struct, frozen=True, tag_field="type", tag="interval"):
    """Every `seconds` (a whole number); in JSON {"type": "interval", "seconds": 60}."""

    seconds: int


Schedule: TypeAlias = Cron | Interval


# --- which ticks there are ------------------------------------------------------------------------------------------------


def next_tick(schedule: Schedule, base_ms: Instant, now_ms: Instant, catch_up: bool = False) -> Instant:
    """When `schedule` is due next: its first tick after `base_ms`, the last tick or when the schedule was registered.

    Ticks missed before `now_ms` are skipped (Protocol, schedules); with `catch_up` the first of them is returned, and by going
    on from it all of them come one by one.

    Returns:
        milliseconds since 1970, always later than `base_ms`, and without `catch_up` not before `now_ms`.

    Raises:
        UsageError: the schedule is none that `check_schedule` lets pass.
    """
    if isinstance(schedule, Interval):
        step = schedule.seconds * 1000
        if step <= 0:
            raise UsageError(f"{schedule}: an interval must be longer than nothing")
        missed = 0 if catch_up else max(0, -(-(now_ms - base_ms) // step) - 1)
        return Instant(base_ms + (missed + 1) * step)
    after = base_ms if catch_up else max(base_ms, now_ms - 1)
    moment = _next_moment(schedule, _EPOCH + timedelta(milliseconds=after))
    return Instant((moment - _EPOCH) // _MILLISECOND)


def ticks(schedule: Schedule, from_ms: Instant, n: int) -> list[Instant]:
    """The next `n` ticks after `from_ms`, for previews; intervals are counted from it."""
    found: list[Instant] = []
    for _ in range(n):
        from_ms = next_tick(schedule, from_ms, from_ms, catch_up=True)
        found.append(from_ms)
    return found


def _next_moment(cron: Cron, after: datetime) -> datetime:
    zone = _zone(cron.timezone)
    fields = _fields(cron.expression)
    fixed = not any(field.startswith("*") for field in fields[:-3])
    moments = _fixed_moments(fields, zone, after) if fixed else _shown_moments(fields, zone, after)
    for moment in moments:
        if moment > after:
            return moment
    raise UsageError(f"{_named(cron)} isn't due in the next fifty years")


def _fixed_moments(fields: list[str], zone: tzinfo, after: datetime) -> Iterator[datetime]:
    """When each matching time is first on the wall, or would be: of a gap, its end. Some may be before `after`."""
    # What is shown twice has been due when it was first shown, so from within the second showing these are past.
    for shown in _simulation(fields, _shown_at(after, zone)):
        by_old, by_new = (shown.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        # In a gap the offsets before and after it put the time on either side of it, the other way round than in an overlap.
        gap_end = _first_change(zone, by_new, by_old) if by_old > by_new else None
        yield gap_end or by_old


def _shown_moments(fields: list[str], zone: tzinfo, after: datetime) -> Iterator[datetime]:
    """The first instant later than `after` at which the clock shows a match, if there is any."""
    # Between two changes of the clock, what it shows is UTC and a constant: look there, else from the change on.
    start: datetime | None = after.replace(microsecond=0) + _SECOND
    while start is not None:
        shown = _shown_at(start, zone)
        match = next(_simulation(fields, shown - _SECOND), None)
        if match is None:
            return
        moment = start + (match - shown)
        start = _first_change(zone, start, moment)
        if start is None:
            yield moment


def _first_change(zone: tzinfo, start: datetime, end: datetime) -> datetime | None:
    """The first instant after `start` and up to `end` at which `zone` has another offset than at `start`; exact to a second."""
    if zone is UTC:
        return None
    offset = start.astimezone(zone).utcoffset()
    while start < end:
        later = min(start + _DAY, end)
        if later.astimezone(zone).utcoffset() == offset:
            start = later
            continue
        while later - start > _SECOND:
            middle = start + (later - start) // _SECOND // 2 * _SECOND
            if middle.astimezone(zone).utcoffset() == offset:
                start = middle
            else:
                later = middle
        return later
    return None


def _shown_at(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _simulation(fields: list[str], shown: datetime) -> CronSim:
    # cronsim gets to see times without a zone only: its own way through changes of the clock misses what half an hour moves
    # (Lord Howe), and knows fixed times only without seconds.
    from cronsim import CronSim

    return CronSim(" ".join(fields), shown)


# --- what is accepted -----------------------------------------------------------------------------------------------------


_NAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_FIELDS: Final = {
    "second": "0-59",
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, L for the last, LW for the last from Monday to Friday",
    "month": "1-12 or JAN-DEC",
    "day-of-week": "0-7 (0 and 7 are Sunday) or SUN-SAT, 5L for the last Friday, 5#2 for the second",
}
"""What each takes, by cronsim's name for it, in order."""


def check_schedule(
    schedule: Schedule, *, where: str = "schedule", interval_seconds_min: int = INTERVAL_SECONDS_MIN
) -> None:
    """Make sure that `schedule` can be served.

    Args:
        schedule: of either kind.
        where: what the message begins with.
        interval_seconds_min: the shortest interval; less than v2's is for tests.

    Raises:
        UsageError: an interval too short or too long; an unknown time zone; an expression that is malformed, is never due, or
            is read differently by crons in use: a day of the week with a step from one value (`1/2`: is Sunday in it?), of
            several kinds (`1,5#2`), days restricted by month and by week where one is `*/2`, `L` or `5#2` (either or both?), `*`
            in a list, a range of one (`0-0`), a step from `L`.
    """
    if isinstance(schedule, Interval):
        if not interval_seconds_min <= schedule.seconds <= INTERVAL_SECONDS_MAX:
            raise UsageError(
                f"{where}: an interval of {schedule.seconds:,} s: it must be from {interval_seconds_min} s to 30 days "
                f"({INTERVAL_SECONDS_MAX:,} s)"
            )
        return
    for name, text in (("cron expression", schedule.expression), ("time zone", schedule.timezone)):
        given: Any = text
        if not isinstance(given, str):
            raise UsageError(f"{where}: a {name} is a string, not {given!r}")
    try:
        _zone(schedule.timezone)
        _check_expression(schedule)
    except UsageError as exc:
        raise UsageError(f"{where}: {exc}") from exc.__cause__


def parse_schedule(text: str | bytes) -> Schedule:
    """The schedule in JSON `text`, as `msgspec.json.encode` writes it.

    Raises:
        UsageError: it isn't one; it isn't checked further.
    """
    try:
        return msgspec.json.decode(text, type=Schedule)
    except (msgspec.DecodeError, UnicodeError) as exc:
        raise UsageError(f"no schedule: {exc}") from exc


def _check_expression(cron: Cron) -> None:
    from cronsim import CronSimError

    fields = _fields(cron.expression)
    if fields[:1] == [cron.expression.strip()] and fields[0].startswith("@"):
        raise UsageError(f"{_named(cron)} is no name of a schedule; there are {', '.join(_NAMES)}")
    if len(fields) not in (5, 6):
        raise UsageError(
            f"{_named(cron)} has {len(fields)} field(s); there are five - minute, hour, day of month, month, day of week - "
            "or six, with seconds first"
        )
    names = list(_FIELDS)[-len(fields) :]
    for name, field in zip(names, fields, strict=True):
        _refuse_ambiguous(cron, name, field)
    days, weekdays = fields[-3], fields[-1]
    if "*" not in (days, weekdays) and any(mark in days + weekdays.upper() for mark in "*#L"):
        raise UsageError(
            f"{_named(cron)} restricts the days by {days!r} and by {weekdays!r}: some crons take days on which either holds, "
            "others need both; make it two schedules, or write */2 as 1-31/2 if either is to suffice"
        )
    try:
        _next_moment(cron, _EPOCH)
    except (CronSimError, ValueError) as exc:  # ValueError: a number of thousands of digits
        at = str(exc).removeprefix("Bad ")
        field = dict(zip(names, fields, strict=True)).get(at)
        known = f"{at} {field!r} is no such thing: it takes {_FIELDS[at]}" if field else str(exc)
        exists = ", and must come in one of its months" if at == "day-of-month" else ""
        raise UsageError(
            f"{_named(cron)}: {known}{exists}; write * for any, a-b for a range, */n for a step"
        ) from exc


def _refuse_ambiguous(cron: Cron, name: str, field: str) -> None:
    items = field.split(",")
    for item in items:
        stem, _, step = item.partition("/")
        low, _, high = stem.partition("-")
        problem = None
        if stem == "*" and not step and len(items) > 1:
            problem = "has * in a list: say * alone"
        elif low == high:
            problem = "has a range of one: say the one alone"
        elif step and "L" in stem.upper().replace("JUL", ""):
            problem = "has a step from L: say L alone"
        elif step and name == "day-of-week" and not high and stem != "*":
            problem = "has a step from one day: say the days"
        if problem:
            raise UsageError(f"{_named(cron)}: {name} {field!r} {problem}")
    if name == "day-of-week" and len({"#" in item or item.upper().endswith("L") for item in items}) > 1:
        raise UsageError(
            f"{_named(cron)}: {name} {field!r} mixes days of every week with days of one: make it two schedules"
        )


def _fields(expression: str) -> list[str]:
    return _NAMES.get(expression.strip().lower(), expression).split()


def _named(cron: Cron) -> str:
    return f"the cron expression {cron.expression!r}"


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as exc:
        raise UsageError(
            f"there is no time zone {name!r}; use a name such as Europe/Berlin (where the system has no time zones at all, "
            "install tzdata)"
        ) from exc
