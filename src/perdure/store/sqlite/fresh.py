"""Queued runs that were made a moment ago and have never executed: what their claims say, without reading it again."""

from __future__ import annotations

from msgspec import Struct

from perdure.engine.store import ClaimRuns, NewRun
from perdure.schema.execution import Claim, EventRecord

_RUNS_MAX = 16_384
_CHARACTERS_MAX = 8_000_000  # of payloads and the like


class FreshRun(Struct, gc=False):
    """A run as it was made, with its event as it is stored."""

    run: NewRun
    event: EventRecord
    number: int


class FreshRuns:
    """Runs that are queued, and whose row and event are as they were made. Whoever changes either forgets them here.

    There are two halves, each limited in number and size: when the newer is full the older is forgotten, so that runs which
    nobody claims (of a paused queue) don't stay for ever.
    """

    __slots__ = ("_newer", "_older", "_size")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._newer: dict[str, FreshRun] = {}
        self._older: dict[str, FreshRun] = {}
        self._size = 0

    def remember(self, run: NewRun, event: EventRecord, number: int) -> None:
        """Unless what its claim says may change with something else: an account's metadata."""
        if event.account_id is not None or event.deliver_at is not None or event.cancelled_at is not None:
            return
        size = len(event.payload)
        if event.context is not None:
            size += len(event.context)
        if run.metadata is not None:
            size += len(run.metadata)
        if self._size + size > _CHARACTERS_MAX or len(self._newer) >= _RUNS_MAX:
            self._older, self._newer = self._newer, {}
            self._size = 0
        self._size += size
        self._newer[run.id] = FreshRun(run, event, number)

    def take(self, run_id: str) -> FreshRun | None:
        """And forget it: it is about to be claimed, or changed."""
        return self._newer.pop(run_id, None) or self._older.pop(run_id, None)


def first_claim(fresh: FreshRun, change: ClaimRuns) -> Claim:
    """The run's claim, as `read_claims` would find it."""
    run = fresh.run
    claim = Claim(
        run_id=run.id,
        execution=1,
        job_id=run.job_id,
        job_version=run.job_version,
        event=fresh.event,
        started_at=change.at,
        lease_expires_at=change.expires_at,
        priority=run.priority,
        number=fresh.number,
        created_at=run.created_at,
        is_internal=run.is_internal,
        queue=run.queue,
        queue_key=run.queue_key,
    )
    if run.tags:
        claim.tags = list(run.tags)
    if run.metadata is not None:
        claim.metadata = run.metadata
    if run.parent_run_id is not None:
        claim.parent_run_id = run.parent_run_id
    if run.parent_task_id is not None:
        claim.parent_task_id = run.parent_task_id
    return claim
