"""What the executor tells the process's log (`perdure.executor`). Ids, keys and errors; never payloads or outputs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from perdure.schema.execution import Claim, Failed, InvalidPayload, Outcome, TimedOut, UnresolvedAuth

from .texts import cut

if TYPE_CHECKING:
    from .records import Records

_log = logging.getLogger("perdure.executor")

_MESSAGE_CHARS_MAX = 300


def ended(claim: Claim, outcome: Outcome, records: Records) -> None:
    """An execution has ended: say so if that isn't well for the run."""
    match outcome:
        case Failed(error=error, retry_at=retry_at):
            task = records.find(error.task_id or "")
            how = "failed: " + (f"task {task.key!r}: " if task is not None else "")
            what = f"{error.name}: {cut(error.message, _MESSAGE_CHARS_MAX)}"
            then = (
                "After a fix, client.continue_run goes on from here"
                if retry_at is None
                else "It is tried again"
            )
        case InvalidPayload(error=error):
            how, what, then = (
                "ended as Invalid payload: ",
                cut(error.message, _MESSAGE_CHARS_MAX),
                "Start another one",
            )
        case TimedOut(limit_ms=limit):
            how, what = "ended as Timed out: ", f"it executed for more than {limit / 1000:g} s"
            then = "client.continue_run goes on from here"
        case UnresolvedAuth(error=error):
            how, what = "ended as Unresolved auth: ", cut(error.message, _MESSAGE_CHARS_MAX)
            then = "After a fix, client.continue_run goes on"
        case _:
            return
    _log.warning("run %s (job %s) %s%s. %s", claim.run_id, claim.job_id, how, what, then)


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
