"""When what was observed goes out by itself: one timer of the loop for all executions, instead of one each."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .execution import Execution


class Flushes:
    """Executions that have observed something and not written it, each with the loop time at which it is to go out."""

    __slots__ = ("_delay", "_due", "_loop", "_outside", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, delay: float, outside: Context) -> None:
        """`delay`: seconds. `outside`: a context in which no scope is set, as the timer is no run's."""
        self._loop = loop
        self._delay = delay
        self._outside = outside
        self._due: dict[Execution, float] = {}  # with the same delay for all, the first is the next
        self._timer: asyncio.TimerHandle | None = None

    def add(self, execution: Execution) -> None:
        """Have `execution.flush_noted` called after the delay; once, however often it is asked for meanwhile."""
        if execution in self._due:
            return
        self._due[execution] = when = self._loop.time() + self._delay
        if self._timer is None:
            self._arm(when)

    def discard(self, execution: Execution) -> None:
        if self._due.pop(execution, None) is not None and not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, when: float) -> None:
        self._timer = self._loop.call_at(when, self._fire, context=self._outside)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        for execution, when in list(self._due.items()):
            if when > now:
                self._arm(when)
                return
            del self._due[execution]
            # Each in a callback of its own: none can keep the others from theirs.
            self._loop.call_soon(execution.flush_noted, context=self._outside)
