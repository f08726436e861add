"""Which events start a job: by name, source, and filters of payload and context."""

from __future__ import annotations

from perdure import event_trigger
from perdure.filters import anything_but, exists, gt, starts_with


def define(app, **trigger):
    async def job(payload, io, ctx):
        app.done.append(payload)

    return app.define(job, trigger=event_trigger(**trigger))


async def started_by(app, *events):
    """Of the events (dicts of arguments), those that start a job, by their number."""
    async with app.embedded():
        sent = [await app.client.send_event("order", **event) for event in events]
        await app.client.drain()
    return [n for n, event in enumerate(sent) if event.runs]


async def test_filter_of_the_payload(app):
    define(app, name="order", filter={"status": ["PAID", "SENT"], "total": gt(100)})

    started = await started_by(
        app,
        {"payload": {"status": "PAID", "total": 101}},
        {"payload": {"status": "PAID", "total": 100}},
        {"payload": {"status": "NEW", "total": 101}},
        {"payload": {"status": "SENT", "total": 1e9, "more": 1}},
        {"payload": None},
        {"payload": [1]},
    )

    assert started == [0, 3]
    assert [payload["status"] for payload in app.done] == ["PAID", "SENT"]


async def test_filter_of_the_context(app):
    define(app, name="order", context_filter={"user": {"id": [starts_with("user_")]}})

    started = await started_by(
        app,
        {"context": {"user": {"id": "user_1"}}},
        {"context": {"user": {"id": "admin_1"}}},
        {"context": None},
        {"payload": {"user": {"id": "user_1"}}},
    )

    assert started == [0]


async def test_filter_in_json_form(app):
    define(app, name="order", filter={"total": [{"$gte": 5}], "note": [{"$exists": False}]})

    assert await started_by(app, {"payload": {"total": 5}}, {"payload": {"total": 5, "note": None}}) == [0]


async def test_all_conditions_must_hold(app):
    define(
        app,
        name=["order", "refund"],
        source="shop",
        filter={"id": exists()},
        context_filter={"kind": [anything_but("test")]},
    )

    started = await started_by(
        app,
        {"payload": {"id": 1}, "source": "shop"},
        {"payload": {"id": 1}, "source": "shop", "context": {"kind": "test"}},
        {"payload": {"id": 1}},
        {"payload": {}, "source": "shop"},
    )

    assert started == [0]


async def test_several_names_start_one_job(app):
    define(app, name=["order", "refund"])

    async with app.embedded():
        runs = [await app.client.send_event(name, name) for name in ("order", "refund", "Order")]
        await app.client.drain()

    assert [len(event.runs) for event in runs] == [1, 1, 0]
    assert app.done == ["order", "refund"]


async def test_filter_sees_the_payload_as_sent(app):
    define(app, name="order", schema=dict[str, int], filter={"n": [5]})

    assert await started_by(app, {"payload": {"n": 5}}, {"payload": {"n": 6}}) == [0]
