"""What is written in one transaction, and who waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from perdure.errors import UnavailableError

from .store import Change, RecordTasks

logger = logging.getLogger("perdure.engine")

Told: TypeAlias = Callable[[bool | BaseException], None]
"""Called once, in the event loop: with whether the guard of a change held, or with why it couldn't be written."""


class Batch:
    """Changes and who waits for each: a future for its result, or a callback that wants to know whether it was applied."""

    __slots__ = ("changes", "waiters")

    def __init__(self, changes: list[Change], waiters: list[asyncio.Future[Any] | Told]) -> None:
        self.changes = changes
        self.waiters = waiters

    def split(self, at: int) -> tuple[Batch, Batch]:
        return Batch(self.changes[:at], self.waiters[:at]), Batch(self.changes[at:], self.waiters[at:])

    def divide(self) -> tuple[Batch, Batch]:
        """Two batches that concern different runs, of about the same size, each in its order."""
        half = len(self.changes) // 2
        runs = {change.run_id for change in self.changes[:half] if type(change) is RecordTasks}
        parts = Batch([], []), Batch([], [])
        for n, change in enumerate(self.changes):
            part = parts[n >= half and type(change) is RecordTasks and change.run_id not in runs]
            part.changes.append(change)
            part.waiters.append(self.waiters[n])
        return parts

    def only_records(self) -> set[str] | None:
        """The runs concerned, if nothing but the tasks of executions is to be written; None for any other batch."""
        runs: set[str] = set()
        for change in self.changes:
            if type(change) is not RecordTasks or change.effects:
                return None
            runs.add(change.run_id)
        return runs

    def prepend(self, other: Batch) -> None:
        self.changes[:0] = other.changes
        self.waiters[:0] = other.waiters

    def fail(self, why: str | BaseException) -> None:
        """Tell everybody `why`: a str as an UnavailableError, one each."""
        for waiter in self.waiters:
            error = UnavailableError(why) if isinstance(why, str) else why
            if not isinstance(waiter, asyncio.Future):
                try:
                    waiter(error)
                except Exception:
                    logger.exception("what is to happen after a write has failed")
            elif not waiter.done():
                waiter.set_exception(error)
