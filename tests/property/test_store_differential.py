"""The SQLite store against the model of its port: every answer, and everything that can be read, batch by batch.

`PERDURE_DIFFERENTIAL_SEEDS=500 pytest tests/property/test_store_differential.py` looks longer,
`PERDURE_DIFFERENTIAL_FIRST=7 PERDURE_DIFFERENTIAL_SEEDS=1 PERDURE_DIFFERENTIAL_EVERY=1` closely at one seed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from enum import Enum
from typing import Any, cast

import pytest
from msgspec import Struct
from msgspec.structs import fields, replace

from perdure.engine.store import (
    Applied,
    Change,
    Claimed,
    Deleted,
    Ingested,
    QueueRow,
    Refused,
    Renewed,
    Result,
    RunFilter,
    StatusRow,
    Store,
    Woken,
)
from perdure.schema.execution import Claim
from perdure.store.sqlite import SqliteStore
from perdure.testing.store_model import ORDER, StoreModel

from .store_batches import NAMES, START, Batches

SEEDS = int(os.environ.get("PERDURE_DIFFERENTIAL_SEEDS", "12"))
FIRST = int(os.environ.get("PERDURE_DIFFERENTIAL_FIRST", "0"))
EVERY = int(os.environ.get("PERDURE_DIFFERENTIAL_EVERY", "4"))
BATCHES = int(os.environ.get("PERDURE_DIFFERENTIAL_BATCHES", "120"))

ALWAYS_APPLIED = {
    "DefineQueue",
    "PauseQueue",
    "PutSchedule",
    "PutAccount",
    "CheckWaiter",
    "FinishMatch",
    "ReleaseLease",
}


def outcome(result: Result) -> str:
    """What became of a change, in a word."""
    match result:
        case Applied(overtaken=True):
            return "overtaken"
        case Applied(woken=True):
            return "woken"
        case Applied(due_at=int()):
            return "timed"
        case Ingested(duplicate=duplicate):
            return "refused" if duplicate else "applied"
        case Claimed(claims=found):
            return "applied" if found else "refused"
        case Renewed(count=count) | Deleted(count=count):
            return "applied" if count else "refused"
        case Woken(runs=runs):
            return "applied" if runs else "refused"
        case Refused():
            return "refused"
        case _:
            return "applied"


def comparable(result: Any) -> Any:
    """A result without what the port leaves open: the order of a claim's tasks, and of an event's runs."""
    if isinstance(result, Claimed):
        return [sorted_tasks(claim) for claim in result.claims]
    if isinstance(result, Ingested):
        return replace(result, runs=sorted(result.runs, key=lambda run: run.id))
    return result


def sorted_tasks(claim: Claim) -> Claim:
    return replace(claim, tasks=sorted(claim.tasks, key=lambda task: task.id))


def plain(status: StatusRow) -> dict[str, Any]:
    history = [
        {name: each[name] for name in ("label", "state", "data", "at")} for each in json.loads(status.history)
    ]
    return {**{name: getattr(status, name) for name in status.__struct_fields__}, "history": history}


def by_execution(leases: list[Any]) -> list[Any]:
    return sorted(leases, key=lambda lease: (lease.run_id, lease.execution))


def by_task(matches: list[Any]) -> list[Any]:
    return [
        (match.event, sorted(match.waiters, key=lambda row: (row.run_id, row.task_id))) for match in matches
    ]


def in_use(queues: list[QueueRow]) -> list[QueueRow]:
    """Those of which there is something to say."""
    return [queue for queue in queues if queue != QueueRow(id=queue.id)]


async def difference(store: Store, model: StoreModel, now: int) -> str | None:
    """What reads differently in the two, if anything does."""
    ids = sorted(model.runs)
    everything = RunFilter(internal=True, limit=10_000)
    pairs: list[tuple[str, Any, Any]] = [
        ("runs", await store.list_runs(everything), model.list_runs(everything)),
        (
            "shown runs",
            await store.list_runs(RunFilter(tags=("x",))),
            model.list_runs(RunFilter(tags=("x",))),
        ),
        ("due runs", await store.due_runs(now, 1000), model.due_runs(now, 1000)),
        ("next due", await store.next_due(), model.next_due()),
        ("counts", await store.count_by_status(), model.count_by_status()),
        ("due events", await store.due_events(now, 1000), model.due_events(now, 1000)),
        ("next event", await store.next_event_due(), model.next_event_due()),
        ("events", await store.list_events(limit=1000), model.list_events(limit=1000)),
        ("schedules", await store.list_schedules(), model.list_schedules()),
        ("due schedules", await store.due_schedules(now, 9), model.due_schedules(now, 9)),
        ("next tick", await store.next_tick(), model.next_tick()),
        ("waiter names", await store.waiter_names(), model.waiter_names()),
        ("unchecked", await store.unchecked_waiters(1000), model.unchecked_waiters(1000)),
        ("matches", by_task(await store.matches(1000)), by_task(model.matches(1000))),
        ("due operations", await store.due_operations(now, 1000), model.due_operations(now, 1000)),
        ("next operation", await store.next_operation_due(), model.next_operation_due()),
        ("later operation", await store.next_operation_due(now), model.next_operation_due(now)),
        ("queues", in_use(await store.list_queues()), in_use(model.list_queues())),
        (
            "ended",
            await store.ended_runs(before=now, statuses=(), limit=1000),
            model.ended_runs(before=now, statuses=(), limit=1000),
        ),
        (
            "childless",
            await store.childless_events(before=now, limit=1000),
            model.childless_events(before=now, limit=1000),
        ),
    ]
    for expired_at in (None, now):
        found = await store.leases(expired_at=expired_at, limit=1000)
        pairs.append((f"leases {expired_at}", by_execution(found), by_execution(model.leases_at(expired_at))))
    for name in NAMES:
        found = await store.events_since(name, START + 30, after=None, limit=1000)
        pairs.append((f"events {name}", found, model.events_since(name, START + 30, after=None, limit=1000)))
    pairs += [
        (account, await store.get_account(account), model.get_account(account)) for account in ("acc", "bcc")
    ]
    scopes = ("env", "job:job", *(f"run:{each}" for each in ids))
    pairs += [
        (f"{scope} {key}", await store.get_value(scope, key), model.get_value(scope, key))
        for scope in scopes
        for key in ("a", "b")
    ]
    for run_id in ids:
        pairs += [
            (f"tasks {run_id}", await store.get_tasks(run_id), model.get_tasks(run_id)),
            (f"logs {run_id}", await store.get_logs(run_id), model.get_logs(run_id)),
            (
                f"statuses {run_id}",
                [plain(row) for row in await store.get_statuses(run_id)],
                [plain(row) for row in model.get_statuses(run_id)],
            ),
            (f"waiters {run_id}", await store.waiters_of(run_id), model.waiters_of(run_id)),
            (f"operations {run_id}", await store.operations_of(run_id), model.operations_of(run_id)),
            (f"place {run_id}", await store.place_in_queue(run_id), model.place_in_queue(run_id)),
        ]
    for what, stored, expected in pairs:
        if stored != expected:
            if isinstance(stored, list) and isinstance(expected, list):
                stored, expected = (
                    [each for each in stored if each not in expected],
                    [each for each in expected if each not in stored],
                )
            return f"{what}:\n  store {brief(stored)}\n  model {brief(expected)}"
    return None


async def play(seed: int, seen: Counter[tuple[str, str]], store: Store, every: int = EVERY) -> None:
    """Closes the store, which is empty."""
    model = StoreModel()
    batches = Batches(seed, model)
    try:
        for n in range(BATCHES):
            batch = batches.next()
            if poisoned := batches.poisoned():
                with pytest.raises(ValueError, match="surrogates"):
                    await store.apply(poisoned)
            note = f"seed {seed}, batch {n}"
            found = await store.apply(batch)
            picked = [[claim.run_id for claim in each.claims] for each in found if isinstance(each, Claimed)]
            try:
                expected = model.apply(batch, picked)
            except AssertionError as error:
                pytest.fail(f"{note}: {_brief(batch)}\n{error}\n  claims {picked}", pytrace=False)
            for change, ours, theirs in zip(batch, expected, found, strict=True):
                seen[type(change).__name__, outcome(ours)] += 1
                if comparable(theirs) != comparable(ours):
                    pytest.fail(
                        f"{note}: {_brief(batch)}\n{brief(change)}\n  store {brief(theirs)}\n  model {brief(ours)}",
                        pytrace=False,
                    )
            differs = await difference(store, model, batches.now) if n % every == every - 1 else None
            if differs:
                pytest.fail(f"{note}: {_brief(batch)}\n{differs}", pytrace=False)
    finally:
        await store.close()


def _brief(batch: list[Change]) -> str:
    return "\n    ".join(["", *map(brief, batch)])


def brief(value: Any) -> str:
    """A change with what was given only."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(brief, cast('list[Any]', value)))}]"
    if not isinstance(value, Struct):
        return repr(value)
    given = (
        f"{field.name}={brief(getattr(value, field.name))}"
        for field in fields(value)
        if getattr(value, field.name) not in (field.default, [], ())
    )
    return f"{type(value).__name__}({', '.join(given)})"


@pytest.mark.timeout(100 + 3 * SEEDS)
async def test_store_answers_as_its_port_says() -> None:
    seen: Counter[tuple[str, str]] = Counter()

    for seed in range(FIRST, FIRST + SEEDS):
        await play(seed, seen, await SqliteStore.open(":memory:", "dev", inline=True))

    assert unseen(seen) == set()


def unseen(seen: Counter[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which kinds of changes haven't been both applied and refused."""
    kinds = {kind.__name__ for kinds in ORDER for kind in kinds}
    expected = {(kind, word) for kind in kinds for word in ("applied", "refused")}
    expected -= {(kind, "refused") for kind in ALWAYS_APPLIED}
    expected |= {("MoveRun", "overtaken"), ("MoveRun", "woken")}
    expected |= {("ResolveTask", "woken"), ("ResolveTask", "timed")}
    return expected - set(seen)
