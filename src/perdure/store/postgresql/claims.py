"""Claims and leases: who gets which runs, fairly and within the limits, whatever other nodes do meanwhile.

Nobody waits for a run here: what another transaction has locked is left to it (SKIP LOCKED). Claims within limits wait for
one another: they lock the environment's row first, then count leases, so a slot is dealt once. It is one lock for all
limits, because a claim finds out as it goes along which of them matter; whoever holds it waits for nothing else until its
COMMIT.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from perdure.engine.core.fairness import Lane, QueueTurn, shares
from perdure.engine.store import (
    Applied,
    Claimed,
    ClaimRuns,
    ReleaseLease,
    Renewed,
    RenewLeases,
    WakeRuns,
    Woken,
)
from perdure.schema.execution import Claim

from . import rows
from .resolving import wake_runs
from .rows import Found, columns
from .statements import Statements
from .tasks import read_tasks

_Lane = tuple[str, str]  # (queue, key)
_Share = tuple[_Lane, int]  # how many runs a lane may give


class _Queue(msgspec.Struct, array_like=True):
    """A row of ready_queues."""

    id: str
    priority: int
    concurrency_limit: int | None
    key_limit: int | None
    lanes: list[str]

    @property
    def is_limited(self) -> bool:
        return self.concurrency_limit is not None or self.key_limit is not None


class _Picked(msgspec.Struct, array_like=True):
    """A run that is locked to be claimed, and where it is in the ready queue."""

    id: str
    queue: str
    queue_key: str
    priority: int
    queued_at: int


_decode_queues = msgspec.json.Decoder(list[_Queue]).decode
_decode_slots = msgspec.json.Decoder(list[tuple[str, str, int]]).decode
_decode_picked = msgspec.json.Decoder(list[_Picked]).decode


async def claim_runs(db: Statements, change: ClaimRuns) -> Claimed:
    """See ClaimRuns. Each round deals what is left among the lanes that aren't known to be empty, of one priority."""
    claims: list[Claim] = []
    left = change.limit
    empty: set[_Lane] = set()
    while left > 0:
        dealt = await _deal(db, change, left, empty)
        if not dealt:
            break
        (queues, keys), limits = columns([lane for lane, _ in dealt], 2), [share for _, share in dealt]
        picked = _decode_picked(
            await db.fetch(
                "pick_runs", queues=queues, keys=keys, shares=limits, expected=change.expected.value
            )
        )
        if picked:
            claims += await _take(db, change, picked)
            left -= len(picked)
        empty |= await _mark(db, dealt, picked)
    await _attach_tasks(db, change, claims)
    return Claimed(claims=claims)


async def _deal(db: Statements, change: ClaimRuns, slots: int, empty: set[_Lane]) -> list[_Share]:
    """How many runs each lane may give."""
    queues, held = await _look(db, change, slots, empty)
    taken: dict[_Lane, int] = {}
    if held is not None:
        if not db.batch.is_limited:  # what was seen may be out of date once others have let go of the lock
            await _lock_limits(db)
            queues, held = await _look(db, change, slots, empty)
        taken = {(queue, key): count for queue, key, count in _decode_slots(held or "[]")}
    if change.environment_limit is not None:
        slots = min(slots, change.environment_limit - sum(taken.values()))
    turns: list[QueueTurn] = []
    priorities: dict[str, int] = {}
    for queue in queues:
        lanes = [
            Lane(key, _free(queue.key_limit, taken.get((queue.id, key), 0)))
            for key in queue.lanes
            if (queue.id, key) not in empty
        ]
        in_all = 0
        if queue.concurrency_limit is not None:
            in_all = sum(count for (name, _), count in taken.items() if name == queue.id)
        turn = QueueTurn(
            queue.id, [lane for lane in lanes if lane.free != 0], _free(queue.concurrency_limit, in_all)
        )
        if turn.lanes and turn.free != 0:
            turns.append(turn)
            priorities[turn.id] = queue.priority
    highest = max(priorities.values(), default=0)
    turns = [turn for turn in turns if priorities[turn.id] == highest]
    return list(shares(turns, slots).items()) if slots > 0 else []


async def _look(
    db: Statements, change: ClaimRuns, slots: int, empty: set[_Lane]
) -> tuple[list[_Queue], str | None]:
    """Queues with ready runs, and, if there are limits, the slots that are taken."""
    is_limited = change.environment_limit is not None
    found, held = await db.fetch_row("ready_queues", limit=slots + len(empty), is_limited=is_limited)
    return _decode_queues(found), held


