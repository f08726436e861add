"""Jobs on PostgreSQL: the same as on SQLite, in one process or in several."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from perdure import Client, RunStatus, UnavailableError, event_trigger
from tests.postgresql import server

pytestmark = pytest.mark.real_time


@pytest.fixture
def url(postgresql):
    with postgresql.database() as url:
        yield url


def order_client(done: list[str]) -> Client:
    """A client with a job of two tasks and a wait between them."""
    client = Client(id="orders")

    @client.job(id="order", trigger=event_trigger(name="order.placed"))
    async def order(payload: dict[str, Any], io: Any, ctx: Any) -> dict[str, Any]:
        price = await io.run_task("price", price_of, payload["order"])
        await io.wait("a moment", 0.05)
        shipped = await io.run_task("again", price_of, payload["order"])
        done.append(payload["order"])
        return {"price": price, "shipped": shipped}

    async def price_of(order: str) -> int:
        return len(order)

    return client


async def test_jobs_run(url):
    done: list[str] = []
    client = order_client(done)
    async with client.embedded(url) as embedded:
        events = await asyncio.gather(
            *(client.send_event("order.placed", {"order": f"o{n}"}) for n in range(30))
        )
        await embedded.drain()
        runs = [await ended(client, event.runs[0].id) for event in events]
        assert await client.check() == []

    assert {run.status for run in runs} == {RunStatus.COMPLETED}
    assert runs[0].output == {"price": 2, "shipped": 2}
    assert sorted(done) == sorted(f"o{n}" for n in range(30))


async def test_what_one_process_leaves_another_takes_up(url):
    """The first dies with runs in the middle; the second, which was there all the time, finishes them."""
    done: list[str] = []
    first, second = order_client(done), order_client(done)
    async with second.embedded(url, lease_seconds=1):
        dying = first.embedded(url, lease_seconds=1)
        await dying.__aenter__()
        events = [await first.send_event("order.placed", {"order": f"o{n}"}) for n in range(10)]
        await dying.crash()

        async with asyncio.timeout(30):
            runs = [await second.wait_for_run(event.runs[0].id) for event in events]
        assert await second.check() == []

    assert {run.status for run in runs} == {RunStatus.COMPLETED}


async def test_a_node_outlives_restarts_of_its_database():
    done: list[str] = []
    client = order_client(done)
    with server(recovery_init_sync_method="syncfs") as running:
        async with client.embedded(running.url, lease_seconds=2):
            sending = [asyncio.ensure_future(send(client, f"o{n}")) for n in range(60)]
            for _ in range(2):
                await asyncio.sleep(0.2)
                await asyncio.to_thread(running.ctl, "restart", "-m", "immediate")
            ids = await asyncio.gather(*sending)

            async with asyncio.timeout(60):
                runs = [await ended(client, run_id) for run_id in ids]
            assert await client.check() == []

    assert {run.status for run in runs} == {RunStatus.COMPLETED}
    assert len(set(ids)) == 60


async def send(client: Client, order: str) -> str:
    """Until it is acknowledged; then the id of its run."""
    await asyncio.sleep(int(order[1:]) / 60)
    while True:
        try:
            event = await client.send_event("order.placed", {"order": order}, id=order)
        except UnavailableError:
            await asyncio.sleep(0.05)
        else:
            return event.runs[0].id


async def ended(client: Client, run_id: str) -> Any:
    while True:
        with suppress(UnavailableError):
            run = await client.get_run(run_id)
            assert run is not None
            if run.status.is_terminal:
                return run
        await asyncio.sleep(0.05)
