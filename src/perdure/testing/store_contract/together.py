"""What several changes, or several claims, do to each other."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from perdure.engine.store import Applied, DefineQueue, Renewed, RenewLeases
from perdure.schema.effects import StartOperation
from perdure.schema.runs import RunStatus

from .delayed import stored_event
from .factories import (
    LEASE,
    NOW,
    OpenStore,
    all_leases,
    apply,
    claimed,
    executing_run,
    ingest,
    make_task,
    move,
    record,
    stored_run,
)
from .waiting import resolve, send, suspend, wait


class TurnContract:
    @pytest.mark.parametrize("lane", ["queue", "queue_key"])
    async def test_turns_go_on_from_claim_to_claim(self, open_store: OpenStore, lane: str) -> None:
        store = await open_store("dev")
        for name in ("a", "b"):
            of_lane: dict[str, Any] = {lane: name}
            await apply(store, *(ingest(f"run_{name}{n:02}", **of_lane) for n in range(20)))

        served: Counter[str] = Counter()
        for _ in range(4):
            served.update(getattr(claim, lane) for claim in await claimed(store, 3))

        assert served == {"a": 6, "b": 6}

    async def test_queue_that_had_nothing_to_give_keeps_its_turn(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, *(ingest(f"run_a{n}", queue="a") for n in range(4)))
        await apply(store, *(ingest(f"run_b{n}", queue="b", queue_key=f"{n}") for n in range(2)))
        await apply(store, move(RunStatus.CANCELLED, "run_b0", expected=RunStatus.QUEUED, execution=0))

        assert {claim.queue for claim in await claimed(store, 2)} == {"a", "b"}

    async def test_what_a_full_queue_leaves_goes_to_lower_priorities(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, DefineQueue(id="a", priority=1, concurrency_limit=1), DefineQueue(id="b"))
        await apply(store, *(ingest(f"run_{name}{n}", queue=name) for name in ("a", "b") for n in range(3)))

        found = await claimed(store, 10)

        assert [claim.queue for claim in found] == ["a", "b", "b", "b"]


class TogetherContract:
    async def test_event_that_somebody_waits_for_is_answered_as_it_is_stored(
        self, open_store: OpenStore
    ) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, suspend(wait()))

        first, again = await apply(store, send(), send())

        assert first.event == again.event == await stored_event(store, "e1")

    async def test_back_off_is_not_cut_short_by_a_resolution(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, record(make_task("t")), move(RunStatus.WAITING, wake_at=NOW + 1_000))

        assert await apply(store, resolve("t")) == [Applied()]

        run = await stored_run(store)
        assert (run.status, run.wakes, await store.next_due()) == (RunStatus.WAITING, 1, NOW + 1_000)

    async def test_overtaken_suspension_can_be_repeated(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await executing_run(store)
        await apply(store, record(make_task("other")))
        await apply(store, resolve("other"))
        change = suspend(wait(), wakes_seen=0, otherwise=RunStatus.QUEUED, add_spent_ms=3)

        assert await apply(store, change) == [Applied(overtaken=True)]
        assert await apply(store, change) == [Applied(overtaken=True)]

        assert (await stored_run(store)).spent_ms == 3

    async def test_revoked_lease_is_not_renewed(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, ingest("run_1"), ingest("run_2"))
        await claimed(store)
        await apply(store, move(RunStatus.CANCELLED, revoke=True))

        assert await apply(store, RenewLeases(owner="node-1", expires_at=LEASE + 9)) == [Renewed(1)]

        leases = {lease.run_id: lease.expires_at for lease in await all_leases(store)}
        assert leases == {"run_1": LEASE, "run_2": LEASE + 9}

    async def test_what_is_waited_for_and_ended_in_one_batch_is_waited_for_no_more(
        self, open_store: OpenStore
    ) -> None:
        store = await open_store("dev")
        await executing_run(store)
        call = StartOperation(run_id="run_1", task_id="call", at=NOW, operation="{}")
        ended: dict[str, Any] = {"expected": RunStatus.WAITING, "tasks": [make_task("call")]}

        await apply(store, suspend(wait()), move(RunStatus.CANCELLED, **ended, effects=[call]))

        assert (await store.waiter_names(), await store.next_operation_due()) == ([], None)
