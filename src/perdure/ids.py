"""Ids: time-ordered, so that indexes append. `run_` + 26 characters of Crockford base32 (48 bits of time, 80 of chance).

The layout is ULID's (github.com/ulid/spec); ids made within one millisecond by one `Ids` still increase.
"""

from __future__ import annotations

from struct import Struct
from typing import NewType

from .clock import Clock, Random

RunId = NewType("RunId", str)
EventId = NewType("EventId", str)
TaskId = NewType("TaskId", str)

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_STEPS = Struct("32I")
_TRIPLES = [a + bc for a in _ALPHABET for bc in _PAIRS]


def encode_base32(n: int) -> str:
    """A number of 130 bits as 26 characters of lower-case Crockford base32. Hot: spelled out, a loop takes thrice as long."""
    t, p = _TRIPLES, _PAIRS
    return (
        t[n >> 115]
        + t[n >> 100 & 32767]
        + t[n >> 85 & 32767]
        + t[n >> 70 & 32767]
        + t[n >> 55 & 32767]
        + t[n >> 40 & 32767]
        + t[n >> 25 & 32767]
        + t[n >> 10 & 32767]
        + p[n & 1023]
    )


class Ids:
    """Makes ids. Not thread-safe: one per event loop."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._last = 0
        self._steps: list[int] = []

    def ulid(self) -> str:
        """26 lower-case characters, greater than every one given before."""
        fresh = self._clock.now() << 80
        if fresh > self._last:
            self._steps.clear()  # so that a forked child hardly ever shares them
            self._last = fresh | self._random.getrandbits(80)
        else:
            # Within one millisecond (or if time stands still) go on from the last id by a random step: still unguessable.
            # Drawn many at a time: to ask the system lets go of the GIL, and a busy writer's thread takes it.
            if not self._steps:
                self._steps[:] = _STEPS.unpack(
                    self._random.getrandbits(8 * _STEPS.size).to_bytes(_STEPS.size, "big")
                )
            self._last += 1 + self._steps.pop()
        return encode_base32(self._last)

    def run_id(self) -> RunId:
        return RunId("run_" + self.ulid())

    def event_id(self) -> EventId:
        return EventId("evt_" + self.ulid())
