"""Whether a store may claim the runs that it claims: the rules of ClaimRuns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from perdure.engine.store import ClaimRuns

from .state import Tables


class Turns:
    """The rules for one claim, checked run by run and at its end.

    - Nothing from a paused queue, nothing beyond the limits, and of a lane (queue and key) always its first run.
    - As many as asked for, unless nothing is left that may be claimed.
    - Nothing from a queue while one of higher priority has a run left that may be claimed.
    - Queues of the same priority take turns, and the lanes of a queue do: what has a run left that may be claimed got at
      most one less than any other.

    Whose turn is first isn't checked here: a store may forget about queues and keys under which nothing waits.
    """

    def __init__(self, tables: Tables, change: ClaimRuns) -> None:
        self._tables = tables
        self._change = change
        self._claimed: Counter[tuple[str, str]] = Counter()

    def check(self, run_id: str) -> None:
        """`run_id` may be claimed next."""
        run = self._tables.runs[run_id]
        lane = (run.queue, run.queue_key)
        assert lane in self._open_lanes(), f"{run_id} isn't ready, or its lane {lane} has no room"
        first = self._tables.lane(*lane)[0]
        assert run_id == first, f"{run_id} isn't the first of its lane {lane}, which is {first}"
        self._claimed[lane] += 1

    def check_end(self, run_ids: Sequence[str]) -> None:
        """All that was claimed is what may be claimed together."""
        assert len(run_ids) <= self._change.limit, "more than was asked for"
        left = self._open_lanes()
        if len(run_ids) < self._change.limit:
            assert not left, f"{len(run_ids)} claimed of {self._change.limit}, though more may be from {left}"
        queues: Counter[str] = Counter()
        for (queue, _), count in self._claimed.items():
            queues[queue] += count
        priority = {name: queue.priority for name, queue in self._tables.queues.items()}
        for queue, key in left:
            for other, count in queues.items():
                assert priority[other] >= priority[queue], f"{other} before {queue}"
                if priority[other] == priority[queue] and other != queue:
                    assert count <= queues[queue] + 1, f"{count} from {other}, {queues[queue]} from {queue}"
            for (of, other), count in self._claimed.items():
                if of == queue:
                    assert count <= self._claimed[queue, key] + 1, f"{count} of {other}, {key} is left"

    def _open_lanes(self) -> set[tuple[str, str]]:
        """Where a run may be claimed from now."""
        limit = self._change.environment_limit
        if limit is not None and len(self._tables.leases) >= limit:
            return set()
        ready = [self._tables.runs[run_id] for run_id in self._tables.ready]
        return {(run.queue, run.queue_key) for run in ready if self._has_room(run.queue, run.queue_key)}

    def _has_room(self, queue_id: str, key: str) -> bool:
        row = self._tables.queue_row(queue_id)
        if row.paused_at is not None:
            return False
        if row.concurrency_limit is not None and row.executing >= row.concurrency_limit:
            return False
        held = sum((run.queue, run.queue_key) == (queue_id, key) for run in self._tables.holders())
        return row.key_limit is None or held < row.key_limit
