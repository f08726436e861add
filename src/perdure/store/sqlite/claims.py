"""Claims and leases: who gets which runs, fairly and within the limits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

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
from perdure.schema.runs import RunStatus
from perdure.store.queries import load_queries

from . import rows
from .fresh import first_claim
from .ingest import enter_ready
from .rows import Found, Statements, encode
from .tasks import read_tasks

_PICK_MAX = 100  # lanes in one statement
_RANGE_MIN = 16  # runs of a lane for which a statement of its own is worth its price

_Share = tuple[tuple[str, str], int]  # (queue, key), runs


class _Queue(msgspec.Struct, array_like=True):
    """A row of ready_queues."""

    id: str
    priority: int
    concurrency_limit: int | None
    key_limit: int | None
    lanes: list[str]


class _Lane(msgspec.Struct, array_like=True, gc=False):
    """What a lane gives: the first runs in it, their priorities' range, and when the last one became ready."""

    queue: str
    key: str
    ids: list[str]
    lowest: int | None
    highest: int | None
    last_at: int | None


_decode_queues = msgspec.json.Decoder(list[_Queue]).decode
_decode_lanes = msgspec.json.Decoder(list[_Lane]).decode
_decode_ids = msgspec.json.Decoder(list[str]).decode
_decode_slots = msgspec.json.Decoder(list[tuple[str, str, int]]).decode


def claim_runs(db: Statements, change: ClaimRuns) -> Claimed:
    """See ClaimRuns. Each round deals what is left among the lanes that aren't known to be empty, of one priority."""
    claims: list[Claim] = []
    left = change.limit
    while left > 0:
        dealt = _deal(db, change, left)
        if not dealt:
            break
        lanes = _pick(db, dealt)
        picked = _read(db, change, [run_id for lane in lanes for run_id in lane.ids])
        _take(db, change, lanes, picked)
        claims += picked
        left -= len(picked)
        _mark(db, dealt, picked)
    _attach_tasks(db, change, claims)
    return Claimed(claims=claims)


def _deal(db: Statements, change: ClaimRuns, slots: int) -> list[_Share]:
    """How many runs each lane may give."""
    queues = _decode_queues(db.fetch("ready_queues", limit=slots))
    limited = change.environment_limit is not None or any(
        queue.concurrency_limit is not None or queue.key_limit is not None for queue in queues
    )
    if not limited:
        queues = _first(queues)
        turns = [QueueTurn(queue.id, [Lane(key) for key in queue.lanes]) for queue in queues]
        return list(shares(turns, slots).items())
    taken = {(queue, key): count for queue, key, count in _decode_slots(db.fetch("slots_taken"))}
    if change.environment_limit is not None:
        slots = min(slots, change.environment_limit - sum(taken.values()))
    turns: list[QueueTurn] = []
    priorities: dict[str, int] = {}
    blocked: list[tuple[str, str]] = []
    for queue in queues:
        lanes = [Lane(key, _free(queue.key_limit, taken.get((queue.id, key), 0))) for key in queue.lanes]
        blocked += [(queue.id, lane.key) for lane in lanes if lane.free == 0]
        in_all = sum(count for (name, _), count in taken.items() if name == queue.id)
        turn = QueueTurn(
            queue.id, [lane for lane in lanes if lane.free != 0], _free(queue.concurrency_limit, in_all)
        )
        if turn.lanes and turn.free != 0:
            turns.append(turn)
            priorities[turn.id] = queue.priority
    if blocked:
        # Whoever ends an execution of theirs unblocks them. Others of their queue may now come into view.
        db.execute("block_lanes", lanes=encode(blocked))
        db.known.has_blocked_lanes = True
        if slots > 0 and any(len(queue.lanes) >= slots for queue in queues):
            return _deal(db, change, slots)
    highest = max(priorities.values(), default=0)
    turns = [turn for turn in turns if priorities[turn.id] == highest]
    return list(shares(turns, slots).items()) if slots > 0 else []


def _first(queues: list[_Queue]) -> list[_Queue]:
    """Those of the highest priority among them."""
    highest = max((queue.priority for queue in queues), default=0)
    return [queue for queue in queues if queue.priority == highest]


def _free(limit: int | None, taken: int) -> int | None:
    return None if limit is None else max(0, limit - taken)


@cache
def pick_sql(lanes: int) -> str:
    """`pick_runs` for so many lanes: one term for each, with parameters of its own."""
    whole, term = (load_queries("perdure.store.sqlite")[name] for name in ("pick_runs", "pick_from_lane"))
    terms = [term.replace(":lane_", f":lane{n}_") for n in range(lanes)]
    return whole.replace("/* lanes */", "\n" + "\nunion all\n".join(terms) + "\n")


def _pick(db: Statements, dealt: Sequence[_Share]) -> list[_Lane]:
    """What the lanes give, in the order of `dealt`."""
    picked: list[_Lane] = []
    for start in range(0, len(dealt), _PICK_MAX):
        part = dealt[start : start + _PICK_MAX]
        lanes: dict[str, object] = {}
        for n, ((queue, key), share) in enumerate(part):
            lanes |= {f"lane{n}_queue": queue, f"lane{n}_key": key, f"lane{n}_share": share}
        (found,) = db.fetch_text(pick_sql(len(part)), **lanes)
        picked += _decode_lanes(found)
    return picked


