"""When a failed body is tried again: a value and pure functions on it (Protocol, task retry backoff)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from perdure.backoff import backoff_ms
from perdure.durations import to_ms
from perdure.errors import TaskError, UnavailableError, UsageError, qualified_name


@dataclass(frozen=True)
class Retry:
    """How often and when to try again. `Retry()` is the protocol's default: 5 tries in all, 1 s growing by 1.8, at most 60 s.

    Attributes:
        attempts: tries in all, the first one included; 0 or 1 mean never again.
        factor: each delay is that many times the one before (the first two delays are equal, as the protocol has it).
        min_delay: base of the first delay, timedelta or seconds.
        max_delay: no delay is longer, jitter included.
        jitter: multiply each delay by a random number in [1, 2), so that failures of one moment don't return together.
        only: exception classes, or names of them ("HTTPStatusError", "httpx.HTTPStatusError"), that are worth another
            try; None means all. One class or name may stand alone.

    Example: `Retry(attempts=8, min_delay=0.5, only=(TimeoutError, "HTTPStatusError"))`
    """

    attempts: int = 5
    factor: float = 1.8
    min_delay: timedelta | int | float = 1
    max_delay: timedelta | int | float = 60
    jitter: bool = True
    only: type[BaseException] | str | tuple[type[BaseException] | str, ...] | None = None

    def __post_init__(self) -> None:
        attempts: Any = self.attempts
        if type(attempts) is not int or attempts < 0:
            raise UsageError(
                f"Retry: attempts must be a whole number from 0 (tries in all), got {attempts!r}"
            )
        factor: Any = self.factor
        if type(factor) not in (int, float) or not math.isfinite(factor) or factor < 1:
            raise UsageError(f"Retry: factor must be a number from 1, got {factor!r}")
        jitter: Any = self.jitter
        if type(jitter) is not bool:
            raise UsageError(f"Retry: jitter must be True or False, got {jitter!r}")
        shortest = to_ms(self.min_delay, "Retry: min_delay")
        if shortest > to_ms(self.max_delay, "Retry: max_delay"):
            raise UsageError(
                f"Retry: min_delay {self.min_delay!r} is longer than max_delay {self.max_delay!r}"
            )
        object.__setattr__(self, "only", _kinds(self.only))

    def next_delay_ms(self, attempt: int, chance: float) -> int | None:
        """Milliseconds from failure number `attempt` (1, 2, ...) to the next try; None if that was the last.

        `chance` is a random number in [0, 1): it decides the jitter and is ignored without it.
        """
        return backoff_ms(
            attempt,
            chance,
            limit=self.attempts,
            factor=self.factor,
            min_ms=to_ms(self.min_delay, "min_delay"),
            max_ms=to_ms(self.max_delay, "max_delay"),
            jitter=self.jitter,
        )

    def applies_to(self, error: BaseException) -> bool:
        """Whether `error` is worth another try according to `only`; a TaskError also by what it stands for."""
        if self.only is None:
            return True
        kinds = _kinds(self.only) or ()
        if isinstance(error, TaskError) and error.matches(*kinds):
            return True
        names = [qualified_name(cls) for cls in type(error).__mro__ if issubclass(cls, BaseException)]
        return any(
            any(kind == name or kind == name.rpartition(".")[2] for name in names)
            if isinstance(kind, str)
            else isinstance(error, kind)
            for kind in kinds
        )

    @classmethod
    def standard_backoff(cls) -> Retry:
        """8 tries, from 0.5 s growing by 1.8, at most 30 s: what integrations use."""
        return cls(attempts=8, factor=1.8, min_delay=0.5, max_delay=30)

    @classmethod
    def exponential_backoff(cls) -> Retry:
        """8 tries, from 1 s doubling, at most 30 s."""
        return cls(attempts=8, factor=2, min_delay=1, max_delay=30)


def _kinds(only: Any) -> tuple[type[BaseException] | str, ...] | None:
    if only is None:
        return None
    several = isinstance(only, (tuple, list, set, frozenset))
    kinds = cast("tuple[Any, ...]", only if several else (only,))
    for kind in kinds:
        if not (isinstance(kind, str) and kind) and not (
            isinstance(kind, type) and issubclass(kind, BaseException)
        ):
            raise UsageError(f"Retry: only takes exception classes or their names, got {kind!r}")
    if not kinds:
        raise UsageError(
            "Retry: only is empty, so nothing would be tried again; leave it out, or use attempts=1"
        )
    return tuple(kinds)


UNTIL_AVAILABLE = Retry(attempts=1_000_000, min_delay=0.5, max_delay=30, only=UnavailableError)
"""What only asks the platform for something is no more the run's failure than a write that has to wait."""
