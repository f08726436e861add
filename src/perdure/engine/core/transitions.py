"""THE table of run statuses: the only place that says which status follows which.

Theory of operation. A run is in one status; something happens to it, a `RunEvent`; the table names the next status. A
pair that isn't in the table can't happen: `next_status` raises, naming both. The engine's decisions (core/runs.py) ask
here for every status that they write, stores compare and write what they are given, so this file is the whole life of a
run. What is drawn in the documents is generated from it (`diagram`, `table`).

Three kinds of status: the run waits for the platform (PENDING for a process that knows its job, QUEUED for a free
slot, WAITING for a point in time), it executes, or it has ended. An ended run other than a completed one can be
continued; nothing else leaves an ended status. A payload that doesn't fit stays unfitting, so an INVALID_PAYLOAD run
can't be continued: another run with another payload can be started.
"""

from __future__ import annotations

from enum import Enum

from perdure.errors import ConflictError, PerdureError
from perdure.schema.runs import RunStatus


class RunEvent(Enum):
    """What can happen to a run; the value is the cause as documents tell it."""

    ENQUEUED = "its job is known here: it may start"
    CLAIMED = "an executor took it"
    SUSPENDED = "nothing in it can move before a point in time, or before somebody else has done something"
    YIELDED = "the execution ended early, or what it waits for is already there: on as soon as possible"
    COMPLETED = "the run function returned"
    FAILED = "an error left the run function"
    RETRIED = "an error left the run function and the job's retry policy has an execution left"
    CANCELLED = "somebody cancelled it"
    TIMED_OUT = "it used up the job's max_duration"
    PAYLOAD_REJECTED = "the payload doesn't fit the job's schema"
    AUTH_UNRESOLVED = "credentials that its integrations need could not be had"
    JOB_MISSING = "the process that took it doesn't define its job"
    WOKEN = "the point in time has come, or somebody else has done it"
    RESCUED = "its lease was lost: queued again"
    BACKED_OFF = "its lease was lost again: waits before it is queued"
    POISONED = "its lease was lost too many times in a row without progress"
    CONTINUED = "somebody asked to go on from where it ended"


TRANSITIONS: dict[tuple[RunStatus, RunEvent], RunStatus] = {
    (RunStatus.PENDING, RunEvent.ENQUEUED): RunStatus.QUEUED,
    (RunStatus.PENDING, RunEvent.CANCELLED): RunStatus.CANCELLED,
    (RunStatus.QUEUED, RunEvent.CLAIMED): RunStatus.EXECUTING,
    (RunStatus.QUEUED, RunEvent.CANCELLED): RunStatus.CANCELLED,
    (RunStatus.EXECUTING, RunEvent.SUSPENDED): RunStatus.WAITING,
    (RunStatus.EXECUTING, RunEvent.YIELDED): RunStatus.QUEUED,
    (RunStatus.EXECUTING, RunEvent.COMPLETED): RunStatus.COMPLETED,
    (RunStatus.EXECUTING, RunEvent.FAILED): RunStatus.FAILED,
    (RunStatus.EXECUTING, RunEvent.RETRIED): RunStatus.WAITING,
    (RunStatus.EXECUTING, RunEvent.CANCELLED): RunStatus.CANCELLED,
    (RunStatus.EXECUTING, RunEvent.TIMED_OUT): RunStatus.TIMED_OUT,
    (RunStatus.EXECUTING, RunEvent.PAYLOAD_REJECTED): RunStatus.INVALID_PAYLOAD,
    (RunStatus.EXECUTING, RunEvent.AUTH_UNRESOLVED): RunStatus.UNRESOLVED_AUTH,
    (RunStatus.EXECUTING, RunEvent.JOB_MISSING): RunStatus.PENDING,
    (RunStatus.EXECUTING, RunEvent.RESCUED): RunStatus.QUEUED,
    (RunStatus.EXECUTING, RunEvent.BACKED_OFF): RunStatus.WAITING,
    (RunStatus.EXECUTING, RunEvent.POISONED): RunStatus.FAILED,
    (RunStatus.WAITING, RunEvent.WOKEN): RunStatus.QUEUED,
    (RunStatus.WAITING, RunEvent.CANCELLED): RunStatus.CANCELLED,
    (RunStatus.FAILED, RunEvent.CONTINUED): RunStatus.QUEUED,
    (RunStatus.CANCELLED, RunEvent.CONTINUED): RunStatus.QUEUED,
    (RunStatus.TIMED_OUT, RunEvent.CONTINUED): RunStatus.QUEUED,
    (RunStatus.UNRESOLVED_AUTH, RunEvent.CONTINUED): RunStatus.QUEUED,
}

INITIAL = RunStatus.PENDING
"""Where every run begins; one whose job is known is enqueued in the transaction that creates it."""


class IllegalTransitionError(ConflictError):
    """The event `event` can't happen to a run in `status` (names of RunEvent and RunStatus)."""

    code = "illegal_transition"

    def __init__(self, *, status: str, event: str) -> None:
        PerdureError.__init__(
            self,
            f"a run that is {status} can't be {event}: there is no such transition",
            status=status,
            event=event,
        )
        self.status = status
        self.event = event


def next_status(status: RunStatus, event: RunEvent) -> RunStatus:
    """The status that follows.

    Raises:
        IllegalTransitionError: the table has no such pair.
    """
    following = TRANSITIONS.get((status, event))
    if following is None:
        raise IllegalTransitionError(status=status.name, event=event.name)
    return following


def is_legal(status: RunStatus, event: RunEvent) -> bool:
    """Whether `event` can happen to a run in `status`."""
    return (status, event) in TRANSITIONS


def diagram() -> str:
    """The table as a Mermaid state diagram, one edge per pair of statuses."""
    edges: dict[tuple[RunStatus, RunStatus], list[str]] = {}
    for (status, event), following in TRANSITIONS.items():
        edges.setdefault((status, following), []).append(event.name.lower())
    lines = ["stateDiagram-v2", f"    [*] --> {INITIAL.name}"]
    lines += [f'    state "{status.label}" as {status.name}' for status in _mentioned()]
    lines += [f"    {a.name} --> {b.name}: {', '.join(events)}" for (a, b), events in edges.items()]
    lines += [f"    {status.name} --> [*]" for status in _mentioned() if status.is_terminal]
    return "\n".join(lines) + "\n"


def table() -> str:
    """The table as Markdown: from, what happened, to, why."""
    lines = ["| from | event | to | cause |", "|---|---|---|---|"]
    lines += [
        f"| {status.label} | {event.name.lower()} | {following.label} | {event.value} |"
        for (status, event), following in TRANSITIONS.items()
    ]
    return "\n".join(lines) + "\n"


def _mentioned() -> list[RunStatus]:
    """The statuses that the table reaches, in the order of the enum."""
    reached = {INITIAL, *TRANSITIONS.values()}
    return [status for status in RunStatus if status in reached]
