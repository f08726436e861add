"""Schedules: when they are due, also where clocks change, what they refuse, and their triggers."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from croniter import croniter
from cronsim import CronSim
from hypothesis import example, given, strategies as st

from perdure import ScheduledPayload, UsageError, cron_trigger, interval_trigger
from perdure.clock import Instant
from perdure.schedules import Cron, Interval, check_schedule, next_tick, parse_schedule, ticks

MINUTE = 60_000
DAY = 24 * 60 * MINUTE


def at(text: str) -> Instant:
    """Of an ISO 8601 time, UTC unless it says otherwise."""
    moment = datetime.fromisoformat(text)
    return Instant(round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000))


def shown(instant: int, timezone: str = "UTC") -> str:
    return datetime.fromtimestamp(instant / 1000, ZoneInfo(timezone)).strftime("%m-%d %H:%M %z")


def days_ticks(cron: str, timezone: str, day: str) -> list[str]:
    """The ticks on the day that begins at `day` in the time zone, as its clock shows them: "02:30 +0100"."""
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(timezone))
    end = (start + timedelta(days=1)).timestamp() * 1000  # wall clock arithmetic: the next midnight
    found = ticks(Cron(cron, timezone), Instant(round(start.timestamp() * 1000) - 1), 60)
    return [shown(tick, timezone)[6:] for tick in found if tick < end]


# --- expressions that everybody reads the same --------------------------------------------------------------------------------


def listed(item: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(item, min_size=1, max_size=3).map(",".join)


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    ends = st.lists(number, min_size=2, max_size=2, unique=True).map(sorted)
    spans = ends.map(lambda two: f"{two[0]}-{two[1]}")
    step = st.integers(1, high)
    stepped = st.one_of(
        st.builds(lambda n: f"*/{n}", step),
        st.builds(lambda span, n: f"{span}/{n}", spans, step),
        st.builds(lambda first, n: f"{first}/{n}", number, step),
    )
    return st.just("*") | listed(number.map(str) | spans | stepped)


MINUTES, HOURS = field(0, 59), field(0, 23)
DAYS = field(1, 31) | st.just("L")
MONTHS = field(1, 12) | st.sampled_from(["JAN", "FEB-MAY", "oct,DEC"])
WEEKDAYS = (
    field(0, 7)
    | st.sampled_from(["MON-FRI", "sat", "SUN,TUE"])
    | listed(st.builds(lambda day, n: f"{day}#{n}", st.integers(0, 6), st.integers(1, 5)))
    | listed(st.builds(lambda day: f"{day}L", st.integers(0, 6)))
)


@st.composite
def expressions(draw: st.DrawFn) -> str:
    """Five fields, or six, that `check_schedule` accepts."""
    fields = [draw(each) for each in (MINUTES, HOURS, DAYS, MONTHS, WEEKDAYS)]
    if draw(st.booleans()):
        fields[draw(st.sampled_from([2, 4]))] = "*"  # else hardly any has either alone
    if draw(st.integers(0, 3)) == 0:
        fields.insert(0, draw(field(0, 59)))
    return " ".join(fields)


def accepted(cron: Cron) -> bool:
    try:
        check_schedule(cron)
    except UsageError:
        return False
    return True


instants = st.integers(at("2000-01-01"), at("2037-01-01")).map(Instant)
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Asia/Kathmandu", "Pacific/Apia"]  # fmt: skip


@given(expressions().map(Cron).filter(accepted), instants)
def test_croniter_reads_expressions_the_same_way(cron: Cron, base: Instant):
    # croniter writes the last Friday as L5.
    expression = re.sub(r"(\d)L", r"L\1", cron.expression)
    start = datetime.fromtimestamp(base // 1000, UTC)
    other = croniter(expression, start, ret_type=datetime, second_at_beginning=True, implement_cron_bug=True)

    assert ticks(cron, base, 5) == [round(other.get_next().timestamp() * 1000) for _ in range(5)]


@given(expressions(), st.sampled_from(ZONES), instants)
def test_ticks_go_on_for_ever_and_show_matching_times(expression: str, timezone: str, base: Instant):
    cron = Cron(expression, timezone)
    if not accepted(cron):
        return

    found = ticks(cron, base, 4)

    assert [base, *found] == sorted({base, *found})
    for tick in found:
        wall = datetime.fromtimestamp(tick / 1000, ZoneInfo(timezone)).replace(tzinfo=None)
        matching = next(CronSim(expression, wall - timedelta(seconds=1))) == wall
        gap = wall - datetime.fromtimestamp(tick / 1000 - 1, ZoneInfo(timezone)).replace(tzinfo=None)
        assert matching or gap > timedelta(seconds=1)


@given(
    expressions(),
    st.sampled_from(["Europe/Berlin", "America/New_York"]),
    st.integers(2001, 2036),
    st.integers(-36, 36),
)
def test_cronsim_in_whole_hour_zones_goes_through_changes_the_same_way(
    expression: str, timezone: str, year: int, hours: int
):
    """Of five fields: with six it knows no fixed times."""
    cron = Cron(expression, timezone)
    if len(expression.split()) == 6 or not accepted(cron):
        return
    for change in (
        datetime(year, 3, 28),
        datetime(year, 10, 28),
        datetime(year, 3, 11),
        datetime(year, 11, 4),
    ):
        start = (change.replace(tzinfo=UTC) + timedelta(hours=hours)).astimezone(ZoneInfo(timezone))
        base = Instant(round(start.timestamp() * 1000))
        # It takes what is shown twice for the first time when started from the second: such ticks are past.
        other = (
            tick for each in CronSim(expression, start) if (tick := round(each.timestamp() * 1000)) > base
        )

        assert ticks(cron, base, 4) == [next(other) for _ in range(4)]


CHANGES = [
    ("Europe/Berlin", "2026-03-29"),
    ("Europe/Berlin", "2026-10-25"),
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("America/Santiago", "2026-09-06"),  # at midnight
    ("America/Santiago", "2026-04-05"),
    ("Australia/Lord_Howe", "2026-10-04"),  # by half an hour
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Pacific/Apia", "2011-12-30"),  # a day that never was
    ("Asia/Kathmandu", "2026-03-29"),  # none
]


@pytest.mark.parametrize("timezone, day", CHANGES)
@pytest.mark.parametrize(
    "cron, minutes, hours, days",
    [
        ("*/10 * * * *", range(0, 60, 10), range(24), range(7)),
        ("*/15 2 * * *", range(0, 60, 15), [2], range(7)),
        ("5 */2 * * *", [5], range(0, 24, 2), range(7)),
        ("* 0 * * 0", range(60), [0], [6]),
        ("*/20 0,1,23 * * 6-7", range(0, 60, 20), [0, 1, 23], [5, 6]),
    ],
)
def test_others_than_fixed_times_tick_whenever_the_clock_shows_a_match(
    cron: str,
    minutes: Collection[int],
    hours: Collection[int],
    days: Collection[int],
    timezone: str,
    day: str,
):
    zone = ZoneInfo(timezone)
    start = at(day) - DAY
    walls = (
        (t, datetime.fromtimestamp(t / 1000, zone)) for t in range(start + MINUTE, start + 3 * DAY, MINUTE)
    )

    expected = [
        t for t, wall in walls if wall.minute in minutes and wall.hour in hours and wall.weekday() in days
    ]

    found = ticks(Cron(cron, timezone), Instant(start), len(expected) + 1)
    assert found[:-1] == expected
    assert found[-1] >= start + 3 * DAY


# --- what is read in a certain way --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cron, expected",
    [
        pytest.param("0 0 13 * FRI", ["01-02", "01-09", "01-13", "01-16"], id="either day suffices"),
        pytest.param("0 0 1-31/10 * MON", ["01-05", "01-11", "01-12", "01-19"], id="either, with a step"),
        pytest.param("0 0 L * *", ["01-31", "02-28", "03-31", "04-30"], id="last of the month"),
        pytest.param("0 0 LW * *", ["01-30", "02-27", "03-31", "04-30"], id="last working day"),
        pytest.param("0 0 * * 5L", ["01-30", "02-27", "03-27", "04-24"], id="last Friday"),
        pytest.param("0 0 * * FRI#2", ["01-09", "02-13", "03-13", "04-10"], id="second Friday"),
        pytest.param("0 0 * * 7", ["01-04", "01-11", "01-18", "01-25"], id="Sunday is 7 too"),
        pytest.param("0 0 29 2 *", ["02-29", "02-29", "02-29", "02-29"], id="leap days"),
        pytest.param("@weekly", ["01-04", "01-11", "01-18", "01-25"], id="name"),
        pytest.param("@Monthly", ["02-01", "03-01", "04-01", "05-01"], id="name in any case"),
    ],
)  # fmt: skip
def test_days(cron: str, expected: list[str]):
    check_schedule(Cron(cron))

    assert [shown(tick)[:5] for tick in ticks(Cron(cron), at("2026-01-01"), 4)] == expected


def test_seconds_come_first():
    assert ticks(Cron("*/20 30 9 * * *"), at("2026-01-01"), 4) == [
        at("2026-01-01T09:30:00"),
        at("2026-01-01T09:30:20"),
        at("2026-01-01T09:30:40"),
        at("2026-01-02T09:30:00"),
    ]


def test_leap_day_of_a_century_is_left_out():
    assert ticks(Cron("0 0 29 2 *"), at("2096-03-01"), 1) == [at("2104-02-29")]


# --- changes of the clock -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cron, expected",
    [
        pytest.param("30 2 * * *", ["03:00 +0200"], id="in the gap: at its end"),
        pytest.param("0 30 2 * * *", ["03:00 +0200"], id="with seconds"),
        pytest.param("0,30 2 * * *", ["03:00 +0200"], id="two in the gap: once"),
        pytest.param("0 2,3 * * *", ["03:00 +0200"], id="in the gap and at its end: once"),
        pytest.param("15 1-4 * * *", ["01:15 +0100", "03:00 +0200", "03:15 +0200", "04:15 +0200"], id="around it"),
        pytest.param("0 * * * *", ["00:00 +0100", "01:00 +0100", "03:00 +0200"], id="every hour"),
        pytest.param("*/30 2 * * *", [], id="not shown"),
    ],
)  # fmt: skip
def test_clocks_go_forward(cron: str, expected: list[str]):
    assert days_ticks(cron, "Europe/Berlin", "2026-03-29")[: max(1, len(expected))] == expected


@pytest.mark.parametrize(
    "cron, expected",
    [
        pytest.param("30 2 * * *", ["02:30 +0200"], id="the first time"),
        pytest.param("0 30 2 * * *", ["02:30 +0200"], id="with seconds"),
        pytest.param("0 2,3 * * *", ["02:00 +0200", "03:00 +0100"], id="and after it"),
        pytest.param("0 * * * *", ["00:00 +0200", "01:00 +0200", "02:00 +0200", "02:00 +0100", "03:00 +0100"], id="every hour"),
        pytest.param("*/30 2 * * *", ["02:00 +0200", "02:30 +0200", "02:00 +0100", "02:30 +0100"], id="each showing"),
    ],
)  # fmt: skip
def test_clocks_go_back(cron: str, expected: list[str]):
    assert days_ticks(cron, "Europe/Berlin", "2026-10-25")[: len(expected)] == expected


def test_fixed_time_is_past_in_the_second_showing():
    second_0210 = at("2026-10-25T02:10:00+01:00")

    assert (
        shown(ticks(Cron("30 2 * * *", "Europe/Berlin"), second_0210, 1)[0], "Europe/Berlin")
        == "10-26 02:30 +0100"
    )


@pytest.mark.parametrize(
    "timezone, day, cron, expected",
    [
        pytest.param("Australia/Lord_Howe", "2026-10-04", "15 2 * * *", ["02:30 +1100"], id="gap of half an hour"),
        pytest.param("Australia/Lord_Howe", "2026-04-05", "45 1 * * *", ["01:45 +1100"], id="overlap of half an hour"),
        pytest.param("America/Santiago", "2026-09-06", "20 0 * * *", ["01:00 -0300"], id="no midnight"),
        pytest.param("Africa/Casablanca", "2026-03-22", "30 2 * * *", ["03:00 +0100"], id="after Ramadan"),
    ],
)  # fmt: skip
def test_fixed_times_in_zones_of_their_own_kind(timezone: str, day: str, cron: str, expected: list[str]):
    assert days_ticks(cron, timezone, day) == expected


def test_day_that_a_zone_leaves_out_ticks_when_the_next_begins():
    # Samoa went from the 29th to the 31st of December 2011.
    found = ticks(Cron("0 12 30 12 *", "Pacific/Apia"), at("2011-12-01"), 2)

    assert [shown(tick, "Pacific/Apia")[:11] for tick in found] == ["12-31 00:00", "12-30 12:00"]


def test_croniter_ticks_twice_where_a_fixed_time_is_shown_twice():
    """Where the two disagree about changes of the clock Debian cron decides; if this fails, a reason to look again."""
    start = datetime(2026, 10, 25, tzinfo=ZoneInfo("Europe/Berlin"))
    other = croniter("30 2 * * *", start, ret_type=datetime)

    assert [other.get_next().day for _ in range(3)] == [25, 25, 26]


# --- the next tick ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base, now, catch_up, expected",
    [
        pytest.param(0, 0, False, 60_000, id="the first"),
        pytest.param(0, 60_000, False, 60_000, id="due now"),
        pytest.param(0, 60_001, False, 120_000, id="missed by a millisecond"),
        pytest.param(7, 600_000, False, 600_007, id="counted from the base"),
        pytest.param(600_000, 0, False, 660_000, id="base in the future"),
        pytest.param(0, 600_000, True, 60_000, id="catching up"),
        pytest.param(600_000, 600_000, True, 660_000, id="caught up"),
    ],
)
def test_next_tick_of_an_interval(base: int, now: int, catch_up: bool, expected: int):
    assert next_tick(Interval(60), Instant(base), Instant(now), catch_up) == expected


@pytest.mark.parametrize(
    "base, now, catch_up, expected",
    [
        pytest.param("2026-01-01T09:00", "2026-01-01T09:00", False, "2026-01-02T09:00", id="after the last tick"),
        pytest.param("2026-01-01T08:00", "2026-01-01T09:00", False, "2026-01-01T09:00", id="due now"),
        pytest.param("2026-01-01T09:00", "2026-01-05T10:00", False, "2026-01-06T09:00", id="missed ones are skipped"),
        pytest.param("2026-01-01T09:00", "2026-01-05T10:00", True, "2026-01-02T09:00", id="catching up"),
        pytest.param("2026-01-08T09:00", "2026-01-05T10:00", False, "2026-01-09T09:00", id="clock went back"),
        pytest.param("2026-01-01T08:59:59.999", "2026-01-01T08:59:59.999", False, "2026-01-01T09:00", id="a millisecond before"),
        pytest.param("2026-01-01T09:00:00.001", "2026-01-01T09:00:00.001", False, "2026-01-02T09:00", id="a millisecond after"),
    ],
)  # fmt: skip
def test_next_tick_of_a_cron(base: str, now: str, catch_up: bool, expected: str):
    assert next_tick(Cron("0 9 * * *"), at(base), at(now), catch_up) == at(expected)


@given(
    st.integers(600, 90_000).map(Interval) | st.sampled_from(["*/47 * * * *", "30 2 * * *", "0 */5 * * 0"]).map(lambda e: Cron(e, "Europe/Berlin")),
    instants,
    st.integers(0, 3 * DAY),
)  # fmt: skip
def test_skipping_comes_to_the_first_tick_that_is_not_missed(
    schedule: Cron | Interval, base: Instant, late: int
):
    now = Instant(base + late)

    tick = next_tick(schedule, base, now, catch_up=True)
    while tick < now:
        tick = next_tick(schedule, tick, now, catch_up=True)

    assert next_tick(schedule, base, now) == tick


# --- what is refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cron, problem",
    [
        ("", r"has 0 field\(s\)"),
        ("* * * *", r"has 4 field\(s\)"),
        ("* * * * * * *", r"has 7 field\(s\)"),
        ("@reboot", "no name of a schedule; there are @yearly, "),
        ("60 * * * *", "minute '60' .* 0-59"),
        ("60 * * * * *", "second '60' .* 0-59"),
        ("0 24 * * *", "hour '24' .* 0-23"),
        ("0 0 0 * *", "day-of-month '0' .* 1-31"),
        ("0 0 1 13 *", "month '13' .* 1-12"),
        ("0 0 * * 8", "day-of-week '8' .* 0-7"),
        ("0 0 ? * *", "write \\* for any"),
        ("*/0 * * * *", "minute '\\*/0'"),
        ("5-1 * * * *", "minute '5-1'"),
        ("1,,2 * * * *", "minute '1,,2'"),
        ("x * * * *", "minute 'x'"),
        ("0 0 31 2,4 *", "day-of-month '31' .* in one of its months"),
        # What crons read differently:
        ("0 0 */2 * MON", "restricts the days by '\\*/2' and by 'MON'"),
        ("0 0 1 * */2", "restricts the days by '1' and by '\\*/2'"),
        ("0 0 L * MON", "restricts the days by 'L' and by 'MON'"),
        ("0 0 1 * 5#2", "restricts the days by '1' and by '5#2'"),
        ("0 0 * * 1/2", "a step from one day"),
        ("0 0 * * 1,5#2", "mixes days of every week"),
        ("0 0 * * 1,5L", "mixes days of every week"),
        ("0 0 L/2 * *", "a step from L"),
        ("0-0 * * * *", "a range of one"),
        ("*,5 * * * *", "\\* in a list"),
    ],
)
def test_expression_that_cannot_be_used_is_refused(cron: str, problem: str):
    with pytest.raises(
        UsageError, match=rf"^schedule: the cron expression {re.escape(repr(cron))}.*{problem}"
    ):
        check_schedule(Cron(cron))


@given(
    st.lists(st.text("0123456789*/-,L#W?@ JANMO²ß", max_size=6), max_size=7).map(" ".join),
    st.text(max_size=5),
)
@example("9" * 10_000 + " * * * *", "UTC")
@example("0 0 * * " + "9" * 10_000 + "L", "UTC")
def test_check_refuses_or_the_schedule_can_be_served(expression: str, timezone: str):
    for cron in (Cron(expression), Cron("* * * * *", timezone), Cron(expression, timezone)):
        if accepted(cron):
            assert len(ticks(cron, at("2026-01-01"), 2)) == 2


@pytest.mark.parametrize("timezone", ["Mars/Base", "America", "/etc/passwd", "../UTC", "", "a\0b"])
def test_unknown_time_zone_is_refused(timezone: str):
    with pytest.raises(UsageError, match=re.escape(f"there is no time zone {timezone!r}")):
        check_schedule(Cron("* * * * *", timezone))


@pytest.mark.parametrize("seconds", [-1, 0, 19, 2_592_001])
def test_interval_out_of_range_is_refused(seconds: int):
    with pytest.raises(UsageError, match="must be from 20 s to 30 days"):
        check_schedule(Interval(seconds))


@pytest.mark.parametrize("seconds", [20, 2_592_000])
def test_interval_within_range_is_accepted(seconds: int):
    check_schedule(Interval(seconds))


def test_shorter_intervals_are_accepted_where_tests_ask_for_them():
    check_schedule(Interval(1), interval_seconds_min=1)


# --- JSON ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule, text",
    [
        (
            Cron("0 9 * * 1", "Europe/Berlin"),
            b'{"type":"cron","expression":"0 9 * * 1","timezone":"Europe/Berlin"}',
        ),
        (Interval(60), b'{"type":"interval","seconds":60}'),
    ],
)
def test_schedules_survive_json(schedule: Cron | Interval, text: bytes):
    assert msgspec.json.encode(schedule) == text
    assert parse_schedule(text) == schedule


@pytest.mark.parametrize("text", ["", "{}", '{"type":"cron"}', '{"type":"interval","seconds":1.5}', b"\xff"])
def test_what_is_no_schedule_is_refused(text: str | bytes):
    with pytest.raises(UsageError, match="no schedule"):
        parse_schedule(text)


# --- triggers -----------------------------------------------------------------------------------------------------------------


def test_cron_trigger_has_its_schedule():
    trigger = cron_trigger(cron="0 9 * * 1", timezone="Europe/Berlin", catch_up=True)

    assert trigger.schedule == Cron("0 9 * * 1", "Europe/Berlin")
    assert trigger.catch_up
    assert trigger.event_names == ()


def test_cron_trigger_is_in_utc_and_skips_missed_ticks_by_default():
    trigger = cron_trigger("0 9 * * 1")

    assert (trigger.schedule, trigger.catch_up) == (Cron("0 9 * * 1", "UTC"), False)


@pytest.mark.parametrize("interval", [90, 90.0, timedelta(minutes=1.5)])
def test_interval_trigger_takes_durations(interval: timedelta | float):
    assert interval_trigger(interval).schedule == Interval(90)


def test_triggers_refuse_at_definition():
    with pytest.raises(UsageError, match=r"^cron_trigger\('99 \* \* \* \*'\): .*minute"):
        cron_trigger("99 * * * *")
    with pytest.raises(UsageError, match=r"^cron_trigger\('@daily'\): there is no time zone 'Mars'"):
        cron_trigger("@daily", timezone="Mars")
    with pytest.raises(UsageError, match=r"^interval_trigger\(5\): an interval of 5 s"):
        interval_trigger(5)
    with pytest.raises(UsageError, match="whole number of seconds"):
        interval_trigger(20.5)


def test_interval_trigger_can_be_shorter_in_tests():
    assert interval_trigger(1, minimum=1).schedule == Interval(1)


def test_payload_is_parsed_into_aware_instants():
    parse = cron_trigger("@daily").schema.parse

    payload = parse('{"ts": "2026-01-02T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00.000Z"}', job_id="a")

    assert payload == ScheduledPayload(
        ts=datetime(2026, 1, 2, tzinfo=UTC), last_timestamp=datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert parse('{"ts": "2026-01-02T00:00:00Z"}', job_id="a").last_timestamp is None


def test_payload_without_a_time_zone_is_refused():
    with pytest.raises(Exception, match="ts"):
        cron_trigger("@daily").schema.parse('{"ts": "2026-01-02T00:00:00"}', job_id="a")
