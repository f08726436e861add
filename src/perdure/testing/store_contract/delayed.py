"""Events that come later than they were sent, and those of schedules."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.engine.store import (
    Applied,
    CancelEvent,
    DeliverEvent,
    Ingested,
    IngestEvent,
    PutSchedule,
    Refused,
    RunFilter,
    ScheduleRow,
    Store,
    TickSchedule,
)
from perdure.schema.execution import EventRecord
from perdure.schema.runs import RunStatus

from .factories import NOW, OpenStore, apply, claimed, ingest, make_event, make_run, stored_run

DUE = NOW + 1_000


def delay(id: str = "evt_1", deliver_at: int = DUE, **fields: Any) -> IngestEvent:
    """An event to be delivered later, as it is sent."""
    edit_before = fields.pop("edit_before", None)
    event = make_event(id, deliver_at=deliver_at, **fields)
    return IngestEvent(event=event, runs=[], created_at=NOW, edit_before=edit_before)


def deliver(*run_ids: str, event_id: str = "evt_1", due_at: int = DUE, at: int = DUE + 5) -> DeliverEvent:
    runs = [make_run(each, created_at=at, job_id=each) for each in run_ids]
    return DeliverEvent(event_id=event_id, due_at=due_at, at=at, runs=runs)


async def stored_event(store: Store, id: str = "evt_1") -> EventRecord:
    event = await store.get_event(id)
    assert event is not None
    return event


async def due(store: Store, now: int = NOW + 10_000, limit: int = 10) -> list[str]:
    return [event.id for event in await store.due_events(now, limit)]


class DelayedEventContract:
    async def test_delayed_events_come_due_earliest_first(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        assert await store.next_event_due() is None

        await apply(store, delay("b", DUE + 1), delay("a", DUE + 1), delay("c", DUE), ingest())

        assert await store.next_event_due() == DUE
        assert await due(store, DUE - 1) == []
        assert await due(store, DUE) == ["c"]
        assert await due(store) == ["c", "a", "b"]
        assert await due(store, limit=2) == ["c", "a"]
        assert (await store.due_events(DUE, 1))[0] == await stored_event(store, "c")

    async def test_event_whose_time_has_come_is_not_delayed(self, open_store: OpenStore) -> None:
        store = await open_store("dev")

        await apply(store, delay(deliver_at=NOW))

        assert await store.next_event_due() is None

    async def test_delivery_creates_the_runs(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, delay(account_id="acc", is_test=True))

        assert await apply(store, deliver("run_1", "run_2")) == [Applied()]

        assert await store.next_event_due() is None
        event = await stored_event(store)
        assert (event.deliver_at, event.delivered_at, event.cancelled_at) == (DUE, DUE + 5, None)
        run = await stored_run(store)
        assert (run.event_id, run.account_id, run.is_test, run.created_at) == ("evt_1", "acc", True, DUE + 5)
        assert [found.run_id for found in await claimed(store)] == ["run_1", "run_2"]

    async def test_delivery_that_causes_nothing_is_no_delivery(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, delay())

        assert await apply(store, deliver()) == [Applied()]

        assert await store.next_event_due() is None
        assert (await stored_event(store)).delivered_at is None

    async def test_event_is_delivered_once(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, delay())

        results = await apply(store, deliver("run_1"), deliver("run_2"))

        assert results == [Applied(), Refused(run=None)]
        assert await apply(store, deliver("run_3")) == [Refused(run=None)]
        assert [run.id for run in await store.list_runs(RunFilter())] == ["run_1"]

    @pytest.mark.parametrize(
        "late",
        [
            pytest.param(deliver("run_1", due_at=DUE - 1), id="put off meanwhile"),
            pytest.param(deliver("run_1", event_id="evt_2"), id="unknown"),
        ],
    )
    async def test_delivery_of_what_is_not_due_is_refused(
        self, open_store: OpenStore, late: DeliverEvent
    ) -> None:
        store = await open_store("dev")
        await apply(store, delay())

        assert await apply(store, late) == [Refused(run=None)]

        assert await store.get_run("run_1") is None
        assert await store.next_event_due() == DUE

    async def test_edited_event_keeps_its_id_and_is_due_anew(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, delay(payload="1"))

        (edited,) = await apply(store, delay(payload="2", deliver_at=DUE + 50, edit_before=NOW))

        assert isinstance(edited, Ingested)
        assert (edited.duplicate, edited.event.payload, edited.event.deliver_at) == (True, "2", DUE + 50)
        assert (await stored_event(store)).payload == "2"
        assert await store.next_event_due() == DUE + 50
        assert await apply(store, deliver("run_1")) == [Refused(run=None)]
        assert await apply(store, deliver("run_1", due_at=DUE + 50)) == [Applied()]

    async def test_edits_of_a_batch_are_made_in_order(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, delay(payload="1"))

        await apply(
            store,
            delay(payload="2", deliver_at=DUE + 50, edit_before=NOW),
            delay(payload="null", deliver_at=DUE + 60, edit_before=NOW),  # keeps the payload
        )

        assert (await stored_event(store)).payload == "2"
        assert await store.next_event_due() == DUE + 60

    async def test_edited_event_without_a_time_is_due_now(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, delay())

        again = IngestEvent(event=make_event(), runs=[make_run()], created_at=NOW + 7, edit_before=NOW)
        (edited,) = await apply(store, again)

        assert isinstance(edited, Ingested)
        assert (edited.event.deliver_at, edited.runs) == (NOW + 7, [])
        assert [event.deliver_at for event in await store.due_events(NOW + 7, 10)] == [NOW + 7]

    async def test_event_that_is_too_close_or_delivered_is_not_edited(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, delay(payload="1"))

        await apply(store, delay(payload="2", edit_before=DUE + 1))
        assert (await stored_event(store)).payload == "1"
        await apply(store, deliver("run_1"))
        await apply(store, delay(payload="2", edit_before=NOW))

        assert (await stored_event(store)).payload == "1"
        assert await store.next_event_due() is None

    async def test_cancelled_event_is_not_delivered(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, delay())

        assert await apply(store, CancelEvent(event_id="evt_1", at=NOW + 7)) == [Applied()]

        assert (await stored_event(store)).cancelled_at == NOW + 7
        assert await store.next_event_due() is None
        assert await apply(store, deliver("run_1")) == [Refused(run=None)]

    async def test_only_undelivered_events_are_cancelled(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(
            store, ingest("run_1"), delay("evt_2"), deliver("run_2", event_id="evt_2"), delay("evt_3")
        )

        results = await apply(store, *(CancelEvent(event_id=f"evt_{n}", at=NOW) for n in (1, 2, 3, 3, 4)))

        refused = Refused(run=None)
        assert results == [refused, refused, Applied(), refused, refused]
        assert (await stored_event(store, "evt_2")).cancelled_at is None

    async def test_delayed_events_of_environments_are_apart(self, open_store: OpenStore) -> None:
        dev, prod = await open_store("dev"), await open_store("prod")
        await apply(dev, delay())

        assert (await due(prod), await prod.next_event_due(), await prod.list_events()) == ([], None, [])
        assert await apply(prod, deliver("run_1"), CancelEvent(event_id="evt_1", at=NOW)) == [
            Refused(run=None),
            Refused(run=None),
        ]
        assert await due(dev) == ["evt_1"]


class EventListContract:
    async def test_events_newest_first_in_pages(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        for n, event_id in enumerate("bdac"):
            await apply(store, IngestEvent(event=make_event(event_id), runs=[], created_at=NOW + n // 2))

        seen: list[str] = []
        before: str | None = None
        while page := await store.list_events(limit=3, before=before):
            seen += [event.id for event in page]
            before = page[-1].id

        assert seen == ["c", "a", "d", "b"]
        assert await store.list_events(limit=1) == [await stored_event(store, "c")]

    async def test_events_by_name(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        for n, name in enumerate(["x", "y", "x", "x"]):
            await apply(store, IngestEvent(event=make_event(f"e{n}", name=name), runs=[], created_at=NOW + n))

        assert [event.id for event in await store.list_events(name="x")] == ["e3", "e2", "e0"]
        assert [event.id for event in await store.list_events(name="x", before="e3", limit=1)] == ["e2"]
        assert [event.id for event in await store.list_events(name="x", before="e1")] == ["e0"]
        assert await store.list_events(name="z") == []

    async def test_events_since_in_order_of_arrival(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        for n in range(4):
            await apply(store, IngestEvent(event=make_event(f"e{9 - n}"), runs=[], created_at=NOW + n))
        await apply(store, IngestEvent(event=make_event("other", name="other"), runs=[], created_at=NOW + 2))
        await apply(store, delay("delayed"), delay("cancelled"), CancelEvent(event_id="cancelled", at=NOW))

        async def since(at: int, after: str | None = None, limit: int = 10) -> list[str]:
            return [event.id for event in await store.events_since("foo.bar", at, after=after, limit=limit)]

        assert await since(NOW + 1) == ["e8", "e7", "e6"]
        assert await since(NOW + 1, limit=2) == ["e8", "e7"]
        assert await since(NOW + 1, after="e7") == ["e6"]
        assert await since(NOW + 9) == []

        await apply(store, deliver(event_id="delayed", at=NOW + 50))

        assert await since(NOW + 3) == ["e6", "delayed"]
        assert await since(NOW + 50) == ["delayed"]


def make_schedule(id: str = "sch_1", **fields: Any) -> ScheduleRow:
    defaults: dict[str, Any] = {
        "dispatcher": "job:a",
        "key": id,
        "schedule": '{"cron":"* * * * *"}',
        "created_at": NOW,
        "next_at": DUE,
    }
    return ScheduleRow(**defaults | fields, id=id)


def put(id: str = "sch_1", **fields: Any) -> PutSchedule:
    return PutSchedule(schedule=make_schedule(id, **fields))


def tick(*run_ids: str, id: str = "sch_1", expected: int = DUE, next_at: int = DUE + 60) -> TickSchedule:
    return TickSchedule(
        id=id,
        expected=expected,
        next_at=next_at,
        at=expected + 3,
        event=make_event(f"{id}:{expected}", delivered_at=expected + 3),
        runs=[make_run(each, job_id=each) for each in run_ids],
    )


class ScheduleContract:
    async def test_schedule_is_written_replaced_and_listed(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        assert await store.get_schedule("sch_1") is None
        first = put(catch_up=True, metadata='{"a": 1}', account_id="acc", last_at=NOW)

        assert await apply(store, first) == [Applied()]
        assert await store.get_schedule("sch_1") == first.schedule
        second = put(is_active=False, next_at=None)
        await apply(store, second, put("sch_2", dispatcher="dynamic:d"), put("sch_0", dispatcher="dynamic:d"))

        assert await store.get_schedule("sch_1") == second.schedule
        assert [found.id for found in await store.list_schedules()] == ["sch_0", "sch_2", "sch_1"]
        assert [found.id for found in await store.list_schedules(dispatcher="dynamic:d")] == [
            "sch_0",
            "sch_2",
        ]
        assert await store.list_schedules(dispatcher="job:b") == []

    async def test_active_schedules_come_due_earliest_first(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        assert await store.next_tick() is None
        await apply(store, put("b", next_at=DUE + 1), put("a", next_at=DUE + 1), put("c"))
        await apply(store, put("off", is_active=False), put("done", next_at=None))

        assert await store.next_tick() == DUE
        assert await store.due_schedules(DUE - 1, 10) == []
        assert await store.due_schedules(DUE, 10) == [make_schedule("c")]
        assert [found.id for found in await store.due_schedules(DUE + 1, 2)] == ["c", "a"]

    async def test_tick_ingests_its_event_and_moves_on(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, put())

        assert await apply(store, tick("run_1")) == [Applied()]

        assert await store.get_schedule("sch_1") == make_schedule(next_at=DUE + 60, last_at=DUE)
        event = await stored_event(store, f"sch_1:{DUE}")
        assert event.delivered_at == DUE + 3
        run = await stored_run(store)
        assert (run.event_id, run.status, run.number) == (event.id, RunStatus.QUEUED, 1)

    async def test_tick_happens_once(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, put())

        results = await apply(store, tick("run_1"), tick("run_2"))

        assert results == [Applied(), Refused(run=None)]
        assert await apply(store, tick("run_3")) == [Refused(run=None)]
        assert [run.id for run in await store.list_runs(RunFilter())] == ["run_1"]

    async def test_several_ticks_in_a_batch_in_order(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, put(), put("sch_2"))

        results = await apply(
            store,
            tick("run_1"),
            tick("run_2", expected=DUE + 60, next_at=DUE + 120),
            tick("run_3", id="sch_2"),
        )

        assert results == [Applied()] * 3
        assert await store.get_schedule("sch_1") == make_schedule(next_at=DUE + 120, last_at=DUE + 60)
        assert len(await store.list_runs(RunFilter())) == 3

    async def test_tick_whose_event_is_known_only_moves_on(self, open_store: OpenStore) -> None:
        store = await open_store("dev")
        await apply(store, put(), ingest("run_1", event=make_event(f"sch_1:{DUE}", payload="1")))

        assert await apply(store, tick("run_2")) == [Applied()]

        assert await store.get_run("run_2") is None
        assert (await stored_event(store, f"sch_1:{DUE}")).payload == "1"
        assert await store.next_tick() == DUE + 60

    @pytest.mark.parametrize("fields", [{"is_active": False}, {"next_at": None}, {"next_at": DUE + 1}])
    async def test_schedule_that_is_off_or_elsewhere_does_not_tick(
        self, open_store: OpenStore, fields: dict[str, Any]
    ) -> None:
        store = await open_store("dev")
        await apply(store, put(**fields))

        assert await apply(store, tick("run_1")) == [Refused(run=None)]
        assert await apply(store, tick("run_1", id="sch_9")) == [Refused(run=None)]

        assert await store.get_schedule("sch_1") == make_schedule(**fields)
        assert await store.list_events() == []

    async def test_schedules_of_environments_are_apart(self, open_store: OpenStore) -> None:
        dev, prod = await open_store("dev"), await open_store("prod")
        await apply(dev, put())

        assert (await prod.get_schedule("sch_1"), await prod.list_schedules()) == (None, [])
        assert (await prod.next_tick(), await prod.due_schedules(DUE, 10)) == (None, [])
        assert await apply(prod, tick("run_1")) == [Refused(run=None)]
        assert await dev.next_tick() == DUE
