"""What the executor tells the process's log (`perdure.executor`). Ids, keys and errors; never payloads or outputs."""

from __future__ import annotations

import logging

from perdure.schema.execution import Claim, Failed

from .texts import cut

_log = logging.getLogger("perdure.executor")

_MESSAGE_CHARS_MAX = 300


def failed(claim: Claim, outcome: Failed, key: str | None) -> None:
    """A run has failed, on the task `key` if that isn't None."""
    error = outcome.error
    _log.warning(
        "run %s (job %s) failed: %s%s: %s. %s",
        claim.run_id,
        claim.job_id,
        f"task {key!r}: " if key is not None else "",
        error.name,
        cut(error.message, _MESSAGE_CHARS_MAX),
        "It is tried again"
        if outcome.retry_at is not None
        else "After a fix, continue_run goes on from here",
    )


def warned(claim: Claim, message: str) -> None:
    """Something about a run wants a look; the run's own log has it too."""
    _log.warning("run %s (job %s): %s", claim.run_id, claim.job_id, message)


def abandoned(claim: Claim, limit: float, where: str) -> None:
    """Code of an execution that has ended doesn't unwind."""
    _log.warning(
        "run %s (job %s): code has not unwound %g s after its execution ended and is abandoned: %s",
        claim.run_id,
        claim.job_id,
        limit,
        where,
    )


def unrecorded(claim: Claim, error: BaseException) -> None:
    """The outcome of an execution could not be written as it was."""
    _log.error("run %s: its outcome could not be recorded: %s", claim.run_id, error)
