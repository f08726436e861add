"""What unwinds user code when an execution ends before the run does.

A Signal derives from BaseException, so `except Exception` lets it through. By the time it is raised the outcome of the
execution has been decided and committed: catching it changes nothing, and what user code returns or raises afterwards
is discarded. It is not exported: nobody but the executor raises it.
"""

from __future__ import annotations

from perdure.schema.execution import Outcome, Suspended, TimedOut, Yielded


class Signal(BaseException):
    """This execution is over; `reason` says why ("suspended until ...", "cancelled")."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"this execution of the run has ended ({reason}); the run goes on elsewhere or later. perdure raised this "
            "to unwind your code: let it pass, nothing done now has an effect on the run"
        )
        self.reason = reason


def why_over(outcome: Outcome | str | None) -> str:
    """What a Signal says of an execution that ends so (a str: the run was taken away)."""
    match outcome:
        case str(reason):
            return reason
        case Suspended():
            return "suspended"
        case Yielded(reason=reason):
            return reason
        case TimedOut():
            return "timed out"
        case None:
            return "still running"
        case _:
            return "finished"
