"""Ids: form, order, and what happens when time stands still."""

from __future__ import annotations

import random
import re

import pytest

from perdure.clock import Instant
from perdure.ids import Ids, encode_base32


class Stopped:
    def __init__(self, now: int) -> None:
        self.at = now

    def now(self) -> Instant:
        return Instant(self.at)


def test_form() -> None:
    ids = Ids(Stopped(1_767_225_600_000), random.Random(1))

    assert re.fullmatch(r"run_[0-9a-hjkmnp-tv-z]{26}", ids.run_id())
    assert re.fullmatch(r"evt_[0-9a-hjkmnp-tv-z]{26}", ids.event_id())


def test_time_comes_first() -> None:
    text = Ids(Stopped(1_767_225_600_000), random.Random(1)).ulid()

    number = 0
    for character in text:
        number = number * 32 + "0123456789abcdefghjkmnpqrstvwxyz".index(character)
    assert number >> 80 == 1_767_225_600_000


def test_ids_increase_though_time_stands_still_or_goes_back() -> None:
    clock = Stopped(1_767_225_600_000)
    ids = Ids(clock, random.Random(7))

    made = [ids.ulid() for _ in range(1000)]
    clock.at -= 5000
    made += [ids.ulid() for _ in range(1000)]
    clock.at += 10_000
    made += [ids.ulid() for _ in range(1000)]

    assert made == sorted(set(made))


def test_one_seed_makes_one_sequence() -> None:
    first, second = (Ids(Stopped(5), random.Random(3)) for _ in range(2))

    assert [first.run_id() for _ in range(10)] == [second.run_id() for _ in range(10)]


@pytest.mark.parametrize(
    "number, text",
    [
        (0, "0" * 26),
        (31, "z".rjust(26, "0")),
        (1024, "100".rjust(26, "0")),
        (0x123456789ABCDEF, "28t5cy4tqkff".rjust(26, "0")),
        (2**130 - 1, "z" * 26),
    ],
)
def test_base32(number: int, text: str) -> None:
    assert encode_base32(number) == text
