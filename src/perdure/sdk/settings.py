"""Settings of the executor, with their units, defaults and reasons. Durations are seconds."""

from __future__ import annotations

from msgspec import Struct

from perdure.limits import Limits


class ExecutionSettings(Struct, frozen=True, kw_only=True):
    """How executions behave.

    Attributes:
        linger: a run whose next known wake-up is at most this far away stays in memory.
        linger_for_others: how long a run stays in memory that waits for somebody else (a child, an event).
        foreign_await_limit: how long an await that perdure can't see into, outside a task, keeps a run in memory.
        unwind_limit: how long user code may take to unwind when an execution ends; then it is abandoned.
        flush_delay: a task that has run for this long is recorded as started, and log lines are written.
        force_replay: put the run down and execute it again after every recorded task (for tests).
    """

    linger: float = 1.0
    linger_for_others: float = 0.05
    foreign_await_limit: float = 60.0
    unwind_limit: float = 5.0
    flush_delay: float = 0.1
    force_replay: bool = False
    limits: Limits = Limits()
