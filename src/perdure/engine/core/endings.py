"""What belongs to the end of a run, however it ends: one function, used by every terminal transition. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from perdure.engine.rows import LeaseRow, RunRow
from perdure.engine.store import IngestEvent, MoveRun, ResolveTask
from perdure.schema.effects import ChildResult
from perdure.schema.execution import Claim, EventRecord
from perdure.schema.runs import RunStatus, TaskStatus

from .jobs import JobSpec, new_run
from .transitions import RunEvent, next_status

RUN_ENDED = "perdure.run_ended"
"""Name of the events that tell of the end of a run; payload {"runId", "status", "error"} (the last one if there is one)."""

_encode = msgspec.json.Encoder().encode


class Endings:
    """What there is to be done when runs of these jobs end.

    Args:
        jobs: what is known of the jobs, by id; looked at when a run ends.
        run_id: makes ids for the runs that deliver notifications.
    """

    def __init__(self, jobs: Mapping[str, JobSpec], run_id: Callable[[], str]) -> None:
        self._jobs = jobs
        self._run_id = run_id

    def finish(self, move: MoveRun, event: RunEvent, run: Claim | RunRow | LeaseRow) -> MoveRun:
        """Complete `move`, which has all that is known of the outcome, to the end of `run` by `event`."""
        move.status = next_status(move.expected, event)
        move.completed_at = move.at
        move.cancel_open = True
        if run.parent_run_id is not None and run.parent_task_id is not None:
            result = _child_result(move.run_id, move)
            move.resolve = _resolution(run.parent_run_id, run.parent_task_id, result, move.at)
        job = self._jobs.get(run.job_id)
        if job is not None and not run.is_internal:
            handlers = job.notify_success if move.status is RunStatus.COMPLETED else job.notify_failure
            if handlers:
                move.effects = [*move.effects, *self._notifications(move, run, handlers)]
        return move

    def _notifications(
        self, move: MoveRun, run: Claim | RunRow | LeaseRow, handlers: tuple[str, ...]
    ) -> list[IngestEvent]:
        """One event and run per handler: delivered like any other run, with the retries of its job."""
        made: list[IngestEvent] = []
        ended = {"runId": move.run_id, "status": move.status.value}
        payload = _encode(ended if move.error is None else {**ended, "error": move.error}).decode()
        for handler in handlers:
            job = self._jobs.get(handler)
            if job is None:
                continue
            event = EventRecord(
                id=f"{move.run_id}:{move.execution}:{move.status.value}:{move.at}:{handler}",
                name=RUN_ENDED,
                payload=payload,
                timestamp=move.at,
                account_id=run.account_id if not isinstance(run, Claim) else run.event.account_id,
            )
            made.append(
                IngestEvent(event=event, runs=[new_run(job, move.at, self._run_id())], created_at=move.at)
            )
        return made


def end_of_child(run: RunRow, now: int) -> ResolveTask:
    """What `finish` had done for the task that `run` was made for, once more: the task has been forgotten meanwhile."""
    assert run.parent_run_id is not None
    assert run.parent_task_id is not None
    return _resolution(run.parent_run_id, run.parent_task_id, _child_result(run.id, run), now)


def _resolution(run_id: str, task_id: str, result: ChildResult, now: int) -> ResolveTask:
    return ResolveTask(
        run_id=run_id,
        task_id=task_id,
        status=TaskStatus.COMPLETED,
        at=now,
        waiting=RunStatus.WAITING,
        queued=_WOKEN,
        output=_encode(result).decode(),
    )


def _child_result(run_id: str, end: MoveRun | RunRow) -> ChildResult:
    return ChildResult(
        run_id=run_id,
        status=end.status.value,
        output=msgspec.Raw(b"null" if end.output is None else end.output.encode()),
        types=end.types,
        error=end.error,
    )


_WOKEN = next_status(RunStatus.WAITING, RunEvent.WOKEN)

NO_ENDINGS = Endings({}, lambda: "")
"""Of runs nobody waits for, whose jobs aren't known."""
