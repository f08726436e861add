"""Clocks and the conversion between instants and datetimes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from perdure import clock
from perdure.clock import SystemClock, system_random, to_datetime, to_instant


def test_system_clock_is_about_now_and_never_decreases() -> None:
    ours = SystemClock()

    seen = [ours.now() for _ in range(1000)]

    assert seen == sorted(seen)
    assert abs(seen[-1] - datetime.now(UTC).timestamp() * 1000) < 60_000


def test_jump_of_the_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = SystemClock()
    before = ours.now()

    monkeypatch.setattr(clock.time, "time_ns", lambda: 0)

    assert 0 <= ours.now() - before < 60_000


def test_instants_are_utc_datetimes() -> None:
    assert to_datetime(1_767_225_600_123) == datetime(2026, 1, 1, 0, 0, 0, 123_000, UTC)
    assert to_datetime(0).tzinfo is UTC


@pytest.mark.parametrize("instant", [0, 1, 999, 1_767_225_600_123, 4_102_444_799_999])
def test_there_and_back(instant: int) -> None:
    assert to_instant(to_datetime(instant)) == instant


@pytest.mark.parametrize("instant", [2_166_436_132_226, 1_098_727_776_541, 538_117_953_910])
def test_there_and_back_where_floats_are_not_exact(instant: int) -> None:
    assert to_instant(to_datetime(instant)) == instant


def test_instant_is_rounded_down_and_zone_independent() -> None:
    assert to_instant(datetime(1970, 1, 1, 0, 0, 0, 1999, UTC)) == 1
    assert to_instant(datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))) == 0


def test_system_random_is_a_random() -> None:
    chance = system_random()

    assert 0 <= chance.random() < 1
    assert 0 <= chance.getrandbits(80) < 2**80
