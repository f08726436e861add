"""Decisions about runs: (what is known, what happened, now) → the change that a store is to apply. No I/O.

Instants are milliseconds. A decision that the run's state forbids raises ConflictError; everything else returns a
guarded change, so whoever submits it learns by `Refused` that the run has moved on meanwhile, and decides again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never
from zlib import crc32

from perdure.engine.store import ClaimRuns, IngestEvent, LeaseRow, MoveRun, NewRun, RunRow, WakeRuns
from perdure.errors import ConflictError
from perdure.schema.execution import (
    Claim,
    Completed,
    EventRecord,
    Failed,
    InvalidPayload,
    JobMissing,
    LogRecord,
    Outcome,
    Suspended,
    TaskRecord,
    TimedOut,
    UnresolvedAuth,
    Yielded,
)
from perdure.schema.runs import ErrorInfo, RunStatus

from .endings import NO_ENDINGS, Endings
from .jobs import STARTABLE
from .transitions import RunEvent, is_legal, next_status

CRASHES_MAX = 5
"""Executions in a row that may end without a word and without progress before the run is failed."""

RESCUE_DELAYS_MS = (0, 1_000, 4_000, 15_000)
"""How long a run waits at least after its 1st, 2nd ... crash in a row (`rescue_delay_ms`); 0 queues it at once."""


CONTINUABLE = tuple(status for status in RunStatus if is_legal(status, RunEvent.CONTINUED))
"""Statuses of runs that can be continued."""

CLAIM_BYTES_MAX = 3_500_000
"""Outputs that come along with a claim, in bytes, unless the engine says otherwise."""


def adopt(run: RunRow, now: int) -> MoveRun:
    """Queue a run that had to wait for a process which defines its job."""
    return _move(run, RunEvent.ENQUEUED, now, crashes=run.crashes)


def rerun(run: RunRow, event: EventRecord, now: int, run_id: str) -> IngestEvent:
    """A new run of the same job version for the same payload, caused by the event `{original id}:retry:{now}`.

    Raises:
        ConflictError: `run` has not ended yet.
    """
    if not run.status.is_terminal:
        raise ConflictError(
            f"run {run.id!r} is {run.status.label}: only a run that has ended can be run again; cancel it or wait for it"
        )
    again = EventRecord(
        id=f"{event.id}:retry:{now}",
        name=event.name,
        payload=event.payload,
        timestamp=now,
        context=event.context,
        source=event.source,
        is_test=event.is_test,
        account_id=event.account_id,
        source_context=event.source_context,
    )
    fresh = NewRun(
        id=run_id,
        job_id=run.job_id,
        job_version=run.job_version,
        status=STARTABLE,
        created_at=now,
        priority=run.priority,
        queue=run.queue,
        queue_key=run.queue_key,
        tags=tuple(run.tags),
        metadata=run.metadata,
        is_internal=run.is_internal,
    )
    return IngestEvent(event=again, runs=[fresh], created_at=now)


# --- executions ---------------------------------------------------------------------------------------------------------


def claim(
    owner: str,
    limit: int,
    now: int,
    lease_ms: int,
    output_bytes_max: int = CLAIM_BYTES_MAX,
    environment_limit: int | None = None,
) -> ClaimRuns:
    """Ask for at most `limit` queued runs, leased to `owner` for `lease_ms`; larger outputs stay behind.

    `environment_limit` is how many executions there may be in the environment.
    """
    return ClaimRuns(
        owner=owner,
        limit=limit,
        at=now,
        expires_at=now + lease_ms,
        expected=RunStatus.QUEUED,
        status=_CLAIMED,
        output_bytes_max=output_bytes_max,
        environment_limit=environment_limit,
    )


def close(
    claim: Claim,
    claimed_at: int,
    outcome: Outcome,
    now: int,
    tasks: Sequence[TaskRecord] = (),
    logs: Sequence[LogRecord] = (),
    endings: Endings = NO_ENDINGS,
) -> MoveRun:
    """What becomes of a run whose execution (`claim`, begun at `claimed_at`) ended with `outcome`.

    `tasks` and `logs` are the execution's last records, written in the same transaction; `endings` knows what there is
    to be done if the run ends.
    """
    # An execution that says how it ended is no crash, whatever it recorded: the counter starts again.
    move = MoveRun(
        run_id=claim.run_id,
        expected=RunStatus.EXECUTING,
        execution=claim.execution,
        status=RunStatus.EXECUTING,
        at=now,
        add_spent_ms=max(0, now - claimed_at),
        tasks=tasks,
        logs=logs,
    )
    match outcome:
        case Completed():
            move.output = outcome.output
            move.types = outcome.types
            endings.finish(move, RunEvent.COMPLETED, claim)
        case Suspended():
            _suspend(move, outcome, claim, now)
        case Yielded():
            _go_on(move, RunEvent.YIELDED, reason=outcome.reason, ready_at=claim.created_at)
        case Failed(retry_at=None):
            move.error = outcome.error
            move.failed_tasks = outcome.failed_tasks
            endings.finish(move, RunEvent.FAILED, claim)
        case Failed(retry_at=retry_at):
            # With an instant that has passed the timer is due at once; the table needs no second way.
            _go_on(
                move,
                RunEvent.RETRIED,
                wake_at=retry_at,
                reason="failed; its job's retry policy executes it again",
            )
            move.error = outcome.error
            move.failures = claim.failures + 1
            move.reset = outcome.failed_tasks
        case TimedOut():
            move.reason = (
                f"it executed for longer than its job's max_duration of {outcome.limit_ms / 1000:g} s"
            )
            move.error = ErrorInfo(name="TimedOut", message=move.reason)
            move.revoke = True  # its bodies are still running: the slot is free once they have unwound
            endings.finish(move, RunEvent.TIMED_OUT, claim)
        case InvalidPayload():
            move.error = outcome.error
            endings.finish(move, RunEvent.PAYLOAD_REJECTED, claim)
        case UnresolvedAuth():
            move.error = outcome.error
            endings.finish(move, RunEvent.AUTH_UNRESOLVED, claim)
        case JobMissing():
            _go_on(move, RunEvent.JOB_MISSING, reason=_missing(claim.job_id))
            move.crashes = claim.crashes
            move.add_spent_ms = 0
        case _ as never:
            assert_never(never)
    return move


def put_back(claim: Claim, now: int) -> MoveRun:
    """Return a claim that nobody began to execute to the queue."""
    return MoveRun(
        run_id=claim.run_id,
        expected=RunStatus.EXECUTING,
        execution=claim.execution,
        status=next_status(RunStatus.EXECUTING, RunEvent.YIELDED),
        at=now,
        ready_at=claim.created_at,
        crashes=claim.crashes,
    )


def rescue(lease: LeaseRow, now: int, *, lease_ms: int, endings: Endings = NO_ENDINGS) -> MoveRun:
    """What becomes of a run whose lease was lost: nobody knows how the execution ended.

    The first crash queues it again at once, later ones in a row after a growing delay; with the fifth that recorded
    nothing new the run is poisonous: it fails and its error names the task that was running. An execution that
    recorded something doesn't count. `lease_ms` is how long a renewal lasts: the time spent is counted to the last one.
    """
    crashes = 0 if lease.progressed else lease.crashes + 1
    move = MoveRun(
        run_id=lease.run_id,
        expected=RunStatus.EXECUTING,
        execution=lease.execution,
        status=RunStatus.EXECUTING,
        at=now,
        add_spent_ms=max(0, lease.expires_at - lease_ms - lease.claimed_at),
        crashes=crashes,
    )
    delay = rescue_delay_ms(lease.run_id, crashes)
    lost = f"execution {lease.execution} was lost: its process died or lost contact"
    if crashes >= CRASHES_MAX:
        move.error = _poisoned(lease, crashes)
        endings.finish(move, RunEvent.POISONED, lease)
    elif delay:
        _go_on(
            move,
            RunEvent.BACKED_OFF,
            wake_at=now + delay,
            reason=f"{lost} ({crashes} in a row without progress)",
        )
    else:
        _go_on(move, RunEvent.RESCUED, reason=lost, ready_at=lease.created_at or None)
    return move


def rescue_delay_ms(run_id: str, crashes: int) -> int:
    """How long a run waits after that many crashes in a row.

    Runs that crashed together wait differently long, up to double: one of them kills the process, and the others are to have
    got somewhere by the time that it does so again.
    """
    shortest = RESCUE_DELAYS_MS[max(0, min(crashes, len(RESCUE_DELAYS_MS)) - 1)]
    return shortest + shortest * (crc32(run_id.encode()) % 1_000) // 1_000


def wake(limit: int, now: int) -> WakeRuns:
    """Queue at most `limit` waiting runs whose time has come."""
    return WakeRuns(limit=limit, at=now, expected=RunStatus.WAITING, status=_WOKEN)


# --- what people ask for ------------------------------------------------------------------------------------------------


def cancel(
    run: RunRow, now: int, *, claimed_at: int | None = None, endings: Endings = NO_ENDINGS
) -> MoveRun | None:
    """End a run early; None if it has been cancelled already. Its execution, if any, keeps its slot until it knows.

    Args:
        run: as it is now.
        now: when it ends.
        claimed_at: when the execution under way began, if there is one and it is known.
        endings: what there is to be done when a run ends.

    Raises:
        ConflictError: the run ended in another way.
    """
    if run.status is RunStatus.CANCELLED:
        return None
    if run.status.is_terminal:
        raise ConflictError(
            f"run {run.id!r} has ended already ({run.status.label}): there is nothing left to cancel"
        )
    move = _move(run, RunEvent.CANCELLED, now)
    move.revoke = run.status is RunStatus.EXECUTING
    if claimed_at is not None:
        move.add_spent_ms = max(0, now - claimed_at)
    return endings.finish(move, RunEvent.CANCELLED, run)


def continue_run(run: RunRow, now: int) -> MoveRun:
    """Queue a run that ended badly, to go on from where it ended: the tasks it failed on start afresh, completed
    ones are kept. A run that timed out gets its whole `max_duration` again.

    Raises:
        ConflictError: the run hasn't ended, has completed, or its payload doesn't fit its job.
    """
    if not is_legal(run.status, RunEvent.CONTINUED):
        raise ConflictError(
            f"run {run.id!r} is {run.status.label} and can't be continued: {_why_not(run.status)}"
        )
    move = _move(run, RunEvent.CONTINUED, now)
    move.reset = run.failed_tasks
    move.reset_open = True
    move.failures = 0
    if run.status is RunStatus.TIMED_OUT:
        move.add_spent_ms = -run.spent_ms
    return move


# --- parts --------------------------------------------------------------------------------------------------------------

_WOKEN = next_status(RunStatus.WAITING, RunEvent.WOKEN)
_CLAIMED = next_status(RunStatus.QUEUED, RunEvent.CLAIMED)

_RESUME_FACTOR = 10
"""Wake-ups for single resolutions are so many replays apart, so that replays stay a tenth of the work."""


def _move(run: RunRow, event: RunEvent, now: int, *, crashes: int = 0) -> MoveRun:
    """Move a run that isn't described by a lease; all that its last end left (error, output ...) is cleared."""
    return MoveRun(
        run_id=run.id,
        expected=run.status,
        execution=run.execution,
        status=next_status(run.status, event),
        at=now,
        crashes=crashes,
    )


