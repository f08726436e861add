"""What happened in a simulation, as lines: the last of them for people, a digest of all for the proof that a seed replays."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from zlib import crc32

KEPT = 5_000
"""Lines kept; a seed that fails shows the last of them."""


class Trace:
    """Lines in the order of what happened.

    Attributes:
        digest: a number for all lines so far.
        lines: the last of them, as "seconds what".
        counts: how often what happened, by the first word of the line: what a seed has covered.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.digest = 0
        self.lines: deque[str] = deque(maxlen=KEPT)
        self.counts: Counter[str] = Counter()
        self._now = now

    def add(self, kind: str, what: str = "") -> None:
        """`kind`: one word of a small set; `what`: the rest of the line."""
        line = f"{self._now():11.4f} {kind} {what}"
        self.digest = crc32(line.encode(), self.digest)
        self.lines.append(line)
        self.counts[kind] += 1
