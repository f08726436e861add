"""The one formula for delays that grow (Protocol, task retry backoff): for tasks, jobs and the platform's own requests."""

from __future__ import annotations

import math


def backoff_ms(
    failure: int, chance: float, *, limit: float, factor: float, min_ms: float, max_ms: float, jitter: bool
) -> int | None:
    """Milliseconds from failure number `failure` (1, 2, ...) to the next try; None if that was the last.

    Args:
        failure: how many tries have failed, this one included.
        chance: in [0, 1); stretches the delay by 1 to 2 if there is `jitter`.
        limit: tries in all; 0 and 1 mean never again.
        factor: each delay is that many times the one before (the first two are equal, as the protocol has it).
        min_ms: base of the first delay; less than 1 counts as 1.
        max_ms: no delay is longer, jitter included.
        jitter: see `chance`.
    """
    if failure >= limit:
        return None
    stretch = 1 + chance if jitter else 1
    try:
        delay = stretch * max(min_ms, 1) * float(factor) ** max(failure - 2, 0)
    except OverflowError:
        delay = math.inf
    return max(0, math.floor(min(delay, max_ms) + 0.5))