def _go_on(
    move: MoveRun,
    event: RunEvent,
    *,
    wake_at: int | None = None,
    reason: str | None = None,
    ready_at: int | None = None,
) -> None:
    """The run isn't over."""
    move.status = next_status(move.expected, event)
    move.wake_at = wake_at
    move.reason = reason
    move.ready_at = ready_at


def _suspend(move: MoveRun, outcome: Suspended, claim: Claim, now: int) -> None:
    """The run waits, unless what it waits for has come meanwhile."""
    if outcome.wake_at is not None and outcome.wake_at <= now:
        _go_on(move, RunEvent.YIELDED, ready_at=claim.created_at)
        return
    _go_on(move, RunEvent.SUSPENDED, wake_at=outcome.wake_at)
    move.ready_at = claim.created_at
    move.wakes_seen = outcome.wakes
    move.otherwise = next_status(move.expected, RunEvent.YIELDED)
    move.open_waits = outcome.open_waits
    move.waits = outcome.waits
    if outcome.open_waits > 1 and not outcome.waits_for_all:
        move.resume_at = now + _RESUME_FACTOR * outcome.replay_ms


def _missing(job_id: str) -> str:
    return f"job {job_id!r} isn't defined in this process: the run starts as soon as a process that defines it does"


def _poisoned(lease: LeaseRow, crashes: int) -> ErrorInfo:
    suspect = (
        f"while task {lease.running[0]!r} was running"
        if lease.running
        else "before or between tasks (none was running)"
    )
    return ErrorInfo(
        name="Poisoned",
        message=f"the process died, or lost its lease, {crashes} times in a row without any progress, last {suspect}; "
        "fix what kills it (memory, a blocked event loop, a crash in native code) and continue the run",
    )


def _why_not(status: RunStatus) -> str:
    if status is RunStatus.INVALID_PAYLOAD:
        return "its payload will not fit next time either; start another run with a payload that fits"
    if status.is_terminal:
        return "it has nothing left to do; rerun it to have it done again"
    return "it hasn't ended"
