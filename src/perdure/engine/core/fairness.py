"""How the slots of a claim are divided among queues and their concurrency keys. Pure; stores ask it within a claim."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from msgspec import Struct


class Lane(Struct):
    """A concurrency key of a queue under which runs are ready; `free`: slots it may still take, None for any number."""

    key: str
    free: int | None = None


class QueueTurn(Struct):
    """A queue with ready runs: `lanes` in the order of their turns; `free` as for a lane, over all of them."""

    id: str
    lanes: Sequence[Lane]
    free: int | None = None


def shares(queues: Sequence[QueueTurn], slots: int) -> dict[tuple[str, str], int]:
    """How many runs each lane (queue, key) may get of `slots`: round robin over queues, inside a queue over its lanes.

    Queues and lanes come in the order of their turns; the first of them get what can't be divided. The result is in the
    order of their last turns: whoever comes last there was served last.
    """
    if len(queues) == 1 and len(queues[0].lanes) == 1:
        queue, lane = queues[0], queues[0].lanes[0]
        share = min(slots, *(free for free in (queue.free, lane.free) if free is not None), slots)
        return {(queue.id, lane.key): share} if share > 0 else {}
    given: dict[tuple[str, str], int] = {}
    turns = deque((queue, deque(queue.lanes), 0) for queue in queues)
    while turns and slots > 0:
        queue, lanes, taken = turns.popleft()
        if queue.free is not None and taken >= queue.free:
            continue
        while lanes:
            lane = lanes.popleft()
            got = given.get((queue.id, lane.key), 0)
            if lane.free is None or got < lane.free:
                given.pop((queue.id, lane.key), None)
                given[queue.id, lane.key] = got + 1
                slots -= 1
                lanes.append(lane)
                turns.append((queue, lanes, taken + 1))
                break
    return given