def _read(db: Statements, change: ClaimRuns, ids: list[str]) -> list[Claim]:
    """The runs `ids` as they will be once claimed. Without those that aren't as expected."""
    fresh = db.known.fresh
    claims: dict[str, Claim] = {}
    if change.expected is RunStatus.QUEUED:
        for run_id in ids:
            run = fresh.take(run_id)
            if run is not None:
                claims[run_id] = first_claim(run, change)
    if len(claims) == len(ids):
        return list(claims.values())
    found = db.fetch(
        "read_claims",
        ids=encode([run_id for run_id in ids if run_id not in claims]),
        expected=change.expected.value,
        at=change.at,
        expires_at=change.expires_at,
    )
    for claim in rows.decode_claims(found):
        claims[claim.run_id] = claim
    return [claims[run_id] for run_id in ids if run_id in claims]


def _take(db: Statements, change: ClaimRuns, lanes: list[_Lane], claims: list[Claim]) -> None:
    if claims:
        ids = encode([claim.run_id for claim in claims])
        _leave_ready(db, lanes, claims, ids)
        db.execute("claim_runs", ids=ids, status=change.status.value, at=change.at)
        _lease(db, change, lanes, claims, ids)
        for claim in claims:
            db.known.lease_claimed(claim.run_id, claim.execution)


def _lease(db: Statements, change: ClaimRuns, lanes: list[_Lane], claims: list[Claim], ids: str) -> None:
    lease = {"ids": ids, "owner": change.owner, "expires_at": change.expires_at, "at": change.at}
    if len(lanes) == 1 and all(claim.execution == 1 for claim in claims):
        db.execute("insert_first_leases", queue=lanes[0].queue, queue_key=lanes[0].key, **lease)
    else:
        db.execute("insert_leases", **lease)


def _leave_ready(db: Statements, lanes: list[_Lane], claims: list[Claim], ids: str) -> None:
    """Take claimed runs, `ids` as JSON, out of the ready queue."""
    giving = [lane for lane in lanes if lane.ids]
    if (
        sum(len(lane.ids) for lane in giving) == len(claims) >= len(giving) * _RANGE_MIN
        and all(lane.highest == lane.lowest for lane in giving)  # priorities
    ):
        for lane in giving:
            db.execute(
                "leave_lane",
                queue=lane.queue,
                queue_key=lane.key,
                priority=lane.highest,
                last_at=lane.last_at,
                last_id=lane.ids[-1],
            )
    else:
        db.execute("leave_ready", ids=ids)


def _mark(db: Statements, dealt: Sequence[_Share], picked: list[Claim]) -> None:
    """Note whose turn it was, and drop lanes that turned out to be empty."""
    got: dict[tuple[str, str], int] = {}
    for claim in picked:
        lane = (claim.queue, claim.queue_key)
        got[lane] = got.get(lane, 0) + 1
    empty = [lane for lane, share in dealt if got.get(lane, 0) < share]
    if empty:
        db.execute("drop_lanes", lanes=encode(empty))
    left = [lane for lane, _ in dealt if lane not in set(empty)]
    if left or len(dealt) > 1:  # a queue that was alone and is empty now has no turn to lose
        turns = {lane: n for n, (lane, _) in enumerate(dealt) if lane in got}
        if lanes := [(*lane, turns[lane]) for lane in left]:
            db.execute("serve_lanes", lanes=encode(lanes))
        if queues := {queue: n for (queue, _), n in turns.items()}:
            db.execute("serve_queues", queues=encode(queues))


def _attach_tasks(db: Statements, change: ClaimRuns, claims: list[Claim]) -> None:
    resumed = {claim.run_id: claim for claim in claims if claim.execution > 1}
    if resumed:
        ids = encode(list(resumed))
        for run_id, task in read_tasks(db, ids, bytes_max=change.output_bytes_max, opened_min=0):
            resumed[run_id].tasks.append(task)


# --- leases --------------------------------------------------------------------------------------------------------------


def renew_leases(db: Statements, renewals: list[tuple[int, RenewLeases]]) -> Found:
    db.execute("renew_leases", renewals=encode({change.owner: change.expires_at for _, change in renewals}))
    counts = rows.decode_counts(db.fetch("count_leases"))
    return [(n, Renewed(count=counts.get(change.owner, 0))) for n, change in renewals]


def wake_runs(db: Statements, change: WakeRuns) -> Woken:
    """See WakeRuns."""
    listed = db.fetch("due_ids", now=change.at, limit=change.limit, status=change.expected.value)
    runs = _decode_ids(listed)
    if runs:
        db.execute("leave_timers", ids=listed)
        db.execute("wake_runs", ids=listed, queued=change.status.value)
        enter_ready(db, runs)
    return Woken(runs=runs)


def release_leases(db: Statements, releases: list[tuple[int, ReleaseLease]]) -> Found:
    leases = encode([(change.run_id, change.execution) for _, change in releases])
    if has_blocked_lanes(db):
        db.execute("unblock_revoked", leases=leases)
    db.execute("release_leases", leases=leases)
    return [(n, Applied()) for n, _ in releases]


def leave_leases(db: Statements, ids: list[str]) -> None:
    """The executions of these runs have ended: their slots are free."""
    if ids:
        encoded = encode(ids)
        if has_blocked_lanes(db):
            db.execute("unblock_lanes", ids=encoded)
        db.execute("leave_leases", ids=encoded)
        for run_id in ids:
            db.known.lease_left(run_id)


def revoke_leases(db: Statements, ids: list[str]) -> None:
    """The executions of these runs have lost them, and keep their slots until they have acknowledged that."""
    if ids:
        db.execute("revoke_leases", ids=encode(ids))
        for run_id in ids:
            db.known.lease_left(run_id)


def has_blocked_lanes(db: Statements) -> bool:
    known = db.known
    if known.has_blocked_lanes is None:
        known.has_blocked_lanes = bool(db.fetch("has_blocked_lanes"))
    return known.has_blocked_lanes
