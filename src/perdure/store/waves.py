"""What concerns the same row, one after the other, in statements that each may name a row but once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T")


def in_waves(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """The first item of every key, then the second of every key that has one, and so on."""
    waves: list[list[T]] = []
    depth: dict[Hashable, int] = {}
    for item in items:
        of = key(item)
        wave = depth[of] = depth.get(of, -1) + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(item)
    return waves
