"""Ids: time-ordered, so that indexes append. `run_` + 26 characters of Crockford base32 (48 bits of time, 80 of chance).

The layout is ULID's (github.com/ulid/spec); ids made within one millisecond by one `Ids` still increase.
"""

from __future__ import annotations

from typing import NewType

from .clock import Clock, Random

RunId = NewType("RunId", str)
EventId = NewType("EventId", str)
TaskId = NewType("TaskId", str)

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


def encode_base32(number: int, pairs: int) -> str:
    """`number` as `2 * pairs` characters of lower-case Crockford base32."""
    return "".join(_PAIRS[(number >> (10 * i)) & 1023] for i in range(pairs - 1, -1, -1))


class Ids:
    """Makes ids. Not thread-safe: one per event loop."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._last = 0

    def ulid(self) -> str:
        """26 lower-case characters, greater than every one given before."""
        fresh = self._clock.now() << 80
        # Within one millisecond (or if time stands still) go on from the last id by a random step: still unguessable.
        self._last = (
            fresh | self._random.getrandbits(80)
            if fresh > self._last
            else self._last + 1 + self._random.getrandbits(32)
        )
        return encode_base32(self._last, 13)

    def run_id(self) -> RunId:
        return RunId("run_" + self.ulid())

    def event_id(self) -> EventId:
        return EventId("evt_" + self.ulid())
