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

_ALPHABET = b"0123456789abcdefghjkmnpqrstvwxyz"
_CHARACTERS = _ALPHABET * 8  # by a byte's lowest five bits
_STEPS = Struct("32I")
_40_BITS = 1 << 40


def _every_other(bits: int, stride: int) -> tuple[int, int]:
    """Masks for `bits` at every multiple of `stride`, and for as many that follow each of these."""
    low = sum(((1 << bits) - 1) << at for at in range(0, 256, stride))
    return low, low << bits


_LOW_80, _HIGH_80 = _every_other(80, 256)
_LOW_40, _HIGH_40 = _every_other(40, 128)
_LOW_20, _HIGH_20 = _every_other(20, 64)
_LOW_10, _HIGH_10 = _every_other(10, 32)
_LOW_5, _HIGH_5 = _every_other(5, 16)


def encode_base32(n: int) -> str:
    """A number of 130 bits as 26 characters of lower-case Crockford base32.

    Hot: the groups of five bits are spread over bytes by halving, all at once, and the bytes are translated. Tables of pairs
    or triples of characters are no faster, and want room in the cache.
    """
    n = n & _LOW_80 | (n & _HIGH_80) << 48
    n = n & _LOW_40 | (n & _HIGH_40) << 24
    n = n & _LOW_20 | (n & _HIGH_20) << 12
    n = n & _LOW_10 | (n & _HIGH_10) << 6
    n = n & _LOW_5 | (n & _HIGH_5) << 3
    return n.to_bytes(32, "big")[6:].translate(_CHARACTERS).decode()


def _encode_40_bits(n: int) -> str:
    """As `encode_base32`, of 40 bits: 8 characters."""
    n = n & _LOW_20 | (n & _HIGH_20) << 12
    n = n & _LOW_10 | (n & _HIGH_10) << 6
    n = n & _LOW_5 | (n & _HIGH_5) << 3
    return n.to_bytes(8, "big").translate(_CHARACTERS).decode()


def task_id(digest: bytes) -> TaskId:
    """ "task_" and 26 characters, of five bits of each of the first 26 bytes of what a task is identified by."""
    return "task_" + digest[:26].translate(_CHARACTERS).decode()  # pyright: ignore[reportReturnType]  (a NewType is a call)


class Ids:
    """Makes ids. Not thread-safe: one per event loop."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._millisecond = -1
        # The last id, but for its lowest 40 bits: of the 26 characters 18 stay the same for hundreds of ids.
        self._high, self._high_text, self._low = 0, "", 0
        self._steps: list[int] = []

    def ulid(self) -> str:
        """26 lower-case characters, greater than every one given before."""
        now = self._clock.now()
        if now > self._millisecond:
            self._millisecond = now
            self._steps.clear()  # so that a forked child hardly ever shares them
            self._go_to(now << 80 | self._random.getrandbits(80))
            return self._high_text + _encode_40_bits(self._low)
        # Within one millisecond (or if time stands still) go on from the last id by a random step: still unguessable.
        # Drawn many at a time: to ask the system lets go of the GIL, and a busy writer's thread takes it.
        if not self._steps:
            self._steps[:] = _STEPS.unpack(
                self._random.getrandbits(8 * _STEPS.size).to_bytes(_STEPS.size, "big")
            )
        self._low += 1 + self._steps.pop()
        if self._low >= _40_BITS:
            self._go_to((self._high << 40) + self._low)
        return self._high_text + _encode_40_bits(self._low)

    def _go_to(self, n: int) -> None:
        self._high, self._low = divmod(n, _40_BITS)
        self._high_text = encode_base32(self._high)[8:]
        self._millisecond = max(self._millisecond, n >> 80)

    def run_id(self) -> RunId:
        return RunId("run_" + self.ulid())

    def event_id(self) -> EventId:
        return EventId("evt_" + self.ulid())