async def _lock_limits(db: Statements) -> None:
    if not db.known.has_environment:
        await db.execute("insert_environment")
    await db.execute("lock_environment")
    db.batch.is_limited = True


def _free(limit: int | None, taken: int) -> int | None:
    return None if limit is None else max(0, limit - taken)


async def _take(db: Statements, change: ClaimRuns, picked: list[_Picked]) -> list[Claim]:
    """The runs that were picked, claimed, in the same order."""
    found = await db.fetch(
        "claim_runs",
        ids=[run.id for run in picked],
        queues=[run.queue for run in picked],
        keys=[run.queue_key for run in picked],
        priorities=[run.priority for run in picked],
        queued=[run.queued_at for run in picked],
        status=change.status.value,
        at=change.at,
        expires_at=change.expires_at,
        owner=change.owner,
    )
    claims = {claim.run_id: claim for claim in rows.decode_claims(found)}
    return [claims[run.id] for run in picked]


async def _mark(db: Statements, dealt: Sequence[_Share], picked: list[_Picked]) -> set[_Lane]:
    """Note whose turn it was, and drop keys under which nothing is left. Which lanes had less than they were asked for."""
    got: dict[_Lane, int] = {}
    for run in picked:
        lane = (run.queue, run.queue_key)
        got[lane] = got.get(lane, 0) + 1
    empty = {lane for lane, share in dealt if got.get(lane, 0) < share}
    turns = {lane: n for n, (lane, _) in enumerate(dealt) if lane in got}
    if turns:
        queues, keys = columns(turns, 2)
        last = {queue: n for (queue, _), n in turns.items()}
        await db.execute(
            "serve_lanes",
            queues=queues,
            keys=keys,
            turns=list(turns.values()),
            ids=list(last),
            queue_turns=list(last.values()),
        )
    if keyed := sorted(lane for lane in empty if lane[1]):
        queues, keys = columns(keyed, 2)
        if locked := rows.decode_pairs(await db.fetch("lock_lanes", queues=queues, keys=keys)):
            queues, keys = columns(locked, 2)
            await db.execute("drop_lanes", queues=queues, keys=keys)
    return empty


async def _attach_tasks(db: Statements, change: ClaimRuns, claims: list[Claim]) -> None:
    resumed = {claim.run_id: claim for claim in claims if claim.execution > 1}
    if resumed:
        for run_id, task in await read_tasks(
            db, list(resumed), bytes_max=change.output_bytes_max, opened_min=0
        ):
            resumed[run_id].tasks.append(task)


# --- what enters the queue ------------------------------------------------------------------------------------------------


async def enter_lanes(db: Statements) -> None:
    """Make the lanes of the runs that this transaction has put into the ready queue, before it claims anything.

    All at once, so that two transactions make the same ones in the same order.
    """
    lanes = db.batch.lanes
    new = sorted({queue for queue, _ in lanes} - db.known.queues)
    if new:
        await db.execute("insert_queues", ids=new)
        db.batch.queues.update(new)
    keyed = sorted(lane for lane in lanes if lane[1])
    lanes.clear()
    while keyed:
        queues, keys = columns(keyed, 2)
        await db.execute("insert_lanes", queues=queues, keys=keys)
        if await db.fetch("keep_lanes", queues=queues, keys=keys) == len(keyed):
            break  # else a claim has dropped one in between


# --- leases --------------------------------------------------------------------------------------------------------------


async def renew_leases(db: Statements, renewals: list[tuple[int, RenewLeases]]) -> Found:
    latest = {change.owner: change.expires_at for _, change in renewals}
    counts = {
        owner: await db.fetch("renew_leases", owner=owner, expires_at=expires_at)
        for owner, expires_at in sorted(latest.items())
    }
    return [(n, Renewed(count=counts[change.owner])) for n, change in renewals]


async def wake_due_runs(db: Statements, change: WakeRuns) -> Woken:
    """See WakeRuns."""
    runs = rows.decode_strings(
        await db.fetch("due_ids", now=change.at, limit=change.limit, status=change.expected.value)
    )
    if runs:
        await wake_runs(db, runs, change.status)
    return Woken(runs=runs)


async def release_leases(db: Statements, releases: list[tuple[int, ReleaseLease]]) -> Found:
    runs, executions = columns([(change.run_id, change.execution) for _, change in releases], 2)
    await db.execute("release_leases", runs=runs, executions=executions)
    return [(n, Applied()) for n, _ in releases]
