"""What the connection that writes knows of its database without asking.

Nobody else writes to it while it is open, so what has been read or written once stays true until it is written again.
This saves a batch the statements that would find nothing. After a rollback nothing is known.
"""

from __future__ import annotations

from .fresh import FreshRuns


class Known:
    """What is known of one environment. Whoever writes what is mentioned here keeps it true.

    Attributes:
        leases: executions that hold their run, by run; one that isn't listed may hold it, too.
        without_open: runs that have no task without completion or interruption; those leased only.
        numbers: the highest run number by job; jobs that aren't listed may have some.
        fresh: queued runs as they were made, as far as there is room.
        has_blocked_lanes: False if no lane is blocked; None if that isn't known.
        has_waits: False if no task waits for an event or for a call of the platform; None if that isn't known.
    """

    __slots__ = ("fresh", "has_blocked_lanes", "has_waits", "leases", "numbers", "without_open")

    def __init__(self) -> None:
        self.fresh = FreshRuns()
        self.leases: dict[str, int] = {}
        self.without_open: set[str] = set()
        self.numbers: dict[str, int] = {}
        self.has_blocked_lanes: bool | None = None
        self.has_waits: bool | None = None

    def forget(self) -> None:
        """Something may have been rolled back."""
        self.fresh.clear()
        self.leases.clear()
        self.without_open.clear()
        self.numbers.clear()
        self.has_blocked_lanes = None
        self.has_waits = None

    def lease_claimed(self, run_id: str, execution: int) -> None:
        self.leases[run_id] = execution
        if execution == 1:
            self.without_open.add(run_id)

    def lease_left(self, run_id: str) -> None:
        self.leases.pop(run_id, None)
        self.without_open.discard(run_id)
