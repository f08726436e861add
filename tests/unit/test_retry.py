"""Retry policies, durations and instants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from perdure.durations import to_instant_ms, to_ms
from perdure.errors import TaskError, UsageError
from perdure.sdk.retry import Retry


def test_defaults_of_the_protocol() -> None:
    retry = Retry()

    assert [retry.next_delay_ms(n, 0.0) for n in (1, 2, 3, 4, 5, 6)] == [1000, 1000, 1800, 3240, None, None]


def test_jitter_stretches_up_to_twice() -> None:
    assert Retry().next_delay_ms(1, 0.5) == 1500
    assert Retry(jitter=False).next_delay_ms(1, 0.5) == 1000


def test_longest_delay_holds_with_jitter_and_for_huge_attempts() -> None:
    retry = Retry(attempts=10**9, max_delay=timedelta(minutes=1))

    assert retry.next_delay_ms(20, 0.99) == 60_000
    assert retry.next_delay_ms(10**8, 0.0) == 60_000


def test_no_delay_is_at_least_a_millisecond() -> None:
    assert Retry(min_delay=0).next_delay_ms(1, 0.0) == 1


@pytest.mark.parametrize("attempts", [0, 1])
def test_one_attempt_is_never_again(attempts: int) -> None:
    assert Retry(attempts=attempts).next_delay_ms(1, 0.0) is None


def test_presets() -> None:
    assert [Retry.standard_backoff().next_delay_ms(n, 0.0) for n in (1, 2, 3, 7, 8)] == [
        500,
        500,
        900,
        9448,
        None,
    ]
    assert [Retry.exponential_backoff().next_delay_ms(n, 0.0) for n in (1, 3, 6, 7)] == [
        1000,
        2000,
        16000,
        30000,
    ]


class CustomError(ValueError):
    pass


@pytest.mark.parametrize(
    "only, error, expected",
    [
        (None, ValueError(), True),
        (ValueError, CustomError(), True),
        ((TimeoutError, "CustomError"), CustomError(), True),
        (f"{__name__}.CustomError", CustomError(), True),
        ("ValueError", CustomError(), True),
        (CustomError, ValueError(), False),
        ("Error", CustomError(), False),
        (
            ValueError,
            TaskError(key="k", error_name="X", error_message="", error_types=["a.X", "ValueError"]),
            True,
        ),
        ("X", TaskError(key="k", error_name="X", error_message="", error_types=["a.X"]), True),
        (KeyError, TaskError(key="k", error_name="X", error_message="", error_types=["a.X"]), False),
    ],
)
def test_only(only: Any, error: BaseException, expected: bool) -> None:
    assert Retry(only=only).applies_to(error) is expected


@pytest.mark.parametrize(
    "given, words",
    [
        ({"attempts": -1}, "attempts"),
        ({"attempts": 1.5}, "attempts"),
        ({"attempts": True}, "attempts"),
        ({"factor": 0.5}, "factor"),
        ({"factor": float("nan")}, "factor"),
        ({"factor": "2"}, "factor"),
        ({"min_delay": -1}, "min_delay"),
        ({"max_delay": float("nan")}, "max_delay"),
        ({"min_delay": 61}, "longer than"),
        ({"jitter": 1}, "jitter"),
        ({"only": 3}, "only"),
        ({"only": ()}, "only is empty"),
        ({"only": (int,)}, "only"),
    ],
)
def test_bad_policy_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Retry(**given)


def test_policies_are_values() -> None:
    assert Retry(only=[ValueError]) == Retry(only=(ValueError,))  # type: ignore[arg-type]
    assert hash(Retry()) == hash(Retry())


@pytest.mark.parametrize(
    "duration, milliseconds",
    [(0, 0), (1, 1000), (0.1, 100), (1.001, 1001), (0.0001, 1), (timedelta(days=3), 259_200_000), (timedelta(microseconds=1), 1)],
)  # fmt: skip
def test_to_ms_never_shortens(duration: Any, milliseconds: int) -> None:
    assert to_ms(duration, "wait") == milliseconds


@pytest.mark.parametrize("duration", [-1, timedelta(-1), float("nan"), float("inf"), 1e30, True, "3", None])
def test_to_ms_refuses(duration: Any) -> None:
    with pytest.raises(UsageError, match=r"^io.wait: "):
        to_ms(duration, "io.wait")


def test_to_instant_ms_rounds_down_exactly() -> None:
    for ms in (0, 1, 999, 2_166_436_132_226, 1_098_727_776_541, -1, -1500):
        assert (
            to_instant_ms(
                datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms, microseconds=999), "at"
            )
            == ms
        )
    assert to_instant_ms(datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), "at") == 0


@pytest.mark.parametrize("moment", [datetime(2024, 1, 1), "2024-01-01", 0, None])
def test_to_instant_ms_refuses(moment: Any) -> None:
    with pytest.raises(UsageError, match=r"^deliver_at: "):
        to_instant_ms(moment, "deliver_at")
