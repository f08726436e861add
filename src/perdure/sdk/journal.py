"""The two ports through which an executor knows the platform. Carriers implement them (embedded, HTTP, endpoint).

An executor never touches storage: `Source` hands it runs, and the `Journal` of an execution takes what it records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from perdure.schema.effects import Resolution, RunEffect
from perdure.schema.execution import Claim, LogRecord, Outcome, TaskRecord

Told: TypeAlias = Callable[[bool | BaseException], None]
"""Called once, in the event loop and never inside the call it was given to. It must not raise."""


class Journal(Protocol):
    """The record of one execution. Calls take effect in the order made; the fence travels with each."""

    def record(
        self,
        tasks: Sequence[TaskRecord],
        logs: Sequence[LogRecord],
        told: Told,
        effects: Sequence[RunEffect] = (),
    ) -> None:
        """Make tasks and logs durable and carry out `effects`, all or nothing. Starts at once.

        `told` gets True once they are durable, False if this execution no longer holds the run (nothing was written, nor
        will anything it sends from now on). A passing unavailability is waited out inside. What else goes wrong with
        these very records, it is told as an exception; nothing of them was written.
        """
        ...

    def close(
        self, outcome: Outcome, tasks: Sequence[TaskRecord], logs: Sequence[LogRecord], told: Told
    ) -> None:
        """End the execution: its last records and its outcome in one transaction. Starts at once.

        `told` gets what `record` tells. After an exception the execution still holds its run, and may end in another way.
        """
        ...

    def release(self) -> None:
        """The user code of an execution that lost its run, or timed out, has ended: nothing of it uses the slot any more."""
        ...

    async def fetch_output(self, task_id: str) -> tuple[str | None, str | None]:
        """The (output, types) of a task whose output a claim left out."""
        ...


class Source(Protocol):
    """Where executions come from."""

    async def claim(self, limit: int) -> list[tuple[Claim, Journal]]:
        """Wait until at least one run can be executed, then take at most `limit`. Cancelling it takes nothing.

        Claims of concurrent callers are disjoint. Their leases are kept renewed by the source until they are closed.
        """
        ...

    def on_revoked(self, callback: Callable[[str, int, str], None]) -> None:
        """Have `callback(run_id, execution, reason)` called when an execution lost its run (cancelled, lease lost)."""
        ...

    def on_resolved(self, callback: Callable[[str, int, Resolution], None]) -> None:
        """Have `callback(run_id, execution, resolution)` called when somebody else completes a task of a claimed run.

        An execution that isn't told suspends in vain: `Suspended.wakes` is too low, and the run goes on at once.
        """
        ...
